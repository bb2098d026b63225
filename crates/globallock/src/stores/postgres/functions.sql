-- The functions of globallock's locks in PostgreSQL, version 1. Every request calls one of them, in a
-- transaction of its own.
--
-- The statuses: 0 waits, 1 holds, 2 is gone, 4 was evicted.

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

-- Walks the queue of a key from its front, as long as claims hold: drops those that have ended and the one
-- that is `leaving`, grants those that fit, and tells their owners, but for the claim that is `asking`.
--
-- This is `admit` of `queue.rs`. `total` and `smallest` are what the holders take and of how much; `blocked`
-- says that somebody waits behind them. A waiter that ends behind the first one is dropped when it comes up.
CREATE OR REPLACE FUNCTION {schema}.settle_1(
    k text, leaving uuid, asking uuid, at timestamptz,
    OUT total bigint, OUT smallest bigint, OUT blocked boolean, OUT next_end timestamptz, OUT taken boolean)
LANGUAGE plpgsql AS $$
DECLARE
    c {schema}.claims%ROWTYPE;
BEGIN
    total := 0;
    smallest := 4294967296;
    blocked := false;
    taken := false;
    FOR c IN SELECT * FROM {schema}.claims WHERE key = k ORDER BY number LOOP
        IF c.id = leaving OR least(c.expires, c.ends) <= at THEN
            DELETE FROM {schema}.claims WHERE id = c.id AND (id = leaving OR least(expires, ends) <= at);
            IF FOUND THEN
                taken := taken OR c.id = leaving AND least(c.expires, c.ends) > at;
                CONTINUE;
            END IF;
            -- It was renewed at the last moment, or somebody has swept it away.
            SELECT * INTO c FROM {schema}.claims WHERE id = c.id;
            CONTINUE WHEN NOT FOUND;
        END IF;
        IF total + c.count > least(smallest, c.capacity) THEN
            blocked := true;
            EXIT;
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
-- the waiter in front of it, or else the first of the holders.
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
        SELECT min(least(expires, ends)) INTO next_end FROM {schema}.claims WHERE key = k AND number < mine;
    END IF;
    RETURN greatest({schema}.ms_1(next_end - at), 0) + 1;
END $$;

CREATE OR REPLACE FUNCTION {schema}.enqueue_1(
    k text, claim uuid, weight integer, cap integer, lease_ms bigint, max_hold_ms bigint, waits boolean,
    again boolean, wants_value boolean, channel text, who text, durable boolean,
    OUT status integer, OUT token bigint, OUT left_ms bigint, OUT hold_left_ms bigint, OUT now_ms bigint,
    OUT look_ms bigint, OUT notice text, OUT bytes bytea, OUT bytes_token bigint, OUT bytes_age_ms bigint)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    at timestamptz := {schema}.begin_1(k, durable);
    fits boolean;
    q record;
    c {schema}.claims%ROWTYPE;
BEGIN
    now_ms := ceil(extract(epoch FROM at) * 1000);
    SELECT * INTO q FROM {schema}.settle_1(k, NULL, claim, at);
    IF again THEN
        DELETE FROM {schema}.claims
            WHERE id = claim AND (least(expires, ends) <= at OR granted IS NULL AND NOT waits);
        UPDATE {schema}.claims SET node = channel,
            expires = greatest(expires, at + lease_ms * interval '1 millisecond')
            WHERE id = claim RETURNING * INTO c;
        IF NOT FOUND THEN
            SELECT e.notice INTO notice FROM {schema}.evictions e WHERE e.id = claim AND e.until > at;
            IF FOUND THEN
                status := 4;
                RETURN;
            END IF;
        END IF;
    END IF;
    IF c.id IS NULL THEN
        fits := NOT q.blocked AND q.total + weight <= least(q.smallest, cap);
        IF NOT fits AND NOT waits THEN
            status := 2;
            RETURN;
        END IF;
        INSERT INTO {schema}.claims (number, id, key, count, capacity, node, lease, max_hold, joined, expires,
                owner, granted, ends)
            VALUES ({schema}.number_1(at), claim, k, weight, cap, channel, lease_ms, max_hold_ms, at,
                at + lease_ms * interval '1 millisecond', who,
                CASE WHEN fits THEN at END,
                CASE WHEN fits THEN at + max_hold_ms * interval '1 millisecond' END)
            RETURNING * INTO c;
    END IF;
    token := c.number;
    left_ms := {schema}.ms_1(c.expires - at);
    hold_left_ms := {schema}.ms_1(c.ends - at);
    IF c.granted IS NULL THEN
        status := 0;
        look_ms := {schema}.look_1(k, c.number, q.next_end, at);
        RETURN;
    END IF;
    status := 1;
    IF wants_value THEN
        SELECT v.bytes, v.number, greatest({schema}.ms_1(at - v.written), 0) INTO bytes, bytes_token, bytes_age_ms
            FROM {schema}."values" v WHERE v.key = k AND v.until > at;
    END IF;
