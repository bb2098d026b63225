-- Takes out of the queue the very claim that an onlooker saw, held or waiting, ours or foreign, and grants
-- the lock to the waiters that fit then. Leaves a notice for its owner.
--
-- KEYS[6]  the notice, a string that expires: who evicted the claim, and why. Not given for a foreign holder.
--
-- ARGV: the claim's id, or the key of a foreign holder (see `foreign_key`); the claim's member of the queue
--       (see MEMBER; empty: not known); the notice
-- Result: that of release; plus 4 if the claim was not found but somebody waits, so that the call must be
--         repeated with the claim's member of the queue, if it has one
local key, member, notice = ARGV[1], ARGV[2], ARGV[3]
-- How long the notice stays, in ms, beyond twice what is left of the lease. A living owner has renewed within
-- a third of its lease, so that this is more than its lease and a minute for leases of any length.
local NOTICE_TTL = 3600000
-- Every connection listens to it, because nothing stored says where the owner of an exclusive holder is.
local EVERYBODY = 'globallock:evict'
local now = math.floor(clock() / 1000)
local value = lock_value()
local found, channel = false, EVERYBODY
local left
if holds_all(value, key) then
  found, left = true, math.max(call('PTTL', KEYS[1]), 0)
  call('DEL', KEYS[1])
elseif type(value) == 'string' and foreign_key(value) == key then
  found = true
  call('DEL', KEYS[1])
else
  local score = member ~= '' and call('ZSCORE', KEYS[3], member)
  local claim
  if score then
    claim = parse_waiter(member, score)
    found = claim and claim.deadline > now
    dequeue(member)
  else
    claim = read_record(key)
    if claim then
      found = expiry(claim) > now and read_group().value == value
      remove_shared(key, claim)
    end
  end
  if found then left, channel = claim.deadline - now, claim.node end
end
-- The claim is out already: a server without memory lets a script write on that has freed something.
if found and KEYS[6] then
  call('SET', KEYS[6], notice, 'PXAT', text(now + 2 * left + NOTICE_TTL))
  -- Without the right to it, the owner learns of the eviction at its next renewal.
  redis.pcall('PUBLISH', channel, key .. ' evicted ' .. notice)
end
grant_waiters(now, nil, lock_value())
clear_contended()
local may_wait = not found and member == '' and call('EXISTS', KEYS[3]) == 1
return (found and 1 or 0) + (unfinished and 2 or 0) + (may_wait and 4 or 0)
