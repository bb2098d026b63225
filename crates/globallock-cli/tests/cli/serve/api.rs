//! What the paths answer about real locks.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;

use serde_json::{Value, json};

use super::{documented, holder, served};
use crate::support::{LIMIT, eventually};

/// The names of an object's fields.
fn fields(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn the_locks_and_a_queue_are_answered_as_they_are() {
    let (store, server) = served(&[]);
    assert_eq!(server.get("/api/locks").json()["locks"], json!([]));
    let _held = holder(&store, "reports/ä b");
    let _waits = store.start(&["--label", "second", "reports/ä b", "--", "true"]);
    let row = eventually(|| {
        let locks = server.get("/api/locks").json();
        Some(locks["locks"][0].clone()).filter(|row| row["waiters"] == 1)
    });
    let row = row.expect("the waiter is seen");
    assert_eq!((&row["name"], &row["holders"]), (&json!("reports/ä b"), &json!(1)));
    assert_eq!(row["holder"]["label"], "sh");
    // A browser takes dots out of a path, so that a name may stand in the query as well.
    for path in [
        "/api/locks/reports/%C3%A4%20b",
        "/api/locks/reports%2F%c3%a4%20b",
        "/api/lock?name=reports/%C3%A4%20b",
    ] {
        let lock = server.get(path).json();
        assert_eq!(fields(&lock), ["claims", "deadlocks", "lock", "name", "waits"]);
        assert_eq!((&lock["name"], &lock["deadlocks"]), (&json!("reports/ä b"), &json!([])), "{path}");
        let queue = lock["claims"].as_array().unwrap();
        assert_eq!((queue.len(), &queue[0]["claim"]), (2, &row["holder"]["claim"]));
        assert_eq!((&queue[1]["place"], &queue[1]["label"]), (&json!(1), &json!("second")));
        let wait = &lock["waits"][0];
        assert_eq!((&wait["claim"], &wait["blocked_by"]), (&queue[1]["claim"], &queue[0]["claim"]));
    }
    let waits = server.get("/api/waits").json();
    assert_eq!((waits["waits"].as_array().unwrap().len(), &waits["deadlocks"]), (1, &json!([])));
    assert_eq!(server.get("/api/lock?name=none").json()["claims"], json!([]));
    for wrong in ["/api/lock", "/api/lock?name=", "/api/locks/%ff", "/api/lock?name=a%00b"] {
        assert_eq!(server.get(wrong).status, 400, "{wrong}");
    }
}

#[test]
fn the_session_says_what_a_page_needs_and_gives_no_token_where_nothing_can_be_changed() {
    let (store, server) = served(&["--prefix", "a/"]);
    let session = server.get("/api/session").json();
    assert_eq!(
        session,
        json!({
            "version": env!("CARGO_PKG_VERSION"), "store": store.url(), "prefix": "a/",
            "interval_seconds": 0.1, "allow_break": false, "user": null, "token": null,
        })
    );
}

#[test]
fn only_the_names_of_the_prefix_are_shown() {
    let (store, server) = served(&["--prefix", "a/", "--allow-break"]);
    let _held = [holder(&store, "a/1"), holder(&store, "b/1")];
    let locks = server.get("/api/locks").json();
    assert_eq!((&locks["names"], &locks["locks"][0]["name"]), (&json!(1), &json!("a/1")));
    assert_eq!(server.get("/api/locks/b/1").status, 404);
    let broken = server.break_claim("b/1", "1", "");
    assert_eq!(broken.status, 403, "{broken:?}");
    assert!(broken.body.contains("see --prefix"), "{broken:?}");
}

#[test]
fn a_broken_holder_is_told_who_did_it_and_why_and_its_command_ends() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("log");
    let syslog = UnixDatagram::bind(&socket).unwrap();
    syslog.set_read_timeout(Some(LIMIT)).unwrap();
    let syslog_at = socket.to_str().unwrap();
    let (store, server) = served(&["--allow-break", "--as", "alice", "--syslog", syslog_at]);
    let script = "trap 'exit 0' TERM; echo ready; while read _; do :; done";
    let run = store.start(&["a", "--", "bash", "-c", script]);
    run.says("ready");
    let claim = server.get("/api/lock?name=a").json()["claims"][0]["claim"].as_str().unwrap().to_owned();
    let broken = server.break_claim("a", &claim, "it \"hangs\"");
    assert_eq!(broken.status, 200, "{broken:?}");
    let answer = broken.json();
    assert_eq!(
        [&answer["outcome"], &answer["by"], &answer["claim"]],
        [&json!("broken"), &json!("alice"), &json!(claim)]
    );
    let said = run.warns("\"a\" is lost: it was broken by alice (pid ");
    assert!(said.ends_with(": it \\\"hangs\\\"; the command is told to end"), "{said}");
    assert_eq!(run.end(), Some(76));
    let audit = server.running.warns("is broken by");
    let audit = audit.strip_prefix("globallock: ").unwrap();
    assert!(audit.starts_with(&format!("\"a\": claim {claim} of bash (pid ")), "{audit}");
    assert!(audit.contains("is broken by alice: it "), "{audit}");
    let mut bytes = [0; 2000];
    let length = syslog.recv(&mut bytes).unwrap();
    let told = String::from_utf8_lossy(&bytes[..length]);
    assert!(told.ends_with(&format!("]: {audit}")), "{told}");
}

