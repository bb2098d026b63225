//! Any bytes at all.

use std::io::Write;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Server, holder, served};
use crate::support::TestStore;

const PATHS: &[&str] = &[
    "/",
    "/api/locks",
    "/api/locks/",
    "/api/locks/a",
    "/api/lock?name=a",
    "/api/lock?name=%",
    "/api/events",
    "/api/waits",
    "/api/session",
    "/api/break",
    "/metrics",
    "/healthz",
    "/page.js",
    "*",
    "",
    "/%00",
    "/..%2f..",
    "http://127.0.0.1/",
    "/api/locks/%ff%fe",
    "/?#",
    "//",
    "/api/break/../break",
];
const METHODS: &[&str] =
    &["GET", "POST", "HEAD", "PUT", "OPTIONS", "DELETE", "CONNECT", "PRI", "get", "", "É"];
const HEADERS: &[&str] = &[
    "host: localhost",
    "host: evil",
    "host:",
    "content-length: 5",
    "content-length: 99999999999999999999",
    "content-length: -1",
    "transfer-encoding: chunked",
    "transfer-encoding: gzip",
    "expect: 100-continue",
    "connection: upgrade",
    "upgrade: h2c",
    "upgrade: websocket",
    "origin: null",
    "authorization: Basic ====",
    "authorization: Bearer",
    "content-type: application/json",
    "sec-fetch-site: none",
    "range: bytes=0-",
    "x-globallock-token: 0",
    ": empty",
    "no colon",
    "x: \u{1}",
    " folded: x",
    "accept-encoding: *",
];

fn request() -> impl Strategy<Value = Vec<u8>> {
    let line = (prop::sample::select(METHODS), prop::sample::select(PATHS), "( HTTP/1.[0-2]| HTTP/2| )?")
        .prop_map(|(method, path, version)| format!("{method} {path}{version}\r\n"));
    let headers = prop::collection::vec(prop::sample::select(HEADERS), 0..6)
        .prop_map(|headers| headers.iter().map(|header| format!("{header}\r\n")).collect::<String>());
    let body = prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(any::<u8>(), 0..300),
        Just(b"5\r\nhello\r\n0\r\n\r\n".to_vec()),
        Just(b"ffffffffffffffff\r\n".to_vec()),
        Just(b"{\"name\":\"a\",\"confirm\":\"a\",\"claim\":\"1\",\"held\":true}".to_vec()),
        Just(br#"{"name":{"a":[[[[[[[[]]]]]]]]},"confirm":1e999}"#.to_vec()),
    ];
    let whole = (line, headers, "(\r\n)?", body).prop_map(|(line, headers, end, body)| {
        [line.as_bytes(), headers.as_bytes(), end.as_bytes(), &body].concat()
    });
    prop_oneof![8 => whole, 1 => prop::collection::vec(any::<u8>(), 0..2000)]
}

#[test]
fn whatever_is_sent_the_server_stays_up_and_the_lock_is_held() {
    let (store, server) = served(&["--allow-break"]);
    let held = holder(&store, "a");
    let mut runner = TestRunner::new(Config { cases: 400, failure_persistence: None, ..Config::default() });
    runner
        .run(&prop::collection::vec(request(), 1..4), |requests| {
            let connection = server.connect();
            let mut stream = connection.stream();
            for request in requests {
                // A server that has heard enough closes the connection.
                let _ = stream.write_all(&request);
            }
            let _ = stream.shutdown(std::net::Shutdown::Write);
            Ok(())
        })
        .unwrap();
    assert_eq!(server.get("/api/locks").json()["locks"][0]["holders"], 1);
    server.running.signal("TERM");
    let Server { running, .. } = server;
    let (status, warned) = running.end_and_warned();
    assert!(status == Some(0) && !warned.iter().any(|line| line.contains("panicked")), "{warned:?}");
    assert_eq!(held.end(), Some(0));
}

#[test]
fn names_and_labels_of_any_text_come_out_as_they_are_and_as_text() {
    let store = TestStore::new();
    let server = Server::of(&store.url(), &[]);
    let hostile = [
        "<script>alert(1)</script>",
        "\" onmouseover=\"x",
        "'; DROP TABLE locks; --",
        "a\nb\r\ndata: {}\n\nevent: x",
        "\u{1b}[2J",
        "\u{202e}kcul",
        "..",
        "%2e%2e/%00",
        "{{constructor}}",
        "\u{2028}",
        "🔒\u{0301}",
        " ",
    ];
    let held: Vec<_> = hostile
        .iter()
        .map(|name| {
            let running = store.start(&["--label", name, name, "--", "sh", "-c", "echo ready; read _; true"]);
            running.says("ready");
            running
        })
        .collect();
    let locks = server.get("/api/locks");
    assert_eq!(
        (locks.header("content-type"), locks.header("x-content-type-options")),
        ("application/json", "nosniff")
    );
    let mut page = server.connect();
    page.send("GET", "/api/events", &[], "");
    page.head().unwrap();
    let (kind, told) = page.event().unwrap();
    assert_eq!(kind, "rows", "no name has begun an event of its own");
    for rows in [&locks.json()["locks"], &told["news"]["rows"]] {
        let mut found: Vec<_> =
            rows.as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        let mut expected = hostile.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }
    for name in hostile {
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let lock = server.get(&format!("/api/lock?name={encoded}")).json();
        assert_eq!((&lock["name"], &lock["claims"][0]["label"]), (&name.into(), &name.into()));
    }
    drop(held);
}
