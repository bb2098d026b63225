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
local now = math.floor(clock() / 1000)
local value = lock_value()
local found, claim
if KEYS[6] and KEYS[6] ~= gap_key then
  local left = holds_all(value, key) and math.max(call('PTTL', KEYS[1]), 0)
  found, claim = take_out(key, member, now, value)
  if found then
    left = claim and claim.deadline - now or left
    -- The claim is out already: a server without memory lets a script write on that has freed something.
    call('SET', KEYS[6], notice, 'PXAT', text(now + 2 * left + NOTICE_TTL))
    -- Without the right to it, the owner learns of the eviction at its next renewal.
    redis.pcall('PUBLISH', claim and claim.node or EVERYBODY, key .. EVICTS .. notice)
  end
else
  found = type(value) == 'string' and foreign_key(value) == key
  if found then call('DEL', KEYS[1]) end
end
-- Before the lock is handed over, perhaps to the very claim, which is then in the queue no more.
local may_wait = not found and member == '' and call('EXISTS', KEYS[3]) == 1
return hand_over(found, now) + (may_wait and MAY_WAIT or 0)
