//! The same on every store.

use std::time::{Duration, Instant};

use super::Store;

/// What every store must show of one holder and one waiter.
fn is_listed_and_inspected(store: &Store) {
    assert_eq!(store.ended(&["status", "-q", "job/a"]).status, Some(0));
    let held = store.hold(&["--label", "first"], "job/a");
    let waits = store.queue(&["--label", "second"], "job/a");
    let rows = store.json(&["ls"]);
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    assert_eq!((row["name"].as_str(), row["mode"].as_str()), (Some("job/a"), Some("mutex")));
    assert_eq!((row["holders"].as_u64(), row["waiters"].as_u64()), (Some(1), Some(1)));
    let holder = &row["holder"];
    assert_eq!(
        (holder["label"].as_str(), holder["pid"].as_u64()),
        (Some("first"), Some(std::process::id().into()))
    );
    assert!(holder["age_seconds"].is_f64() && holder["fencing_token"].as_u64() > Some(0), "{row}");
    assert!(row["oldest_wait_seconds"].is_f64(), "{row}");
    let queue = store.json(&["inspect", "job/a"]).remove(0);
    let claims = queue["claims"].as_array().unwrap();
    assert_eq!(claims[0]["claim"], holder["claim"]);
    assert_eq!((claims[1]["label"].as_str(), claims[1]["place"].as_u64()), (Some("second"), Some(1)));
    let wait = &queue["waits"][0];
    assert_eq!((&wait["claim"], &wait["blocked_by"]), (&claims[1]["claim"], &claims[0]["claim"]));
    assert_eq!(queue["deadlocks"].as_array().map(Vec::len), Some(0));
    let status = store.ended(&["status", "job/a"]);
    assert_eq!(status.status, Some(1));
    assert!(
        status.output.starts_with("\"job/a\" is taken, held by first (pid ")
            && status.output.ends_with("; one waits\n"),
        "{}",
        status.output
    );
    let wait = store.ended(&["wait", "--wait", "200ms", "job/a"]);
    assert_eq!((wait.status, wait.output.as_str()), (Some(75), ""));
    assert!(wait.error.starts_with("globallock: \"job/a\" was not free within "), "{}", wait.error);
    let wait = store.start(&["wait", "-v", "job/a"]);
    wait.warns("waiting until \"job/a\" is free, held by first ");
    held.end();
    let (_, until) = (wait.warns("free, held by second "), Instant::now() + Duration::from_secs(30));
    waits.end();
    assert_eq!(wait.end(), Some(0));
    assert!(Instant::now() < until);
    let queue = store.ended(&["inspect", "job/a"]);
    assert_eq!(queue.status, Some(0));
    assert!(
        queue.output.starts_with("\"job/a\" is free: nobody holds it or waits for it; store "),
        "{queue:?}"
    );
}

#[test]
fn a_directory_shows_its_locks() {
    is_listed_and_inspected(&Store::file());
}

#[test]
fn redis_shows_its_locks() {
    is_listed_and_inspected(&Store::redis());
}

#[test]
fn etcd_shows_its_locks() {
    is_listed_and_inspected(&Store::etcd());
}

#[test]
fn zookeeper_shows_its_locks() {
    is_listed_and_inspected(&Store::zookeeper());
}
