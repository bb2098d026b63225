-- Reads the queue of a lock.
--
-- Result: server's ms, value of the lock's key (empty: nobody holds; '?': no text, or an empty one), its ms to live
-- (-1: for ever), the ids that share by expiry with it, those who wait in order with their numbers, and the hash as field
-- and value in turn
local value = holder()
return {
  math.floor(clock() / 1000),
  value and (type(value) == 'string' and value ~= '' and value or '?') or '',
  call('PTTL', KEYS[1]),
  call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES'),
  call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES'),
  call('HGETALL', KEYS[4]),
}
