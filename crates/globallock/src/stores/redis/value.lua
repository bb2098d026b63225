-- Reads the value of a name, and changes nothing. It uses no function of queue.lua, since to create them
-- costs more than to read.
--
-- KEYS[1]  value  hash, see set_value.lua. What is no such hash counts as no value.
--
-- Result: { } if there is none, else { token of its writer, ms for which it is kept, ms left of that, bytes }
local value = redis.pcall('HMGET', KEYS[1], 'token', 'keep', 'bytes')
if value.err or not value[3] then return {} end
return { value[1], value[2], redis.call('PTTL', KEYS[1]), value[3] }
