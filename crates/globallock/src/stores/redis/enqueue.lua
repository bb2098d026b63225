-- Puts a claim at the end of the queue, or finds it where it is and renews it. Answers its status.
--
-- KEYS[6]  string, the notice of an eviction (see evict.lua): given where the claim was asked for before,
--          because only such a claim can have been evicted.
--
-- ARGV: id, lease in ms, max hold time in ms (0: none), count/capacity:owner, and '1' (wait) or '0' (hold now
--       or not at all) followed by the channel of the owner's connection
-- Result: see `held` and `waiting`. The fast path adds to `waiting` how many claims are in front.
--         { 2 }: gone, since the claim does not wait and cannot hold now.
--         { 3 }: the claim does not wait, and must ask again at once, because more dead claims are in the way
--         than this call may drop.
--         { 4, notice }: gone for good, since somebody evicted it.
--         The join number alone (fast path): held, with the whole lease left and no max hold time.
local id, lease, max_hold = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local waits, node = string.match(ARGV[5], '^(%d) (.*)$')
local member = string.format(MEMBER, id, node, ARGV[2], ARGV[3]) .. ARGV[4]
local notice = KEYS[6] and KEYS[6] ~= gap_key and call('GET', KEYS[6])
if notice then return { EVICTED, notice } end
local microseconds = clock()
local now = math.floor(microseconds / 1000)

local value = lock_value()
if holds_all(value, id) then return renew_exclusive(value, lease, now) end
local score = call('ZSCORE', KEYS[3], member)
local shared = not score and read_record(id)
-- A claim that is found but has expired is dropped, and joins again at the end.
if score and renew_waiter(member, parse_waiter(member, score), lease, now) then
  grant_waiters(now, id, value)
  -- A waiter that polls renews with it, and its next renewal is due a third of its lease later. A pause of a
  -- sixth allows two more polls until then at most, however short the holder's lease is.
  return answer(id, member, now, math.floor(lease / 6))
end
if shared and renew_shared(id, shared, lease, now) then return answer(id, member, now, 0) end

local group = grant_waiters(now, nil, lock_value())
local count, capacity = string.match(ARGV[4], '^(%d+)/(%d+):')
local claim = {
  count = tonumber(count), capacity = tonumber(capacity), max_hold = max_hold, deadline = now + lease,
  joined = now, granted = 0, hold_until = 0, node = node, asked = ARGV[4],
}
if group and call('EXISTS', KEYS[3]) == 0 and fits(group, claim) then
  claim.number = next_number(microseconds)
  grant(group, id, claim, now)
  clear_contended()
  return held(claim, now)
end
if waits == '0' then
  clear_contended()
  return { unfinished and ASK_AGAIN or GONE }
end
claim.number = next_number(microseconds)
call('ZADD', KEYS[3], text(claim.number), member)
extend(KEYS[3], claim.deadline, now)
-- A number that was counted up is not the time of the join, as where the clock has been set back: so the end
-- of the lease does not follow from it.
if claim.number ~= microseconds then write_deadline(id, claim.deadline, now) end
return waiting(member, now, lock_value(), 0)
