-- The queue of one lock: the part that all scripts share. A script is put together from the fast path of its
-- verb, if it has one, this text, and the verb.
--
-- KEYS[1]  <lock>  string, there while anybody holds: the holder's value, in the form of other Redis locks
-- KEYS[2]  fence   string, the token counter: the last join number. A 'w' behind it is the contended flag:
--                  somebody waits or shares. Where it is missing, a script need not look at the keys below.
-- KEYS[3]  queue   sorted set of the waiters, by join number; MEMBER in texts.lua describes its members
-- KEYS[4]  claims  hash. By claim id: of a waiter that has renewed, when its lease ends (ms); of a shared
--                  holder, its record (see RECORD). In the fields with '#': the group of the shared holders
--                  (see `read_group`).
-- KEYS[5]  shared  sorted set of the shared holders' ids, by the ms at which the store frees them
--
-- An exclusive holder is a claim that takes all permits, a shared holder one that takes fewer. An exclusive
-- holder is stored in KEYS[1] alone, so that a mutex touches no other key but the counter.
--
-- A join number is the server's time in microseconds, or the last number plus one if that is larger. It
-- orders the queue, and it is the claim's fencing token. Such numbers have more than 14 digits, and Lua's own
-- conversion to text keeps only 14: always convert them with `text`.
local call = redis.call
-- Lua counts exactly below this limit only. A counter that is not below it was written by another program.
local NUMBER_LIMIT = 2 ^ 53
-- One call spends at most BUDGET on the queue and leaves the rest to the next call, so that other clients
-- wait for the server no longer than 5 ms. A unit is some 2 microseconds. PASS_COST: to take a waiter from
-- the front. NOTIFY_COST: to notify it as well. GRANT_COST: to make it a holder as well. MAX_EXPIRED: how
-- many expired shared holders one call drops.
local BUDGET, PASS_COST, NOTIFY_COST, GRANT_COST, MAX_EXPIRED = 2000, 1, 3, 6, 500
-- How many waiters are read from the front of the queue at a time: first one, then twice as many each time,
-- up to this.
local MAX_BATCH = 128
-- How many waiters at the front may poll at any time; the others keep to the `min_delay` of `next_poll`.
local EARLY_POLLERS = 8
-- Whether this call has used up its limits, and leaves some of its work to the next one.
local unfinished = false

local function text(number)
  return string.format('%.0f', number)
end

local function clock()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- Takes the next join number and sets the contended flag. The number rises with every call. It follows the
-- server's clock as well, so that it goes on rising after the counter was lost.
local function next_number(microseconds)
  local last = call('SET', KEYS[2], text(microseconds) .. FLAG, 'PX', COUNTER_TTL, 'GET')
  last = last and tonumber(string.match(last, '^%d+') or '')
  if last and last >= microseconds and last < NUMBER_LIMIT then
    microseconds = last + 1
    call('SET', KEYS[2], text(microseconds) .. FLAG, 'PX', COUNTER_TTL)
  end
  return microseconds
end

-- Clears the contended flag if nobody waits or shares any more.
local function clear_contended()
  if call('EXISTS', KEYS[3], KEYS[5]) > 0 then return end
  call('DEL', KEYS[4])
  local last = call('GET', KEYS[2])
  if last and string.sub(last, -1) == FLAG then
    call('SET', KEYS[2], string.sub(last, 1, -2), 'PX', COUNTER_TTL)
  end
end

-- The value of the lock's key: false if there is none, a string, or a table (an error) for any other type.
local function lock_value()
  return redis.pcall('GET', KEYS[1])
end

-- Whether the value of the lock's key says that claim `id` is the exclusive holder.
local function holds_all(value, id)
  return type(value) == 'string' and string.sub(value, 1, HEAD) == OURS .. id
end

local function parse_exclusive(value)
  local number, hold_until = string.match(value, READ_EXCLUSIVE)
  return { number = tonumber(number), hold_until = tonumber(hold_until) }
end

local function parse_waiter(member, score)
  local id, node, lease, max_hold, asked, count, capacity = string.match(member, READ_MEMBER)
  if not id then return nil end
  local number = tonumber(score)
  local joined = math.floor(number / 1000)
  return {
    id = id, number = number, joined = joined, granted = 0, hold_until = 0, max_hold = tonumber(max_hold),
    node = node, deadline = tonumber(call('HGET', KEYS[4], id) or joined + tonumber(lease)),
    count = tonumber(count), capacity = tonumber(capacity), asked = asked,
  }
end

