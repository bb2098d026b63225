-- Takes a claim out of the queue, held or not, and hands the lock on.
--
-- ARGV: id, what it is in the queue (empty: it never waits)
-- Result: 1 if it was there, 0 if not; 2 more if it shall be called again, since the lock is not handed on yet
local id, member = ARGV[1], ARGV[2]
local now = math.floor(clock() / 1000)
local value = holder()
local there = false
if is_exclusive(value, id) then
  call('DEL', KEYS[1])
  there = true
else
  local score = member ~= '' and call('ZSCORE', KEYS[3], member)
  local shared = not score and read(id)
  if score then
    there = waiter(member, score).deadline > now
    dequeue(member)
  elseif shared then
    there = expiry(shared) > now and read_group().value == value
    drop(id, shared)
  end
end
settle(now, nil, holder())
rest()
return (there and 1 or 0) + (unfinished and 2 or 0)
