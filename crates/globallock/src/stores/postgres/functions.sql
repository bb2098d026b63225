-- The functions of globallock's locks in PostgreSQL, version 1. Every request calls one of them, in a
-- transaction of its own.
--
-- What a claim is answered is one of these texts; times are in milliseconds:
--   held <token> <left of the lease> <left of the longest hold, or -> [<token> <age> <value as hex>]
--   waiting <now> <when to ask again, because somebody in front may have ended>
--   gone
--   evicted <notice>

-- A time in milliseconds, rounded down.
CREATE OR REPLACE FUNCTION {schema}.ms_1(span interval) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$ SELECT floor(extract(epoch FROM span) * 1000)::bigint $$;

-- Sees to it that this transaction's commit waits for the disk, or not.
CREATE OR REPLACE FUNCTION {schema}.commits_1(durable boolean) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF durable IS DISTINCT FROM (current_setting('synchronous_commit') <> 'off') THEN
        PERFORM set_config('synchronous_commit', CASE WHEN durable THEN 'on' ELSE 'off' END, true);
    END IF;
END $$;

-- Begins a change of one key, which waits for others of the same key. It is a short wait, because each change
-- ends with its statement.
CREATE OR REPLACE FUNCTION {schema}.begin_1(k text, durable boolean) RETURNS timestamptz
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {schema}.commits_1(durable);
    PERFORM pg_advisory_xact_lock(hashtextextended(k COLLATE "C", 7309));
    -- Each of the following statements must see what the last holder of this lock has committed.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING ERRCODE = 'GL002', MESSAGE = 'the transaction is not read committed';
    END IF;
    RETURN clock_timestamp();
END $$;

-- The next number, which is the fencing token: above all earlier ones. It is no less than the microseconds
-- since 1970 but for a tenth of a second, so that it rises too where the sequence is an old one: after a
-- failover to a replica that lags, or a restored backup.
CREATE OR REPLACE FUNCTION {schema}.number_1(at timestamptz) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    drawn bigint := nextval('{schema}.numbers');
    clock bigint := extract(epoch FROM at) * 1000000;
BEGIN
    IF drawn < clock - 100000 THEN
        -- One at a time, because a sequence must never be set back.
        PERFORM pg_advisory_xact_lock(hashtextextended('{schema}.numbers', 7310));
        drawn := nextval('{schema}.numbers');
        clock := extract(epoch FROM clock_timestamp()) * 1000000;
        IF drawn < clock - 100000 THEN
            drawn := setval('{schema}.numbers', clock);
        END IF;
    END IF;
    RETURN drawn;
END $$;

-- Whether a user's own transaction has the lock, or is about to have it: see `transaction.sql`. If not, none has it
-- before this transaction ends. Whoever grants a claim asks this first, and a claim that would hold waits then,
-- and is told to ask again in 50 ms, because nobody tells it of the end of that transaction.
CREATE OR REPLACE FUNCTION {schema}.is_barred_1(k text) RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    RETURN NOT pg_try_advisory_xact_lock_shared(hashtextextended(k COLLATE "C", 7311));
END $$;

-- Gives the waiters of a key new numbers, in their order: a user's own transaction may have held the lock since they
-- joined, with a fencing token above their old ones.
CREATE OR REPLACE FUNCTION {schema}.renumber_1(k text, at timestamptz) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    waiter uuid;
BEGIN
    FOR waiter IN SELECT id FROM {schema}.claims WHERE key = k AND granted IS NULL ORDER BY number LOOP
        UPDATE {schema}.claims SET number = {schema}.number_1(at) WHERE id = waiter;
    END LOOP;
END $$;

-- Walks the queue of a key from its front, as long as claims hold: drops those that have ended, grants those
-- that fit, and tells their owners, but for the claim that is `asking`.
--
-- This is `admit` of `queue.rs`. `total` and `smallest` are what the holders take and of how much; `blocked`
-- says that somebody waits behind them. A waiter that ends behind the first one is dropped when it comes up.
CREATE OR REPLACE FUNCTION {schema}.settle_1(
    k text, asking uuid, at timestamptz,
    OUT total bigint, OUT smallest bigint, OUT blocked boolean, OUT next_end timestamptz)
