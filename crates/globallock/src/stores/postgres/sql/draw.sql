    -- The fencing token: above all earlier ones. It is no less than the microseconds since 1970 but for a tenth
    -- of a second, so that it rises too where the sequence is an old one: after a failover to a replica that
    -- lags, or a restored backup.
    drawn := nextval('{schema}.numbers');
    IF drawn < <least>at</least> THEN
        -- One at a time, because a sequence must never be set back.
        PERFORM pg_advisory_xact_lock(hashtextextended('{schema}.numbers', 7310));
        drawn := nextval('{schema}.numbers');
        IF drawn < <least>clock_timestamp()</least> THEN
            drawn := setval('{schema}.numbers', (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
        END IF;
    END IF;
