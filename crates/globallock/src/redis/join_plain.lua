-- The two plain ways to join, of a claim that takes all there is: nobody has the lock, or somebody has all of it.
--
-- They stand in front of the text that all ways share and use none of its functions: making those at each call costs
-- more than a lock does. What is not plain goes on below.
local value = redis.pcall('GET', KEYS[1])
if not value and redis.call('EXISTS', KEYS[4]) == 0
  or type(value) == 'string' and string.sub(value, 1, 5) == 'glk1:' and string.sub(value, 6, 37) ~= ARGV[1] then
  if value and string.sub(ARGV[5], 1, 1) == '0' then return { 2 } end
  local time = redis.call('TIME')
  local number = time[1] * 1000000 + time[2]
  local last = redis.call('SET', KEYS[2], number, 'PX', 604800000, 'GET')
  if last and tonumber(last) and tonumber(last) >= number then
    number = tonumber(last) + 1
    redis.call('SET', KEYS[2], number, 'PX', 604800000)
  end
  if not value and ARGV[3] == '0' then
    redis.call('SET', KEYS[1], string.format('glk1:%s:%.0f::0:', ARGV[1], number) .. ARGV[4], 'PX', ARGV[2])
    return number
  end
  local now, left = time[1] * 1000 + math.floor(time[2] / 1000), tonumber(ARGV[2])
  if not value then
    local hold_left = tonumber(ARGV[3])
    if hold_left < left then left = hold_left end
    redis.call('SET', KEYS[1],
      string.format('glk1:%s:%.0f::%.0f:', ARGV[1], number, now + tonumber(ARGV[3])) .. ARGV[4], 'PX', left)
    return { 1, number, left, hold_left }
  end
  -- One that waits already keeps its place.
  if redis.call('ZADD', KEYS[3], 'NX', number, ARGV[1]) == 1 then
    redis.call('HSET', KEYS[4], ARGV[1],
      string.format('%.0f %.0f %.0f 0 0 ', number, now + left, now) .. ARGV[3] .. string.sub(ARGV[5], 2) .. ' ' .. ARGV[4])
    for key = 3, 4 do
      if redis.call('PTTL', KEYS[key]) < left then redis.call('PEXPIRE', KEYS[key], left) end
    end
    local again, rank = 0, redis.call('ZRANK', KEYS[3], ARGV[1])
    if rank < 8 then again = redis.call('PTTL', KEYS[1]) + 1 + 5 * rank end
    return { 0, now + 1, again, 0 }
  end
end

