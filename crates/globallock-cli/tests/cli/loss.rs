//! What happens to the command when its lock is lost.

use crate::support::{Running, TestStore, globallock, wait_gone};
use globallock_conformance::server::redis::Redis;

#[test]
fn a_lost_lock_ends_the_command() {
    let store = TestStore::new();
    let script = "trap 'echo told; exit 0' TERM; echo ready; while read _; do :; done";
    let run = store.start(&["--lease", "300ms", "a", "--", "bash", "-c", script]);
    run.says("ready");
    for claim in store.claims("a") {
        std::fs::remove_file(claim).unwrap();
    }
    run.warns("\"a\" is lost: the store has no such claim any more");
    run.says("told");
    assert_eq!(run.end(), Some(76));
}

#[test]
fn a_command_that_does_not_end_is_killed() {
    let store = TestStore::new();
    let script = "trap '' TERM; echo ready; while read _; do :; done";
    let run = store.start(&["--max-hold", "400ms", "--grace", "100ms", "a", "--", "bash", "-c", script]);
    run.says("ready");
    run.warns("\"a\" was held for its --max-hold of 400 ms; the command is told to end");
    run.warns("has not ended within 100 ms and is killed");
    assert_eq!(run.end(), Some(76));
}

#[test]
fn processes_that_the_command_has_started_end_too() {
    let store = TestStore::new();
    let script = "(trap '' TERM; exec sleep 1000) & echo $!; wait";
    let run = store.start(&["--max-hold", "400ms", "--grace", "100ms", "a", "--", "bash", "-c", script]);
    let below = run.says("");
    run.warns("\"a\" was held for its --max-hold of 400 ms; the command is told to end");
    assert_eq!(run.end(), Some(76));
    wait_gone(&below);
}

#[test]
fn a_stopped_command_ends_when_its_lock_is_lost() {
    let store = TestStore::new();
    let run = store.start(&["--max-hold", "500ms", "a", "--", "bash", "-c", "echo ready; kill -STOP $$"]);
    run.says("ready");
    run.warns("was held for its --max-hold");
    assert_eq!(run.end(), Some(76));
}

#[test]
fn a_store_that_is_gone_ends_the_command_within_the_lease() {
    let mut server = Redis::start().unwrap();
    let mut command = globallock();
    command.args(["run", "--lease", "1s", "--url", &server.url(), "a", "--"]);
    let run = Running::start(command.args(["bash", "-c", "echo ready; while read _; do :; done"]));
    run.says("ready");
    server.kill();
    run.warns("its lease expired: no renewal was confirmed in time");
    assert_eq!(run.end(), Some(76));
}

#[test]
fn a_store_that_comes_back_in_time_loses_nothing() {
    let mut server = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let mut command = globallock();
    command.args(["run", "--lease", "20s", "--url", &server.url(), "a", "--"]);
    let mut run = Running::start(command.args(["bash", "-c", "echo ready; read _; exit 5"]));
    run.says("ready");
    server.kill();
    server.resume_after_kill().unwrap();
    run.write("\n");
    assert_eq!(run.end(), Some(5));
    assert_eq!(server.cli(&["EXISTS", "_glocks:a"]), "0");
}
