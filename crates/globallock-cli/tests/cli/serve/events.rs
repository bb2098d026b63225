//! What is told while it happens.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::http::Connection;
use super::{Server, holder, served};
use crate::support::eventually;

/// Follows the locks, and returns the connection and the first event.
fn follow(server: &Server) -> (Connection, Value) {
    let mut connection = server.connect();
    connection.send("GET", "/api/events", &[], "");
    let (status, headers) = connection.head().unwrap();
    assert_eq!((status, &*headers["content-type"]), (200, "text/event-stream"));
    let (kind, first) = connection.event().unwrap();
    assert_eq!(kind, "rows");
    (connection, first["news"].clone())
}

/// The next news that are so.
fn news(connection: &mut Connection, is_it: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..1000 {
        let (_, data) = connection.event().expect("it goes on");
        if is_it(&data["news"]) {
            return data["news"].clone();
        }
    }
    panic!("it was not told in 1000 events");
}

fn names(rows: &Value) -> BTreeSet<&str> {
    rows.as_array().into_iter().flatten().filter_map(|row| row["name"].as_str()).collect()
}

#[test]
fn a_page_is_told_all_at_first_and_then_what_changes() {
    let (store, server) = served(&[]);
    let kept = holder(&store, "kept");
    let (mut page, first) = follow(&server);
    assert_eq!((names(&first["rows"]), &first["failure"]), (BTreeSet::from(["kept"]), &Value::Null));
    assert_eq!(first["deadlocks"], json!([]));
    // It appears, changes hands and goes, and nothing is said of the other one.
    let one = holder(&store, "a");
    let appeared = news(&mut page, |news| names(&news["changed"]).contains("a"));
    assert_eq!(names(&appeared["changed"]), BTreeSet::from(["a"]));
    let before = appeared["changed"][0]["holder"]["claim"].clone();
    let two = store.start(&["a", "--", "sh", "-c", "echo ready; read _; true"]);
    news(&mut page, |news| news["changed"][0]["waiters"] == 1);
    assert_eq!(one.end(), Some(0));
    two.says("ready");
    let handed = news(&mut page, |news| {
        let row = &news["changed"][0];
        row["name"] == "a" && row["waiters"] == 0 && row["holder"]["claim"] != before
    });
    assert!(handed["gone"].is_null(), "{handed}");
    assert_eq!(two.end(), Some(0));
    let gone = news(&mut page, |news| !news["gone"].is_null());
    assert_eq!((&gone["gone"], names(&gone["changed"]).contains("a")), (&json!(["a"]), false), "{gone}");
    assert_eq!(kept.end(), Some(0));
}

#[test]
fn one_page_too_many_is_told_so_and_the_others_go_on() {
    let (store, server) = served(&[]);
    let mut pages: Vec<_> = (0..128).map(|_| follow(&server).0).collect();
    let refused = server.get("/api/events");
    assert_eq!((refused.status, refused.header("retry-after")), (503, "10"), "{refused:?}");
    assert!(refused.body.contains("128 pages are open, which is the most: close one of them"), "{refused:?}");
    let _held = holder(&store, "a");
    for page in &mut pages {
        news(page, |news| names(&news["changed"]).contains("a"));
    }
    drop(pages.pop());
    let is_let_in = || {
        let mut connection = server.connect();
        connection.send("GET", "/api/events", &[], "");
        (connection.head().unwrap().0 == 200).then_some(())
    };
    eventually(is_let_in).expect("there is room again");
}

#[test]
fn pages_are_told_the_end_when_the_server_is_asked_to_end() {
    for signal in ["TERM", "INT", "HUP"] {
        let (_store, server) = served(&[]);
        let (mut page, _) = follow(&server);
        let mut idle = server.connect();
        assert_eq!(idle.request("GET", "/healthz", &[], "").status, 200);
        server.running.signal(signal);
        assert!(page.event().is_none(), "{signal}");
        let Server { running, .. } = server;
        assert_eq!(running.end(), Some(0), "{signal}");
        assert!(idle.reply().is_none());
    }
}