#[test]
fn the_next_holder_is_never_hit_by_what_was_meant_for_another() {
    let (store, server) = served(&["--allow-break"]);
    let first = holder(&store, "a");
    let claim = server.get("/api/lock?name=a").json()["claims"][0]["claim"].as_str().unwrap().to_owned();
    drop(first);
    let next = holder(&store, "a");
    let gone = server.break_claim("a", &claim, "");
    assert_eq!((gone.status, &gone.json()["outcome"]), (409, &json!("gone")), "{gone:?}");
    let queue = &server.get("/api/lock?name=a").json()["claims"];
    assert!(queue[0]["held"] == true && queue[0]["claim"] != json!(claim), "{queue}");
    assert_eq!(next.end(), Some(0));
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("globallock_serve_breaks_total{outcome=\"gone\"} 1\n"), "{metrics}");
}

#[test]
fn a_waiter_can_be_taken_out_of_the_queue_and_the_holder_stays() {
    let (store, server) = served(&["--allow-break"]);
    let first = holder(&store, "a");
    let waits = store.start(&["a", "--", "echo", "ran"]);
    let queue = eventually(|| {
        let queue = server.get("/api/lock?name=a").json()["claims"].clone();
        Some(queue).filter(|queue| queue[1].is_object())
    });
    let claim = queue.unwrap()[1]["claim"].as_str().unwrap().to_owned();
    assert_eq!(server.break_claim("a", &claim, "not today").status, 200);
    waits.warns("\"a\" is not waited for any more: the claim was evicted by ");
    assert_eq!(waits.end(), Some(76));
    assert_eq!(first.end(), Some(0));
}

