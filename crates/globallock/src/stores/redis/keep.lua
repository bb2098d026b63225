-- Keeps a held claim though its owner may give no more signs of life, and answers its status. Never revives a
-- gone claim.
--
-- Its owner lives on          for the time that is asked for at least; no renewal shortens that
-- Its owner leaves it         for exactly this time; the first waiters are told when to poll
--
-- ARGV: id, for how many ms, '1' if the owner leaves the claim, else '0'
-- Result: see `held`. { 2 }: gone.
local id, rest, leaves = ARGV[1], tonumber(ARGV[2]), ARGV[3] == '1'
local now = math.floor(clock() / 1000)

local value = lock_value()
local kept = { GONE }
if holds_all(value, id) then
  kept = renew_exclusive(value, rest, now, leaves)
  local marked, found = string.gsub(value, NO_MAX_HOLD, MARKED)
  -- The mark makes renewals look at what is left, which they do not of other claims.
  if found > 0 then call('SET', KEYS[1], marked, 'PXAT', text(now + kept[3] + 1)) end
else
  local shared = read_record(id)
  if shared and renew_shared(id, shared, rest, now, leaves) then kept = held(shared, now) end
end
-- The claim may end sooner than the waiters know.
if leaves and kept[1] == HELD then
  for rank, member in ipairs(call('ZRANGE', KEYS[3], 0, EARLY_POLLERS - 1)) do
    make_poll(member, kept[3] + 1 + poll_delay(rank - 1))
  end
end
return kept
