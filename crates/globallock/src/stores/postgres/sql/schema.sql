-- The tables of globallock's locks in PostgreSQL, version 1. Run as one transaction, as often as needed.
--
-- A row of `claims` is one claim in the queue of one key, in the order of `number`. `granted` is null while
-- it waits. It ends by itself at `expires`, which its owner moves on, or at `ends`, which nobody does.

-- What is there already is not worth a notice.
SELECT set_config('client_min_messages', 'warning', true);
SELECT pg_advisory_xact_lock(hashtextextended('globallock setup', 7309));

DO $setup$
DECLARE
    found text := obj_description(to_regclass('{schema}.claims'), 'pg_class');
BEGIN
    IF to_regclass('{schema}.claims') IS NOT NULL AND found IS DISTINCT FROM 'globallock 1' THEN
        IF found LIKE 'globallock %' THEN
            RAISE EXCEPTION USING ERRCODE = 'GL001', MESSAGE = format(
                'the tables in the schema {schema} are those of "%s", and this is version 1: use the newer '
                'globallock, or another schema', found);
        END IF;
        RAISE EXCEPTION USING ERRCODE = 'GL001', MESSAGE =
            'the schema {schema} has a table "claims" of another program: choose another schema';
    END IF;
    -- The right to create one is not needed where it is there.
    IF to_regnamespace('{schema}') IS NULL THEN
        CREATE SCHEMA {schema};
    END IF;
END
$setup$;

CREATE SEQUENCE IF NOT EXISTS {schema}.numbers;

CREATE {unlogged} TABLE IF NOT EXISTS {schema}.claims (
    number    bigint NOT NULL,
    id        uuid NOT NULL,
    key       text COLLATE "C" NOT NULL,
    count     integer NOT NULL,
    capacity  integer NOT NULL,
    node      text NOT NULL,
    lease     bigint NOT NULL,
    max_hold  bigint,
    joined    timestamptz NOT NULL,
    granted   timestamptz,
    expires   timestamptz NOT NULL,
    ends      timestamptz,
    owner     text NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (key, number)
);
CREATE {unlogged} TABLE IF NOT EXISTS {schema}.evictions (
    id        uuid NOT NULL PRIMARY KEY,
    until     timestamptz NOT NULL,
    notice    text NOT NULL
);
CREATE {unlogged} TABLE IF NOT EXISTS {schema}."values" (
    key       text COLLATE "C" NOT NULL PRIMARY KEY,
    number    bigint NOT NULL,
    bytes     bytea NOT NULL,
    written   timestamptz NOT NULL,
    until     timestamptz NOT NULL
);
-- The highest fencing token that has written to a resource of the user's own: see `fence_1`. It is as lasting as
-- the database, since what it guards is there too.
CREATE TABLE IF NOT EXISTS {schema}.fences (
    resource  text COLLATE "C" NOT NULL PRIMARY KEY,
    number    bigint NOT NULL
);
-- The fencing token of the last transaction of a user's own that has had the lock: see `transaction.sql`.
CREATE TABLE IF NOT EXISTS {schema}.transactions (
    key       text COLLATE "C" NOT NULL PRIMARY KEY,
    number    bigint NOT NULL
);
COMMENT ON TABLE {schema}.claims IS 'globallock 1';

DO $setup$
DECLARE
    kept name;
BEGIN
    FOR kept IN
        SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace('{schema}')
            AND relname IN ('claims', 'evictions', 'values') AND relkind = 'r'
            AND relpersistence <> '{persistence}'
    LOOP
        EXECUTE format('ALTER TABLE {schema}.%I SET {logged}', kept);
    END LOOP;
END
$setup$;

-- Rows come and go all the time, and what is dead is vacuumed by its number and not by its share of the table.
-- Some room is left for renewals, which then touch no index: less than the tenth of a page below which the
-- server tidies it up by the way, so that the same few pages are used again and again.
ALTER TABLE {schema}.claims SET (
    fillfactor = 92,
    autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_insert_threshold = -1,
    autovacuum_analyze_threshold = 5000, autovacuum_analyze_scale_factor = 0,
    autovacuum_vacuum_cost_delay = 0
);
ALTER TABLE {schema}.evictions SET (autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0);
ALTER TABLE {schema}."values" SET (
    fillfactor = 50, autovacuum_vacuum_threshold = 500, autovacuum_vacuum_scale_factor = 0
);
