//! The figures of Redis.

mod held;
mod peers;
mod raw;
mod round_trips;
pub(crate) mod storm;

use std::time::Duration;

use ::redis::InfoDict;
use globallock::LockManager;

use crate::contend::{self, Outcome, Workload};
use crate::pairs;
use crate::report::{row, title};
use crate::started;
use crate::statistics::{Times, median};
use raw::Recorder;

/// The sections, all on one server.
pub(crate) async fn run(wanted: &dyn Fn(&str) -> bool) {
    let server = started("redis");
    let port = server.ports()[0];
    println!("\nRedis {}", version(port).await);
    if wanted("pairs") {
        pairs_one_by_one(port).await;
    }
    if wanted("handoff") {
        hand_off(port).await;
    }
    if wanted("waiters") {
        waiters(port).await;
    }
    if wanted("tasks") {
        tasks(port).await;
    }
    if wanted("peers") {
        peers::compare(port).await;
    }
    if wanted("held") {
        held::measure(port).await;
    }
    if wanted("storm") {
        storm::measure().await;
    }
}

const MILLISECOND: Duration = Duration::from_millis(1);

/// The server's version.
async fn version(port: u16) -> String {
    info(port, "server").await.get("redis_version").unwrap_or_default()
}

async fn info(port: u16, section: &str) -> InfoDict {
    let mut connection = round_trips::connect(port).await;
    ::redis::cmd("INFO").arg(section).query_async(&mut connection).await.expect("the server answers")
}

/// How many scripts clients have called. The server counts the commands inside of scripts under other names.
async fn script_calls(port: u16) -> f64 {
    let statistics = info(port, "commandstats").await;
    ["cmdstat_evalsha", "cmdstat_eval"]
        .into_iter()
        .filter_map(|command| statistics.get::<String>(command))
        .filter_map(|line| line.split([',', '=']).nth(1)?.parse::<f64>().ok())
        .sum()
}

/// Uncontended acquire and release, compared with PING.
async fn pairs_one_by_one(port: u16) {
    title("Uncontended acquire + release of a mutex, queue and fencing token included (5 rounds of 4000)");
    let (mut ratios, mut plain, mut all) = (Vec::new(), Vec::new(), round_trips::Interleaved::default());
    for _ in 0..5 {
        let round = round_trips::interleaved(port, 4000).await;
        ratios.push(round.ours.median() / round.pings.median());
        plain.push(round.plain.median() / round.pings.median());
        all.extend(round);
    }
    row("PING p50", all.pings.median(), "us", "");
    row("plain pair p50 (SET NX PX, compare and delete)", all.plain.median(), "us", "");
    row("pair p50", all.ours.median(), "us", "");
    row("pair p99 / PING p99", all.ours.percentile(99.0) / all.pings.percentile(99.0), "x", "");
    row("plain pair p50 / PING p50, median of rounds", median(plain), "x", "");
    row("pair p50 / PING p50, median of rounds", median(ratios), "x", "goal <= 2.15");
}

/// A hand-off workload with PINGs before and after it, so that both are measured in the same conditions.
/// Returns the median PING, the outcome, and the script calls per grant.
async fn with_pings(port: u16, name: &str, connections: usize, workload: Workload) -> (f64, Outcome, f64) {
    let url = format!("redis://127.0.0.1:{port}");
    let mut pings = Times::default();
    let mut connection = round_trips::connect(port).await;
    for _ in 0..2000 {
        pings.push(round_trips::ping(&mut connection).await);
    }
    let owners = contend::ours(&url, name, workload.owners, connections).await;
    let calls = script_calls(port).await;
    let outcome = contend::run(owners, workload).await;
    let calls = script_calls(port).await - calls;
    for _ in 0..2000 {
        pings.push(round_trips::ping(&mut connection).await);
    }
    let commands = calls / outcome.total() as f64;
    (pings.median(), outcome, commands)
}

