-- The two plain ways to join, of a claim that takes all there is: nobody has the lock, or somebody has all of it.
--
-- They stand in front of the text that all ways share and use none of its functions: making those at each call costs
-- more than a lock does. What is not plain goes on below, with everything as it was.
local waits = string.byte(ARGV[5]) == 49
if waits or redis.call('EXISTS', KEYS[1]) == 0 then
  local time, left, ends = redis.call('TIME'), ARGV[2], '0'
  local number = time[1] * 1000000 + time[2]
  local digits = string.format('%.0f', number)
  local now = math.floor(number / 1000)
  if ARGV[3] ~= '0' then
    ends = string.format('%.0f', now + ARGV[3])
    if tonumber(ARGV[3]) < tonumber(left) then left = ARGV[3] end
  end
  local other = redis.pcall('SET', KEYS[1], 'glk1:' .. ARGV[1] .. ':' .. digits .. '::' .. ends .. ':' .. ARGV[4],
    'NX', 'GET', 'PX', left)
  if not other then
    local last = redis.call('SET', KEYS[2], digits, 'PX', 604800000, 'GET')
    -- Who finds a mark behind the number, or no number, may not be alone; see queue.lua.
    if last and (tonumber(last) or number) < number
      or not last and redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5]) == 0 then
      if ARGV[3] == '0' then return number end
      return { 1, number, tonumber(left), tonumber(ARGV[3]) }
    end
    redis.call('DEL', KEYS[1])
    redis.call('SET', KEYS[2], last or digits .. 'w', 'PX', 604800000)
  elseif waits and type(other) == 'string' and string.sub(other, 1, 5) == 'glk1:'
    and string.sub(other, 6, 37) ~= ARGV[1] then
    local last = redis.call('SET', KEYS[2], digits .. 'w', 'PX', 604800000, 'GET')
    if last and tonumber(string.match(last, '^%d+') or '0') >= number then
      redis.call('SET', KEYS[2], string.match(last, '^%d+') .. 'w', 'PX', 604800000)
    else
      local member = ARGV[1] .. string.sub(ARGV[5], 2) .. ' ' .. ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4]
      -- One that waits already keeps its place.
      if redis.call('ZADD', KEYS[3], 'NX', digits, member) == 1 then
        if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[3], ARGV[2]) end
        local again, left, rank = 0, redis.call('PTTL', KEYS[1]), redis.call('ZRANK', KEYS[3], member)
        -- Negative: an operator has made the key stay, and nothing happens by itself.
        if left >= 0 then again = left + 1 + math.min(5 * rank, 40 + math.floor(rank / 8)) end
        return { 0, now + 1, again, 0 }
      end
    end
  end
end

