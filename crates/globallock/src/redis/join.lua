-- Puts a claim at the end of the queue, or finds it, and answers where it stands.
--
-- ARGV: id, lease ms, max hold ms (0: none), weight/capacity:owner, 1 to wait or 0 to hold now or not at all with the
-- channel of the owner's connection
-- Result: see `held` and `waiting`; { 2 } when it is gone; the number alone of a claim that holds its whole lease
local id, lease, max_hold = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local weight, capacity, owner = string.match(ARGV[4], '^(%d+)/(%d+):(.*)$')
weight, capacity = tonumber(weight), tonumber(capacity)
local waits, node = string.match(ARGV[5], '^(%d) (.*)$')
local microseconds = clock()
local now = math.floor(microseconds / 1000)

local function newcomer()
  return {
    number = next_number(microseconds), weight = weight, capacity = capacity, max_hold = max_hold,
    deadline = now + lease, joined = now, granted = 0, hold_until = 0, node = node, owner = owner,
  }
end

local function take(group)
  local claim = newcomer()
  grant(group, id, claim, now)
  return held(claim, now)
end

local value = holder()
if is_exclusive(value, id) then return renew_exclusive(value, lease, now) end
local claim = read(id)
if claim then
  if renew_record(id, claim, lease, now) then
    if claim.granted == 0 then settle(now, id, value) end
    return answer(id, now)
  end
  -- A claim of before that is over begins anew at the end.
  drop(id, claim)
  value = holder()
end

local group = settle(now, nil, value)
if group and call('EXISTS', KEYS[3]) == 0
  and fits(group, { weight = weight, capacity = capacity }) then
  return take(group)
end
if waits == '0' then return { GONE } end
claim = newcomer()
call('ZADD', KEYS[3], text(claim.number), id)
keep(KEYS[3], claim.deadline, now)
write(id, claim, now)
return waiting(id, now, holder())
