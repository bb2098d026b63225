-- Writes the value of a name, if the claim holds, and unless a holder with a higher token has written it.
--
-- KEYS[6]  value  hash: the token of the last writer, the number of its write, for how many ms it is kept,
--                 and its bytes. It is no string, so that no version lists it as a lock where there is no
--                 prefix. It expires by itself.
--
-- ARGV: id, for how many ms it is kept, the bytes, the number of the write
--
-- The number rises with each write of the owner's process. So a request that was sent again because its
-- connection stalled, and arrives after all, does not overwrite what the same claim has written since.
-- Result: 0 if the claim does not hold, 1 if the value is written, 2 if a higher token has written
local id = ARGV[1]
local now = math.floor(clock() / 1000)

local value = lock_value()
local claim
if holds_all(value, id) then
  claim = parse_exclusive(value)
  claim.deadline = math.huge
else
  claim = read_record(id)
  if claim and not (read_group().value == value and call('ZSCORE', KEYS[5], id)) then claim = nil end
end
-- What has expired has not been dropped yet, if nobody has called since.
if not claim or expiry(claim) <= now then return NOT_WRITTEN end

-- Fails if no hash is there. That is another program's, and may be a lock of its own, so it stays.
local last = call('HMGET', KEYS[6], 'token', 'write')
local function number(digits) return tonumber(string.match(digits or '', '^%d+$') or '0') end
local token = number(last[1])
if token > claim.number then return OUTRANKED end
if token == claim.number and number(last[2]) >= tonumber(ARGV[4]) then return WRITTEN end
call('HSET', KEYS[6], 'token', text(claim.number), 'write', ARGV[4], 'keep', ARGV[2], 'bytes', ARGV[3])
call('PEXPIRE', KEYS[6], ARGV[2])
return WRITTEN
