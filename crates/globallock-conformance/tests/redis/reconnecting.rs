//! A connection that breaks is made again at a pace that does not flood the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, queue_is, waits};
use globallock_conformance::server::redis::Redis;

use crate::refusals::{HELLO, fake_server, version};

const LEASE: Duration = Duration::from_secs(60);

/// Waits for so many more connections, and checks that they took at least as long as the pauses between them.
async fn paced(connections: impl Fn() -> u64, more: u64, pauses: Duration) {
    let (since, before) = (Instant::now(), connections());
    eventually("it connects again and again", async || connections() >= before + more).await;
    assert!(since.elapsed() >= pauses, "{more} connections within {:?}", since.elapsed());
}

#[tokio::test]
async fn a_server_that_is_down_is_not_flooded_with_connections() {
    let mut server = Redis::start().unwrap();
    let (proxy, url) = crate::behind_proxy(&server, "?timeout=500ms").await;
    let manager = connect_for(&url, LEASE).await.unwrap();
    let guard = manager.mutex("a").acquire().await.unwrap();
    let waiters: Vec<_> = (0..8).map(|_| waits(&manager, "a")).collect();
    queue_is(&manager, "a", 1, 8).await;
    server.kill();
    // Pauses of 20, 40, 80, 160 and 320 ms lie between six connections.
    paced(|| proxy.connections(), 6, Duration::from_millis(600)).await;
    server.resume_after_kill().unwrap();
    drop((guard, waiters));
}

#[tokio::test]
async fn a_server_that_closes_every_connection_at_once_is_not_flooded_with_connections() {
    let connections = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&connections);
    let url = fake_server(move |word| match word {
        "HELLO" => {
            count.fetch_add(1, Ordering::SeqCst);
            HELLO.to_owned()
        }
        "INFO" => version("7.4.99"),
        "SUBSCRIBE" => ">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n".to_owned(),
        // An empty answer closes the connection.
        "EVALSHA" => String::new(),
        _ => "+OK\r\n".to_owned(),
    })
    .await;
    let manager = connect_for(&url, LEASE).await.unwrap();
    let waiters: Vec<_> = (0..8).map(|_| waits(&manager, "a")).collect();
    let reached = || connections.load(Ordering::SeqCst);
    // Pauses of 20, 40, 80 and then 100 ms lie between them.
    paced(reached, 9, Duration::from_millis(600)).await;
    drop(waiters);
}
