-- The queue of one lock; every verb's script begins with this text.
--
-- KEYS[1] lock    string: present while anybody holds, with the holder's value, as other Redis locks know it
-- KEYS[2] fence   string: the last join number, which is the last fencing token too; with a 'w' behind it while
--                 anybody waits or shares, so that those who find none need not look at the other keys
-- KEYS[3] queue   sorted set: who waits, by join number; see MEMBER
-- KEYS[4] claims  hash: by id, the end of the lease (ms) of each who waits and has renewed it, and the record of each who
--                 shares; and the group that shares (fields with '#')
-- KEYS[5] shared  sorted set: who shares, by the end of the lease in ms
--
-- A claim that takes all there is lives in KEYS[1] alone, so that a mutex touches no other key but the fence.
-- Numbers above 2^46 are only ever turned into text by `text`: Lua's own way keeps 14 digits.
local call = redis.call
local HELD, WAITING, GONE, ASK = 1, 0, 2, 3
local FENCE_TTL = 604800000
-- The end of the numbers that Lua can count: what is not below it is none of ours.
local NO_NUMBER = 2 ^ 53
-- How much one call does for the queue before it leaves the rest to the next one, in units of some 2 microseconds: then
-- others wait for the server no longer than 5 ms. What it costs to drop a waiter, to tell it in addition, and to have it
-- hold in addition. How many holders of shares are dropped.
local EFFORT, PASSED, OFFERED, GRANTED, EXPIRED = 2000, 1, 3, 6, 500
-- So many heads of the queue are read at a time at most; the first time it is one.
local HEADS = 128
-- So many waiters look again by themselves as soon as the holder's lease ends; the others give them some time.
local EARLY = 8
-- Whether this call has left some of the queue to the next one.
local unfinished = false

local function text(number)
  return string.format('%.0f', number)
end

local function clock()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- The next join number: rises with every call, and with the server's clock, so that it survives the loss of the key.
local function next_number(microseconds)
  local last = call('SET', KEYS[2], text(microseconds) .. 'w', 'PX', FENCE_TTL, 'GET')
  last = last and tonumber(string.match(last, '^%d+') or '')
  if last and last >= microseconds and last < NO_NUMBER then
    microseconds = last + 1
    call('SET', KEYS[2], text(microseconds) .. 'w', 'PX', FENCE_TTL)
  end
  return microseconds
end

-- Takes the mark from the fence when nobody waits or shares any more.
local function rest()
  if call('EXISTS', KEYS[3], KEYS[5]) > 0 then return end
  call('DEL', KEYS[4])
  local last = call('GET', KEYS[2])
  if last and string.sub(last, -1) == 'w' then call('SET', KEYS[2], string.sub(last, 1, -2), 'PX', FENCE_TTL) end
end

-- What stands at the lock's key: false, a text, or a table when it is no text at all.
local function holder()
  return redis.pcall('GET', KEYS[1])
end

local function is_exclusive(value, id)
  return type(value) == 'string' and string.sub(value, 1, 37) == 'glk1:' .. id
end

-- The value of a claim that has all there is: id, number, ms of the grant (empty: that of the number), end of the
-- longest hold (0: none), share, owner.
local function exclusive_value(id, claim)
  return string.format('glk1:%s:%.0f:%.0f:%.0f:%d/%d:', id, claim.number, claim.granted, claim.hold_until, claim.weight,
    claim.capacity) .. claim.owner
end

local function parse_exclusive(value)
  local number, hold_until = string.match(value, '^glk1:%x+:(%d+):%d*:(%d+):')
  return { number = tonumber(number), hold_until = tonumber(hold_until) }
end

-- Who waits: id, channel of the owner's connection, lease in ms, longest hold in ms (0: none), weight/capacity:owner.
-- All of it is known to the owner, so that it needs no other key to find itself; the joining is the number.
local MEMBER = '^(%x+) (%S+) (%d+) (%d+) (%d+)/(%d+):(.*)$'