END $$;

-- Renews many claims, in the order of their numbers, in which `settle_1` changes them too: so nobody waits in
-- a circle. A claim that has ended is left to `settle_1`.
CREATE OR REPLACE FUNCTION {schema}.renew_1(asked uuid[], leases bigint[], durable boolean)
RETURNS TABLE (claim text, status integer, token bigint, left_ms bigint, hold_left_ms bigint, now_ms bigint,
    look_ms bigint, notice text)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
DECLARE
    c record;
    at timestamptz;
BEGIN
    PERFORM {schema}.commits_1(durable);
    FOR c IN
        SELECT q.*, a.lease AS longer
            FROM unnest(asked, leases) AS a (id, lease) JOIN {schema}.claims q USING (id)
            ORDER BY q.number FOR NO KEY UPDATE OF q
    LOOP
        at := clock_timestamp();
        CONTINUE WHEN least(c.expires, c.ends) <= at;
        c.expires := greatest(c.expires, at + c.longer * interval '1 millisecond');
        UPDATE {schema}.claims SET expires = c.expires WHERE id = c.id;
        claim := replace(c.id::text, '-', '');
        status := CASE WHEN c.granted IS NULL THEN 0 ELSE 1 END;
        token := c.number;
        left_ms := {schema}.ms_1(c.expires - at);
        hold_left_ms := {schema}.ms_1(c.ends - at);
        now_ms := ceil(extract(epoch FROM at) * 1000);
        look_ms := CASE WHEN c.granted IS NULL THEN {schema}.look_1(c.key, c.number, NULL, at) END;
        RETURN NEXT;
    END LOOP;
    at := clock_timestamp();
    RETURN QUERY
        SELECT replace(e.id::text, '-', ''), 4, NULL::bigint, NULL::bigint, NULL::bigint, NULL::bigint,
            NULL::bigint, e.notice
        FROM unnest(asked) AS a (id) JOIN {schema}.evictions e USING (id) WHERE e.until > at;
END $$;

-- Takes a claim out of its queue. Returns whether it was there.
CREATE OR REPLACE FUNCTION {schema}.release_1(k text, claim uuid, durable boolean) RETURNS boolean
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    at timestamptz := {schema}.begin_1(k, durable);
    q record;
BEGIN
    SELECT * INTO q FROM {schema}.settle_1(k, claim, NULL, at);
    IF q.taken OR NOT q.blocked THEN
        RETURN q.taken;
    END IF;
    -- It may wait behind others.
    DELETE FROM {schema}.claims WHERE id = claim;
    RETURN FOUND;
END $$;

-- The same for a claim of somebody else's, whose owner is told. Whoever asks again is answered the same.
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
        PERFORM FROM {schema}.evictions e WHERE e.id = claim AND e.notice = told;
        RETURN FOUND;
    END IF;
    PERFORM {schema}.settle_1(k, claim, NULL, at);
    DELETE FROM {schema}.claims WHERE id = claim;
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
    k text, claim uuid, rest_ms bigint, leaves boolean, durable boolean,
    OUT status integer, OUT token bigint, OUT left_ms bigint, OUT hold_left_ms bigint, OUT now_ms bigint,
    OUT look_ms bigint, OUT notice text)
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    at timestamptz := {schema}.begin_1(k, durable);
    until timestamptz := at + rest_ms * interval '1 millisecond';
    q record;
    c {schema}.claims%ROWTYPE;
    waiter {schema}.claims%ROWTYPE;
