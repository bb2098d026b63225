-- The two plain ways to leave, of a claim that has all there is: nobody waits, or the next takes all of it too and has
-- no longest hold. See join_plain.lua.
local value = redis.pcall('GET', KEYS[1])
if type(value) == 'string' and string.sub(value, 1, 37) == 'glk1:' .. ARGV[1] then
  local id = redis.call('ZRANGE', KEYS[3], 0, 0)[1]
  if not id then
    redis.call('DEL', KEYS[1])
    return 1
  end
  local record = redis.call('HGET', KEYS[4], id)
  if record then
    local number, deadline, node, weight, capacity, owner =
      string.match(record, '^(%d+) (%d+) %d+ 0 0 0 (%S+) (%d+)/(%d+):(.*)$')
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    if number and weight == capacity and tonumber(deadline) > now
      and redis.call('PUBLISH', node, id .. ' ' .. number .. ' ' .. deadline .. ' 0 ' .. KEYS[1]) > 0 then
      redis.call('SET', KEYS[1], string.format('glk1:%s:%s:%.0f:0:%s/%s:', id, number, now, weight, capacity) .. owner,
        'PXAT', deadline)
      redis.call('ZREM', KEYS[3], id)
      redis.call('HDEL', KEYS[4], id)
      return 1
    end
  end
end

