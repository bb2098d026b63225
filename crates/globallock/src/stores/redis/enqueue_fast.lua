-- Fast path of enqueue, for a claim that takes all permits. Arguments and result: see enqueue.lua.
--
-- Nobody has the lock and nobody waits             grant the lock to the claim
-- An exclusive holder has it and the claim waits   put the claim at the end of the queue
-- Anything else                                    undo what was written; enqueue.lua below decides
--
-- This text stands in front of queue.lua and uses none of its functions, because to create them in each call
-- costs more than a lock does.
local call = redis.call
local waits = string.byte(ARGV[5]) == WAITS_BYTE
if waits or call('EXISTS', KEYS[1]) == 0 then
  local time, ttl, hold_until = call('TIME'), ARGV[2], '0'
  local number = time[1] * 1000000 + time[2]
  local digits = string.format('%.0f', number)
  local now = math.floor(number / 1000)
  if ARGV[3] ~= '0' then
    hold_until = string.format('%.0f', now + ARGV[3])
    if tonumber(ARGV[3]) < tonumber(ttl) then ttl = ARGV[3] end
  end
  -- EXCLUSIVE, put together here because `string.format` takes longer.
  local value = OURS .. ARGV[1] .. ':' .. digits .. '::' .. hold_until .. ':' .. ARGV[4]
  local holder = redis.pcall('SET', KEYS[1], value, 'PX', ttl, 'NX', 'GET')
  if not holder then
    local last = call('SET', KEYS[2], digits, 'PX', COUNTER_TTL, 'GET')
    -- The counter proves that nobody waits or shares if it has no contended flag: with the flag it is no
    -- number. A lost counter proves nothing, so the other keys are asked. One ahead of the clock needs
    -- `next_number`.
    if last and (tonumber(last) or number) < number
      or not last and call('EXISTS', KEYS[3], KEYS[4], KEYS[5]) == 0 then
      if ARGV[3] == '0' then return number end
      return { HELD, number, tonumber(ttl), tonumber(ARGV[3]) }
    end
    call('DEL', KEYS[1])
    call('SET', KEYS[2], last or digits .. FLAG, 'PX', COUNTER_TTL)
  elseif waits and type(holder) == 'string' and string.sub(holder, 1, #OURS) == OURS
    and string.sub(holder, 1, HEAD) ~= OURS .. ARGV[1] then
    local last = call('SET', KEYS[2], digits .. FLAG, 'PX', COUNTER_TTL, 'GET')
    if last and tonumber(string.match(last, '^%d+') or '0') >= number then
      call('SET', KEYS[2], string.match(last, '^%d+') .. FLAG, 'PX', COUNTER_TTL)
    else
      local member = string.format(MEMBER, ARGV[1], string.sub(ARGV[5], 3), ARGV[2], ARGV[3]) .. ARGV[4]
      -- A claim that waits already keeps its position (NX), and enqueue.lua renews it.
      if call('ZADD', KEYS[3], 'NX', digits, member) == 1 then
        if call('PTTL', KEYS[3]) < tonumber(ARGV[2]) then call('PEXPIRE', KEYS[3], ARGV[2]) end
        local poll_in, ttl, rank = 0, call('PTTL', KEYS[1]), call('ZRANK', KEYS[3], member)
        -- Negative: an operator has made the lock's key stay, so that there is no expiry to poll for. The
        -- delay is that of `poll_delay`.
        if ttl >= 0 then
          poll_in = ttl + 1 + math.min(POLL_STEP * rank, POLL_BASE + math.floor(rank / POLLERS_A_MS))
        end
        return { WAITING, now + 1, poll_in, 0, rank + 1 }
      end
    end
  end
end

