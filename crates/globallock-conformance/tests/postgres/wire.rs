//! The golden test of every row, and of what is notified.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use globallock::backend::{ClaimStatus, ValueWrite};
use globallock::{Eviction, Owner, Release};
use globallock_conformance::golden::{claims, compare, fill};
use globallock_conformance::server::postgres::Postgres;

/// What there is in the tables. Numbers and times differ from run to run: so only the order of numbers is
/// shown, and how far times are apart in whole seconds.
fn dump(server: &Postgres) -> String {
    let seconds = |time: &str| format!("round(extract(epoch FROM {time} - joined))");
    let claims = server.sql(&format!(
        "SELECT rank() OVER (ORDER BY number), id, key, count, capacity, node <> '', lease, max_hold, \
         granted IS NOT NULL, {}, {}, owner FROM globallock.claims ORDER BY number",
        seconds("expires"),
        seconds("ends")
    ));
    let values = server.sql(
        "SELECT key, encode(bytes, 'hex'), round(extract(epoch FROM until - written)) \
         FROM globallock.\"values\" ORDER BY key",
    );
    let evictions = server.sql(
        "SELECT id, round(extract(epoch FROM until - now()) / 10) * 10, notice FROM globallock.evictions \
         ORDER BY id",
    );
    let mut written = String::new();
    for (table, rows) in [("claims", claims), ("values", values), ("evictions", evictions)] {
        writeln!(written, "{table}:").unwrap();
        rows.lines().for_each(|row| writeln!(written, "    {row}").unwrap());
    }
    written
}

#[tokio::test]
async fn rows_are_as_they_always_were() {
    let server = Postgres::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    fill(&*backend).await;
    let joined = dump(&server);
    let claims = claims();
    let all: Vec<_> = claims.iter().cloned().map(Arc::new).collect();
    assert!(backend.renew(&all).await.iter().all(Result::is_ok));
    for claim in [&claims[0], &claims[3]] {
        let written = backend.set_value(claim, b"done: \x01", Duration::from_secs(3600)).await;
        assert_eq!(written.unwrap(), ValueWrite::Written);
    }
    let eviction = Eviction::new(Owner::default().with_label("alice"), "since \"noon\" ☃");
    let evicted = &claims[6];
    let ended = backend.evict(&evicted.name, &evicted.id.into(), &eviction).await.unwrap();
    assert_eq!(ended, Release::Released);
    let evicted = dump(&server);
    for claim in &claims {
        backend.release(claim).await.unwrap();
    }
    let left = dump(&server);
    let written = format!("Joined:\n{joined}\nEvicted:\n{evicted}\nLeft:\n{left}");
    compare(&written, include_str!("wire.txt"));
}

#[tokio::test]
async fn numbers_are_microseconds_and_above_what_a_restored_sequence_says() {
    let server = Postgres::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    let claim = &claims()[0];
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let ClaimStatus::Held(grant) = backend.enqueue(claim).await.unwrap() else { panic!("it is free") };
        tokens.push(grant.fencing_token);
        backend.release(claim).await.unwrap();
        // As from a backup.
        server.sql("SELECT setval('globallock.numbers', 1)");
    }
    let now: u64 =
        server.sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").parse().unwrap();
    assert!(tokens[0] < tokens[1] && tokens[1] <= now, "{tokens:?} {now}");
    assert!(now - tokens[0] < 60_000_000, "{tokens:?} {now}");
}
