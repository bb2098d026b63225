-- Takes a claim out of the queue, held or not, and hands the lock on.
--
-- ARGV: id
-- Result: 1 if it was there, 0 if not
local id = ARGV[1]

local value = holder()
if is_exclusive(value, id) then
  call('DEL', KEYS[1])
  if call('EXISTS', KEYS[4]) == 1 then settle(math.floor(clock() / 1000), nil, false) end
  return 1
end
local claim = read(id)
if not claim then return 0 end
local now = math.floor(clock() / 1000)
local there = claim.deadline > now
if claim.granted > 0 then there = expiry(claim) > now and read_group().value == value end
drop(id, claim)
settle(now, nil, holder())
return there and 1 or 0
