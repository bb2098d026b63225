//! `inspect`: who waits for whom.

use super::{Store, until};
use crate::support::{Running, TestStore};

/// A process that holds one lock and waits for another.
fn holds_and_waits(store: &Store, first: &str, second: &str, ready: &TestStore) -> Running {
    let script = format!(
        "\"$0\" hold -b --pid $$ --label {first}-{second} {first} && touch $1/{first} && \
         until [ -e $1/{second} ]; do sleep 0.02; done; \
         exec \"$0\" hold --pid $$ --label {first}-{second} {second}"
    );
    let mut command = std::process::Command::new("bash");
    command.args(["-c", &script, env!("CARGO_BIN_EXE_globallock")]).arg(ready.path(""));
    Running::start(command.env("GLOBALLOCK_URL", store.url()).env_remove("GLOBALLOCK_URL_FILE"))
}

#[test]
fn a_deadlock_over_several_locks_is_shown_by_each_of_them_and_by_no_other() {
    let store = Store::redis();
    let ready = TestStore::new();
    let _both = [holds_and_waits(&store, "a", "b", &ready), holds_and_waits(&store, "b", "a", &ready)];
    let _other = [store.hold(&[], "c"), store.queue(&[], "c")];
    for name in ["a", "b"] {
        until(&store, name, |claims| claims.len() == 2);
    }
    for name in ["a", "b"] {
        let queue = store.json(&["inspect", name]).remove(0);
        let deadlocks = queue["deadlocks"].as_array().unwrap();
        assert_eq!((deadlocks.len(), deadlocks[0].as_array().unwrap().len()), (1, 2), "{queue}");
        let shown = store.ended(&["inspect", name]).output;
        for line in [
            "Deadlock: each of these waits for the next",
            "  b-a (pid ",
            " waits for \"a\", held by a-b (pid ",
        ] {
            assert!(shown.contains(line), "{line}: {shown}");
        }
    }
    let queue = store.json(&["inspect", "c"]).remove(0);
    assert_eq!(queue["deadlocks"].as_array().map(Vec::len), Some(0));
    assert!(!store.ended(&["inspect", "c"]).output.contains("Deadlock"));
}

#[test]
fn a_queue_is_shown_in_its_order_with_what_each_waits_for() {
    let store = Store::file();
    let _all = [
        store.hold(&["--shared", "--label", "reader"], "a"),
        store.queue(&["--label", "writer"], "a"),
        store.queue(&["--shared", "--label", "late"], "a"),
    ];
    let shown = store.ended(&["inspect", "a"]).output;
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("\"a\": one holds it, 2 wait; store file://"), "{shown}");
    let begin = |line: &str| line.split_whitespace().take(3).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(begin(lines[1]), ["PLACE", "MODE", "OWNER"]);
    assert_eq!(begin(lines[2]), ["held", "read", "reader"]);
    assert_eq!(begin(lines[3]), ["1", "mutex", "writer"]);
    assert_eq!(begin(lines[4]), ["2", "read", "late"]);
    assert!(lines[3].contains("  reader (pid ") && lines[4].contains("  writer (pid "), "{shown}");
}

#[test]
fn a_search_for_deadlocks_that_fails_is_told_and_hides_no_queue() {
    let store = Store::redis();
    let _all = [store.hold(&[], "a"), store.queue(&[], "a")];
    let Store::Redis(server) = &store else { unreachable!() };
    // The queue is read by a script, and the names are listed by SCAN.
    server.cli(&["ACL", "SETUSER", "default", "-scan"]);
    let shown = store.ended(&["inspect", "a", "-o", "json"]);
    assert_eq!(shown.status, Some(0), "{}", shown.error);
    assert!(shown.error.starts_with("globallock: deadlocks could not be looked for: "), "{}", shown.error);
    let queue: serde_json::Value = serde_json::from_str(&shown.output).unwrap();
    assert_eq!(
        (queue["claims"].as_array().unwrap().len(), &queue["deadlocks"]),
        (2, &serde_json::Value::Null)
    );
}
