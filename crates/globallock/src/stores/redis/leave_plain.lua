-- The plain ways to leave, of a claim that has all there is: nobody waits, or the next takes all of it too, has no
-- longest hold and has not waited long enough to have renewed its lease. See join_plain.lua.
local found = redis.call('MGET', KEYS[1], KEYS[2])
local value, fence = found[1], found[2]
if value and fence and string.sub(value, 1, 37) == 'glk1:' .. ARGV[1] then
  if string.byte(fence, -1) ~= 119 then
    redis.call('DEL', KEYS[1])
    return 1
  end
  local head = redis.call('ZPOPMIN', KEYS[3])
  local member, digits = head[1], head[2]
  if not member then
    redis.call('DEL', KEYS[1], KEYS[4])
    redis.call('SET', KEYS[2], string.sub(fence, 1, -2), 'PX', 604800000)
    return 1
  end
  local id, node, lease, weight, capacity, owner = string.match(member, '^(%x+) (%S+) (%d+) 0 (%d+)/(%d+):(.*)$')
  local time = redis.call('TIME')
  local now, joined = time[1] * 1000 + math.floor(time[2] / 1000), math.floor(digits / 1000)
  local waited = now - joined
  if id and weight == capacity and waited >= 0 and waited * 4 < tonumber(lease) then
    local deadline = string.format('%.0f', joined + lease)
    if redis.call('PUBLISH', node, id .. ' ' .. digits .. ' ' .. deadline .. ' 0 ' .. KEYS[1]) > 0 then
      redis.call('SET', KEYS[1],
        string.format('glk1:%s:%s:%.0f:0:%s/%s:', id, digits, now, weight, capacity) .. owner, 'PXAT', deadline)
      return 1
    end
    -- Nobody hears it: see `settle`.
  else
    redis.call('ZADD', KEYS[3], digits, member)
  end
end

