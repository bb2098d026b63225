-- Gives a claim one more lease, held or waiting, and answers where it stands. Never revives one that is gone.
--
-- ARGV: id, lease ms
-- Result: see `answer`
local id, lease = ARGV[1], tonumber(ARGV[2])
local microseconds = clock()
local now = math.floor(microseconds / 1000)

local value = holder()
if is_exclusive(value, id) then return renew_exclusive(value, lease, microseconds) end
local claim = read(id)
if not claim then return { GONE, 0, now, 0, 0, 0, 0 } end
if not renew_record(id, claim, lease, now) then
  drop(id, claim)
  settle(now, nil, holder())
  return { GONE, 0, now, 0, 0, 0, 0 }
end
if claim.granted == 0 then settle(now, id, value) end
return answer(id, microseconds)
