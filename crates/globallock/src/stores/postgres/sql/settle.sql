    -- Walks the queue of the key from its front, as long as claims hold: drops those that have ended, grants
    -- those that fit, and tells their owners, but for the claim that is `asking`.
    --
    -- This is `admit` of `queue.rs`. `total` and `smallest` are what the holders take and of how much;
    -- `blocked` says that somebody waits behind them. A waiter that ends behind the first one is dropped when
    -- it comes up.
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
        IF c.granted IS NULL AND {barred} THEN
            blocked := true;
            next_end := at + interval '49 milliseconds';
            IF c.node <> '' AND asking IS NULL THEN
                PERFORM pg_notify(c.node, replace(c.id::text, '-', '') || ' polls 50');
            END IF;
            EXIT;
        END IF;
        total := total + c.count;
        smallest := least(smallest, c.capacity);
        IF c.granted IS NULL THEN
{renumber}
            UPDATE {schema}.claims
                SET granted = at, ends = at + max_hold * interval '1 millisecond'
                WHERE id = c.id RETURNING * INTO c;
            IF c.node <> '' AND c.id IS DISTINCT FROM asking THEN
                PERFORM pg_notify(c.node, {granted});
            END IF;
        END IF;
        next_end := least(next_end, c.expires, c.ends);
    END LOOP;
