    total bigint := 0;
    smallest bigint := 4294967296;
    blocked boolean := false;
    next_end timestamptz;
    drawn bigint;
    is_renumbered boolean := false;
    renumbered uuid;
