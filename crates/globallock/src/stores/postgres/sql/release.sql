-- Takes a claim out of its queue, and says whether it was there.
--
-- If the owner knows no answer to an enqueue, that may still arrive. Then a row without a key stays in the way of
-- its row, for so long.
DECLARE
    at timestamptz;
    others boolean;
    told text;
BEGIN
{begin}
    DELETE FROM {schema}.claims WHERE id = claim AND key = k
        RETURNING CASE WHEN least(expires, ends) > clock_timestamp() THEN 'released' ELSE 'not held' END,
            EXISTS (SELECT FROM {schema}.claims WHERE key = k AND id <> claim)
        INTO answer, others;
    IF answer IS NULL THEN
        answer := 'not held';
        others := true;
        IF barred_ms > 0 THEN
            INSERT INTO {schema}.claims (number, id, key, count, capacity, node, lease, joined, expires, owner)
                VALUES (nextval('{schema}.numbers'), claim, '', 0, 0, '', barred_ms, clock_timestamp(),
                    clock_timestamp() + barred_ms * interval '1 millisecond', '')
                ON CONFLICT (id) DO NOTHING;
        END IF;
    END IF;
    IF others THEN
        at := clock_timestamp();
        -- Most often the next one waits for all permits, so that nobody behind it can be granted too.
        UPDATE {schema}.claims AS c
            SET granted = at, ends = at + max_hold * interval '1 millisecond'
            WHERE id = (SELECT id FROM {schema}.claims WHERE key = k ORDER BY number LIMIT 1)
                AND granted IS NULL AND count = capacity AND expires > at AND NOT {barred}
                AND NOT EXISTS (SELECT FROM {schema}.transactions t WHERE t.key = k AND t.number > c.number)
            RETURNING CASE WHEN node <> '' THEN pg_notify(node, {granted})::text END INTO told;
        IF NOT FOUND THEN
            DECLARE
                asking CONSTANT uuid := NULL;
                c {schema}.claims%ROWTYPE;
{queue}
            BEGIN
{settle}
            END;
        END IF;
    END IF;
END