LANGUAGE plpgsql AS $$
DECLARE
    c {schema}.claims%ROWTYPE;
    is_renumbered boolean := false;
BEGIN
    total := 0;
    smallest := 4294967296;
    blocked := false;
    FOR c IN SELECT * FROM {schema}.claims WHERE key = k ORDER BY number LOOP
        IF least(c.expires, c.ends) <= at THEN
            DELETE FROM {schema}.claims WHERE id = c.id AND least(expires, ends) <= at;
            CONTINUE WHEN FOUND;
            -- It was renewed at the last moment, or somebody has swept it away.
            SELECT * INTO c FROM {schema}.claims WHERE id = c.id;
            CONTINUE WHEN NOT FOUND;
        END IF;
        IF total + c.count > least(smallest, c.capacity) THEN
            blocked := true;
            EXIT;
        END IF;
        IF c.granted IS NULL THEN
            IF {schema}.is_barred_1(k) THEN
                blocked := true;
                next_end := at + interval '49 milliseconds';
                IF asking IS NULL AND c.node <> '' THEN
                    PERFORM pg_notify(c.node, replace(c.id::text, '-', '') || ' polls 50');
                END IF;
                EXIT;
            END IF;
            IF NOT is_renumbered AND c.number < pg_sequence_last_value('{schema}.transactions') THEN
                PERFORM {schema}.renumber_1(k, at);
                is_renumbered := true;
            END IF;
        END IF;
        total := total + c.count;
        smallest := least(smallest, c.capacity);
        IF c.granted IS NULL THEN
            UPDATE {schema}.claims
                SET granted = at, ends = at + max_hold * interval '1 millisecond'
                WHERE id = c.id RETURNING * INTO c;
            IF c.node <> '' AND c.id IS DISTINCT FROM asking THEN
                PERFORM pg_notify(c.node, {schema}.granted_1(c));
            END IF;
        END IF;
        next_end := least(next_end, c.expires, c.ends);
    END LOOP;
END $$;

-- What the owner of a claim is told of its grant.
CREATE OR REPLACE FUNCTION {schema}.granted_1(c {schema}.claims) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT concat_ws(' ', replace(c.id::text, '-', ''), c.number,
        floor(extract(epoch FROM c.expires) * 1000)::bigint,
        coalesce(floor(extract(epoch FROM c.ends) * 1000)::bigint, 0), c.key)
$$;

-- In how many milliseconds a waiter should ask again, because what it waits for may have ended by itself:
-- the waiter in front of it, or else the first of the holders. One that fits and does not hold waits for a user's
-- own transaction, and should ask now.
CREATE OR REPLACE FUNCTION {schema}.look_1(k text, mine bigint, next_end timestamptz, at timestamptz)
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    ahead {schema}.claims%ROWTYPE;
BEGIN
    SELECT * INTO ahead FROM {schema}.claims WHERE key = k AND number < mine ORDER BY number DESC LIMIT 1;
    IF FOUND AND ahead.granted IS NULL THEN
        next_end := ahead.expires;
    ELSIF next_end IS NULL THEN
        SELECT CASE WHEN NOT {schema}.fits_1(k, mine) THEN min(least(expires, ends)) END INTO next_end
            FROM {schema}.claims WHERE key = k AND number < mine;
    END IF;
    RETURN greatest({schema}.ms_1(next_end - at), 0) + 1;
END $$;

-- Whether a claim holds, or would if nothing but those in front of it mattered.
CREATE OR REPLACE FUNCTION {schema}.fits_1(k text, mine bigint) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (SELECT FROM {schema}.claims WHERE key = k AND number < mine AND granted IS NULL)
        AND (SELECT sum(count) <= min(capacity) FROM {schema}.claims WHERE key = k AND number <= mine)
$$;

-- What a claim is answered.
CREATE OR REPLACE FUNCTION {schema}.answer_1(c {schema}.claims, next_end timestamptz, at timestamptz)
RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
    IF c.granted IS NULL THEN
        RETURN concat_ws(' ', 'waiting', ceil(extract(epoch FROM at) * 1000)::bigint,
            {schema}.look_1(c.key, c.number, next_end, at));
    END IF;
    RETURN concat_ws(' ', 'held', c.number, {schema}.ms_1(c.expires - at),
        coalesce({schema}.ms_1(c.ends - at)::text, '-'));