/// Hand-offs between 8 connections.
async fn hand_off(port: u16) {
    for (hold, think, goal) in
        [(Duration::ZERO, Duration::ZERO, "goal <= 1.30"), (MILLISECOND, 3 * MILLISECOND, "goal <= 1.70")]
    {
        title(&format!(
            "Hand-off between 8 connections, {hold:?} held, {think:?} thinking (5 rounds of 2 s)"
        ));
        let workload = Workload { owners: 8, hold, think, run: Duration::from_secs(2) };
        let (mut ratios, mut utilisation, mut fairness, mut commands) = (vec![], vec![], vec![], vec![]);
        let (mut hand_offs, mut rates) = (Times::default(), vec![]);
        for round in 0..5 {
            let name = format!("bench-hand-off-{}-{round}", hold.as_millis());
            let (ping, outcome, sent) = with_pings(port, &name, 8, workload).await;
            ratios.push(outcome.hand_offs.median() / ping);
            utilisation.push(outcome.utilisation);
            fairness.push(outcome.fairness());
            commands.push(sent);
            rates.push(outcome.grants_per_second);
            hand_offs.extend(outcome.hand_offs);
        }
        row("grants a second", median(rates), "", "");
        row("hand-off p50", hand_offs.median(), "us", "");
        row("hand-off p99", hand_offs.percentile(99.0), "us", "");
        row("hand-off p50 / PING p50, median of rounds", median(ratios), "x", goal);
        if !hold.is_zero() {
            let pings = round_trips::pings_after(port, hold, 2000).await;
            row(
                "hand-off p50 / p50 of a PING after as long a pause",
                hand_offs.median() / pings.median(),
                "x",
                "",
            );
        }
        let goal = if hold.is_zero() { "" } else { "goal >= 0.90" };
        row("lock utilisation, median of rounds", median(utilisation), "", goal);
        row("slowest owner / fastest owner, median of rounds", median(fairness), "", "goal >= 0.95");
        row("client commands a grant, median of rounds", median(commands), "", "goal <= 2.10");
    }
}

/// Hand-offs with many waiters, compared with few.
async fn waiters(port: u16) {
    title("Hand-off with 1000 waiters against 8 (5 rounds of 2 s, 1 ms held, on 8 connections each)");
    let workload =
        |owners| Workload { owners, hold: MILLISECOND, think: Duration::ZERO, run: Duration::from_secs(2) };
    let (mut ratios, mut few, mut many) = (vec![], Times::default(), Times::default());
    for round in 0..5 {
        let (_, eight, _) = with_pings(port, &format!("bench-few-{round}"), 8, workload(8)).await;
        let (_, thousand, _) = with_pings(port, &format!("bench-many-{round}"), 8, workload(1000)).await;
        ratios.push(thousand.hand_offs.median() / eight.hand_offs.median());
        few.extend(eight.hand_offs);
        many.extend(thousand.hand_offs);
    }
    row("hand-off p50 with 8", few.median(), "us", "");
    row("hand-off p50 with 1000", many.median(), "us", "");
    row("1000 / 8, median of rounds", median(ratios), "x", "goal <= 1.30");
}

/// Many tasks on one connection, compared with the raw limit.
async fn tasks(port: u16) {
    title("Pairs of 256 tasks on one connection against the raw limit (5 rounds of 2 s)");
    let recorded = record(port, 256).await;
    let (url, run) = (format!("redis://127.0.0.1:{port}"), Duration::from_secs(2));
    let (mut shares, mut ours, mut limits) = (vec![], vec![], vec![]);
    for _ in 0..5 {
        let limit = raw::pairs_per_second(port, &recorded, 8, run).await;
        let rate = pairs::per_second(&url, 256, run).await;
        shares.push(rate / limit);
        ours.push(rate);
        limits.push(limit);
    }
    row("raw limit: our bytes, 8 connections x 32 pairs at once", median(limits), "pairs/s", "");
    row("256 tasks on one connection", median(ours), "pairs/s", "");
    row("share of the raw limit, median of rounds", median(shares), "", "goal >= 0.85");
}

/// Records the requests of `count` pairs, each with its own name.
async fn record(port: u16, count: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let recorder = Recorder::start(port).await;
    let url = format!("redis://127.0.0.1:{}", recorder.port);
    let manager = LockManager::connect(&url).await.expect("the server is there");
    // The first pairs load the scripts. They are not among the requests that are sent again.
    for name in ["bench-warm-up"; 2] {
        let guard = manager.mutex(name).acquire().await.expect("the lock is free");
        guard.release().await.expect("the lock is held");
    }
    recorder.take();
    for pair in 0..count {
        let lock = manager.mutex(format!("bench-raw-{pair}"));
        lock.acquire().await.expect("the lock is free").release().await.expect("the lock is held");
    }
    let requests = recorder.take();
    assert_eq!(requests.len(), 2 * count, "a pair is two requests");
    requests.chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}
