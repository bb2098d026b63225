//! The figures of PostgreSQL, compared with raw statements, with its own session locks, and with the packages
//! that use those.

pub(crate) mod growth;
mod raw;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use globallock::LockManager;
use globallock_conformance::server::peers;
use globallock_conformance::server::postgres::Postgres;

use tokio::task::JoinHandle;

use self::raw::{Blocking, Polling, Raw, connections};
use crate::contend::{self, EAGER, Workload};
use crate::pairs;
use crate::programs::pairs_per_second;
use crate::report::{row, title};
use crate::statistics::{Times, median};

const ROUNDS: usize = 5;
const RUN: Duration = Duration::from_secs(2);

/// The table that is inserted into and deleted from, as large a row as a claim, with the same indexes.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS globallock.bench_raw \
    (id bigint PRIMARY KEY, name text NOT NULL, owner text NOT NULL, joined timestamptz NOT NULL, \
    UNIQUE (name, id))";

/// The figures, without and with commits that wait for the disk.
pub(crate) async fn run() {
    for (said, settings) in
        [("fsync off", &["fsync=off"][..]), ("fsync on", &["fsync=on", "full_page_writes=on"][..])]
    {
        let server = Postgres::start_with(settings).expect("the server starts");
        measure(said, &server).await;
    }
}

async fn measure(said: &str, server: &Postgres) {
    let url = server.url();
    title(&format!("PostgreSQL, {said}: uncontended acquire + release of a mutex (5 rounds, interleaved)"));
    let raw = Raw::connect(&url).await;
    raw.run(TABLE).await;
    let python = peers::postgres_locks().expect("the peers can be installed");
    let (mut against_raw, mut against_whole) = (vec![], vec![]);
    let (mut against_django, mut against_dlock) = (vec![], vec![]);
    let (mut all_raw, mut all_ours) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        let [prepared, whole, ours] = interleaved(&url, &raw).await;
        against_raw.push(ours.median() / prepared.median());
        against_whole.push(ours.median() / whole.median());
        all_raw.extend(prepared);
        all_ours.extend(ours);
        let pairs = pairs::sequential(&url, "bench-postgres", RUN).await;
        against_django.push(pairs / pairs_per_second(&python, "django_pglock_lock.py", &url).await);
        against_dlock.push(pairs / pairs_per_second(&python, "sqlalchemy_dlock_lock.py", &url).await);
    }
    row("insert + delete p50, prepared statements", all_raw.median(), "us", "");
    row("pair p50", all_ours.median(), "us", "");
    row("pair p50 / (insert + delete) p50", median(against_raw), "x", "goal <= 1.3");
    row("pair p50 / (insert + delete) p50, sent whole", median(against_whole), "x", "");
    row("pairs/s / django-pglock's", median(against_django), "x", "");
    row("pairs/s / sqlalchemy-dlock's", median(against_dlock), "x", "");

    hand_off(said, &url).await;
    waiters(said, &url).await;
}

/// Times raw pairs, by prepared statements and by those that are sent whole, and pairs of globallock, some of
/// each in turn.
async fn interleaved(url: &str, raw: &Raw) -> [Times; 3] {
    let manager = LockManager::connect(url).await.expect("the server is there");
    let lock = manager.mutex("bench-postgres");
    let pair = raw.prepare().await;
    let mut all = <[Times; 3]>::default();
    for row in 0..60 {
        if row == 10 {
            all = <[Times; 3]>::default();
        }
        let [prepared, whole, ours] = &mut all;
        for number in 0..20 {
            let began = Instant::now();
            raw.prepared_pair(&pair, number).await;
            prepared.push(began.elapsed());
        }
        for number in 0..20 {
            let began = Instant::now();
            raw.pair(number).await;
            whole.push(began.elapsed());
        }
        for _ in 0..20 {
            let began = Instant::now();
            let guard = lock.acquire().await.expect("the lock is free");
            guard.release().await.expect("the lock is held");
            ours.push(began.elapsed());
        }
    }
    all
}

