{durable}
    -- A change of a key waits for others of the same key. It is a short wait, because each change ends with its
    -- statement. Each statement below must see what the last one that changed the key has committed.
    IF pg_advisory_xact_lock(hashtextextended(k COLLATE "C", 7309)) IS NULL
            OR current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING ERRCODE = 'GL002', MESSAGE = 'the transaction is not read committed';
    END IF;
    at := clock_timestamp();
