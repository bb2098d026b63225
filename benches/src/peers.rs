//! The peers on the same workload: 1 ms held, 3 ms thinking. The pause is long enough that no owner can take
//! the lock again before the others, which would inflate the figures.

use std::path::{Path, PathBuf};
use std::time::Duration;

use globallock_conformance::server::peers::{node_modules, python};
use serde::Deserialize;
use tokio::process::Command;

use crate::contend::{self, Contender, Outcome, Workload};
use crate::pairs;
use crate::statistics::Times;

const WORKLOAD: Workload = Workload {
    owners: 8,
    hold: Duration::from_millis(1),
    think: Duration::from_millis(3),
    run: Duration::from_secs(4),
};

/// The output of a peer's program; times in seconds.
#[derive(Deserialize)]
struct Printed {
    ping: f64,
    hand_offs: Vec<f64>,
    grants: Vec<usize>,
    utilisation: f64,
    grants_per_second: f64,
}

/// Runs globallock and every peer.
pub(crate) async fn compare(port: u16) {
    println!(
        "\n8 owners on 8 connections, 1 ms held, 3 ms thinking, 4 s each (hand-offs between different owners)"
    );
    println!(
        "  {:<34} {:>9} {:>11} {:>10} {:>10} {:>9} {:>12}",
        "", "grants/s", "utilisation", "p50 us", "p99 us", "p50/PING", "least/most"
    );
    let url = format!("redis://127.0.0.1:{port}");
    let mut connection = pairs::connect(port).await;
    let mut pings = Times::default();
    for _ in 0..2000 {
        pings.push(pairs::ping(&mut connection).await);
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

/// The workload as arguments of a peer's program: owners, hold, think and run.
fn arguments(workload: Workload) -> [String; 4] {
    let seconds = |time: Duration| time.as_secs_f64().to_string();
    let Workload { owners, hold, think, run } = workload;
    [owners.to_string(), seconds(hold), seconds(think), seconds(run)]
}

/// Runs a peer's contended workload.
pub(crate) async fn contends(python: &Path, file: &str, hosts: &str, workload: Workload) -> Outcome {
    let mut command = Command::new(python);
    outcome(command.arg(peer(file)).args([hosts, "contend"]).args(arguments(workload))).await.1
}

/// The uncontended pairs per second of a peer.
pub(crate) async fn pairs_per_second(python: &Path, file: &str, hosts: &str) -> f64 {
    #[derive(Deserialize)]
    struct Pairs {
        pairs_per_second: f64,
    }
    let mut command = Command::new(python);
    let printed: Pairs = printed(command.arg(peer(file)).args([hosts, "pairs", "2"])).await;
    printed.pairs_per_second
}

async fn outcome(command: &mut Command) -> (f64, Outcome) {
    let printed: Printed = printed(command).await;
    let mut hand_offs = Times::default();
    for seconds in printed.hand_offs {
        hand_offs.push(Duration::from_secs_f64(seconds.max(0.0)));
    }
    let outcome = Outcome {
        hand_offs,
        grants: printed.grants,
        utilisation: printed.utilisation,
        grants_per_second: printed.grants_per_second,
    };
    (printed.ping * 1e6, outcome)
}

async fn printed<T: for<'a> Deserialize<'a>>(command: &mut Command) -> T {
    let output = command.output().await.expect("the peer's interpreter is installed");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the peer prints its outcome")
}

fn peer(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(file)
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