BEGIN
    now_ms := ceil(extract(epoch FROM at) * 1000);
    SELECT * INTO q FROM {schema}.settle_1(k, NULL, claim, at);
    UPDATE {schema}.claims SET expires = CASE WHEN leaves THEN until ELSE greatest(expires, until) END
        WHERE id = claim AND least(expires, ends) > at AND (granted IS NOT NULL OR NOT leaves)
        RETURNING * INTO c;
    IF NOT FOUND THEN
        SELECT e.notice INTO notice FROM {schema}.evictions e WHERE e.id = claim AND e.until > at;
        status := CASE WHEN FOUND THEN 4 ELSE 2 END;
        RETURN;
    END IF;
    IF leaves AND q.blocked THEN
        -- The first waiter may have to look sooner than it knows.
        SELECT * INTO waiter FROM {schema}.claims WHERE key = k AND granted IS NULL ORDER BY number LIMIT 1;
        IF waiter.node <> '' THEN
            PERFORM pg_notify(waiter.node, concat(replace(waiter.id::text, '-', ''), ' polls ', rest_ms + 1));
        END IF;
    END IF;
    token := c.number;
    left_ms := {schema}.ms_1(c.expires - at);
    hold_left_ms := {schema}.ms_1(c.ends - at);
    status := CASE WHEN c.granted IS NULL THEN 0 ELSE 1 END;
    look_ms := CASE WHEN c.granted IS NULL THEN {schema}.look_1(k, c.number, q.next_end, at) END;
END $$;

-- Writes the value of a key if the claim holds: 0 written, 1 not held, 2 outranked.
CREATE OR REPLACE FUNCTION {schema}.set_value_1(k text, claim uuid, told bytea, keep_ms bigint, durable boolean)
RETURNS integer
LANGUAGE plpgsql
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off
AS $$
DECLARE
    at timestamptz := {schema}.begin_1(k, durable);
    c {schema}.claims%ROWTYPE;
BEGIN
    PERFORM {schema}.settle_1(k, NULL, NULL, at);
    SELECT * INTO c FROM {schema}.claims
        WHERE id = claim AND granted IS NOT NULL AND least(expires, ends) > at;
    IF NOT FOUND THEN
        RETURN 1;
    END IF;
    INSERT INTO {schema}."values" AS v (key, number, bytes, written, until)
        VALUES (k, c.number, told, at, at + keep_ms * interval '1 millisecond')
        ON CONFLICT (key) DO UPDATE
        SET number = excluded.number, bytes = excluded.bytes, written = excluded.written, until = excluded.until
        WHERE v.number <= excluded.number OR v.until <= at;
    RETURN CASE WHEN FOUND THEN 0 ELSE 2 END;
END $$;

-- Which of these waiters do not wait any more: what each is told of its grant, or null if it should ask.
CREATE OR REPLACE FUNCTION {schema}.changed_1(asked uuid[]) RETURNS TABLE (claim text, told text)
LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off
AS $$
    SELECT replace(a.id::text, '-', ''), {schema}.granted_1(c)
        FROM unnest(asked) AS a (id) LEFT JOIN {schema}.claims c USING (id)
        WHERE c.id IS NULL OR c.granted IS NOT NULL
$$;

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
        SELECT id FROM {schema}.evictions WHERE until <= at LIMIT 10000 FOR UPDATE SKIP LOCKED);
    DELETE FROM {schema}."values" WHERE key IN (
        SELECT key FROM {schema}."values" WHERE until <= at LIMIT 10000 FOR UPDATE SKIP LOCKED);
END $$;
