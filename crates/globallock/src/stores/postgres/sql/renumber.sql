            -- A user's own transaction may have held the lock since the waiters joined, with a fencing token above
            -- their numbers. Then they get new ones, in their order.
            IF NOT is_renumbered AND EXISTS (
                    SELECT FROM {schema}.transactions t WHERE t.key = k AND t.number > c.number) THEN
                is_renumbered := true;
                FOR renumbered IN
                    SELECT id FROM {schema}.claims WHERE key = k AND granted IS NULL ORDER BY number
                LOOP
{draw}
                    UPDATE {schema}.claims SET number = drawn WHERE id = renumbered;
                END LOOP;
            END IF;
