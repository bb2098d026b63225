-- The lock of a user's own transaction: it is taken in the transaction, and ends with it.
--
-- Such a transaction has an advisory lock (7311) on the key from when it asks. Whoever grants a claim of that key
-- must share that lock for the statement that grants; while it cannot, claims wait and ask again every 50 ms. So
-- once the transaction has the lock, no claim begins to hold, and it waits for those that do.
--
-- What is done here lasts as long as the user's transaction. So what others need meanwhile, such as the lock on
-- the queue of the key, is taken in a block that is rolled back at once by GL005.

-- Whether no claim of a key holds. The caller has seen to it that none is granted meanwhile.
CREATE OR REPLACE FUNCTION {schema}.transaction_free_1(k text) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    lives boolean;
BEGIN
    SELECT bool_or(least(expires, ends) > clock_timestamp()) INTO lives
        FROM {schema}.claims WHERE key = k AND granted IS NOT NULL;
    IF lives IS NULL OR lives THEN
        RETURN lives IS NULL;
    END IF;
    -- They have ended, unless somebody renews one at this very moment.
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtextextended(k COLLATE "C", 7309));
        SELECT bool_or(least(c.expires, c.ends) > clock_timestamp()) INTO lives
            FROM (SELECT * FROM {schema}.claims WHERE key = k AND granted IS NOT NULL
                ORDER BY number FOR SHARE) AS c;
        RAISE EXCEPTION USING ERRCODE = 'GL005';
    EXCEPTION WHEN SQLSTATE 'GL005' THEN
        RETURN NOT coalesce(lives, false);
    END;
END $$;

-- A fencing token: above all earlier ones.
CREATE OR REPLACE FUNCTION {schema}.transaction_number_1() RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    at CONSTANT timestamptz := clock_timestamp();
    drawn bigint;
BEGIN
{draw}
    RAISE EXCEPTION USING ERRCODE = 'GL005';
EXCEPTION WHEN SQLSTATE 'GL005' THEN
    RETURN drawn;
END $$;

-- Takes the lock `name` until this transaction ends. Returns its fencing token, or null if the lock was not free
-- within so many milliseconds: 0 tries, null waits for ever. `prefix` is that of the managers' address.
CREATE OR REPLACE FUNCTION {schema}.transaction_lock_1(
    name text, wait_ms bigint DEFAULT NULL, prefix text DEFAULT '_glocks:')
RETURNS bigint
LANGUAGE plpgsql
-- What this transaction's own limit would end, `wait_ms` does.
SET lock_timeout = 0
AS $$
DECLARE
    k text := prefix || name;
    barrier bigint := hashtextextended(k COLLATE "C", 7311);
    wait interval := least(wait_ms, 31536000000000) * interval '1 millisecond';
    until timestamptz := clock_timestamp() + wait;
    token bigint;
BEGIN
    IF k IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'GL002', MESSAGE = 'the name of the lock is null';
    END IF;
    -- Each look must see what others have committed meanwhile.
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        RAISE EXCEPTION USING ERRCODE = 'GL002', MESSAGE = format(
            'a lock in a transaction needs one that is read committed, and this one is %s: begin it with BEGIN '
            'ISOLATION LEVEL READ COMMITTED', current_setting('transaction_isolation'));
    END IF;
    BEGIN
        IF wait_ms <= 0 THEN
            IF NOT pg_try_advisory_xact_lock(barrier) THEN
                RAISE EXCEPTION USING ERRCODE = 'GL004';
            END IF;
        ELSE
            PERFORM set_config('lock_timeout', least(coalesce(wait_ms, 0), 2147483647)::text, true);
            PERFORM pg_advisory_xact_lock(barrier);
            PERFORM set_config('lock_timeout', '0', true);
        END IF;
        WHILE NOT {schema}.transaction_free_1(k) LOOP
            IF clock_timestamp() >= until THEN
                RAISE EXCEPTION USING ERRCODE = 'GL004';
            END IF;
            PERFORM pg_sleep(least(0.02, greatest(extract(epoch FROM until - clock_timestamp()), 0)));
        END LOOP;
    -- This also gives the advisory lock back, so that a transaction that goes on is in nobody's way.
    EXCEPTION WHEN SQLSTATE 'GL004' OR lock_not_available THEN
        RETURN NULL;
    END;
    token := {schema}.transaction_number_1();
    -- Claims that have joined before, and are granted once this transaction has committed, get higher numbers.
    INSERT INTO {schema}.transactions (key, number) VALUES (k, token)
        ON CONFLICT (key) DO UPDATE SET number = excluded.number;
    RETURN token;
END $$;
