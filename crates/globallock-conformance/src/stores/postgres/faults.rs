//! The faults that only PostgreSQL can have.

use std::io::Result;
use std::time::{Duration, Instant};

use tokio::task::block_in_place;
use tokio::time::sleep;

use super::super::password::PasswordFile;
use super::super::{Draw, Outcome, OwnFault};
use crate::server::Cluster;
use crate::server::postgres::{Pair, Postgres, Tools, USER};

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
/// Another transaction takes the locks of an owner's one in the opposite order.
pub(super) const DEADLOCK: OwnFault = OwnFault { takes: 12, ..OwnFault::new("deadlock") };
/// The disk is full.
pub(super) const FULL: OwnFault = OwnFault { takes: 12, ..OwnFault::new("full") };
/// Commits wait for a replica that is stopped or killed.
pub(super) const REPLICA_AWAY: OwnFault = OwnFault { takes: 14, ..OwnFault::new("replica_away") };
pub(super) const ROTATE_PASSWORD: OwnFault = OwnFault { takes: 6, ..OwnFault::new("rotate_password") };

/// How often the password is changed in a row.
const ROTATIONS: usize = 2;
/// How many deadlocks there are in a row.
const DEADLOCKS: usize = 2;
/// The pause before a server is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What the server says when its disk is full, when it has started, and of a commit that is not replicated.
const NO_ROOM: &str = "No space left on device";
const STARTS: &str = "database system is ready to accept connections";
const UNREPLICATED: &str = "canceling wait for synchronous replication";
/// What the server says of a deadlock.
const DETECTED: &str = "deadlock detected";
/// Locks the table, and then what a transaction has that waits for the table. The server ends the one that
/// has waited for as long as its `deadlock_timeout` says first: it is the owner's.
const CROSSES: &str = "
DO $$
DECLARE
    owned record;
BEGIN
    SET LOCAL deadlock_timeout = '10s';
    LOCK TABLE globallock.claims IN EXCLUSIVE MODE;
    FOR look IN 1..200 LOOP
        SELECT has.classid, has.objid INTO owned FROM pg_locks has JOIN pg_locks wants USING (pid)
            WHERE has.locktype = 'advisory' AND has.granted
            AND wants.relation = 'globallock.claims'::regclass AND NOT wants.granted LIMIT 1;
        EXIT WHEN FOUND;
        PERFORM pg_sleep(0.005);
    END LOOP;
    IF owned.classid IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock((owned.classid::bigint << 32) | owned.objid::bigint);
    END IF;
END $$";

/// Does one of these faults that has no function of its own, and undoes it.
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
        "deadlock" => deadlock(server),
        _ => block_in_place(|| terminate(&tools, draw)),
    }
}

/// Waits for an owner's transaction that waits for this one, a few times in a row.
fn deadlock(server: &Postgres) -> Outcome {
    let (tools, before) = (server.tools(), logged(server, DETECTED));
    let said: Vec<_> = block_in_place(|| (0..DEADLOCKS).map(|_| tools.sql(CROSSES)).collect());
    let ours = said.iter().filter(|said| said.contains(DETECTED)).count();
    let theirs = logged(server, DETECTED) - before - ours;
    Outcome::of(theirs > 0, format!("{theirs} statements of owners were ended, {ours} of others: {said:?}"))
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
    let before = logged(server, said);
    let ended = block_in_place(|| alter(&tools, change));
    sleep(draw.short()).await;
    let times = logged(server, said) - before;
    let met = block_in_place(|| alter(&tools, back));
    let text = format!("{ended} connections were ended, then {met} that had been made meanwhile");
    match said {
        "" => Outcome::of(met > 0, text),
        said => Outcome::of(times > 0, format!("{text}; the server said {times} times: {said}")),
    }
}

/// How often a server has said something.
fn logged(server: &Postgres, said: &str) -> usize {
    std::fs::read_to_string(server.log()).unwrap_or_default().matches(said).count()
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

/// Makes the disk full for less or more than a lease. Somebody else writes all the time, so there is no room
/// even in files that had some; every other time that uses up the log too, without which the server stops.
pub(super) async fn full(server: &mut Postgres, draw: Draw) -> Result<Outcome> {
    let tools = server.tools();
    let insert = "INSERT INTO stranger SELECT repeat('x', 1000) FROM generate_series(1, 100)";
    let fill = format!("{insert}{}", ["", "; SELECT pg_switch_wal()"][draw.choose(2)]);
    block_in_place(|| tools.sql("CREATE TABLE stranger (content text)"));
    let (before, stops) = (logged(server, NO_ROOM), logged(server, STARTS));
    let length = draw.lease.mul_f64(0.1 + 1.4 * draw.length);
    let until = Instant::now() + length;
    be_full(server, true)?;
    let mut refused = 0;
    while Instant::now() < until {
        refused += usize::from(block_in_place(|| tools.sql(&fill)).contains(NO_ROOM));
        sleep(LOOK_AGAIN).await;
    }
    be_full(server, false)?;
    // It may be about to give up, or have done so.
    while block_in_place(|| tools.sql("DROP TABLE IF EXISTS stranger; SELECT 7")) != "7" {
        if server.has_ended() {
            block_in_place(|| server.resume_after_kill())?;
        }
        sleep(LOOK_AGAIN).await;
    }
    let (told, stops) = (logged(server, NO_ROOM) - before, logged(server, STARTS) - stops);
    let text = format!("for {length:?} {refused} writes of a stranger were refused, and {told} in all");
    Ok(Outcome::of(refused > 0, format!("{text}; the server stopped {stops} times")))
}

fn be_full(server: &Postgres, full: bool) -> Result<()> {
    server.disk().map_or(Ok(()), |disk| disk.be_full(full))
}

/// Stops or kills the replica, so that commits hang, for less or more than a lease and the store timeout.
pub(super) async fn replica_away(pair: &mut Pair, primary: usize, draw: Draw) -> Result<Outcome> {
    let (replica, is_killed) = (1 - primary, draw.choose(2) == 1);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let given_up = logged(pair.server(primary), UNREPLICATED);
    let length = draw.lease.mul_f64(0.2 + 2.0 * draw.length);
    let until = Instant::now() + length;
    if is_killed {
        Cluster::kill(pair, replica);
    } else {
        pair.server(replica).stop();
    }
    let mut waited = 0;
    while Instant::now() < until {
        let waiting = block_in_place(|| pair.server(primary).sql(waits)).parse().unwrap_or(0);
        waited = waited.max(waiting);
        sleep(LOOK_AGAIN).await;
    }
    if is_killed {
        block_in_place(|| Cluster::resume_after_kill(pair, replica))?;
    } else {
        pair.server(replica).go_on();
    }
    block_in_place(|| pair.wait_for_the_replica(primary))?;
    let given_up = logged(pair.server(primary), UNREPLICATED) - given_up;
    let text = format!("the replica was away for {length:?}, killed: {is_killed}");
    let proof = format!("{text}; {waited} commits waited at a time, {given_up} were made to wait no longer");
    Ok(Outcome::of(waited > 0, proof))
}

/// Cuts off the replica, kills the primary while commits wait, and promotes the replica.
pub(super) fn promotion_without_loss(pair: &mut Pair, draw: Draw) -> Result<Outcome> {
    let lag = draw.lease.mul_f64(0.1 + 1.8 * draw.length);
    let missed = block_in_place(|| pair.change_places(false, || std::thread::sleep(lag)))?;
    let proof = format!("{missed} bytes of the log were on the primary only, after {lag:?}");
    Ok(Outcome::of(missed > 0, proof))
}
