    -- Whether the commit of this transaction waits for the disk.
    IF durable IS DISTINCT FROM (current_setting('synchronous_commit') <> 'off') THEN
        PERFORM set_config('synchronous_commit', CASE WHEN durable THEN 'on' ELSE 'off' END, true);
    END IF;
