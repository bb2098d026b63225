-- Makes a held claim last for so long, at least, or exactly where its owner leaves it.
DECLARE
    at timestamptz;
    asking CONSTANT uuid := claim;
    rest_ends timestamptz;
    c {schema}.claims%ROWTYPE;
    ahead {schema}.claims%ROWTYPE;
    waiter {schema}.claims%ROWTYPE;
{queue}
BEGIN
{begin}
    at := clock_timestamp();
    rest_ends := at + rest_ms * interval '1 millisecond';
{settle}
    UPDATE {schema}.claims
        SET expires = CASE WHEN leaves THEN rest_ends ELSE greatest(expires, rest_ends) END
        WHERE id = claim AND least(expires, ends) > at AND (granted IS NOT NULL OR NOT leaves)
        RETURNING * INTO c;
    IF NOT FOUND THEN
{missing}
        EXIT call;
    END IF;
    IF leaves AND blocked THEN
        -- The first waiter may have to look sooner than it knows.
        SELECT * INTO waiter FROM {schema}.claims WHERE key = k AND granted IS NULL ORDER BY number LIMIT 1;
        IF waiter.node <> '' THEN
            PERFORM pg_notify(waiter.node, concat(replace(waiter.id::text, '-', ''), ' polls ', rest_ms + 1));
        END IF;
    END IF;
{answer}
END
