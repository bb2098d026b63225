    SELECT 'evicted ' || notice INTO answer FROM {schema}.evictions WHERE id = claim AND until > at;
    answer := coalesce(answer, 'gone');
