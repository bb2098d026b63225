-- Joins the queue of a key. `again` says that the claim may be there already: then it is renewed.
BEGIN
{begin}
    -- Most often nobody has the lock, and then there is nothing to settle. The number is drawn once no user's
    -- own transaction can have the lock any more, because it would have a higher one; see below for its size.
    IF NOT again AND weight <= cap AND NOT {barred} THEN
        INSERT INTO {schema}.claims (number, id, key, count, capacity, node, lease, max_hold, joined, expires,
                owner, granted, ends)
            SELECT drawn, claim, k, weight, cap, channel, lease_ms, max_hold_ms, at,
                at + lease_ms * interval '1 millisecond', who, at, at + max_hold_ms * interval '1 millisecond'
            FROM (SELECT nextval('{schema}.numbers') AS drawn, clock_timestamp() AS at OFFSET 0) AS next
            WHERE drawn >= <least>at</least>
                AND NOT EXISTS (SELECT FROM {schema}.claims WHERE key = k)
            RETURNING concat_ws(' ', 'held', number, lease, coalesce(max_hold::text, '-')) INTO answer;
    END IF;
    IF answer IS NULL THEN
        DECLARE
            at CONSTANT timestamptz := clock_timestamp();
            asking CONSTANT uuid := claim;
            fits boolean;
            c {schema}.claims%ROWTYPE;
            ahead {schema}.claims%ROWTYPE;
{queue}
        BEGIN
{settle}
            fits := NOT blocked AND total + weight <= least(smallest, cap);
            c := NULL;
            IF again THEN
                DELETE FROM {schema}.claims
                    WHERE id = claim AND key = k
                        AND (least(expires, ends) <= at OR granted IS NULL AND NOT waits);
                UPDATE {schema}.claims SET node = channel,
                    expires = greatest(expires, at + lease_ms * interval '1 millisecond')
                    WHERE id = claim AND key = k RETURNING * INTO c;
                IF NOT FOUND THEN
{missing}
                    EXIT call WHEN answer <> 'gone';
                END IF;
            END IF;
            IF c.id IS NULL THEN
                IF fits AND {barred} THEN
                    fits := false;
                    next_end := at + interval '49 milliseconds';
                END IF;
                IF NOT fits AND NOT waits THEN
                    answer := 'gone';
                    EXIT call;
                END IF;
{draw}
                INSERT INTO {schema}.claims (number, id, key, count, capacity, node, lease, max_hold, joined,
                        expires, owner, granted, ends)
                    VALUES (drawn, claim, k, weight, cap, channel, lease_ms, max_hold_ms, at,
                        at + lease_ms * interval '1 millisecond', who,
                        CASE WHEN fits THEN at END,
                        CASE WHEN fits THEN at + max_hold_ms * interval '1 millisecond' END)
                    RETURNING * INTO c;
            END IF;
{answer}
        END;
    END IF;
    IF wants_value AND answer LIKE 'held%' THEN
        answer := concat_ws(' ', answer, (
            SELECT concat_ws(' ', number, greatest(<ms>clock_timestamp() - written</ms>, 0), encode(bytes, 'hex'))
            FROM {schema}."values" WHERE key = k AND until > clock_timestamp()));
    END IF;
END