local function waiter(member, score)
  local id, node, lease, max_hold, weight, capacity, owner = string.match(member, MEMBER)
  if not id then return nil end
  local number = tonumber(score)
  local joined = math.floor(number / 1000)
  return {
    id = id, number = number, joined = joined, granted = 0, hold_until = 0, max_hold = tonumber(max_hold), node = node,
    deadline = tonumber(call('HGET', KEYS[4], id) or joined + tonumber(lease)), weight = tonumber(weight),
    capacity = tonumber(capacity), owner = owner,
  }
end

local function dequeue(member)
  call('ZREM', KEYS[3], member)
  call('HDEL', KEYS[4], string.sub(member, 1, 32))
end

-- Takes these out, who stand at the front.
local function dequeue_front(ids)
  if not ids[1] then return end
  call('ZREMRANGEBYRANK', KEYS[3], 0, #ids - 1)
  call('HDEL', KEYS[4], unpack(ids))
end

-- The record of one who shares: number, end of the lease in ms, ms of the joining, ms of the grant, end of the longest
-- hold (0: none), longest hold in ms (0: none), channel of the owner's connection, weight/capacity:owner.
local RECORD = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%d+)/(%d+):(.*)$'

local function read(id)
  local record = call('HGET', KEYS[4], id)
  if not record then return nil end
  local number, deadline, joined, granted, hold_until, max_hold, node, weight, capacity, owner =
    string.match(record, RECORD)
  if not number then return nil end
  return {
    number = tonumber(number), deadline = tonumber(deadline), joined = tonumber(joined), granted = tonumber(granted),
    hold_until = tonumber(hold_until), max_hold = tonumber(max_hold), node = node, weight = tonumber(weight),
    capacity = tonumber(capacity), owner = owner,
  }
end

-- Keeps a key at least until `at`.
local function keep(key, at, now)
  if call('PTTL', key) < at - now then call('PEXPIREAT', key, text(at)) end
end

-- Keeps one who waits until the end of its lease, which its number alone does not tell any more.
local function wait_until(id, deadline, now)
  call('HSET', KEYS[4], id, text(deadline))
  keep(KEYS[4], deadline, now)
  keep(KEYS[3], deadline, now)
end

local function write(id, claim, now)
  call('HSET', KEYS[4], id, string.format('%.0f %.0f %.0f %.0f %.0f %.0f %s %d/%d:', claim.number, claim.deadline,
    claim.joined, claim.granted, claim.hold_until, claim.max_hold, claim.node, claim.weight, claim.capacity)
    .. claim.owner)
  keep(KEYS[4], claim.deadline, now)
end

-- When the store frees a claim that holds.
local function expiry(claim)
  if claim.hold_until > 0 and claim.hold_until < claim.deadline then return claim.hold_until end
  return claim.deadline
end

-- The group that shares: its value at the lock's key, the weight that it has together, its smallest capacity.
local function read_group()
  local fields = call('HMGET', KEYS[4], '#value', '#weight', '#capacity', '#mixed')
  if not fields[1] then return { weight = 0, capacity = math.huge, mixed = false } end
  local weight, capacity, mixed = tonumber(fields[2]), tonumber(fields[3]), fields[4] == '1'
  -- What nobody here has written must not let in more than fits: nobody does, until the members are counted again.
  if not (weight and weight >= 0 and capacity) then weight, capacity, mixed = math.huge, 0, true end
  return { value = fields[1], weight = weight, capacity = capacity, mixed = mixed }
end

local function write_group(group)
  call('HSET', KEYS[4], '#value', group.value, '#weight', text(group.weight), '#capacity', text(group.capacity),
    '#mixed', group.mixed and '1' or '0')
end

local function remove_shared(group, id, claim)
  call('HDEL', KEYS[4], id)
  -- The group's keys may end before its members' records do: what is in no group takes nothing from another.
  if call('ZREM', KEYS[5], id) == 1 then group.weight = group.weight - (claim and claim.weight or 0) end
end

-- Reads the members of a group one by one where the smallest capacity may have left.
local function count(group)
  if not group.mixed then return end
  group.weight, group.capacity = 0, math.huge
  for _, member in ipairs(call('ZRANGE', KEYS[5], 0, -1)) do
    local other = read(member)
    if other then
      group.weight = group.weight + other.weight
      group.capacity = math.min(group.capacity, other.capacity)
    end
  end
end

