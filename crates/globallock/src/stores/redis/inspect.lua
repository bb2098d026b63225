-- Reads the queue of a lock, and changes nothing.
--
-- Result, in this order:
-- - the server's ms
-- - the value of the lock's key (empty: the lock is free; '?': the key holds no string, or an empty one)
-- - the key's time to live in ms (-1: for ever)
-- - the shared holders' ids, each followed by the ms at which the store frees it
-- - the waiters' members in the order of the queue, each followed by its join number
-- - the hash, each field followed by its value
-- - the holder's key if it is foreign (see `foreign_key`, which is asked about strings that are not ours)
local value = lock_value()
local ours = type(value) == 'string' and (string.find(value, READ_EXCLUSIVE)
  or string.find(value, ANY_OF_OURS) and value == call('HGET', KEYS[4], '#value'))
return {
  math.floor(clock() / 1000),
  value and (type(value) == 'string' and value ~= '' and value or '?') or '',
  call('PTTL', KEYS[1]),
  call('ZRANGE', KEYS[5], 0, -1, 'WITHSCORES'),
  call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES'),
  call('HGETALL', KEYS[4]),
  type(value) == 'string' and not ours and foreign_key(value) or FOREIGN .. '?',
}
