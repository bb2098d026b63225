-- Renews many claims, each answered in a line with its id, in the order of their numbers: whoever changes several
-- rows goes in that order, so that hardly anybody waits in a circle. A claim that has ended is left to those who
-- settle the queue.
DECLARE
    at timestamptz;
    next_end timestamptz;
    member record;
    c {schema}.claims%ROWTYPE;
    ahead {schema}.claims%ROWTYPE;
    lines text[] := '{}';
BEGIN
{durable}
    FOR member IN
        SELECT q AS claim, a.lease
            FROM unnest(asked, leases) AS a (id, lease) JOIN {schema}.claims q USING (id)
            ORDER BY q.number FOR NO KEY UPDATE OF q
    LOOP
        at := clock_timestamp();
        c := member.claim;
        CONTINUE WHEN least(c.expires, c.ends) <= at;
        c.expires := greatest(c.expires, at + member.lease * interval '1 millisecond');
        UPDATE {schema}.claims SET expires = c.expires WHERE id = c.id;
        next_end := NULL;
{answer}
        lines := lines || concat_ws(' ', replace(c.id::text, '-', ''), answer);
    END LOOP;
    at := clock_timestamp();
    FOR member IN
        SELECT e.id, e.notice FROM unnest(asked) AS a (id) JOIN {schema}.evictions e USING (id)
            WHERE e.until > at
    LOOP
        lines := lines || concat_ws(' ', replace(member.id::text, '-', ''), 'evicted', member.notice);
    END LOOP;
    answer := array_to_string(lines, E'\n');
END