/// Hand-offs between 8 connections, compared with a notification, and with session locks that wait and that
/// are polled for.
async fn hand_off(said: &str, url: &str) {
    title(&format!(
        "PostgreSQL, {said}: 8 owners on 8 connections, 1 ms held, no thinking (5 rounds of 2 s)"
    ));
    let workload = Workload { run: RUN, ..EAGER };
    let (mut told, mut alone, mut blocked, mut fairness) = (vec![], vec![], vec![], vec![]);
    let (mut polled, mut polled_hand_off, mut polled_fairness) = (vec![], vec![], vec![]);
    let (mut hand_offs, mut notifications) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        let one = Raw::notifications(url, 300, 0, workload.hold).await;
        let notified = Raw::notifications(url, 300, 7, workload.hold).await;
        let ours = contend::run(contend::ours(url, "bench-postgres", 8, 8).await, workload).await;
        let blocking = contend::run(owners(url, Blocking).await, workload).await;
        let polling = contend::run(owners(url, Polling).await, workload).await;
        told.push(ours.hand_offs.median() / notified.median());
        alone.push(ours.hand_offs.median() / one.median());
        blocked.push(ours.hand_offs.median() / blocking.hand_offs.median());
        polled.push(ours.grants_per_second / polling.grants_per_second);
        polled_hand_off.push(ours.hand_offs.median() / polling.hand_offs.median());
        polled_fairness.push(polling.fairness());
        fairness.push(ours.fairness());
        hand_offs.extend(ours.hand_offs);
        notifications.extend(notified);
    }
    row("NOTIFY p50, from the request to another connection of 8", notifications.median(), "us", "");
    row("hand-off p50", hand_offs.median(), "us", "");
    row("hand-off p50 / NOTIFY p50, 8 connections listen", median(told), "x", "goal <= 1.5");
    row("hand-off p50 / NOTIFY p50, 1 connection listens", median(alone), "x", "");
    row("hand-off p50 / that of pg_advisory_lock", median(blocked), "x", "goal <= 1.2");
    row("grants/s / pg_try_advisory_lock polled at 10 ms", median(polled), "x", "goal >= 3");
    row("hand-off p50 / that of those who poll", median(polled_hand_off), "x", "");
    row("least/most grants of an owner", median(fairness), "", "");
    row("least/most grants of an owner who polls", median(polled_fairness), "", "");
    crowds(said, url).await;
}

/// Owners on a connection each.
async fn owners<Owner>(url: &str, owner: fn(Raw) -> Owner) -> Vec<Owner> {
    connections(url, EAGER.owners).await.into_iter().map(owner).collect()
}

/// Crowds that come at once, each of 8 owners for one turn, as the processes of a job on several hosts do.
async fn crowds(said: &str, url: &str) {
    title(&format!(
        "PostgreSQL, {said}: 8 owners come at once for a turn of 1 ms each (5 rounds of 20 crowds)"
    ));
    let (mut blocked, mut polled, mut all_ours) = (vec![], vec![], vec![]);
    for _ in 0..ROUNDS {
        let ours = contend::crowds(contend::ours(url, "bench-crowds", 8, 8).await, EAGER.hold).await;
        let blocking = contend::crowds(owners(url, Blocking).await, EAGER.hold).await;
        let polling = contend::crowds(owners(url, Polling).await, EAGER.hold).await;
        all_ours.push(ours);
        blocked.push(ours / blocking);
        polled.push(ours / polling);
    }
    row("grants/s", median(all_ours), "", "");
    row("grants/s / pg_advisory_lock", median(blocked), "x", "");
    row("grants/s / pg_try_advisory_lock polled at 10 ms", median(polled), "x", "goal >= 3");
}

/// Hand-offs with few and with many waiters behind them: what a waiter costs those in front of it.
async fn waiters(said: &str, url: &str) {
    title(&format!("PostgreSQL, {said}: hand-offs with 10 to 60 and with 10000 waiters on one name"));
    let mut medians = vec![];
    for crowd in [60, 10_000] {
        let manager = LockManager::connect(url).await.expect("the server is there");
        let hand_offs = behind(&manager, &format!("bench-crowd-{crowd}"), crowd).await;
        row(&format!("hand-off p50, {crowd} waiters at first"), hand_offs.median(), "us", "");
        medians.push(hand_offs.median());
        manager.close().await;
    }
    row("with 10000 / with 10 to 60", medians[1] / medians[0], "x", "flat: about 1");
}

/// The times of 50 hand-offs, after one that is not counted, with a crowd behind the first holder.
async fn behind(manager: &LockManager, name: &str, crowd: usize) -> Times {
    let lock = manager.mutex(name);
    let mut held = lock.acquire().await.expect("the lock is free");
    let mut tasks: FuturesUnordered<_> = (0..crowd)
        .map(|_| {
            let lock = lock.clone();
            tokio::spawn(async move {
                let guard = lock.acquire().await.expect("it is granted");
                (Instant::now(), guard)
            })
        })
        .collect();
    while manager.inspect(name).await.expect("it is listed").len() <= crowd {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut hand_offs = vec![];
    for _ in 0..=50 {
        let released = Instant::now();
        held.release().await.expect("it is held");
        let next = tasks.next().await.expect("somebody waits");
        let (granted, guard) = next.expect("no task fails");
        hand_offs.push(granted.saturating_duration_since(released));
        held = guard;
    }
    tasks.iter().for_each(JoinHandle::abort);
    let mut times = Times::default();
    hand_offs.into_iter().skip(1).for_each(|time| times.push(time));
    times
}
