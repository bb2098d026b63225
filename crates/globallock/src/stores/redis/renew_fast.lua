-- Fast path of renew, for an exclusive holder without a max hold time. Arguments and result: see renew.lua.
-- It uses no function of queue.lua, for the reason given in enqueue_fast.lua.
local call = redis.call
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'string' and string.sub(value, 1, HEAD) == OURS .. ARGV[1] then
  local number, hold_until = string.match(value, READ_EXCLUSIVE)
  if hold_until == '0' then
    call('PEXPIRE', KEYS[1], ARGV[2])
    return { HELD, tonumber(number), tonumber(ARGV[2]), 0 }
  end
end

