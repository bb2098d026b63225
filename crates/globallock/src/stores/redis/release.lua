-- Takes a claim out of the queue, held or waiting, and grants the lock to the waiters that fit then.
--
-- ARGV: id, the claim's member of the queue (see MEMBER; empty: it never waits)
-- Result: 1 if the claim was there, else 0; plus 2 if the call must be repeated, because there are more dead
--         claims than it may drop, and the lock is not granted yet
local now = math.floor(clock() / 1000)
return hand_over(take_out(ARGV[1], ARGV[2], now, lock_value()), now)
