//! Every call of a script, every message and every key, compared with what earlier versions wrote.

use std::fmt::Write as _;
use std::sync::Arc;

use globallock_conformance::context::eventually;
use globallock_conformance::golden::{claims, compare, fill, masked};
use globallock_conformance::server::redis::Redis;

use crate::calls::Monitor;

/// All keys with what they hold, and how long they live in whole minutes.
fn dump(server: &Redis) -> String {
    let mut written = String::new();
    let keys = server.cli(&["KEYS", "*"]);
    let mut keys: Vec<&str> = keys.lines().collect();
    keys.sort_unstable();
    for key in keys {
        let kind = server.cli(&["TYPE", key]);
        let left: u64 = server.cli(&["PTTL", key]).parse().unwrap();
        writeln!(written, "{key} ({kind}, {} s)", left.div_ceil(60_000) * 60).unwrap();
        let held = match kind.as_str() {
            "string" => server.cli(&["GET", key]),
            "zset" => server.cli(&["ZRANGE", key, "0", "-1", "WITHSCORES"]),
            "hash" => {
                let fields = server.cli(&["HGETALL", key]);
                let lines: Vec<&str> = fields.lines().collect();
                let mut pairs: Vec<String> = lines.chunks(2).map(|pair| pair.join(" = ")).collect();
                pairs.sort();
                pairs.join("\n")
            }
            other => panic!("{key} is a {other}"),
        };
        held.lines().for_each(|line| writeln!(written, "    {line}").unwrap());
    }
    written
}

#[tokio::test]
async fn keys_values_requests_and_messages_have_not_changed() {
    let server = Redis::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    let monitor = Monitor::start(&server);
    fill(&*backend).await;
    let filled = dump(&server);
    let claims = claims();
    let all: Vec<_> = claims.iter().cloned().map(Arc::new).collect();
    assert!(backend.renew(&all).await.iter().all(Result::is_ok));
    let renewed = dump(&server);
    for claim in &claims {
        backend.release(claim).await.unwrap();
    }
    eventually("everything is released", async || server.cli(&["KEYS", "*"]).lines().count() == 3).await;
    let left = dump(&server);

    // What the library sends, and what the scripts publish.
    let mut sent = String::new();
    for line in monitor.end(&server) {
        let (whose, command) = line.split_once("] ").unwrap();
        let (is_script, is_message) = (command.starts_with("\"EVALSHA"), command.starts_with("\"PUBLISH"));
        if is_script && !whose.ends_with("lua") || is_message {
            writeln!(sent, "{command}").unwrap();
        }
    }
    let written =
        format!("Joined:\n{filled}\nRenewed:\n{renewed}\nLeft:\n{left}\nRequests and messages:\n{sent}");
    compare(&masked(&written), include_str!("wire.txt"));
}
