//! `ls --watch`: what changes, as it changes.

use globallock_conformance::server::redis::Redis;
use serde_json::{Value, json};

use super::Store;
use crate::support::Running;

fn next(watch: &Running) -> Value {
    serde_json::from_str(&watch.first().expect("a change is told")).unwrap()
}

#[test]
fn each_change_is_a_line_and_the_time_that_passes_is_none() {
    let store = Store::redis();
    let _other = store.hold(&[], "other");
    let mut first = store.hold(&["--label", "one"], "a");
    let watch = store.start(&["ls", "a", "--watch", "--interval", "100ms", "-o", "json"]);
    let listed = next(&watch);
    assert!(listed["time"].as_str().unwrap().ends_with('Z'), "{listed}");
    assert_eq!((&listed["change"], &listed["name"]), (&json!("listed"), &json!("a")));
    assert_eq!(listed["lock"]["holder"]["label"], "one");
    let second = store.queue(&["--label", "two"], "a");
    let waits = next(&watch);
    assert_eq!((&waits["change"], &waits["lock"]["waiters"]), (&json!("changed"), &json!(1)));
    first.close_input();
    let handed_over = next(&watch);
    assert_eq!(handed_over["lock"]["holder"]["label"], "two", "{handed_over}");
    assert_eq!(handed_over["lock"]["waiters"], 0);
    second.end();
    let removed = next(&watch);
    assert_eq!((&removed["change"], &removed["lock"]), (&json!("removed"), &Value::Null));
    watch.signal("TERM");
    assert_eq!(watch.end(), Some(143));
}

#[test]
fn what_is_not_asked_for_any_more_is_told_once() {
    let store = Store::file();
    let _held = store.hold(&[], "a");
    let waits = store.queue(&[], "a");
    let watch = store.start(&["ls", "--waiting", "-w", "--interval", "100ms"]);
    let listed = watch.first().unwrap();
    assert!(listed.contains("Z a mutex, held by ") && listed.ends_with(", waiting 1"), "{listed}");
    waits.end();
    let unlisted = watch.first().unwrap();
    assert!(unlisted.ends_with(", not listed any more"), "{unlisted}");
}

#[test]
fn a_store_that_goes_and_comes_back_is_told_and_watched_on() {
    let mut server = Redis::start().unwrap();
    let url = server.url();
    let mut command = crate::support::globallock();
    command.env("GLOBALLOCK_URL", &url).args(["ls", "-w", "--interval", "100ms", "--timeout", "500ms"]);
    let watch = Running::start(&mut command);
    server.kill();
    let told = watch.warns("globallock: ");
    assert!(told.contains(" not all locks can be listed: ") && told.contains(&url), "{told}");
    server.resume_after_kill().unwrap();
    watch.warns("all locks can be listed again");
    let mut hold = crate::support::globallock();
    let hold = Running::start(hold.env("GLOBALLOCK_URL", &url).args(["hold", "new"]));
    hold.says("");
    watch.says("new mutex, held by ");
}
