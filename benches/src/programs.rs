//! The peers that are programs of their own, in other languages.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tokio::process::Command;

use crate::contend::{Outcome, Workload};
use crate::statistics::Times;

/// The output of a peer's program; times in seconds.
#[derive(Deserialize)]
struct Printed {
    ping: f64,
    hand_offs: Vec<f64>,
    grants: Vec<usize>,
    utilisation: f64,
    grants_per_second: f64,
}

/// The workload as arguments of a peer's program: owners, hold, think and run.
pub(crate) fn arguments(workload: Workload) -> [String; 4] {
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

pub(crate) async fn outcome(command: &mut Command) -> (f64, Outcome) {
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

pub(crate) fn peer(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(file)
}
