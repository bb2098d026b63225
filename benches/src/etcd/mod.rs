//! The figures of etcd, compared with raw round trips and with the peers.

mod raw;

use std::time::{Duration, Instant};

use globallock::LockManager;
use globallock_conformance::server::peers;

use crate::contend::{self, EAGER};
use crate::pairs;
use crate::programs::pairs_per_second;
use crate::report::{row, title};
use crate::started;
use crate::statistics::{Times, median};
use raw::{LockService, Raw};

const ROUNDS: usize = 5;
const TASKS: usize = 64;
const RUN: Duration = Duration::from_secs(2);

/// The figures of etcd, with one member.
pub(crate) async fn run() {
    let cluster = started("etcd");
    let url = cluster.url();
    title("etcd: uncontended acquire + release of a mutex (5 rounds, interleaved)");
    let python = peers::python_etcd3().expect("python-etcd3 can be installed");
    let hosts = format!("http://127.0.0.1:{}", cluster.ports()[0]);
    let (mut against_raw, mut against_python) = (Vec::new(), Vec::new());
    let (mut all_raw, mut all_ours) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        let (raw, ours) = etcd_pairs(&url).await;
        against_raw.push(ours.median() / raw.median());
        all_raw.extend(raw);
        all_ours.extend(ours);
        let theirs = pairs_per_second(&python, "etcd3_lock.py", &hosts).await;
        against_python.push(pairs::sequential(&url, "bench-etcd", RUN).await / theirs);
    }
    row("transaction + delete p50", all_raw.median(), "us", "");
    row("pair p50", all_ours.median(), "us", "");
    row("pair p50 / (transaction + delete) p50", median(against_raw), "x", "goal <= 1.1");
    row("pairs/s / python-etcd3's", median(against_python), "x", "goal >= 2.2");

    title("etcd: 8 owners on 8 connections, 1 ms held, no thinking (4 s)");
    let ours = contend::run(contend::ours(&url, "bench-etcd", 8, 8).await, EAGER).await;
    let mut services = Vec::new();
    for _ in 0..8 {
        let mut raw = Raw::connect(&url).await;
        let lease = raw.lease(Duration::from_secs(60)).await;
        services.push(LockService { raw, lease });
    }
    let service = contend::run(services, EAGER).await;
    row("grants/s", ours.grants_per_second, "", "");
    row("hand-off p50", ours.hand_offs.median(), "us", "");
    row(
        "grants/s / the Lock service's",
        ours.grants_per_second / service.grants_per_second,
        "x",
        "goal >= 5",
    );
    row("least/most grants of an owner", ours.fairness(), "", "");

    title("etcd: 64 tasks on names of their own through one manager (2 s)");
    let mut raw = Raw::connect(&url).await;
    raw.put("bench-warm").await;
    let puts = puts_per_second(&raw).await;
    let pairs = pairs::per_second(&url, TASKS, RUN).await;
    row("pairs/s", pairs, "", "");
    row("writes/s (2 a pair) / raw concurrent puts/s", pairs * 2.0 / puts, "x", "");
}

/// Times raw pairs and pairs of globallock, some of each in turn.
async fn etcd_pairs(url: &str) -> (Times, Times) {
    let mut raw = Raw::connect(url).await;
    let lease = raw.lease(Duration::from_secs(60)).await;
    let manager = LockManager::connect(url).await.expect("the cluster is there");
    let lock = manager.mutex("bench-etcd");
    let (mut plain, mut ours) = (Times::default(), Times::default());
    for row in 0..60 {
        if row == 10 {
            (plain, ours) = (Times::default(), Times::default());
        }
        for _ in 0..20 {
            let began = Instant::now();
            raw.put_and_range("bench-raw/", "bench-raw/one", lease).await;
            raw.delete("bench-raw/one").await;
            plain.push(began.elapsed());
        }
        for _ in 0..20 {
            let began = Instant::now();
            let guard = lock.acquire().await.expect("the lock is free");
            guard.release().await.expect("the lock is held");
            ours.push(began.elapsed());
        }
    }
    (plain, ours)
}

/// The raw puts per second of 64 tasks on one connection.
async fn puts_per_second(raw: &Raw) -> f64 {
    let began = Instant::now();
    let tasks: Vec<_> = (0..TASKS)
        .map(|task| {
            let (mut raw, key) = (raw.clone(), format!("bench-put-{task}"));
            tokio::spawn(async move {
                let mut done = 0_u32;
                while began.elapsed() < RUN {
                    raw.put(&key).await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.expect("no task fails");
    }
    f64::from(done) / began.elapsed().as_secs_f64()
}
