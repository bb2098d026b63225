-- Stands in front of a script on a server older than Redis 7, which lacks some forms of commands. There each
-- call of SET and of PEXPIRETIME is one of `set` and of `expires_at`: see `scripts.rs`.
--
-- Such a server may be set to have scripts repeated by its replicas. It then refuses writes after TIME,
-- unless a script says first that its writes are to be repeated instead.
redis.replicate_commands()

-- SET with PX or PXAT, and with these options: nothing, 'GET', or 'NX' and 'GET'. PXAT and GET came with
-- Redis 6.2, NX beside GET with 7.0.
local function set(call, key, value, unit, time, option)
  local last = option and call('GET', key)
  if last and option == 'NX' then return last end
  local done
  if unit == 'PXAT' then
    done = call('SET', key, value)
    call('PEXPIREAT', key, time)
  else
    done = call('SET', key, value, unit, time)
  end
  return done.err and done or last
end

-- PEXPIRETIME, which came with Redis 7.0. The clock is read on both sides of the time to live, until both
-- readings show the same ms.
local function expires_at(call, key)
  local expires = redis.pcall('PEXPIRETIME', key)
  while type(expires) ~= 'number' do
    local before, left, after = call('TIME'), call('PTTL', key), call('TIME')
    local ms = before[1] * 1000 + math.floor(before[2] / 1000)
    if ms == after[1] * 1000 + math.floor(after[2] / 1000) then expires = left < 0 and left or ms + left end
  end
  return expires
end

