-- Takes a claim out of its queue, and says whether it was there.
--
-- If the owner knows no answer to an enqueue, that may still arrive. Then a row without a key stays in the way of
-- its row, for so long.
DECLARE
    at timestamptz;
    asking CONSTANT uuid := NULL;
    lives boolean;
    c {schema}.claims%ROWTYPE;
{queue}
BEGIN
{begin}
    DELETE FROM {schema}.claims WHERE id = claim AND key = k RETURNING least(expires, ends) > at INTO lives;
    answer := CASE WHEN lives THEN 'released' ELSE 'not held' END;
    IF NOT FOUND AND barred_ms > 0 THEN
        INSERT INTO {schema}.claims (number, id, key, count, capacity, node, lease, joined, expires, owner)
            VALUES (nextval('{schema}.numbers'), claim, '', 0, 0, '', barred_ms, at,
                at + barred_ms * interval '1 millisecond', '')
            ON CONFLICT (id) DO NOTHING;
    END IF;
    IF EXISTS (SELECT FROM {schema}.claims WHERE key = k) THEN
{settle}
    END IF;
END
