-- Renews a claim, held or waiting, by one lease from now, and answers its status. Never revives a gone claim.
--
-- ARGV: id, lease in ms, the claim's member of the queue (see MEMBER; empty: it never waits)
-- Result: see `held` and `waiting`. { 2 }: gone.
local id, lease, member = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = math.floor(clock() / 1000)

local value = lock_value()
if holds_all(value, id) then return renew_exclusive(value, lease, now) end
local score = member ~= '' and call('ZSCORE', KEYS[3], member)
local shared = not score and read_record(id)
if not score and not shared then return { GONE } end
local renewed
if score then
  renewed = renew_waiter(member, parse_waiter(member, score), lease, now)
else
  renewed = renew_shared(id, shared, lease, now)
end
-- Each renewal of a waiter also grants what is free. So a dead holder or a dead first waiter is noticed here
-- at the latest.
if score or not renewed then grant_waiters(now, renewed and id or nil, lock_value()) end
if not renewed then
  clear_contended()
  return { GONE }
end
return answer(id, member, now, 0)
