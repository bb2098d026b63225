//! What happens to runs that somebody takes away, by the library.

use std::time::Instant;

use globallock::blocking::LockManager;
use globallock::{Entry, ManagerOptions, Release};

use crate::support::{LIMIT, TestStore};

/// Takes out the claim at this place of the queue of the lock `a`, once the queue has this many claims.
fn evict(store: &TestStore, count: usize, nth: usize, reason: &str) {
    let manager = LockManager::connect_with(&store.url(), ManagerOptions::new().label("alice")).unwrap();
    let until = Instant::now() + LIMIT;
    let queue: Vec<Entry> = loop {
        let queue = manager.inspect("a").unwrap();
        if queue.len() == count {
            break queue;
        }
        assert!(Instant::now() < until, "{count} claims are expected: {queue:?}");
        std::thread::yield_now();
    };
    assert_eq!(manager.evict("a", &queue[nth].key, reason).unwrap(), Release::Released);
}

#[test]
fn a_run_whose_lock_was_taken_away_is_told_to_end_and_says_who_did_it_and_why() {
    let store = TestStore::new();
    let script = "trap 'echo told; exit 0' TERM; echo ready; while read _; do :; done";
    let run = store.start(&["a", "--", "bash", "-c", script]);
    run.says("ready");
    evict(&store, 1, 0, "it hangs");
    let said = run.warns("\"a\" is lost: it was broken by alice (pid ");
    assert!(said.ends_with(": it hangs; the command is told to end"), "{said}");
    run.says("told");
    assert_eq!(run.end(), Some(76));
    assert!(store.claims("a").is_empty());
}

#[test]
fn a_run_that_was_taken_out_of_the_queue_runs_nothing_and_is_never_silent() {
    let store = TestStore::new();
    let first = store.start(&["a", "--", "sh", "-c", "echo ready; read _"]);
    first.says("ready");
    let waits = store.start(&["--quiet", "-E", "0", "a", "--", "sh", "-c", "echo ran >&2"]);
    evict(&store, 2, 1, "not today");
    let said = waits.warns("");
    assert!(
        said.contains("\"a\" is not waited for any more: the claim was evicted by alice (pid "),
        "{said}"
    );
    assert!(said.ends_with(": not today"), "{said}");
    assert_eq!(waits.end(), Some(76));
    assert_eq!(store.run(&["-n", "a", "--", "true"]).status, Some(75), "the holder stays");
}