END $$;

-- What a claim is answered that is not in the queue.
CREATE OR REPLACE FUNCTION {schema}.missing_1(claim uuid, at timestamptz) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(
        (SELECT 'evicted ' || notice FROM {schema}.evictions WHERE id = claim AND until > at), 'gone')
$$;

CREATE OR REPLACE FUNCTION {schema}.enqueue_1(
    k text, claim uuid, weight integer, cap integer, lease_ms bigint, max_hold_ms bigint, waits boolean,
    again boolean, wants_value boolean, channel text, who text, durable boolean)
RETURNS text
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    at timestamptz := {schema}.begin_1(k, durable);
    -- Most often nobody has the lock, and then there is nothing to settle.
    is_free boolean := NOT EXISTS (SELECT FROM {schema}.claims WHERE key = k);
    fits boolean := weight <= cap;
    next_end timestamptz;
    q record;
    c {schema}.claims%ROWTYPE;
    answer text;
BEGIN
    IF NOT is_free THEN
        SELECT * INTO q FROM {schema}.settle_1(k, claim, at);
        fits := NOT q.blocked AND q.total + weight <= least(q.smallest, cap);
        next_end := q.next_end;
    END IF;
    IF again THEN
        DELETE FROM {schema}.claims
            WHERE id = claim AND key = k AND (least(expires, ends) <= at OR granted IS NULL AND NOT waits);
        UPDATE {schema}.claims SET node = channel,
            expires = greatest(expires, at + lease_ms * interval '1 millisecond')
            WHERE id = claim AND key = k RETURNING * INTO c;
        IF NOT FOUND THEN
            answer := {schema}.missing_1(claim, at);
            IF answer <> 'gone' THEN
                RETURN answer;
            END IF;
        END IF;
    END IF;
    IF c.id IS NULL THEN
        IF fits AND {schema}.is_barred_1(k) THEN
            fits := false;
            next_end := at + interval '49 milliseconds';
        END IF;
        IF NOT fits AND NOT waits THEN
            RETURN 'gone';
        END IF;
        INSERT INTO {schema}.claims (number, id, key, count, capacity, node, lease, max_hold, joined, expires,
                owner, granted, ends)
            VALUES ({schema}.number_1(at), claim, k, weight, cap, channel, lease_ms, max_hold_ms, at,
                at + lease_ms * interval '1 millisecond', who,
                CASE WHEN fits THEN at END,
                CASE WHEN fits THEN at + max_hold_ms * interval '1 millisecond' END)
            RETURNING number, granted INTO c.number, c.granted;
        IF fits AND NOT wants_value THEN
            RETURN concat_ws(' ', 'held', c.number, lease_ms, coalesce(max_hold_ms::text, '-'));
        END IF;
        SELECT * INTO c FROM {schema}.claims WHERE id = claim;
    END IF;
    answer := {schema}.answer_1(c, next_end, at);
    IF wants_value AND c.granted IS NOT NULL THEN
        answer := concat_ws(' ', answer, (
            SELECT concat_ws(' ', number, greatest({schema}.ms_1(at - written), 0), encode(bytes, 'hex'))
            FROM {schema}."values" WHERE key = k AND until > at));
    END IF;
    RETURN answer;
END $$;

-- Renews many claims, each in a row with its id, in the order of their numbers: whoever changes several rows
-- goes in that order, so that hardly anybody waits in a circle. A claim that has ended is left to `settle_1`.
CREATE OR REPLACE FUNCTION {schema}.renew_1(asked uuid[], leases bigint[], durable boolean)
RETURNS TABLE (claim text, answer text)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    c {schema}.claims%ROWTYPE;
    found record;
    at timestamptz;
