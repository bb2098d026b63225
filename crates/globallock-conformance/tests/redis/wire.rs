//! Every call of a script, every message and every key, compared with what earlier versions wrote.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use globallock::backend::{ClaimStatus, ValueWrite};
use globallock::{Eviction, Name, Owner, Release};
use globallock_conformance::context::eventually;
use globallock_conformance::golden::{claims, compare, fill, masked};
use globallock_conformance::server::redis::Redis;

use crate::calls::Monitor;
use crate::full::FORMS;

/// The keys that match, with what they hold, and how long they live in whole minutes.
fn dump(server: &Redis, pattern: &str) -> String {
    let mut written = String::new();
    let keys = server.cli(&["KEYS", pattern]);
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

/// What the library sends, and what the scripts publish.
fn sent(monitor: Monitor, server: &Redis) -> String {
    let mut sent = String::new();
    for line in monitor.end(server) {
        let (whose, command) = line.split_once("] ").unwrap();
        let asks = ["EVALSHA", "ZSCAN", "GET", "PEXPIRE", "SUBSCRIBE"];
        // The test reads keys as well, but no notice while it records.
        let is_request = asks.iter().any(|asks| command.starts_with(&format!("\"{asks}\"")))
            && (!command.starts_with("\"GET\"") || command.ends_with(":evicted\""));
        let is_message = command.starts_with("\"PUBLISH");
        if is_request && !whose.ends_with("lua") || is_message {
            writeln!(sent, "{command}").unwrap();
        }
    }
    sent
}

#[tokio::test]
async fn keys_values_requests_and_messages_have_not_changed() {
    for options in FORMS {
        let server = Redis::start().unwrap();
        let backend = globallock::connect_backend(&format!("{}{options}", server.url())).await.unwrap();
        let monitor = Monitor::start(&server);
        fill(&*backend).await;
        let filled = dump(&server, "*");
        let claims = claims();
        let all: Vec<_> = claims.iter().cloned().map(Arc::new).collect();
        assert!(backend.renew(&all).await.iter().all(Result::is_ok));
        let renewed = dump(&server, "*");
        for claim in &claims {
            backend.release(claim).await.unwrap();
        }
        eventually("everything is released", async || server.cli(&["KEYS", "*"]).lines().count() == 3).await;
        let left = dump(&server, "*");

        let sent = sent(monitor, &server);
        let written =
            format!("Joined:\n{filled}\nRenewed:\n{renewed}\nLeft:\n{left}\nRequests and messages:\n{sent}");
        compare(&masked(&written), include_str!("wire.txt"));
    }
}

#[tokio::test]
async fn notices_requests_and_messages_of_evictions_have_not_changed() {
    let server = Redis::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    fill(&*backend).await;
    server.cli(&["SET", "_glocks:foreign", "1", "PXAT", "99999999999999"]);
    let foreign = Name::new("foreign").unwrap();
    let foreign_key = backend.inspect(&foreign).await.unwrap()[0].key.clone();
    // A holder, a waiter, and a shared holder.
    let claims = claims();
    let evicted = [&claims[0], &claims[2], &claims[4]];
    let eviction = Eviction::new(Owner::default().with_label("admin \"é\""), "it hangs");
    // Loads the script.
    backend.evict(&foreign, &claims[0].id.into(), &eviction).await.unwrap();
    let monitor = Monitor::start(&server);
    let other = globallock::connect_backend(&server.url()).await.unwrap();
    for claim in evicted {
        let found = other.evict(&claim.name, &claim.id.into(), &eviction).await.unwrap();
        assert_eq!(found, Release::Released);
    }
    assert_eq!(other.evict(&foreign, &foreign_key, &eviction).await.unwrap(), Release::Released);
    let evicts = sent(monitor, &server);
    let left = dump(&server, "*:evicted");
    // A waiter asks again; the owners of the evicted claims learn of it, and give them up.
    let monitor = Monitor::start(&server);
    backend.enqueue(&claims[5]).await.unwrap();
    for claim in evicted {
        let told = backend.renew(&[Arc::new(claim.clone())]).await.remove(0).unwrap();
        assert!(matches!(told, ClaimStatus::Evicted(_)), "{told:?}");
        assert_eq!(backend.release(claim).await.unwrap(), Release::NotHeld);
    }
    let asks = sent(monitor, &server);
    let written =
        format!("Foreign holder:\n{foreign_key}\n\nLeft:\n{left}\nEvictions:\n{evicts}\nTold:\n{asks}");
    compare(&masked(&written), include_str!("evictions.txt"));
}

#[tokio::test]
async fn keys_and_requests_of_values_have_not_changed() {
    let server = Redis::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    // A mutex, its waiter, and a reader.
    let claims = claims();
    let [holder, waiter, reader] = [0, 1, 3].map(|number| claims[number].clone().with_value());
    let value = |status: ClaimStatus| match status {
        ClaimStatus::Held(grant) => grant.value.map(|value| value.bytes().to_owned()),
        other => panic!("{other:?}"),
    };
    let monitor = Monitor::start(&server);
    for claim in [&holder, &reader] {
        assert_eq!(value(backend.enqueue(claim).await.unwrap()), None);
        let bytes = format!("done by {}", claim.id);
        let answer = backend.set_value(claim, bytes.as_bytes(), Duration::from_secs(3600)).await.unwrap();
        assert_eq!(answer, ValueWrite::Written);
    }
    let held = dump(&server, "*:glk-value");
    assert_eq!(backend.enqueue(&waiter).await.unwrap(), ClaimStatus::Waiting);
    backend.release(&holder).await.unwrap();
    let pushed = backend.wait_for_change(&waiter).await.unwrap().unwrap();
    assert_eq!(value(pushed), Some(format!("done by {}", holder.id).into_bytes()));
    for claim in [&waiter, &reader] {
        backend.release(claim).await.unwrap();
    }
    let left = dump(&server, "*:glk-value");
    assert_eq!(left, held, "it stays");
    let written = format!("Held:\n{held}\nRequests and messages:\n{}", sent(monitor, &server));
    compare(&masked(&written), include_str!("values.txt"));
}

#[tokio::test]
async fn a_write_that_arrives_late_once_more_does_not_overwrite_a_later_one() {
    let server = Redis::start().unwrap();
    let manager = globallock::LockManager::connect(&server.url()).await.unwrap();
    let guard = manager.mutex("nightly").acquire().await.unwrap();
    let monitor = Monitor::start(&server);
    for bytes in [b"v1", b"v2"] {
        assert_eq!(guard.set_value(bytes, Duration::from_secs(600)).await.unwrap(), ValueWrite::Written);
    }
    let recorded = monitor.end(&server);
    let call = |bytes: &str| -> Vec<String> {
        let line = recorded.iter().find(|line| line.contains(bytes)).unwrap();
        let (_, command) = line.split_once("] ").unwrap();
        command.trim().trim_matches('"').split("\" \"").map(str::to_owned).collect()
    };
    let key = "{_glocks:nightly}:glk-value";
    let send = |bytes: &str| {
        let call = call(bytes);
        server.cli(&call.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for late in ["v1", "v2"] {
        assert_eq!(send(late), "1", "it was written");
        assert_eq!(server.cli(&["HGET", key, "bytes"]), "v2");
    }
    // After those of another claim, the numbers begin anew.
    guard.release().await.unwrap();
    let other = globallock::LockManager::connect(&server.url()).await.unwrap();
    let guard = other.mutex("nightly").acquire().await.unwrap();
    guard.set_value(b"v3", Duration::from_secs(600)).await.unwrap();
    assert_eq!(server.cli(&["HGET", key, "bytes"]), "v3");
    assert_eq!(server.cli(&["HGET", key, "write"]), "1");
    assert_eq!(send("v2"), "0", "its claim is gone");
    guard.release().await.unwrap();
    manager.close().await;
    other.close().await;
}
