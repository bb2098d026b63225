//! The statements that the store sends, for its schema.

use std::time::Duration;

use crate::backend::Claim;

/// The tables, and what makes them.
const SCHEMA: &str = include_str!("schema.sql");
/// The functions.
const FUNCTIONS: &str = include_str!("functions.sql");
/// The lock of a user's own transaction.
const TRANSACTION: &str = include_str!("transaction.sql");

/// Each statement is one request, and one transaction.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) enqueue: String,
    pub(super) renew: String,
    pub(super) release: String,
    pub(super) evict: String,
    pub(super) keep: String,
    pub(super) set_value: String,
    pub(super) changed: String,
    pub(super) sweep: String,
    pub(super) inspect: String,
    pub(super) list: String,
    pub(super) facts: String,
    pub(super) forget: String,
}

impl Calls {
    pub(super) fn new(schema: &str) -> Self {
        let of = |statement: &str| statement.replace("{schema}", &quoted(schema));
        Calls {
            enqueue: of("SELECT {schema}.enqueue_1($1, $2::uuid, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)"),
            renew: of("SELECT claim, answer FROM {schema}.renew_1($1::uuid[], $2, $3)"),
            release: of("SELECT {schema}.release_1($1, $2::uuid, $3, $4)"),
            evict: of("SELECT {schema}.evict_1($1, $2::uuid, $3, $4, $5)"),
            keep: of("SELECT {schema}.keep_1($1, $2::uuid, $3, $4, $5)"),
            set_value: of("SELECT {schema}.set_value_1($1, $2::uuid, $3, $4, $5)"),
            changed: of("SELECT claim, told FROM {schema}.changed_1($1::uuid[], $2::uuid[])"),
            sweep: of("SELECT {schema}.sweep_1()"),
            inspect: of(INSPECT),
            list: of(LIST),
            facts: of(FACTS),
            forget: of(FORGET),
        }
    }
}

/// What makes the tables and the functions, or brings them to this version.
pub(super) fn script(schema: &str, is_logged: bool) -> String {
    let (unlogged, logged, persistence) =
        if is_logged { ("", "LOGGED", "p") } else { ("UNLOGGED", "UNLOGGED", "u") };
    format!("{SCHEMA}\n{FUNCTIONS}\n{TRANSACTION}")
        .replace("{schema}", &quoted(schema))
        .replace("{unlogged}", unlogged)
        .replace("{logged}", logged)
        .replace("{persistence}", persistence)
}

/// A name as a statement has it. The settings allow no other names than those that are identifiers, but one
/// may be a word of the language.
fn quoted(schema: &str) -> String {
    format!("\"{schema}\"")
}

/// The living claims of a key. What the server's clock shows is the same for all.
const INSPECT: &str = "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at) \
    SELECT id::text, granted IS NOT NULL, count, capacity, number, owner, \
    {schema}.ms_1(at - coalesce(granted, joined)), {schema}.ms_1(least(expires, ends) - at) \
    FROM {schema}.claims, clock WHERE key = $1 AND least(expires, ends) > at ORDER BY number";

/// A page of the summaries of the keys behind `$1`, which begin with `$2` and end with `$3`. The planner
/// stops at the limit, because the keys are read in their order.
const LIST: &str = "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at) \
    SELECT s.key, f.count, f.capacity, s.holders, s.waiters, s.permits, s.token, \
    {schema}.ms_1(at - s.oldest), {schema}.ms_1(at - s.oldest_wait), \
    h.id::text, h.count, h.capacity, h.number, h.owner, \
    {schema}.ms_1(at - h.granted), {schema}.ms_1(least(h.expires, h.ends) - at) \
    FROM (SELECT key, min(number) AS first, \
            min(number) FILTER (WHERE granted IS NOT NULL) AS holder, \
            count(*) FILTER (WHERE granted IS NOT NULL) AS holders, \
            count(*) FILTER (WHERE granted IS NULL) AS waiters, \
            coalesce(sum(count) FILTER (WHERE granted IS NOT NULL), 0)::bigint AS permits, \
            coalesce(max(number) FILTER (WHERE granted IS NOT NULL), 0) AS token, \
            min(coalesce(granted, joined)) AS oldest, \
            min(joined) FILTER (WHERE granted IS NULL) AS oldest_wait \
        FROM {schema}.claims \
        WHERE key > $1 AND key >= $2 AND key <= $3 AND least(expires, ends) > (SELECT at FROM clock) \
        GROUP BY key ORDER BY key LIMIT $4) AS s \
    CROSS JOIN clock \
    JOIN {schema}.claims f ON f.key = s.key AND f.number = s.first \
    LEFT JOIN {schema}.claims h ON h.key = s.key AND h.number = s.holder \
    ORDER BY s.key";

/// What is there of the schema: the tables, their version, whether they are logged, and the functions; and in
/// which encoding the database keeps text.
const FACTS: &str = "SELECT c IS NOT NULL, obj_description(c, 'pg_class'), \
    (SELECT relpersistence::text FROM pg_class WHERE oid = c), \
    to_regproc('{schema}.enqueue_1') IS NOT NULL, current_setting('server_encoding') \
    FROM to_regclass('{schema}.claims') AS c";

/// Drops what is kept of a key without claims.
const FORGET: &str = "WITH noticed AS (DELETE FROM {schema}.evictions WHERE id = ANY ($2::uuid[])) \
    DELETE FROM {schema}.\"values\" WHERE key = $1 \
    AND NOT EXISTS (SELECT FROM {schema}.claims WHERE key = $1)";

/// A time limit as the functions take it.
pub(super) fn max_hold(claim: &Claim) -> Option<i64> {
    claim.max_hold.map(milliseconds)
}

/// A time as the functions take it. The longest is a thousand years, which the server can add to now.
pub(super) fn milliseconds(time: Duration) -> i64 {
    const LONGEST: i64 = 1000 * 365 * 24 * 3600 * 1000;
    i64::try_from(time.as_millis()).map_or(LONGEST, |time| time.min(LONGEST))
}
