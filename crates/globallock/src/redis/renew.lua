-- Gives a claim one more lease, held or waiting, and answers where it stands. Never revives one that is gone.
--
-- ARGV: id, lease ms
-- Result: see `held` and `waiting`; { 2 } when it is gone
local id, lease = ARGV[1], tonumber(ARGV[2])
local now = math.floor(clock() / 1000)

local value = holder()
if is_exclusive(value, id) then return renew_exclusive(value, lease, now) end
local claim = read(id)
if not claim then return { GONE } end
if not renew_record(id, claim, lease, now) then
  drop(id, claim)
  settle(now, nil, holder())
  return { GONE }
end
if claim.granted == 0 then settle(now, id, value) end
return answer(id, now)
