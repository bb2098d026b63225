-- Fast path of release, for an exclusive holder. Arguments and result: see release.lua. It uses no function
-- of queue.lua, for the reason given in enqueue_fast.lua.
--
-- No contended flag                             delete the lock's key
-- The flag, but no waiter                       delete the hash as well, and clear the flag
-- The first waiter takes all permits, has no    grant it the lock
-- max hold time, and joined less than a
-- quarter of its lease ago
-- Anything else                                 leave the keys as they were; release.lua below decides
--
-- If gaps are left (see gaps.lua), KEYS[6] is their state, and it must say besides that the next one is not
-- due yet.
--
-- Waiters renew first after a third of their lease. So the lease of a waiter in its first quarter ends one
-- lease after its join, and the hash need not be read.
local call = redis.call
local found = KEYS[6] and call('MGET', KEYS[1], KEYS[2], KEYS[6]) or call('MGET', KEYS[1], KEYS[2])
local value, counter, gaps = found[1], found[2], found[3]
if value and counter and string.sub(value, 1, HEAD) == OURS .. ARGV[1] then
  if string.byte(counter, -1) ~= FLAG_BYTE then
    call('DEL', KEYS[1])
    return TAKEN_OUT
  end
  local head = call('ZPOPMIN', KEYS[3])
  local member, digits = head[1], head[2]
  if not member then
    call('DEL', KEYS[1], KEYS[4])
    call('SET', KEYS[2], string.sub(counter, 1, -2), 'PX', COUNTER_TTL)
    return TAKEN_OUT
  end
  local id, node, lease, max_hold, asked, count, capacity = string.match(member, READ_MEMBER)
  local time = call('TIME')
  local now, joined = time[1] * 1000 + math.floor(time[2] / 1000), math.floor(digits / 1000)
  local waited = now - joined
  local calm, pause = true, 0
  if KEYS[6] then
    calm, pause = string.match(gaps or '', READ_CALM)
    calm = calm and now < tonumber(calm) and tonumber(calm) <= now + pause
  end
  if calm and max_hold == '0' and count == capacity and waited >= 0 and waited * 4 < tonumber(lease) then
    local deadline = string.format('%.0f', joined + lease)
    if call('PUBLISH', node, string.format(GRANTED, id, digits, deadline, '0') .. KEYS[1]) > 0 then
      local granted = string.format('%.0f', now)
      call('SET', KEYS[1], string.format(EXCLUSIVE, id, digits, granted, '0') .. asked, 'PXAT', deadline)
      return TAKEN_OUT
    end
    -- Unreachable: it stays out of the queue, see `grant_waiters`.
  else
    call('ZADD', KEYS[3], digits, member)
  end
end

