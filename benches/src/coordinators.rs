//! The figures of the stores in etcd and ZooKeeper, compared with raw round trips and with the peers.

use std::time::{Duration, Instant};

use globallock::LockManager;
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::peers;
use globallock_conformance::server::zookeeper::ZooKeeper;

use crate::contend::{self, Workload};
use crate::etcd_raw::{LockService, Raw};
use crate::pairs;
use crate::peers::{contends, pairs_per_second};
use crate::sections::{row, title};
use crate::statistics::{Times, median};

/// 8 owners that ask again at once.
const EAGER: Workload = Workload {
    owners: 8,
    hold: Duration::from_millis(1),
    think: Duration::ZERO,
    run: Duration::from_secs(4),
};
const ROUNDS: usize = 5;
const TASKS: usize = 64;
const RUN: Duration = Duration::from_secs(2);

/// The figures of etcd, with one member.
pub(crate) async fn etcd() {
    let cluster = Etcd::start(1).expect("etcd starts");
    let url = cluster.url();
    title("etcd: uncontended acquire + release of a mutex (5 rounds, interleaved)");
    let python = peers::python_etcd3().expect("python-etcd3 can be installed");
    let hosts = cluster.endpoints();
    let (mut against_raw, mut against_python) = (Vec::new(), Vec::new());
    let (mut all_raw, mut all_ours) = (Times::default(), Times::default());
    for _ in 0..ROUNDS {
        let (raw, ours) = etcd_pairs(&url).await;
        against_raw.push(ours.median() / raw.median());
        all_raw.extend(raw);
        all_ours.extend(ours);
        let theirs = pairs_per_second(&python, "etcd3_lock.py", &hosts).await;
        against_python.push(sequential(&url, "bench-etcd").await / theirs);
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

/// The pairs per second of one task.
async fn sequential(url: &str, name: &str) -> f64 {
    let manager = LockManager::connect(url).await.expect("the store is there");
    let lock = manager.mutex(name);
    let (began, mut done) = (Instant::now(), 0_u32);
    while began.elapsed() < RUN {
        let guard = lock.acquire().await.expect("the lock is free");
        guard.release().await.expect("the lock is held");
        done += 1;
    }
    f64::from(done) / began.elapsed().as_secs_f64()
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

/// The figures of ZooKeeper, with one server. The server is used for a while first, because a cold JVM takes
/// twice the time.
pub(crate) async fn zookeeper() {
    let ensemble = ZooKeeper::start(1).expect("ZooKeeper starts");
    let url = ensemble.url();
    let python = peers::python().expect("kazoo can be installed");
    let hosts = ensemble.hosts();
    for _ in 0..3 {
        pairs::per_second(&url, TASKS, RUN).await;
        sequential(&url, "bench-warm").await;
    }
    title("ZooKeeper: uncontended acquire + release of a mutex (5 rounds, interleaved)");
    let (mut ours, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let theirs = pairs_per_second(&python, "kazoo_lock.py", &hosts).await;
        ours.push(sequential(&url, "bench-zookeeper").await);
        ratios.push(ours[ours.len() - 1] / theirs);
    }
    row("pairs/s", median(ours), "", "");
    row("pairs/s / kazoo's", median(ratios), "x", "goal >= 1.7");

    title(
        "ZooKeeper: 8 owners on 8 sessions, 1 ms held, no thinking (3 rounds of 4 s; kazoo in 8 processes)",
    );
    let (mut hand_offs, mut grants, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..3 {
        let theirs = contends(&python, "kazoo_lock.py", &hosts, EAGER).await;
        let ours = contend::run(contend::ours(&url, "bench-zookeeper", 8, 8).await, EAGER).await;
        hand_offs.push(ours.hand_offs.median());
        grants.push(ours.grants_per_second / theirs.grants_per_second);
        ratios.push(ours.hand_offs.median() / theirs.hand_offs.median());
    }
    row("hand-off p50", median(hand_offs), "us", "");
    row("hand-off p50 / kazoo's", median(ratios), "x", "goal <= 0.65");
    row("grants/s / kazoo's", median(grants), "x", "");

    title("ZooKeeper: 64 tasks on names of their own through one manager (2 s)");
    let alone = sequential(&url, "bench-zookeeper").await;
    let pairs = pairs::per_second(&url, TASKS, RUN).await;
    let puts = crate::zookeeper_raw::writes_per_second(ensemble.port(0), TASKS, RUN).await;
    row("pairs/s", pairs, "", "");
    row("pairs/s / those of one task", pairs / alone, "x", "");
    row("writes/s (2 a pair) / raw concurrent writes/s", pairs * 2.0 / puts, "x", "");
}