-- Ends the group when nobody is left in it, and says so.
local function close_group(group, value)
  if call('EXISTS', KEYS[5]) == 1 then
    write_group(group)
    return false
  end
  call('HDEL', KEYS[4], '#value', '#weight', '#capacity', '#mixed')
  if value == group.value then call('DEL', KEYS[1]) end
  group.value, group.weight, group.capacity, group.mixed = nil, 0, math.huge, false
  return true
end

-- Drops the members of the group that have expired; all of them if the lock's key is not theirs any more. Of very many,
-- the rest is left to the next call, and takes room until then.
local function expire_group(group, value, now)
  local over = '+inf'
  if value == group.value then over = text(now) end
  local members = call('ZRANGEBYSCORE', KEYS[5], '-inf', over, 'LIMIT', 0, EXPIRED)
  if #members == 0 and call('EXISTS', KEYS[5]) == 1 then return false end
  for _, member in ipairs(members) do remove_shared(group, member, read(member)) end
  unfinished = #members == EXPIRED and call('ZCOUNT', KEYS[5], '-inf', over) > 0
  if not unfinished then count(group) end
  return close_group(group, value)
end

-- Makes a claim hold. It must fit.
local function grant(group, id, claim, now)
  claim.granted = now
  claim.hold_until = claim.max_hold > 0 and now + claim.max_hold or 0
  local expires = expiry(claim)
  if claim.weight >= claim.capacity then
    call('SET', KEYS[1], exclusive_value(id, claim), 'PXAT', text(expires))
    return
  end
  if group.value then
    keep(KEYS[1], expires, now)
    group.mixed = group.mixed or group.capacity ~= claim.capacity
  else
    group.value = 'glk1+:' .. id .. ':' .. text(claim.number)
    call('SET', KEYS[1], group.value, 'PXAT', text(expires))
  end
  group.weight = group.weight + claim.weight
  group.capacity = math.min(group.capacity, claim.capacity)
  write(id, claim, now)
  call('ZADD', KEYS[5], text(expires), id)
  keep(KEYS[5], expires, now)
  write_group(group)
end

local function fits(group, claim)
  return group.weight + claim.weight <= math.min(group.capacity, claim.capacity)
end

-- Takes one who shares out of the group.
local function drop(id, claim)
  local group = read_group()
  remove_shared(group, id, claim)
  count(group)
  close_group(group, holder())
end

-- Tells a waiter that it holds from now on. False where nobody hears it.
local function offer(claim, now)
  local hold_until = claim.max_hold > 0 and now + claim.max_hold or 0
  local expires = claim.deadline
  if hold_until > 0 and hold_until < expires then expires = hold_until end
  local message = { claim.id, text(claim.number), text(expires), text(hold_until), KEYS[1] }
  return call('PUBLISH', claim.node, table.concat(message, ' ')) > 0
end

