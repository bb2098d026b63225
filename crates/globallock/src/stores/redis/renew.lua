-- Gives a claim one more lease, held or waiting, and answers where it stands. Never revives one that is gone.
--
-- ARGV: id, lease ms, what it is in the queue (empty: it never waits)
-- Result: see `held` and `waiting`; { 2 } when it is gone
local id, lease, member = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local now = math.floor(clock() / 1000)

local value = holder()
if is_exclusive(value, id) then return renew_exclusive(value, lease, now) end
local score = member ~= '' and call('ZSCORE', KEYS[3], member)
local shared = not score and read(id)
if not score and not shared then return { GONE } end
local renewed
if score then
  renewed = renew_waiter(member, waiter(member, score), lease, now)
else
  renewed = renew_shared(id, shared, lease, now)
end
-- A dead holder or a dead head is noticed here at the latest.
if score or not renewed then settle(now, renewed and id or nil, holder()) end
if not renewed then
  rest()
  return { GONE }
end
return answer(id, member, now, 0)
