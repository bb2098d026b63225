-- Puts a claim at the end of the queue, or finds it, and answers where it stands.
--
-- ARGV: id, lease ms, max hold ms (0: none), weight/capacity:owner, 1 to wait or 0 to hold now or not at all with the
-- channel of the owner's connection
-- Result: see `held` and `waiting`; { 2 } when it is gone; { 3 } when it shall ask again at once whether it may hold
-- now; the number alone of a claim that holds its whole lease
local id, lease, max_hold = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local waits, node = string.match(ARGV[5], '^(%d) (.*)$')
local member = table.concat({ id, node, ARGV[2], ARGV[3], ARGV[4] }, ' ')
local microseconds = clock()
local now = math.floor(microseconds / 1000)

local value = holder()
if is_exclusive(value, id) then return renew_exclusive(value, lease, now) end
local score = call('ZSCORE', KEYS[3], member)
local shared = not score and read(id)
-- A claim of before that is over begins anew at the end.
if score and renew_waiter(member, waiter(member, score), lease, now) then
  settle(now, id, value)
  -- One that looks before its renewal is due does so two times more at most, whatever the holder's lease is.
  return answer(id, member, now, math.floor(lease / 6))
end
if shared and renew_shared(id, shared, lease, now) then return answer(id, member, now, 0) end

local group = settle(now, nil, holder())
local weight, capacity, owner = string.match(ARGV[4], '^(%d+)/(%d+):(.*)$')
local claim = {
  weight = tonumber(weight), capacity = tonumber(capacity), max_hold = max_hold, deadline = now + lease, joined = now,
  granted = 0, hold_until = 0, node = node, owner = owner,
}
if group and call('EXISTS', KEYS[3]) == 0 and fits(group, claim) then
  claim.number = next_number(microseconds)
  grant(group, id, claim, now)
  rest()
  return held(claim, now)
end
if waits == '0' then
  rest()
  return { unfinished and ASK or GONE }
end
claim.number = next_number(microseconds)
call('ZADD', KEYS[3], text(claim.number), member)
keep(KEYS[3], claim.deadline, now)
-- A clock that was set back is behind the number.
if claim.number ~= microseconds then wait_until(id, claim.deadline, now) end
return waiting(member, now, holder(), 0)