-- Drops the dead, then lets in from the front of the queue whom there is room for, and tells them; `me` is told by
-- the answer. `value` is what stands at the lock's key. Returns the group, or nothing when somebody holds all there is.
--
-- Whom nobody hears is passed over: its owner is gone, or cut off and will ask again. In its place in the queue it
-- would only stop the others. With it go all others of that connection.
local function settle(now, me, value)
  if type(value) == 'string' and string.sub(value, 1, 5) == 'glk1:' then return nil end
  local group = read_group()
  if group.value and expire_group(group, value, now) then value = holder() end
  -- Somebody else holds, or they shared once and are not dropped yet.
  if (value or group.value) and value ~= group.value then return nil end
  local effort, size, deaf = EFFORT, 1, {}
  while effort > 0 do
    local heads = call('ZRANGE', KEYS[3], 0, size - 1, 'WITHSCORES')
    if not heads[1] then return group end
    local passed = {}
    for at = 1, #heads, 2 do
      local id, node = string.match(heads[at], '^(%x+) (%S+)')
      passed[#passed + 1] = id or string.sub(heads[at], 1, 32)
      effort = effort - PASSED
      -- While nobody holds, it is the turn of every head, whatever it wants.
      if group.weight > 0 or not deaf[node] or id == me then
        local claim = waiter(heads[at], heads[at + 1])
        if claim and claim.deadline > now then
          if not fits(group, claim) then
            passed[#passed] = nil
            dequeue_front(passed)
            return group
          end
          effort = effort - OFFERED
          if id == me or not deaf[node] and offer(claim, now) then
            effort = effort - GRANTED
            dequeue_front(passed)
            passed = {}
            grant(group, id, claim, now)
            if claim.weight >= claim.capacity then return nil end
          else
            deaf[node] = true
          end
        end
      end
      if effort <= 0 then break end
    end
    dequeue_front(passed)
    size = math.min(size * 2, HEADS)
  end
  unfinished = unfinished or call('EXISTS', KEYS[3]) == 1
  return group
end

-- When a waiter of this rank looks whether the holder's lease has ended, in ms after that: one after the other, and all
-- of 10,000 in little more than a second. With a live holder it never comes to that, since every renewal puts it off.
local function turn(rank)
  return 1 + math.min(5 * rank, 40 + math.floor(rank / 8))
end

-- In how many ms the owner of a waiting claim should look again by itself (0: never), and 1 to the first one where the
-- holder is another program's, which tells nobody when it leaves. All but the early ones look no sooner than in `pause`.
local function look(member, now, value, pause)
  local rank = call('ZRANK', KEYS[3], member)
  if not rank then return 0, 0 end
  if unfinished or not value then return 1, 0 end
  if rank < EARLY then pause = 0 end
  local left = call('PTTL', KEYS[1])
  if type(value) ~= 'string' or not string.find(value, '^glk1%+?:') then
    if rank == 0 then return left >= 0 and left + 1 or 0, 1 end
    -- Those in front may be dead. However many look, it is some hundred times a second together.
    local again = 100 * (rank + 1)
    if left >= 0 then again = math.min(again, math.max(left + turn(rank), pause)) end
    return again, 0
  end
  local first = call('ZRANGE', KEYS[5], 0, 0, 'WITHSCORES')
  if first[2] then left = math.min(left, math.max(tonumber(first[2]) - now, 0)) end
  if left < 0 then return 0, 0 end
  return math.max(left + turn(rank), pause), 0
end

-- The answers of join and renew. Held: how many ms are left of the lease and of the longest hold (0: none). Waiting:
-- the server's ms, in how many ms to look again (0: never), whether the holder is a stranger.
--
-- One ms is taken off what is left, since `now` has lost its fraction. In the last ms nothing is left, which the owner
-- takes for no grant.
local function held(claim, now)
  local hold_left = claim.hold_until > 0 and math.max(claim.hold_until - now - 1, 0) or 0
  return { HELD, claim.number, math.max(expiry(claim) - now - 1, 0), hold_left }
end

local function waiting(member, now, value, pause)
  local again, foreign = look(member, now, value, pause)
  -- Rounded up: what is left of a lease must not look longer than it is.
  return { WAITING, now + 1, again, foreign }
end

local function answer(id, member, now, pause)
  local value = holder()
  if is_exclusive(value, id) then
    local claim = parse_exclusive(value)
    claim.deadline = now + call('PTTL', KEYS[1])
    return held(claim, now)
  end
  if call('ZSCORE', KEYS[3], member) then return waiting(member, now, value, pause) end
  local claim = read(id)
  return claim and held(claim, now) or { GONE }
end

-- Gives a claim that holds all there is one more lease, and answers.
local function renew_exclusive(value, lease, now)
  local claim = parse_exclusive(value)
  claim.deadline = now + lease
  call('PEXPIREAT', KEYS[1], text(expiry(claim)))
  return held(claim, now)
end

-- Gives a claim that waits one more lease, unless it is over.
local function renew_waiter(member, claim, lease, now)
  if claim.deadline <= now then
    dequeue(member)
    return false
  end
  wait_until(claim.id, now + lease, now)
  return true
end

-- Gives a claim that shares one more lease, unless it is over.
local function renew_shared(id, claim, lease, now)
  if expiry(claim) <= now or read_group().value ~= holder() or not call('ZSCORE', KEYS[5], id) then
    drop(id, claim)
    return false
  end
  claim.deadline = now + lease
  call('ZADD', KEYS[5], 'XX', text(expiry(claim)), id)
  keep(KEYS[5], expiry(claim), now)
  keep(KEYS[1], expiry(claim), now)
  write(id, claim, now)
  return true
end
