-- Takes a claim out of the queue, held or waiting, and grants the lock to the waiters that fit then.
--
-- ARGV: id, the claim's member of the queue (see MEMBER; empty: it never waits)
-- Result: 1 if the claim was there, else 0; plus 2 if the call must be repeated, because there are more dead
--         claims than it may drop, and the lock is not granted yet
local id, member = ARGV[1], ARGV[2]
local now = math.floor(clock() / 1000)
local value = lock_value()
local released = false
if holds_all(value, id) then
  call('DEL', KEYS[1])
  released = true
else
  local score = member ~= '' and call('ZSCORE', KEYS[3], member)
  local shared = not score and read_record(id)
  if score then
    released = parse_waiter(member, score).deadline > now
    dequeue(member)
  elseif shared then
    released = expiry(shared) > now and read_group().value == value
    remove_shared(id, shared)
  end
end
grant_waiters(now, nil, lock_value())
clear_contended()
return (released and 1 or 0) + (unfinished and 2 or 0)