BEGIN
    PERFORM {schema}.commits_1(durable);
    FOR found IN
        SELECT q AS claim, a.lease
            FROM unnest(asked, leases) AS a (id, lease) JOIN {schema}.claims q USING (id)
            ORDER BY q.number FOR NO KEY UPDATE OF q
    LOOP
        at := clock_timestamp();
        c := found.claim;
        CONTINUE WHEN least(c.expires, c.ends) <= at;
        c.expires := greatest(c.expires, at + found.lease * interval '1 millisecond');
        UPDATE {schema}.claims SET expires = c.expires WHERE id = c.id;
        claim := replace(c.id::text, '-', '');
        answer := {schema}.answer_1(c, NULL, at);
        RETURN NEXT;
    END LOOP;
    at := clock_timestamp();
    RETURN QUERY
        SELECT replace(e.id::text, '-', ''), 'evicted ' || e.notice
        FROM unnest(asked) AS a (id) JOIN {schema}.evictions e USING (id) WHERE e.until > at;
END $$;

-- Takes a claim out of its queue. Returns whether it was there.
--
-- If the owner knows no answer to an enqueue, that may still arrive. Then a row without a key stays in the way of
-- its row, for so long.
CREATE OR REPLACE FUNCTION {schema}.release_1(k text, claim uuid, barred_ms bigint, durable boolean)
RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    at timestamptz := {schema}.begin_1(k, durable);
    lives boolean := false;
BEGIN
    DELETE FROM {schema}.claims WHERE id = claim AND key = k RETURNING least(expires, ends) > at INTO lives;
    IF NOT FOUND AND barred_ms > 0 THEN
        INSERT INTO {schema}.claims (number, id, key, count, capacity, node, lease, joined, expires, owner)
            VALUES (nextval('{schema}.numbers'), claim, '', 0, 0, '', barred_ms, at,
                at + barred_ms * interval '1 millisecond', '')
            ON CONFLICT (id) DO NOTHING;
    END IF;
    IF EXISTS (SELECT FROM {schema}.claims WHERE key = k) THEN
        PERFORM {schema}.settle_1(k, NULL, at);
    END IF;
    RETURN coalesce(lives, false);
END $$;

-- The same for a claim of somebody else's, whose owner is told.
CREATE OR REPLACE FUNCTION {schema}.evict_1(k text, claim uuid, told text, kept_ms bigint, durable boolean)
RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    at timestamptz := {schema}.begin_1(k, durable);
    c {schema}.claims%ROWTYPE;
BEGIN
    SELECT * INTO c FROM {schema}.claims WHERE id = claim AND key = k AND least(expires, ends) > at;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM {schema}.claims WHERE id = claim;
    PERFORM {schema}.settle_1(k, NULL, at);
    INSERT INTO {schema}.evictions (id, until, notice)
        VALUES (claim, at + (c.lease + kept_ms) * interval '1 millisecond', told)
        ON CONFLICT (id) DO NOTHING;
    IF c.node <> '' THEN
        PERFORM pg_notify(c.node, replace(claim::text, '-', '') || ' evicted ' || told);
    END IF;
    RETURN true;
END $$;

-- Makes a held claim last for so long, at least, or exactly where its owner leaves it.
CREATE OR REPLACE FUNCTION {schema}.keep_1(
    k text, claim uuid, rest_ms bigint, leaves boolean, durable boolean)
RETURNS text
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    at timestamptz := {schema}.begin_1(k, durable);
    rest_ends timestamptz := at + rest_ms * interval '1 millisecond';
    q record;
    c {schema}.claims%ROWTYPE;
    waiter {schema}.claims%ROWTYPE;
BEGIN
    SELECT * INTO q FROM {schema}.settle_1(k, claim, at);
    UPDATE {schema}.claims
        SET expires = CASE WHEN leaves THEN rest_ends ELSE greatest(expires, rest_ends) END
        WHERE id = claim AND least(expires, ends) > at AND (granted IS NOT NULL OR NOT leaves)
        RETURNING * INTO c;
    IF NOT FOUND THEN
        RETURN {schema}.missing_1(claim, at);
    END IF;
    IF leaves AND q.blocked THEN
        -- The first waiter may have to look sooner than it knows.
        SELECT * INTO waiter FROM {schema}.claims WHERE key = k AND granted IS NULL ORDER BY number LIMIT 1;
        IF waiter.node <> '' THEN
            PERFORM pg_notify(waiter.node, concat(replace(waiter.id::text, '-', ''), ' polls ', rest_ms + 1));
        END IF;
    END IF;
    RETURN {schema}.answer_1(c, q.next_end, at);
