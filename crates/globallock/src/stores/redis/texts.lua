-- The texts of a lock: the patterns that read them, the formats that write them, and the numbers that mean
-- something in them. `texts.rs` is the same for owners and onlookers.
--
-- This is no part of a script: `scripts.rs` puts the values in the place of the names, because locals that
-- are made in each call would slow down the fast paths.

-- An exclusive holder's value of the lock's key: claim id, join number, ms of the grant (empty: that of the
-- join number), ms at which the max hold time ends (0: none), count/capacity:owner. HEAD: how many bytes of
-- it say whose it is.
local OURS, HEAD = 'glk1:', 37
local EXCLUSIVE, READ_EXCLUSIVE = 'glk1:%s:%s:%s:%s:', '^glk1:%x+:(%d+):%d*:(%d+):'
-- How such a value without a max hold time is found and marked as that of a holder that is kept for longer
-- than its lease may be: the mark is the number 0 to every version.
local NO_MAX_HOLD, MARKED = '^(glk1:%x+:%d+:%d*):0:', '%1:00:'
-- What shared holders have put there: claim id and join number of the first. And what all of ours is like.
local GROUP, ANY_OF_OURS = 'glk1+:%s:%s', '^glk1%+?:'
-- A waiter's member of the queue: claim id, channel of the owner's connection, lease in ms, max hold time in
-- ms (0: none), count/capacity:owner. The owner knows all of this and sends it, so that its waiter is found
-- without an index beside the queue. The join number says when the waiter joined.
local MEMBER, READ_MEMBER = '%s %s %s %s ', '^(%x+) (%S+) (%d+) (%d+) ((%d+)/(%d+):.*)$'
-- A shared holder's record: join number, ms at which the lease ends, ms of the join, ms of the grant, ms at
-- which the max hold time ends (0: none), max hold time in ms (0: none), channel of the owner's connection,
-- count/capacity:owner.
local RECORD = '%.0f %.0f %.0f %.0f %.0f %.0f %s '
local READ_RECORD = '^(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) ((%d+)/(%d+):.*)$'
-- What a waiter is told of its grant: claim id, join number, ms at which the grant ends, ms at which the max
-- hold time ends (0: none), and the lock's key.
local GRANTED = '%s %s %s %s '
-- What the owner of an evicted claim is told: claim id, this, and the notice. Every connection listens to
-- EVERYBODY, because nothing stored says where the owner of an exclusive holder is.
local EVICTS, EVERYBODY = ' evicted ', 'globallock:evict'
-- What a waiter is told that should poll: claim id, this, and in how many ms. A waiter knows this message if
-- the channel of its owner's connection begins with GAP_NODE, so that older scripts need not know of gaps.
local POLLS, GAP_NODE = ' polls ', 'globallock:wake:gaps:'
-- How the key of the state of the gaps ends; its value, see `read_gaps`.
local GAP_SUFFIX = ':gap'
local GAP_STATE, READ_GAP_STATE = '%.0f %.0f %.0f %.0f', '^(%d+) (%d+) (%d+) (%d+)$'
-- The same as it is while none is open and no stranger was seen.
local READ_CALM = '^0 0 (%d+) (%d+)$'
-- How the key begins by which an onlooker means a foreign holder.
local FOREIGN = 'foreign:'
-- The first number of an answer about a claim, and the parts of one about a release or an eviction.
local HELD, WAITING, GONE, ASK_AGAIN, EVICTED = 1, 0, 2, 3, 4
-- Why the first waiter polls at a pace of its own, see `next_poll`.
local FOREIGN_HOLDER, IN_GAP = 1, 2
local TAKEN_OUT, UNFINISHED, MAY_WAIT = 1, 2, 4
-- The answers to the writing of a value.
local NOT_WRITTEN, WRITTEN, OUTRANKED = 0, 1, 2
-- The contended flag, behind the last join number in the counter; how long the counter stays, in ms.
local FLAG, FLAG_BYTE, COUNTER_TTL = 'w', 119, 604800000
-- The first byte of the argument of a claim that waits, '1'.
local WAITS_BYTE = 49
-- The delay by which the waiters of a lock poll one after the other, see `poll_delay`.
local POLL_STEP, POLL_BASE, POLLERS_A_MS = 5, 40, 8
