//! The faults that only PostgreSQL can have.

use std::io::Result;
use std::time::{Duration, Instant};

use tokio::task::block_in_place;
use tokio::time::sleep;

use super::super::password::PasswordFile;
use super::super::{Draw, Outcome, OwnFault};
use crate::server::postgres::{Postgres, Tools, USER};

/// An administrator ends a connection.
pub(super) const TERMINATE: OwnFault = OwnFault::new("terminate");
/// A change of the schema keeps everybody from the table.
pub(super) const TABLE_LOCK: OwnFault = OwnFault { takes: 5, ..OwnFault::new("table_lock") };
/// The server cancels statements that take longer than a moment.
pub(super) const STATEMENT_TIMEOUT: OwnFault = OwnFault { takes: 5, ..OwnFault::new("statement_timeout") };
/// The user may not connect any more.
pub(super) const CONNECTION_LIMIT: OwnFault = OwnFault { takes: 5, ..OwnFault::new("connection_limit") };
/// Transactions of the user are serialisable where nothing else is said.
pub(super) const ISOLATION: OwnFault = OwnFault { takes: 5, ..OwnFault::new("isolation") };
pub(super) const ROTATE_PASSWORD: OwnFault = OwnFault { takes: 6, ..OwnFault::new("rotate_password") };

/// How often the password is changed in a row.
const ROTATIONS: usize = 2;

/// Does one of these faults, but for the last one, and undoes it.
pub(super) async fn done(fault: &OwnFault, server: &Postgres, draw: Draw) -> Outcome {
    let tools = server.tools();
    match fault.name {
        "table_lock" => locked(&tools, draw).await,
        "statement_timeout" => {
            let timeout = "SET statement_timeout = '1ms'";
            changed(server, draw, timeout, "RESET statement_timeout", "due to statement timeout").await
        }
        "connection_limit" => {
            let limit = "CONNECTION LIMIT 0";
            changed(server, draw, limit, "CONNECTION LIMIT -1", "too many connections for role").await
        }
        "isolation" => {
            let set = "SET default_transaction_isolation = 'serializable'";
            changed(server, draw, set, "RESET default_transaction_isolation", "").await
        }
        _ => block_in_place(|| terminate(&tools, draw)),
    }
}

/// Ends the server's side of a connection of an owner, as an administrator does.
fn terminate(tools: &Tools, draw: Draw) -> Outcome {
    let theirs = format!("FROM pg_stat_activity WHERE usename = '{USER}'");
    let count: usize = tools.sql(&format!("SELECT count(*) {theirs}")).parse().unwrap_or(0);
    let chosen = draw.choose(count);
    let seen = tools.sql(&format!(
        "SELECT pg_terminate_backend(pid) FROM (SELECT pid {theirs} ORDER BY pid OFFSET {chosen} LIMIT 1) one"
    ));
    Outcome::of(seen == "t", format!("number {chosen} of {count} connections was ended: {seen}"))
}

/// Locks the table of claims for less than half a lease, as a change of the schema does.
async fn locked(tools: &Tools, draw: Draw) -> Outcome {
    let length = draw.short();
    let statements = format!(
        "BEGIN; LOCK TABLE globallock.claims; SELECT pg_sleep({}); \
         SELECT count(*) FROM pg_locks WHERE NOT granted; COMMIT;",
        length.as_secs_f64()
    );
    let tools = tools.clone();
    let waited = tokio::task::spawn_blocking(move || tools.sql(&statements)).await.unwrap_or_default();
    let waited = waited.trim();
    let took_effect = waited.parse::<u32>().is_ok_and(|count| count > 0);
    Outcome::of(took_effect, format!("{waited} statements waited after {length:?}"))
}

/// Changes the owners' user for less than half a lease, and ends all connections from before and from
/// meanwhile. If it takes effect, the server logs `said`, or, where that is empty, connections are made
/// meanwhile.
async fn changed(server: &Postgres, draw: Draw, change: &str, back: &str, said: &str) -> Outcome {
    let tools = server.tools();
    let log = || std::fs::read_to_string(server.log()).unwrap_or_default().matches(said).count();
    let before = log();
    let ended = block_in_place(|| alter(&tools, change));
    sleep(draw.short()).await;
    let times = log() - before;
    let met = block_in_place(|| alter(&tools, back));
    let text = format!("{ended} connections were ended, then {met} that had been made meanwhile");
    match said {
        "" => Outcome::of(met > 0, text),
        said => Outcome::of(times > 0, format!("{text}; the server said {times} times: {said}")),
    }
}

/// Alters the owners' user, and returns how many of their connections have been ended after it.
fn alter(tools: &Tools, change: &str) -> usize {
    let ended = tools.sql(&format!(
        "ALTER ROLE {USER} {change}; \
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'"
    ));
    ended.lines().filter(|line| *line == "t").count()
}

/// Changes the password of the owners twice, and ends their connections, so that they log in again.
///
/// The file has it a moment later than the server.
pub(super) async fn rotate_password(tools: &Tools, file: &mut PasswordFile, draw: Draw) -> Result<Outcome> {
    let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'");
    let logged_in = || block_in_place(|| tools.sql(&count)).parse().unwrap_or(0);
    let (mut ended, mut logins) = (Vec::new(), Vec::new());
    for _ in 0..ROTATIONS {
        let new = file.choose_next();
        ended.push(block_in_place(|| alter(tools, &format!("PASSWORD '{new}'"))));
        file.write()?;
        let until = Instant::now() + draw.lease;
        let mut seen: usize = logged_in();
        // All connections from before were ended, so who is there has logged in with the new password.
        while seen == 0 && Instant::now() < until {
            sleep(Duration::from_millis(20)).await;
            seen = logged_in();
        }
        logins.push(seen);
        sleep(draw.short() / 2).await;
    }
    let took_effect = ended.iter().chain(&logins).all(|count| *count > 0);
    Ok(Outcome::of(took_effect, format!("connections ended {ended:?}, logged in again {logins:?}")))
}
