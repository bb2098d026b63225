//! The statements that the store sends, for its schema.
//!
//! What changes the queue of a key is a call: a block of PL/pgSQL, whose parts are in `sql/`. It is a
//! function in the server, which knows its plan; or, where functions are not allowed, the same block is sent
//! each time. It answers one of these texts, with times in milliseconds:
//!
//! ```text
//! held <token> <left of the lease> <left of the longest hold, or -> [<token> <age> <value as hex>]
//! waiting <now> <when to ask again, because somebody in front may have ended>
//! gone
//! evicted <notice>
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use crate::backend::Claim;

/// The tables, and what makes them.
const SCHEMA: &str = include_str!("sql/schema.sql");
/// The functions that users call in their own transactions.
const USERS: [&str; 2] = [include_str!("sql/fence.sql"), include_str!("sql/transaction.sql")];

/// What is the same in several blocks. Each may contain those that come after it.
const PARTS: [(&str, &str); 15] = [
    ("{begin}", include_str!("sql/begin.sql")),
    ("{durable}", include_str!("sql/durable.sql")),
    ("{queue}", include_str!("sql/queue.sql")),
    ("{settle}", include_str!("sql/settle.sql")),
    ("{renumber}", include_str!("sql/renumber.sql")),
    ("{draw}", include_str!("sql/draw.sql")),
    ("{answer}", include_str!("sql/answer.sql")),
    ("{missing}", include_str!("sql/missing.sql")),
    // Whether a user's own transaction has the lock, or is about to have it: see `transaction.sql`. If not,
    // none has it before this one ends. Whoever grants a claim asks this first. A claim that would hold waits
    // then, and is told to ask again in 50 ms, because nobody tells it of the end of that transaction.
    ("{barred}", "NOT pg_try_advisory_xact_lock_shared(hashtextextended(k COLLATE \"C\", 7311))"),
    // Which of the server's locks is that of a user's own transaction that has the lock, or asks for it.
    (
        "{transaction}",
        "l.locktype = 'advisory' AND l.objsubid = 1 AND l.mode = 'ExclusiveLock' \
         AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
         AND (l.classid::bigint << 32 | l.objid::bigint) = hashtextextended($1 COLLATE \"C\", 7311)",
    ),
    // What the owner of a claim is told of its grant. Where commits wait for standbys, it is told to ask: a
    // commit whose wait is cancelled, as when its client has given it up, is seen here before a standby has
    // it, and what a grant is answered is not.
    (
        "{granted}",
        "CASE WHEN current_setting('synchronous_standby_names') <> '' \
         THEN replace(c.id::text, '-', '') || ' polls 0' \
         ELSE concat_ws(' ', replace(c.id::text, '-', ''), c.number, <ms>c.expires</ms>, \
         coalesce(<ms>c.ends</ms>, 0), c.key) END",
    ),
    // The least number that may be drawn at a time: see `draw.sql`.
    ("<least>", "extract(epoch FROM "),
    ("</least>", ") * 1000000 - 100000"),
    // A time in milliseconds, rounded down.
    ("<ms>", "floor(extract(epoch FROM "),
    ("</ms>", ") * 1000)::bigint"),
];

/// What is turned off where calls are carried out. The planner's way is then by the indexes, in their order,
/// from the first row on. It does not know how many rows are dead.
const PLANNER: [&str; 4] = ["enable_seqscan", "enable_bitmapscan", "enable_sort", "jit"];

/// A block of statements, and the names and types of what it is given.
struct Block {
    name: &'static str,
    arguments: &'static [(&'static str, &'static str)],
    body: &'static str,
}

const ENQUEUE: Block = Block {
    name: "enqueue_2",
    arguments: &[
        ("k", "text"),
        ("claim", "uuid"),
        ("weight", "bigint"),
        ("cap", "bigint"),
        ("lease_ms", "bigint"),
        ("max_hold_ms", "bigint"),
        ("waits", "boolean"),
        ("again", "boolean"),
        ("wants_value", "boolean"),
        ("channel", "text"),
        ("who", "text"),
        ("durable", "boolean"),
    ],
    body: include_str!("sql/enqueue.sql"),
};
const RENEW: Block = Block {
    name: "renew_2",
    arguments: &[("asked", "uuid[]"), ("leases", "bigint[]"), ("durable", "boolean")],
    body: include_str!("sql/renew.sql"),
};
const RELEASE: Block = Block {
    name: "release_2",
    arguments: &[("k", "text"), ("claim", "uuid"), ("barred_ms", "bigint"), ("durable", "boolean")],
    body: include_str!("sql/release.sql"),
};
const EVICT: Block = Block {
    name: "evict_2",
    arguments: &[
        ("k", "text"),
        ("claim", "uuid"),
        ("told", "text"),
        ("kept_ms", "bigint"),
        ("durable", "boolean"),
    ],
    body: include_str!("sql/evict.sql"),
};
const KEEP: Block = Block {
    name: "keep_2",
    arguments: &[
        ("k", "text"),
        ("claim", "uuid"),
        ("rest_ms", "bigint"),
        ("leaves", "boolean"),
        ("durable", "boolean"),
    ],
    body: include_str!("sql/keep.sql"),
};
const SET_VALUE: Block = Block {
    name: "set_value_2",
    arguments: &[
        ("k", "text"),
        ("claim", "uuid"),
        ("told", "bytea"),
        ("keep_ms", "bigint"),
        ("durable", "boolean"),
    ],
    body: include_str!("sql/set_value.sql"),
};
const BLOCKS: [&Block; 6] = [&ENQUEUE, &RENEW, &RELEASE, &EVICT, &KEEP, &SET_VALUE];

/// How many calls are so frequent that the server keeps their statements prepared.
///
/// These take different numbers of arguments. So a statement of one is never taken for that of another,
/// should a pooler that nobody has noticed mix up whose statement is whose.
pub(super) const FREQUENT: usize = 3;

/// A change of a queue, which answers one text.
#[derive(Debug)]
pub(super) struct Call {
    /// Calls the function, in a session whose planner is set.
    pub(super) function: String,
    /// The same in the session of a pooler, which others use too.
    pub(super) pooled: String,
    /// Which of the frequent calls it is.
    pub(super) frequent: Option<usize>,
    /// What does it without a function.
    pub(super) plain: Option<Plain>,
}

/// The statements of a call without a function, in one transaction: what it is given is kept in settings of
/// the transaction, which the block reads, and so is what it answers.
#[derive(Debug)]
pub(super) struct Plain {
    pub(super) gives: String,
    pub(super) does: String,
}

/// Asks for the answer of a block.
pub(super) const ANSWER: &str = "SELECT current_setting('globallock.answer')";

/// Each statement is one request, and one transaction.
#[derive(Debug)]
pub(super) struct Calls {
    pub(super) enqueue: Call,
    pub(super) renew: Call,
    pub(super) release: Call,
    pub(super) evict: Call,
    pub(super) keep: Call,
    pub(super) set_value: Call,
    pub(super) changed: String,
    pub(super) sweep: String,
    pub(super) inspect: String,
    pub(super) terminate: String,
    pub(super) list: String,
    pub(super) facts: String,
    pub(super) forget: String,
}

impl Calls {
    /// Those that call functions, or those that are `plain`.
    pub(super) fn new(schema: &str, plain: bool) -> Self {
        let call = |block: &Block, frequent| Call {
            function: block.call(schema),
            pooled: block.pooled_call(schema),
            frequent,
            plain: plain.then(|| block.plain(schema)),
        };
        let of = |statement: &str| expand(statement, schema);
        Calls {
            enqueue: call(&ENQUEUE, Some(0)),
            renew: call(&RENEW, Some(1)),
            release: call(&RELEASE, Some(2)),
            evict: call(&EVICT, None),
            keep: call(&KEEP, None),
            set_value: call(&SET_VALUE, None),
            changed: of(CHANGED),
            sweep: of(SWEEP),
            inspect: of(INSPECT),
            terminate: of(TERMINATE),
            list: of(LIST),
            facts: of(FACTS),
            forget: of(FORGET),
        }
    }
}

impl Block {
    /// The function of this block, which is within another one: PostgreSQL 13 does not return from a function
    /// whose outermost block is left by its label.
    fn function(&self) -> String {
        let arguments = self.arguments.iter().map(|(name, kind)| format!("{name} {kind}, "));
        format!(
            "CREATE OR REPLACE FUNCTION {{schema}}.{}({}OUT answer text)\nLANGUAGE plpgsql\nAS \
             $call$\nBEGIN\n<<call>>\n{};\nEND\n$call$;\n\n",
            self.name,
            arguments.collect::<String>(),
            self.body.trim_end()
        )
    }

    fn call(&self, schema: &str) -> String {
        let parameter = |(place, (_, kind)): (usize, &(&str, &str))| {
            // Ids are sent as texts.
            let cast = if kind.starts_with("uuid") { format!("::{kind}") } else { String::new() };
            format!("${}{cast}", place + 1)
        };
        let parameters: Vec<_> = self.arguments.iter().enumerate().map(parameter).collect();
        format!("SELECT {}.{}({})", quoted(schema), self.name, parameters.join(", "))
    }

    /// The settings are those of this transaction. The row that the function is called for comes after them.
    fn pooled_call(&self, schema: &str) -> String {
        let settings = planner(true);
        format!("WITH planner AS MATERIALIZED (SELECT {settings}) {} FROM planner", self.call(schema))
    }

    fn plain(&self, schema: &str) -> Plain {
        let gives = (1..)
            .zip(self.arguments)
            .map(|(place, (name, _))| format!("set_config('globallock.{name}', ${place}, true)"));
        let gives: Vec<_> = gives.chain([planner(true)]).collect();
        let mut does = "DO $call$\nDECLARE\n".to_owned();
        for (name, kind) in self.arguments {
            let setting = format!("current_setting('globallock.{name}')");
            let given = if *kind == "text" { setting } else { format!("nullif({setting}, '')::{kind}") };
            // Nothing can go wrong when a text is written to.
            let _ = writeln!(does, "    {name} CONSTANT {kind} := {given};");
        }
        let _ = write!(
            does,
            "    answer text;\nBEGIN\n<<call>>\n{};\n    \
             PERFORM set_config('globallock.answer', answer, true);\nEND $call$",
            self.body.trim_end()
        );
        Plain { gives: format!("SELECT {}", gives.join(", ")), does: expand(&does, schema) }
    }
}

/// Expressions that set the planner, for this transaction alone or for the session.
pub(super) fn planner(is_local: bool) -> String {
    PLANNER.map(|name| format!("set_config('{name}', 'off', {is_local})")).join(", ")
}

/// What makes the tables and the functions, or brings them to this version; the tables alone where functions
/// are not allowed.
pub(super) fn script(schema: &str, is_logged: bool, plain: bool) -> String {
    let (unlogged, logged, persistence) =
        if is_logged { ("", "LOGGED", "p") } else { ("UNLOGGED", "UNLOGGED", "u") };
    let tables = SCHEMA
        .replace("{unlogged}", unlogged)
        .replace("{logged}", logged)
        .replace("{persistence}", persistence);
    let functions = if plain {
        String::new()
    } else {
        let calls: String = BLOCKS.map(Block::function).concat();
        format!(
            "\n-- The functions of the locks. Every request calls one of them.\n\n{calls}{}",
            USERS.join("\n")
        )
    };
    expand(&format!("{tables}{functions}"), schema)
}

/// Puts the parts and the schema into a text.
fn expand(text: &str, schema: &str) -> String {
    let whole = PARTS
        .iter()
        .fold(text.to_owned(), |text, (mark, part)| text.replace(mark, part.trim_end_matches('\n')));
    whole.replace("{schema}", &quoted(schema))
}

/// A name as a statement has it. The settings allow no other names than those that are identifiers, but one
/// may be a word of the language.
fn quoted(schema: &str) -> String {
    format!("\"{schema}\"")
}

/// The living claims of a key, and behind those that hold the users' own transactions: one that has the lock,
/// unless claims hold, and those that wait. What the server's clock shows is the same for all.
const INSPECT: &str = "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at), \
    living AS MATERIALIZED (SELECT c.*, at FROM {schema}.claims c, clock \
        WHERE key = $1 AND least(expires, ends) > at), \
    held AS (SELECT max(number) AS last FROM living WHERE granted IS NOT NULL) \
    SELECT id::text, granted IS NOT NULL, count, capacity, number, owner, \
        <ms>at - coalesce(granted, joined)</ms>, <ms>least(expires, ends) - at</ms>, number AS place, 0 \
        FROM living \
    UNION ALL \
    SELECT concat('pg:', l.pid, ':', l.virtualtransaction), l.granted AND last IS NULL, 1, 1, 0, \
        json_build_object('host', coalesce(host(client_addr), ''), 'label', concat_ws(', ', \
            CASE WHEN l.pid IS NULL THEN 'prepared transaction' ELSE concat('transaction of ', usename) END, \
            'backend ' || l.pid, nullif(application_name, '')))::text, \
        <ms>at - xact_start</ms>, NULL, coalesce(last, 0), CASE WHEN l.granted THEN 1 ELSE 2 END \
        FROM clock, held, pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid WHERE {transaction} \
    ORDER BY 9, 10";

/// Ends the session of the transaction that `pg_locks` shows so.
const TERMINATE: &str = "SELECT pg_terminate_backend(l.pid) FROM pg_locks l \
    WHERE {transaction} AND l.pid = $2 AND l.virtualtransaction = $3";

/// A page of the summaries of the keys behind `$1`, which begin with `$2` and end with `$3`. The planner
/// stops at the limit, because the keys are read in their order.
const LIST: &str = "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at) \
    SELECT s.key, f.count, f.capacity, s.holders, s.waiters, s.permits, s.token, \
    <ms>at - s.oldest</ms>, <ms>at - s.oldest_wait</ms>, \
    h.id::text, h.count, h.capacity, h.number, h.owner, \
    <ms>at - h.granted</ms>, <ms>least(h.expires, h.ends) - at</ms> \
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
    to_regproc('{schema}.enqueue_2') IS NOT NULL, current_setting('server_encoding') \
    FROM to_regclass('{schema}.claims') AS c";

/// Drops what is kept of a key without claims.
const FORGET: &str = "WITH noticed AS (DELETE FROM {schema}.evictions WHERE id = ANY ($2::uuid[])) \
    DELETE FROM {schema}.\"values\" WHERE key = $1 \
    AND NOT EXISTS (SELECT FROM {schema}.claims WHERE key = $1)";

/// What the owners of these claims would be told if the server could reach them: of a grant, of an eviction,
/// or null if the claim should ask, because it is gone, or comes next and somebody in front of it has ended.
const CHANGED: &str = "SELECT replace(a.id::text, '-', ''), \
    CASE WHEN c.granted IS NOT NULL THEN {granted} END \
    FROM unnest($1::uuid[]) AS a (id) LEFT JOIN {schema}.claims c USING (id) \
    WHERE c.id IS NULL OR c.granted IS NOT NULL \
    OR CASE WHEN NOT EXISTS (SELECT FROM {schema}.claims \
            WHERE key = c.key AND number < c.number AND granted IS NULL) \
        THEN (SELECT sum(count) <= min(capacity) FROM {schema}.claims \
            WHERE key = c.key AND number <= c.number) END \
    OR ( \
        SELECT bool_or(least(f.expires, f.ends) <= clock_timestamp()) AND bool_and(f.granted IS NOT NULL) \
        FROM (SELECT * FROM {schema}.claims WHERE key = c.key AND number < c.number \
            ORDER BY number LIMIT 8) AS f) \
    UNION ALL \
    SELECT replace(id::text, '-', ''), replace(id::text, '-', '') || ' evicted ' || notice \
    FROM {schema}.evictions WHERE id = ANY ($1::uuid[] || $2::uuid[]) AND until > clock_timestamp()";

/// Drops what has ended and nobody has asked for since.
const SWEEP: &str = "WITH claims AS (DELETE FROM {schema}.claims WHERE id IN ( \
        SELECT id FROM {schema}.claims WHERE least(expires, ends) <= clock_timestamp() \
        LIMIT 10000 FOR UPDATE SKIP LOCKED)), \
    evictions AS (DELETE FROM {schema}.evictions WHERE id IN ( \
        SELECT id FROM {schema}.evictions WHERE until <= clock_timestamp() \
        LIMIT 10000 FOR UPDATE SKIP LOCKED)) \
    transactions AS (DELETE FROM {schema}.transactions WHERE key IN ( \
        SELECT key FROM {schema}.transactions t \
        WHERE number < extract(epoch FROM clock_timestamp() - interval '1 minute') * 1000000 \
            AND NOT EXISTS (SELECT FROM {schema}.claims c WHERE c.key = t.key AND c.number < t.number) \
        LIMIT 10000 FOR UPDATE SKIP LOCKED)) \
    DELETE FROM {schema}.\"values\" WHERE key IN ( \
        SELECT key FROM {schema}.\"values\" WHERE until <= clock_timestamp() \
        LIMIT 10000 FOR UPDATE SKIP LOCKED)";

/// A time limit as a call takes it.
pub(super) fn max_hold(claim: &Claim) -> Option<i64> {
    claim.max_hold.map(milliseconds)
}

/// A time as a call takes it. The longest is a thousand years, which the server can add to now.
pub(super) fn milliseconds(time: Duration) -> i64 {
    const LONGEST: i64 = 1000 * 365 * 24 * 3600 * 1000;
    i64::try_from(time.as_millis()).map_or(LONGEST, |time| time.min(LONGEST))
}
