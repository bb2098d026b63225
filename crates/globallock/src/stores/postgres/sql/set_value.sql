-- Writes the value of a key if the claim holds.
DECLARE
    at timestamptz;
    asking CONSTANT uuid := NULL;
    c {schema}.claims%ROWTYPE;
{queue}
BEGIN
{begin}
    at := clock_timestamp();
{settle}
    SELECT * INTO c FROM {schema}.claims
        WHERE id = claim AND granted IS NOT NULL AND least(expires, ends) > at;
    IF NOT FOUND THEN
        answer := 'not held';
        EXIT call;
    END IF;
    INSERT INTO {schema}."values" AS v (key, number, bytes, written, until)
        VALUES (k, c.number, told, at, at + keep_ms * interval '1 millisecond')
        ON CONFLICT (key) DO UPDATE
        SET number = excluded.number, bytes = excluded.bytes, written = excluded.written,
            until = excluded.until
        WHERE v.number <= excluded.number OR v.until <= at;
    answer := CASE WHEN FOUND THEN 'written' ELSE 'outranked' END;
END
