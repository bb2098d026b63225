-- Gaps for strangers: a stranger is another program's lock that polls the same key with SET NX. While claims
-- hand the lock over among themselves, its key is never free, so that a stranger would starve. So some grants
-- leave the key free for a while, the gap, and the first waiter is granted the lock after it.
--
-- KEYS[last]  string, the state of the gaps (see GAP_STATE), given by owners that leave gaps; then the last
--             of ARGV is the length of a gap in ms. It is a key of its own because it must outlast moments in
--             which nobody waits, and it expires some time after the last of them.
--
-- Nothing shows that a stranger polls until it has got the lock. So gaps are tried:
-- - After strangers have had the lock, the claims have it for about as long as the strangers had it, and for
--   one grant at least. Then comes the next gap. So both sides have about half of the time.
-- - After a gap that nobody has used, the next one comes later, twice as late each time, up to MAX_PAUSE.
--   So gaps that nobody uses take a fiftieth of the time.
-- - While nothing is known, the first one comes after FIRST_PAUSE: claims that meet for a moment lose
--   nothing.
local gap_key = string.sub(KEYS[#KEYS], -#GAP_SUFFIX) == GAP_SUFFIX and KEYS[#KEYS]
local gap = gap_key and tonumber(ARGV[#ARGV])
-- How many gaps long the pauses are until the first gap, after one that was not used, and at most.
local FIRST_PAUSE, RETRY_PAUSE, MAX_PAUSE = 10, 4, 49
-- For what part of the time that strangers had the lock the claims have it afterwards, since a turn ends only
-- with a grant, and for how many ms at most.
local TURN, MAX_TURN = 0.75, 60000
-- How many ms of the gap are left, if this call has left one or has found one.
local gap_left

-- The state: `ends`: when the gap that is open ends (0: none is open). `seen`: when a stranger was first seen
-- to hold the lock since (0: none was). `next`: when the next gap may be left. `pause`: how long before that
-- the last gap or the last stranger was.
local function read_gaps(now)
  local state = redis.pcall('GET', gap_key)
  local ends, seen, next, pause = string.match(type(state) == 'string' and state or '', READ_GAP_STATE)
  if ends then
    return { ends = tonumber(ends), seen = tonumber(seen), next = tonumber(next), pause = tonumber(pause) }
  end
  local first = FIRST_PAUSE * gap
  return { ends = 0, seen = 0, next = now + first, pause = first, is_new = true }
end

-- Stores the state, for as long as a waiter's lease at least, since each waiter renews it. Returns whether it
-- is stored: a server without memory may refuse it, and then there is no gap.
local function write_gaps(state, lease)
  local value = string.format(GAP_STATE, state.ends, state.seen, state.next, state.pause)
  local stays = math.max(state.pause + 2 * MAX_PAUSE * gap, lease)
  local done = redis.pcall('SET', gap_key, value, 'PX', string.format('%.0f', stays))
  return not (type(done) == 'table' and done.err)
end

local function pause_gaps(state, now, pause)
  state.ends, state.seen, state.next, state.pause = 0, 0, now + pause, pause
end

-- Notes that a stranger holds the lock while claims wait.
local function note_stranger(now)
  if not gap or redis.call('EXISTS', KEYS[3]) == 0 then return end
  local state = read_gaps(now)
  if state.seen > 0 then return end
  state.seen = now
  write_gaps(state, 0)
end

-- Decides whether the free lock is left to strangers, though a waiter could be granted it, whose lease ends
-- in so many ms. Sets `gap_left` if so. `may` says whether that is possible now, and takes long to find out.
--
-- A stranger has been seen, and has gone        grant; its time is the claims' now
-- A gap is open                                 leave it
-- It has ended, and nobody has used it          grant; the next one comes later
-- The pause is over, or the clock is set back   leave a gap
-- Anything else                                 grant
local function leaves_gap(now, lease, may)
  local state = read_gaps(now)
  if state.seen > 0 then
    pause_gaps(state, now, math.max(math.floor(math.min(TURN * (now - state.seen), MAX_TURN)), 0))
  elseif state.ends > 0 then
    local left = state.ends - now
    if left > 0 and left <= gap and may(now) then
      gap_left = left
      return true
    end
    pause_gaps(state, now, math.max(RETRY_PAUSE * gap, math.min(2 * state.pause, MAX_PAUSE * gap)))
  elseif not state.is_new then
    local left = state.next - now
    if left > 0 and left <= state.pause then return false end
    if not may(now) then return false end
    state.ends = now + gap
    if not write_gaps(state, lease) then return false end
    gap_left = gap
    return true
  end
  write_gaps(state, lease)
  return false
end

