//! The peers on the same workload: 1 ms held, 3 ms thinking. The pause is long enough that no owner can take
//! the lock again before the others, which would inflate the figures.

use std::path::Path;
use std::time::Duration;

use globallock_conformance::server::peers::{node_modules, python};
use tokio::process::Command;

use crate::contend::{self, Contender, Outcome, Workload};
use crate::programs::{arguments, outcome, peer};
use crate::statistics::Times;

const WORKLOAD: Workload = Workload {
    owners: 8,
    hold: Duration::from_millis(1),
    think: Duration::from_millis(3),
    run: Duration::from_secs(4),
};

/// Runs globallock and every peer.
pub(super) async fn compare(port: u16) {
    println!(
        "\n8 owners on 8 connections, 1 ms held, 3 ms thinking, 4 s each (hand-offs between different owners)"
    );
    println!(
        "  {:<34} {:>9} {:>11} {:>10} {:>10} {:>9} {:>12}",
        "", "grants/s", "utilisation", "p50 us", "p99 us", "p50/PING", "least/most"
    );
    let url = format!("redis://127.0.0.1:{port}");
    let mut connection = super::round_trips::connect(port).await;
    let mut pings = Times::default();
    for _ in 0..2000 {
        pings.push(super::round_trips::ping(&mut connection).await);
    }
    let ours = contend::run(contend::ours(&url, "bench-peers", 8, 8).await, WORKLOAD).await;
    show("globallock", pings.median(), &ours);
    for (label, delay) in [("rslock, defaults (200 ms)", 200), ("rslock, retry 1 ms", 1)] {
        let contenders = (0..WORKLOAD.owners).map(|_| Rslock::new(&url, delay)).collect();
        show(label, pings.median(), &contend::run(contenders, WORKLOAD).await);
    }
    let python = python().expect("redis-py can be installed");
    for (label, sleep) in
        [("redis-py Lock, defaults (100 ms)", "0.1"), ("redis-py Lock, sleep 1 ms", "0.001")]
    {
        program(label, Command::new(&python).arg(peer("redis_py.py")), port, sleep, &[]).await;
    }
    let modules = node_modules().expect("node-redlock can be installed");
    for (label, delay) in [("node-redlock, defaults (200 ms)", "200"), ("node-redlock, retry 1 ms", "1")] {
        let environment = [("NODE_PATH", modules.as_path())];
        program(label, Command::new("node").arg(peer("node_redlock.js")), port, delay, &environment).await;
    }
}

fn show(label: &str, ping: f64, outcome: &Outcome) {
    println!(
        "  {label:<34} {:>9.0} {:>11.2} {:>10.0} {:>10.0} {:>9.2} {:>12.2}",
        outcome.grants_per_second,
        outcome.utilisation,
        outcome.hand_offs.median(),
        outcome.hand_offs.percentile(99.0),
        outcome.hand_offs.median() / ping,
        outcome.fairness()
    );
}

async fn program(label: &str, command: &mut Command, port: u16, pace: &str, environment: &[(&str, &Path)]) {
    command.arg(port.to_string()).args(arguments(WORKLOAD)).arg(pace).envs(environment.iter().copied());
    let (ping, outcome) = outcome(command).await;
    show(label, ping, &outcome);
}

/// An owner that uses rslock.
struct Rslock(rslock::LockManager);

impl Rslock {
    fn new(url: &str, retry_milliseconds: u64) -> Self {
        let mut manager = rslock::LockManager::new(vec![url]);
        manager.set_retry(3, Duration::from_millis(retry_milliseconds));
        Rslock(manager)
    }
}

impl Contender for Rslock {
    type Held = rslock::Lock;

    async fn acquire(&mut self) -> Self::Held {
        self.0.acquire_no_guard("bench-rslock", Duration::from_secs(10)).await.expect("the lock is granted")
    }

    async fn release(&mut self, held: Self::Held) {
        self.0.unlock(&held).await;
    }
}
