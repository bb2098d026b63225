    -- Whether the commit of this transaction waits for the disk; and a change of a key waits for others of that
    -- key. It is a short wait, because each change ends with its statement. Each statement below must see what
    -- the last one that changed the key has committed. All is one expression, because the server prepares each
    -- again for every transaction.
    IF durable IS DISTINCT FROM (current_setting('synchronous_commit') <> 'off')
            AND set_config('synchronous_commit', CASE WHEN durable THEN 'on' ELSE 'off' END, true) IS NULL
            OR pg_advisory_xact_lock(hashtextextended(k COLLATE "C", 7309)) IS NULL
            OR current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION USING ERRCODE = 'GL002', MESSAGE = 'the transaction is not read committed';
    END IF;
