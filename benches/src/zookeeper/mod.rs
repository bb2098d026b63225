//! The figures of ZooKeeper, compared with raw round trips and with the peers.

mod raw;

use std::time::Duration;

use globallock_conformance::server::peers;

use crate::contend::{self, EAGER};
use crate::pairs;
use crate::programs::{contends, pairs_per_second};
use crate::report::{row, title};
use crate::started;
use crate::statistics::median;

const ROUNDS: usize = 5;
const TASKS: usize = 64;
const RUN: Duration = Duration::from_secs(2);

/// The figures of ZooKeeper, with one server. The server is used for a while first, because a cold JVM takes
/// twice the time.
pub(crate) async fn run() {
    let ensemble = started("zookeeper");
    let url = ensemble.url();
    let python = peers::python().expect("kazoo can be installed");
    let hosts = format!("127.0.0.1:{}", ensemble.ports()[0]);
    for _ in 0..3 {
        pairs::per_second(&url, TASKS, RUN).await;
        pairs::sequential(&url, "bench-warm", RUN).await;
    }
    title("ZooKeeper: uncontended acquire + release of a mutex (5 rounds, interleaved)");
    let (mut ours, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let theirs = pairs_per_second(&python, "kazoo_lock.py", &hosts).await;
        ours.push(pairs::sequential(&url, "bench-zookeeper", RUN).await);
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
    let alone = pairs::sequential(&url, "bench-zookeeper", RUN).await;
    let pairs = pairs::per_second(&url, TASKS, RUN).await;
    let puts = raw::writes_per_second(ensemble.ports()[0], TASKS, RUN).await;
    row("pairs/s", pairs, "", "");
    row("pairs/s / those of one task", pairs / alone, "x", "");
    row("writes/s (2 a pair) / raw concurrent writes/s", pairs * 2.0 / puts, "x", "");
}
