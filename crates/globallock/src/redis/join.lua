-- Puts a claim at the end of the queue, or finds it, and answers where it stands.
--
-- ARGV: id, lease ms, max hold ms (0: none), weight, capacity, 1 to wait or 0 to hold now or not at all, channel of
-- the owner's connection, owner
-- Result: see `answer`
local id, lease, max_hold = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local microseconds = clock()
local now = math.floor(microseconds / 1000)

local function newcomer()
  return {
    number = next_number(microseconds), weight = tonumber(ARGV[4]), capacity = tonumber(ARGV[5]),
    max_hold = max_hold, deadline = now + lease, joined = now, granted = 0, hold_until = 0,
    node = ARGV[7], owner = ARGV[8],
  }
end

local function take(group)
  local claim = newcomer()
  grant(group, id, claim, now)
  return { HELD, claim.number, now + 1, expiry(claim), claim.hold_until, 0, 0 }
end

-- Nobody holds and nobody waits.
if call('EXISTS', KEYS[1], KEYS[4]) == 0 then
  return take({ weight = 0, capacity = math.huge, mixed = false })
end

local value = holder()
if is_exclusive(value, id) then return renew_exclusive(value, lease, microseconds) end
local claim = read(id)
if claim then
  if renew_record(id, claim, lease, now) then
    if claim.granted == 0 then settle(now, id, value) end
    return answer(id, microseconds)
  end
  -- A claim of before that is over begins anew at the end.
  drop(id, claim)
  value = holder()
end

local group = settle(now, nil, value)
if group and call('EXISTS', KEYS[3]) == 0
  and fits(group, { weight = tonumber(ARGV[4]), capacity = tonumber(ARGV[5]) }) then
  return take(group)
end
if ARGV[6] == '0' then return { GONE, 0, now, 0, 0, 0, 0 } end
claim = newcomer()
call('ZADD', KEYS[3], text(claim.number), id)
keep(KEYS[3], claim.deadline, now)
write(id, claim, now)
local again, stranger = look(id, now, holder())
return { WAITING, claim.number, now + 1, claim.deadline, 0, again, stranger }
