-- Joins the queue of a key. `again` says that the claim may be there already: then it is renewed.
DECLARE
    at timestamptz;
    asking CONSTANT uuid := claim;
    fits boolean;
    c {schema}.claims%ROWTYPE;
    ahead {schema}.claims%ROWTYPE;
{queue}
BEGIN
{begin}
    -- Most often nobody has the lock, and then there is nothing to settle. The number is drawn once no user's
    -- own transaction can have the lock any more, because it would have a higher one.
    IF NOT again AND weight <= cap AND NOT {barred} THEN
{draw}
        INSERT INTO {schema}.claims (number, id, key, count, capacity, node, lease, max_hold, joined, expires,
                owner, granted, ends)
            SELECT drawn, claim, k, weight, cap, channel, lease_ms, max_hold_ms, at,
                at + lease_ms * interval '1 millisecond', who, at, at + max_hold_ms * interval '1 millisecond'
            WHERE NOT EXISTS (SELECT FROM {schema}.claims WHERE key = k);
        IF FOUND THEN
            answer := concat_ws(' ', 'held', drawn, lease_ms, coalesce(max_hold_ms::text, '-'));
        END IF;
    END IF;
    IF answer IS NULL THEN
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
    END IF;
    IF wants_value AND answer LIKE 'held%' THEN
        answer := concat_ws(' ', answer, (
            SELECT concat_ws(' ', number, greatest(<ms>at - written</ms>, 0), encode(bytes, 'hex'))
            FROM {schema}."values" WHERE key = k AND until > at));
    END IF;
END