#[test]
fn an_order_that_is_not_understood_changes_nothing() {
    let (store, server) = served(&["--allow-break"]);
    let held = holder(&store, "a");
    let claim = server.get("/api/lock?name=a").json()["claims"][0]["claim"].as_str().unwrap().to_owned();
    let token = server.token();
    let order = |field: &str, value: Value| {
        let mut order = json!({ "name": "a", "confirm": "a", "claim": claim, "held": true, "reason": "" });
        order[field] = value;
        order.to_string()
    };
    let long = "x".repeat(20_000);
    for (body, status) in [
        (order("confirm", json!("b")), 400),
        (order("confirm", json!("A")), 400),
        (order("claim", json!("")), 400),
        (order("claim", json!("two words")), 400),
        (order("name", json!(null)), 400),
        (order("more", json!(1)), 400),
        (order("held", json!(null)), 400),
        (json!({ "name": "a", "confirm": "a", "claim": claim }).to_string(), 400),
        (json!({ "name": "", "confirm": "", "claim": claim, "held": true }).to_string(), 400),
        (order("reason", json!(long)), 413),
        (order("reason", json!("x".repeat(257))), 400),
        ("{".to_owned(), 400),
        ("[]".to_owned(), 400),
        ("\u{0}".to_owned(), 400),
    ] {
        let headers = [("content-type", "application/json"), ("x-globallock-token", &*token)];
        let reply = server.connect().request("POST", "/api/break", &headers, &body);
        assert_eq!(reply.status, status, "{body}: {reply:?}");
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let headers = [("content-type", kind), ("x-globallock-token", &*token)];
        let body = order("reason", json!(""));
        assert_eq!(server.connect().request("POST", "/api/break", &headers, &body).status, 415, "{kind}");
    }
    assert_eq!(held.end(), Some(0), "it holds on");
}

#[test]
fn metrics_count_what_there_is_and_never_name_a_lock() {
    let (store, server) = served(&[]);
    let _held = holder(&store, "hidden\"name");
    let _reader = store.start(&["--shared", "read-hidden", "--", "sh", "-c", "read _"]);
    let _waits = store.start(&["hidden\"name", "--", "true"]);
    let metrics = eventually(|| {
        let reply = server.get("/metrics");
        assert_eq!(reply.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
        let is_all =
            ["globallock_store_held{mode=\"read\"} 1\n", "globallock_store_waiting{mode=\"mutex\"} 1\n"];
        is_all.iter().all(|line| reply.body.contains(line)).then_some(reply.body)
    });
    let metrics = metrics.expect("all are counted");
    for line in
        ["globallock_store_up 1", "globallock_store_names 2", "globallock_store_held{mode=\"mutex\"} 1"]
    {
        assert!(metrics.lines().any(|found| found == line), "{line}: {metrics}");
    }
    assert!(!metrics.contains("hidden"), "{metrics}");
    let mut helped = Vec::new();
    for line in metrics.lines() {
        match line.strip_prefix("# ").map(|line| line.splitn(3, ' ').collect::<Vec<_>>()) {
            Some(words) if words[0] == "HELP" => helped.push(words[1].to_owned()),
            Some(words) => assert!(words[0] == "TYPE" && ["gauge", "counter"].contains(&words[2]), "{line}"),
            None => {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let name = name.split('{').next().unwrap().to_owned();
                assert!(helped.last() == Some(&name) && value.parse::<f64>().is_ok(), "{line}");
            }
        }
    }
    assert_eq!([BTreeSet::from_iter(helped)], *documented::tables(documented::PAGE, "## Metrics"));
}

#[test]
fn paths_that_are_not_there_and_methods_that_do_nothing_are_refused() {
    let (_store, server) = served(&["--allow-break"]);
    for (method, path, status) in [
        ("GET", "/nothing", 404),
        ("GET", "/page/page.js", 404),
        ("GET", "/../Cargo.toml", 404),
        ("GET", "//", 404),
        ("POST", "/", 405),
        ("DELETE", "/api/locks/a", 405),
        ("GET", "/api/break", 405),
        ("PUT", "/api/break", 405),
        ("OPTIONS", "/api/break", 405),
        ("HEAD", "/healthz", 200),
        ("GET", "/healthz", 200),
        ("GET", "/", 200),
        ("GET", "/page.js", 200),
    ] {
        let mut connection = server.connect();
        connection.send(method, path, &[], "");
        if method == "HEAD" {
            assert_eq!(connection.head().unwrap().0, status, "{method} {path}");
            continue;
        }
        let reply = connection.reply().unwrap();
        assert_eq!(reply.status, status, "{method} {path}");
        assert_eq!(status >= 400, reply.header("content-type") == "application/json", "{reply:?}");
        assert!(status < 400 || reply.json()["error"].is_string(), "{reply:?}");
    }
}
