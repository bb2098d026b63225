-- For the transactions of users: refuses a fencing token that is lower than one that was here before, and keeps
-- others of the same resource waiting until this transaction has ended.
CREATE OR REPLACE FUNCTION {schema}.fence_1(what text, token bigint) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    seen bigint;
BEGIN
    INSERT INTO {schema}.fences AS f (resource, number) VALUES (what, token)
        ON CONFLICT (resource) DO UPDATE SET number = excluded.number WHERE f.number <= excluded.number;
    IF NOT FOUND THEN
        SELECT number INTO seen FROM {schema}.fences WHERE resource = what;
        RAISE EXCEPTION USING ERRCODE = 'GL003', MESSAGE = format(
            'the fencing token %s of %L is lower than %s, which was here before: the lock was lost, and somebody '
            'else has held it since', token, what, seen);
    END IF;
END $$;
