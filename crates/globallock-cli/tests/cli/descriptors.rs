//! Limits of open files that are too low.

use std::path::Path;
use std::process::Command;

use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;
use globallock_conformance::server::zookeeper::ZooKeeper;

use crate::support::{Running, TestStore, ended, globallock};

/// What takes the lock. It says one line when the lock is held.
const USES: [&str; 3] = [
    "exec globallock run -q a -- echo held",
    "globallock hold -q --background a && echo held",
    // Its input is a pipe.
    "exec globallock hold -q a",
];

/// Runs a script with this limit. Returns whether the lock was to be had, and checks that otherwise one line
/// says why, and that the lock is free afterwards.
fn is_held(url: &str, limit: usize, script: &str) -> bool {
    let program = Path::new(env!("CARGO_BIN_EXE_globallock")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("dash");
    shell.args(["-c", &format!("ulimit -n {limit}; {script}")]);
    shell.env("PATH", path).env("GLOBALLOCK_URL", url).env_remove("GLOBALLOCK_URL_FILE");
    let running = Running::start(&mut shell);
    // Where the input matters, its end ends what holds the lock.
    let output: Vec<String> = running.first().into_iter().collect();
    let (status, error) = running.end_and_warned();
    let seen = format!("{limit} open files, {url}, {script}: {status:?} {output:?} {error:?}");
    let free = ended(globallock().env("GLOBALLOCK_URL", url).args(["run", "-w30s", "a", "--", "true"]));
    assert_eq!(free.status, Some(0), "it is not free; {seen}");
    if status == Some(0) {
        assert!(output.len() == 1 && (output == ["held"] || output[0].parse::<u64>().is_ok()), "{seen}");
        assert_eq!(error, [""; 0], "{seen}");
        return true;
    }
    assert_eq!((status, output), (Some(70), vec![]), "{seen}");
    let why = "globallock: too few files may be open at a time: raise the limit of open files (ulimit -n)";
    assert_eq!(error, [why], "{seen}");
    false
}

#[test]
fn too_low_a_limit_is_told_and_nothing_is_taken() {
    let store = TestStore::new();
    for script in USES {
        // With less, the system does not load the program.
        let held: Vec<bool> = (4..40).map(|limit| is_held(&store.url(), limit, script)).collect();
        assert!(held.is_sorted() && !held[0] && held[35], "more is never worse: {script}: {held:?}");
    }
}

#[test]
fn a_limit_that_is_accepted_suffices_for_a_store_on_the_network() {
    let redis = Redis::start().unwrap();
    let etcd = Etcd::start(3).unwrap();
    let zookeeper = ZooKeeper::start(1).unwrap();
    for url in [redis.url(), etcd.url(), zookeeper.url()] {
        for script in USES {
            // Around the lowest one that is accepted.
            let held: Vec<bool> = (24..32).map(|limit| is_held(&url, limit, script)).collect();
            assert!(held.is_sorted() && !held[0] && held[7], "{url}: {script}: {held:?}");
        }
    }
}
