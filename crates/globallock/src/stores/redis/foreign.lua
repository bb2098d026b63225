-- What inspect and evict share.
--
-- The key by which an onlooker means a foreign holder: the hash of its value, and the ms at which the lock's
-- key expires (0: never). The next holder may have the same value, as where all write '1', but hardly the
-- same expiry. The server's own expiry is compared to the ms, since time to live and clock, read one after
-- the other, may differ by one.
--
-- Where the key never expires, a short value may be the next holder's too: no key means this holder alone.
local function foreign_key(value)
  local expires = math.max(call('PEXPIRETIME', KEYS[1]), 0)
  if expires == 0 and #value < 16 then return FOREIGN .. '?' end
  return FOREIGN .. redis.sha1hex(value) .. ':' .. text(expires)
end