local function dequeue(member)
  call('ZREM', KEYS[3], member)
  call('HDEL', KEYS[4], string.sub(member, 1, 32))
end

-- Removes the waiters with these ids, which must be the first of the queue.
local function dequeue_front(ids)
  if not ids[1] then return end
  call('ZREMRANGEBYRANK', KEYS[3], 0, #ids - 1)
  call('HDEL', KEYS[4], unpack(ids))
end

local function read_record(id)
  local record = call('HGET', KEYS[4], id)
  if not record then return nil end
  local number, deadline, joined, granted, hold_until, max_hold, node, asked, count, capacity =
    string.match(record, READ_RECORD)
  if not number then return nil end
  return {
    number = tonumber(number), deadline = tonumber(deadline), joined = tonumber(joined),
    granted = tonumber(granted), hold_until = tonumber(hold_until), max_hold = tonumber(max_hold),
    node = node, count = tonumber(count), capacity = tonumber(capacity), asked = asked,
  }
end

-- Writes what keeps a claim that is stored already. A server without memory refuses the first write of a
-- script if that may take memory, but none that follows a write that takes none.
local function keep(...)
  local done = redis.pcall(...)
  if type(done) ~= 'table' then return end
  call('HDEL', KEYS[4], '')
  call(...)
end

-- Makes a key live until `at` (ms), unless it lives longer already.
local function extend(key, at, now)
  if call('PTTL', key) < at - now then call('PEXPIREAT', key, text(at)) end
end

-- Stores when a waiter's lease ends, since it is not the lease after the join any more.
local function write_deadline(id, deadline, now)
  keep('HSET', KEYS[4], id, text(deadline))
  extend(KEYS[4], deadline, now)
  extend(KEYS[3], deadline, now)
end

local function write_record(id, claim, now)
  call('HSET', KEYS[4], id, string.format(RECORD, claim.number, claim.deadline, claim.joined, claim.granted,
    claim.hold_until, claim.max_hold, claim.node) .. claim.asked)
  extend(KEYS[4], claim.deadline, now)
end

-- When the store frees a holder: at the end of its lease or of its max hold time, whichever comes first.
local function expiry(claim)
  if claim.hold_until > 0 and claim.hold_until < claim.deadline then return claim.hold_until end
  return claim.deadline
end

-- The group is all shared holders taken together. `value`: what it has put at the lock's key; nil if there is
-- no group. `count`: the permits that they hold together. `capacity`: the smallest of theirs. `mixed`: they
-- differ in capacity.
local function read_group()
  local fields = call('HMGET', KEYS[4], '#value', '#weight', '#capacity', '#mixed')
  if not fields[1] then return { count = 0, capacity = math.huge, mixed = false } end
  local count, capacity, mixed = tonumber(fields[2]), tonumber(fields[3]), fields[4] == '1'
  -- Fields that no script has written must not let in more claims than fit. So nobody fits until `recount`
  -- has added up the members' records.
  if not (count and count >= 0 and capacity) then count, capacity, mixed = math.huge, 0, true end
  return { value = fields[1], count = count, capacity = capacity, mixed = mixed }
end

local function write_group(group)
  call('HSET', KEYS[4], '#value', group.value, '#weight', text(group.count),
    '#capacity', text(group.capacity), '#mixed', group.mixed and '1' or '0')
end

-- Removes a member and returns its permits to the group. `claim` is its record, nil if that was lost.
local function remove_from_group(group, id, claim)
  call('HDEL', KEYS[4], id)
  -- KEYS[5] may expire before the records do. A record that is left over from an earlier group must not give
  -- back permits that it never took from this one. So only a claim that was in KEYS[5] gives any back.
  if call('ZREM', KEYS[5], id) == 1 then group.count = group.count - (claim and claim.count or 0) end
end

-- Adds up the group again from its members' records, since the smallest capacity may have left it.
local function recount(group)
  if not group.mixed then return end
  group.count, group.capacity = 0, math.huge
  for _, member in ipairs(call('ZRANGE', KEYS[5], 0, -1)) do
    local other = read_record(member)
    if other then
      group.count = group.count + other.count
      group.capacity = math.min(group.capacity, other.capacity)
    end
  end
end

-- Deletes the group if it has no member left, and stores it otherwise. Returns whether it is deleted.
local function close_group(group, value)
  if call('EXISTS', KEYS[5]) == 1 then
    write_group(group)
    return false
  end
  call('HDEL', KEYS[4], '#value', '#weight', '#capacity', '#mixed')
  if value == group.value then call('DEL', KEYS[1]) end
  group.value, group.count, group.capacity, group.mixed = nil, 0, math.huge, false
  return true
end

-- Drops the members of the group that have expired, or all members if the lock's key has lost the group's
-- value. Drops MAX_EXPIRED at most; the rest keep their permits until the next call. Returns whether the
-- group is deleted.
local function expire_group(group, value, now)
  local up_to = '+inf'
  if value == group.value then up_to = text(now) end
  local members = call('ZRANGEBYSCORE', KEYS[5], '-inf', up_to, 'LIMIT', 0, MAX_EXPIRED)
  if #members == 0 and call('EXISTS', KEYS[5]) == 1 then return false end
  for _, member in ipairs(members) do remove_from_group(group, member, read_record(member)) end
  unfinished = #members == MAX_EXPIRED and call('ZCOUNT', KEYS[5], '-inf', up_to) > 0
  if not unfinished then recount(group) end
  return close_group(group, value)
end

-- Makes a claim a holder. The claim must fit.
local function grant(group, id, claim, now)
  claim.granted = now
  claim.hold_until = claim.max_hold > 0 and now + claim.max_hold or 0
  local expires = expiry(claim)
  if claim.count >= claim.capacity then
    local value = string.format(EXCLUSIVE, id, text(claim.number), text(now), text(claim.hold_until))
    call('SET', KEYS[1], value .. claim.asked, 'PXAT', text(expires))
    return
  end
  local first = not group.value
  if first then
    group.value = string.format(GROUP, id, text(claim.number))
  else
    group.mixed = group.mixed or group.capacity ~= claim.capacity
  end
  group.count = group.count + claim.count
  group.capacity = math.min(group.capacity, claim.capacity)
  write_record(id, claim, now)
  call('ZADD', KEYS[5], text(expires), id)
  extend(KEYS[5], expires, now)
  write_group(group)
  -- Last, because a command that the user may not call ends the script: then nobody is kept out.
  if first then
    call('SET', KEYS[1], group.value, 'PXAT', text(expires))
  else
    extend(KEYS[1], expires, now)
  end
end

-- Whether there are enough free permits for a claim, by the smallest capacity of all.
local function fits(group, claim)
  return group.count + claim.count <= math.min(group.capacity, claim.capacity)
end

-- Takes a shared holder out of the group, and its record out of the hash.
local function remove_shared(id, claim)
  local group = read_group()
  remove_from_group(group, id, claim)
  recount(group)
  close_group(group, lock_value())
end

-- Notifies a waiter that it holds the lock from now on. Returns false if nobody subscribes to its channel.
local function notify(claim, now)
  local hold_until = claim.max_hold > 0 and now + claim.max_hold or 0
  local expires = claim.deadline
  if hold_until > 0 and hold_until < expires then expires = hold_until end
  local grant = string.format(GRANTED, claim.id, text(claim.number), text(expires), text(hold_until))
  return call('PUBLISH', claim.node, grant .. KEYS[1]) > 0
end

-- Whether every waiter that would be granted the free lock knows gaps: of one that does not, a gap would keep
-- the lock until its next renewal. Nobody is delayed whose owner has not asked for gaps.
local function all_know_gaps(now)
  local group = { count = 0, capacity = math.huge }
  local heads = call('ZRANGE', KEYS[3], 0, MAX_BATCH - 1, 'WITHSCORES')
  for at = 1, #heads, 2 do
    local claim = parse_waiter(heads[at], heads[at + 1])
    if claim and claim.deadline > now then
      if not fits(group, claim) then return true end
      if string.sub(claim.node, 1, #GAP_NODE) ~= GAP_NODE then return false end
      group.count, group.capacity = group.count + claim.count, math.min(group.capacity, claim.capacity)
    end
  end
  return #heads < 2 * MAX_BATCH
end

-- Tells a waiter to poll in so many ms. Returns false if nobody subscribes to its channel.
local function make_poll(member, poll_in)
  local id, node = string.match(member, '^(%x+) (%S+)')
  return id and call('PUBLISH', node, id .. POLLS .. poll_in) > 0
end

-- How many ms after the holder's expiry the waiter of this rank polls: one after the other, so that 10,000
-- waiters poll within little more than a second. While the holder lives, none of them does: the holder's
-- renewals put off the expiry, and each renewal of a waiter brings it a new time to poll.
local function poll_delay(rank)
  return 1 + math.min(POLL_STEP * rank, POLL_BASE + math.floor(rank / POLLERS_A_MS))
end

-- Leaves a gap before the first waiter is granted the free lock, if it is time for one. Returns 'left' if so;
-- the first waiter polls at once, and is told when the gap ends, and so is the second when it does, in case
-- the first has died meanwhile. Returns 'unreachable' if the first waiter cannot be told.
local function leave_gap(claim, member, me, now)
  if not gap or not leaves_gap(now, claim.deadline - now, all_know_gaps) then return nil end
  if claim.id ~= me and not make_poll(member, 1) then return 'unreachable' end
  local second = call('ZRANGE', KEYS[3], 1, 1)[1]
  if second then make_poll(second, gap_left + poll_delay(1)) end
  return 'left'
end

-- Drops expired claims, then grants the lock to the waiters at the front that fit, and notifies them.
--
-- `me` is the claim of this call, if it may be among them: it is not notified, because it reads its grant in
-- the answer. `value` is what stands at the lock's key. Returns the group, or nil if no more claim fits
-- because an exclusive or a foreign holder has the lock.
--
-- A waiter is unreachable if nobody subscribes to its channel: its owner is gone, or has lost its connection
-- and will enqueue again. It is dropped, because at the front of the queue it would block the others. All
-- waiters of the same connection are dropped like it, without another message.
local function grant_waiters(now, me, value)
  if type(value) == 'string' and string.sub(value, 1, #OURS) == OURS then return nil end
  local group = read_group()
  if group.value and expire_group(group, value, now) then value = lock_value() end
  -- A foreign holder has the lock, or the group has lost it and has too many members to drop in one call.
  if (value or group.value) and value ~= group.value then
    if value then note_stranger(now) end
    return nil
  end
  local budget, size, unreachable, has_written = BUDGET, 1, {}, false
  while budget > 0 do
    local heads = call('ZRANGE', KEYS[3], 0, size - 1, 'WITHSCORES')
    if not heads[1] then return group end
    local passed = {}
    for at = 1, #heads, 2 do
      local id, node = string.match(heads[at], '^(%x+) (%S+)')
      passed[#passed + 1] = id or string.sub(heads[at], 1, 32)
      budget = budget - PASS_COST
      -- While nobody holds, every waiter would fit, so that an unreachable one is dropped without being read.
      -- While somebody shares, it is read first: one that does not fit yet keeps its position.
      if group.count > 0 or not unreachable[node] or id == me then
        local claim = parse_waiter(heads[at], heads[at + 1])
        if claim and claim.deadline > now then
          if not fits(group, claim) then
            passed[#passed] = nil
            dequeue_front(passed)
            return group
          end
          budget = budget - NOTIFY_COST
          local gap_is
          if gap and not value and group.count == 0 then
            passed[#passed] = nil
            dequeue_front(passed)
            passed = { id }
            gap_is = leave_gap(claim, heads[at], me, now)
            if gap_is == 'left' then return nil end
          end
          -- A server that refuses writes must end the call before any waiter is notified. Granted or dropped,
          -- the waiter leaves the queue.
          if not has_written then
            dequeue_front(passed)
            passed, has_written = {}, true
          end
          if id == me or not gap_is and not unreachable[node] and notify(claim, now) then
            budget = budget - GRANT_COST
            dequeue_front(passed)
            passed = {}
            grant(group, id, claim, now)
            if claim.count >= claim.capacity then return nil end
          else
            unreachable[node] = true
          end
        end
      end
      if budget <= 0 then break end
    end
    dequeue_front(passed)
    size = math.min(size * 2, MAX_BATCH)
  end
  unfinished = unfinished or call('EXISTS', KEYS[3]) == 1
  return group
end

-- Takes a claim out of the queue, held or waiting; `member` is its member of the queue (empty: not known, or
-- it never waits). Returns whether it was there and had not expired, and the claim unless it held all.
local function take_out(id, member, now, value)
  if holds_all(value, id) then
    call('DEL', KEYS[1])
    return true, nil
  end
  local score = member ~= '' and call('ZSCORE', KEYS[3], member)
  local claim = score and parse_waiter(member, score) or not score and read_record(id)
  local found = claim and expiry(claim) > now and (score or read_group().value == value)
  if score then dequeue(member) elseif claim then remove_shared(id, claim) end
  return found, claim
end

-- Grants the lock to the waiters that fit after a claim has been taken out, if it was `found`, and answers.
local function hand_over(found, now)
  grant_waiters(now, nil, lock_value())
  clear_contended()
  return (found and TAKEN_OUT or 0) + (unfinished and UNFINISHED or 0)
end

-- Says in how many ms a waiter's owner should poll, which is to call enqueue again (0: never). The second
-- result says that the first waiter polls at a pace of its own as well: FOREIGN_HOLDER, because a foreign
-- holder notifies nobody of its release, or IN_GAP. Behind the first EARLY_POLLERS nobody polls sooner than
-- in `min_delay`.
local function next_poll(member, now, value, min_delay)
  local rank = call('ZRANK', KEYS[3], member)
  if not rank then return 0, 0 end
  -- In a gap, the first waiter polls as for a foreign holder, to see one that stays for a moment only.
  if gap_left and not value then return gap_left + poll_delay(rank), rank == 0 and IN_GAP or 0 end
  -- This call has left work to the next one, or nobody holds: poll at once, to go on with it.
  if unfinished or not value then return 1, 0 end
  if rank < EARLY_POLLERS then min_delay = 0 end
  local ttl = call('PTTL', KEYS[1])
  if type(value) ~= 'string' or not string.find(value, ANY_OF_OURS) then
    if rank == 0 then return ttl >= 0 and ttl + 1 or 0, FOREIGN_HOLDER end
    -- The others poll too, since those in front may be dead; the further back, the more seldom. However many
    -- they are, together they poll some hundred times a second.
    local poll_in = 100 * (rank + 1)
    if ttl >= 0 then poll_in = math.min(poll_in, math.max(ttl + poll_delay(rank), min_delay)) end
    return poll_in, 0
  end
  local first = call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')
  if first[2] then ttl = math.min(ttl, math.max(tonumber(first[2]) - now, 0)) end
  if ttl < 0 then return 0, 0 end
  return math.max(ttl + poll_delay(rank), min_delay), 0
end

-- The answers to enqueue and renew.
--
-- Held:     { 1, join number, ms left of the lease, ms left of the max hold time (0: none) }
-- Waiting:  { 0, server's ms, and the results of `next_poll` }
--
-- `now` is rounded down, so that what is left would seem up to 1 ms longer than it is: 1 ms is taken off. In
-- its last ms a claim has nothing left, and its owner does not take that for a grant.
local function held(claim, now)
  local hold_left = claim.hold_until > 0 and math.max(claim.hold_until - now - 1, 0) or 0
  return { HELD, claim.number, math.max(expiry(claim) - now - 1, 0), hold_left }
end

local function waiting(member, now, value, min_delay)
  local poll_in, foreign = next_poll(member, now, value, min_delay)
  -- Rounded up, because the owner counts the end of a granted lease from here, and must not count too long.
  return { WAITING, now + 1, poll_in, foreign }
end

-- Answers the status of a claim that is in the queue or holds.
local function answer(id, member, now, min_delay)
  local value = lock_value()
  if holds_all(value, id) then
    local claim = parse_exclusive(value)
    claim.deadline = now + call('PTTL', KEYS[1])
    return held(claim, now)
  end
  if call('ZSCORE', KEYS[3], member) then return waiting(member, now, value, min_delay) end
  local claim = read_record(id)
  return claim and held(claim, now) or { GONE }
end

-- Renews the exclusive holder, and answers. What is left of a longer lease is left to it, unless this call
-- `shortens` it.
local function renew_exclusive(value, lease, now, shortens)
  local claim = parse_exclusive(value)
  claim.deadline = now + lease
  if not shortens then claim.deadline = math.max(claim.deadline, now + call('PTTL', KEYS[1])) end
  call('PEXPIREAT', KEYS[1], text(expiry(claim)))
  return held(claim, now)
end

-- Renews a waiter, unless its lease has ended: then drops it. Returns whether it is renewed.
local function renew_waiter(member, claim, lease, now)
  if claim.deadline <= now then
    dequeue(member)
    return false
  end
  write_deadline(claim.id, now + lease, now)
  if gap then extend(gap_key, now + lease, now) end
  return true
end

-- Renews a shared holder, unless it has expired or its group has lost the lock: then drops it. Returns
-- whether it is renewed. What is left of a longer lease is left to it, unless this call `shortens` it.
local function renew_shared(id, claim, lease, now, shortens)
  if expiry(claim) <= now or read_group().value ~= lock_value() or not call('ZSCORE', KEYS[5], id) then
    remove_shared(id, claim)
    return false
  end
  claim.deadline = shortens and now + lease or math.max(claim.deadline, now + lease)
  keep('ZADD', KEYS[5], 'XX', text(expiry(claim)), id)
  extend(KEYS[5], expiry(claim), now)
  extend(KEYS[1], expiry(claim), now)
  write_record(id, claim, now)
  return true
end