END $$;

-- Writes the value of a key if the claim holds: 0 written, 1 not held, 2 outranked.
CREATE OR REPLACE FUNCTION {schema}.set_value_1(
    k text, claim uuid, told bytea, keep_ms bigint, durable boolean)
RETURNS integer
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    at timestamptz := {schema}.begin_1(k, durable);
    c {schema}.claims%ROWTYPE;
BEGIN
    PERFORM {schema}.settle_1(k, NULL, at);
    SELECT * INTO c FROM {schema}.claims
        WHERE id = claim AND granted IS NOT NULL AND least(expires, ends) > at;
    IF NOT FOUND THEN
        RETURN 1;
    END IF;
    INSERT INTO {schema}."values" AS v (key, number, bytes, written, until)
        VALUES (k, c.number, told, at, at + keep_ms * interval '1 millisecond')
        ON CONFLICT (key) DO UPDATE
        SET number = excluded.number, bytes = excluded.bytes, written = excluded.written,
            until = excluded.until
        WHERE v.number <= excluded.number OR v.until <= at;
    RETURN CASE WHEN FOUND THEN 0 ELSE 2 END;
END $$;

-- What the owners of these claims would be told if the server could reach them: of a grant, of an eviction, or
-- null if the claim should ask, because it is gone, or comes next and somebody in front of it has ended, or fits and
-- waits for a user's own transaction.
CREATE OR REPLACE FUNCTION {schema}.changed_1(waiting uuid[], holding uuid[])
RETURNS TABLE (claim text, told text)
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
    SELECT replace(a.id::text, '-', ''), CASE WHEN c.granted IS NOT NULL THEN {schema}.granted_1(c) END
        FROM unnest(waiting) AS a (id) LEFT JOIN {schema}.claims c USING (id)
        WHERE c.id IS NULL OR c.granted IS NOT NULL OR {schema}.fits_1(c.key, c.number) OR (
            SELECT bool_or(least(f.expires, f.ends) <= clock_timestamp()) AND bool_and(f.granted IS NOT NULL)
            FROM (SELECT * FROM {schema}.claims WHERE key = c.key AND number < c.number
                ORDER BY number LIMIT 8) AS f)
    UNION ALL
    SELECT replace(id::text, '-', ''), replace(id::text, '-', '') || ' evicted ' || notice
        FROM {schema}.evictions WHERE id = ANY (waiting || holding) AND until > clock_timestamp()
$$;

-- For the transactions of users: refuses a fencing token that is lower than one that was here before, and keeps
-- others of the same resource waiting until this transaction has ended.
CREATE OR REPLACE FUNCTION {schema}.fence_1(what text, token bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    seen bigint;
BEGIN
    INSERT INTO {schema}.fences AS f (resource, number) VALUES (what, token)
        ON CONFLICT (resource) DO UPDATE SET number = excluded.number WHERE f.number <= excluded.number;
    IF NOT FOUND THEN
        SELECT number INTO seen FROM {schema}.fences WHERE resource = what;
        RAISE EXCEPTION USING ERRCODE = 'GL003', MESSAGE = format(
            'the fencing token %s of %L is lower than %s, which was here before: the lock was lost, and somebody '
            'else has held it since', token, what, seen);
    END IF;
END $$;

-- Drops what has ended and nobody has asked for since.
CREATE OR REPLACE FUNCTION {schema}.sweep_1() RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    at timestamptz := clock_timestamp();
BEGIN
    PERFORM {schema}.commits_1(false);
    DELETE FROM {schema}.claims WHERE id IN (
        SELECT id FROM {schema}.claims WHERE least(expires, ends) <= at
            LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM {schema}.evictions WHERE id IN (
        SELECT id FROM {schema}.evictions WHERE until <= at
            LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM {schema}."values" WHERE key IN (
        SELECT key FROM {schema}."values" WHERE until <= at LIMIT 10000 FOR UPDATE SKIP LOCKED);
END $$;
