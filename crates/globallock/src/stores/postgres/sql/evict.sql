-- The same for a claim of somebody else's, whose owner is told.
DECLARE
    at timestamptz;
    asking CONSTANT uuid := NULL;
    evicted {schema}.claims%ROWTYPE;
    c {schema}.claims%ROWTYPE;
{queue}
BEGIN
{begin}
    at := clock_timestamp();
    DELETE FROM {schema}.claims WHERE id = claim AND key = k AND least(expires, ends) > at
        RETURNING * INTO evicted;
    IF NOT FOUND THEN
        answer := 'not held';
        EXIT call;
    END IF;
{settle}
    INSERT INTO {schema}.evictions (id, until, notice)
        VALUES (claim, at + (evicted.lease + kept_ms) * interval '1 millisecond', told)
        ON CONFLICT (id) DO NOTHING;
    IF evicted.node <> '' THEN
        PERFORM pg_notify(evicted.node, replace(claim::text, '-', '') || ' evicted ' || told);
    END IF;
    answer := 'released';
END
