    -- A waiter should ask again when what it waits for may have ended by itself: the waiter in front of it, or
    -- else the first of the holders. One that fits and does not hold waits for a user's own transaction, and
    -- should ask now.
    IF c.granted IS NULL THEN
        SELECT * INTO ahead FROM {schema}.claims
            WHERE key = c.key AND number < c.number ORDER BY number DESC LIMIT 1;
        IF FOUND AND ahead.granted IS NULL THEN
            next_end := ahead.expires;
        ELSIF next_end IS NULL THEN
            SELECT CASE WHEN sum(count) + c.count > least(min(capacity), c.capacity)
                    THEN min(least(expires, ends)) END INTO next_end
                FROM {schema}.claims WHERE key = c.key AND number < c.number;
        END IF;
        answer := concat_ws(' ', 'waiting', ceil(extract(epoch FROM at) * 1000)::bigint,
            greatest(<ms>next_end - at</ms>, 0) + 1);
    ELSE
        answer := concat_ws(' ', 'held', c.number, <ms>c.expires - at</ms>,
            coalesce((<ms>c.ends - at</ms>)::text, '-'));
    END IF;
