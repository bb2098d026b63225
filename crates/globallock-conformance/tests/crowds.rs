//! Ten thousand waiters on one name, on every store: `cargo test --test crowds -- redis`.

use std::path::PathBuf;
use std::time::Duration;

use globallock_conformance::crowd::crowd;
use globallock_conformance::fixtures::patient;
use globallock_conformance::pauses::busy;
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;
use globallock_conformance::server::zookeeper::ZooKeeper;
use libtest_mimic::{Arguments, Failed, Trial};

/// The lease of all claims on an idle machine. It is longer on a busy one.
const LEASE: Duration = Duration::from_secs(5);
/// The longest that one store may take.
const LIMIT: Duration = Duration::from_secs(180);

fn main() {
    let mut arguments = Arguments::from_args();
    // One at a time, because each crowd uses the whole machine.
    arguments.test_threads.get_or_insert(1);
    let trials = vec![
        trial("memory", |lease| run("memory:crowds", None, lease)),
        trial("file", |lease| {
            let directory = tempfile::tempdir().expect("a directory can be made");
            run(&format!("file://{}", directory.path().join("locks").display()), child(), lease);
        }),
        trial("redis", |lease| serve(&Redis::start().expect("a Redis server starts").url(), lease)),
        trial("etcd", |lease| serve(&Etcd::start(1).expect("an etcd server starts").url(), lease)),
        trial("zookeeper", |lease| {
            serve(&ZooKeeper::start(1).expect("a ZooKeeper server starts").url(), lease);
        }),
    ];
    libtest_mimic::run(&arguments, trials).exit();
}

fn trial(store: &str, run: fn(Duration)) -> Trial {
    let name = format!("{store}::ten_thousand_waiters_on_one_name_cost_nobody_a_lock");
    Trial::test(name, move || {
        run(LEASE * busy());
        Ok::<(), Failed>(())
    })
}

/// The program of the members that are killed.
fn child() -> Option<PathBuf> {
    Some(PathBuf::from(env!("CARGO_BIN_EXE_globallock-child")))
}

/// Runs the crowd on a server.
fn serve(url: &str, lease: Duration) {
    run(&patient(url), child(), lease);
}

fn run(url: &str, child: Option<PathBuf>, lease: Duration) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime can be made");
    let ended = runtime.block_on(async { tokio::time::timeout(LIMIT, crowd(url, child, lease)).await });
    runtime.shutdown_background();
    assert!(ended.is_ok(), "it takes longer than {LIMIT:?}");
}
