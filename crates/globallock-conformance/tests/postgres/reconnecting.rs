//! Connections that break, and servers that restart: nothing is lost that the lease outlives.

use std::time::{Duration, Instant};

use globallock::StoreNoticeKind;
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, observed, queue_is, waits};
use globallock_conformance::server::postgres::{PASSWORD, Postgres, USER};

use crate::{behind_proxy, connections};

/// Claims are renewed after 10 s.
const LEASE: Duration = Duration::from_secs(30);
/// Before any renewal.
const SOON: Duration = Duration::from_secs(8);

fn terminate(server: &Postgres) -> String {
    server.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{USER}'"))
}

#[tokio::test]
async fn a_waiter_is_granted_soon_though_its_push_was_lost_with_its_connection() {
    let server = Postgres::start().unwrap();
    let (proxy, url) = behind_proxy(&server, "").await;
    let waits_here = connect_for(&url, LEASE).await.unwrap();
    let holder = connect_for(&server.url(), LEASE).await.unwrap();
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = waits(&waits_here, "a");
    queue_is(&holder, "a", 1, 1).await;
    proxy.cut();
    guard.release().await.unwrap();
    let granted = tokio::time::timeout(SOON, waiter).await.expect("it needs no renewal");
    assert!(granted.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn connections_that_an_administrator_ends_lose_no_lock() {
    let server = Postgres::start().unwrap();
    let manager = connect_for(&server.url(), LEASE).await.unwrap();
    let guard = manager.mutex("a").acquire().await.unwrap();
    for _ in 0..5 {
        assert!(terminate(&server).contains('t'));
        assert!(guard.renew().await.unwrap());
    }
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_crash_of_the_server_loses_no_lock() {
    let mut server = Postgres::start().unwrap();
    let [manager, other] =
        [connect_for(&server.url(), LEASE).await.unwrap(), connect_for(&server.url(), LEASE).await.unwrap()];
    let guard = manager.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&other, "a", 1, 1).await;
    server.kill();
    server.resume_after_kill().unwrap();
    assert!(guard.renew().await.unwrap());
    queue_is(&other, "a", 1, 1).await;
    guard.release().await.unwrap();
    let granted = tokio::time::timeout(SOON, waiter).await.expect("it needs no renewal");
    assert!(granted.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn a_server_that_is_down_is_not_flooded_with_connections() {
    let mut server = Postgres::start().unwrap();
    let (proxy, url) = behind_proxy(&server, "?timeout=500ms").await;
    let manager = connect_for(&url, LEASE).await.unwrap();
    let guard = manager.mutex("a").acquire().await.unwrap();
    let waiters: Vec<_> = (0..8).map(|_| waits(&manager, "a")).collect();
    queue_is(&manager, "a", 1, 8).await;
    server.kill();
    let (since, before) = (Instant::now(), proxy.connections());
    eventually("a while has passed", async || since.elapsed() > Duration::from_secs(3)).await;
    let tried = proxy.connections() - before;
    println!("{tried} connections within {:.1?}", since.elapsed());
    assert!((2..60).contains(&tried), "{tried} connections within {:?}", since.elapsed());
    server.resume_after_kill().unwrap();
    drop((guard, waiters));
}

#[tokio::test]
async fn a_lost_connection_is_told_and_so_is_each_failure_to_connect_again() {
    let mut server = Postgres::start().unwrap();
    let (_manager, notices) = observed(&server.url(), LEASE).await;
    server.kill();
    let lost = notices.first(StoreNoticeKind::ConnectionLost).await;
    let refused = notices.first(StoreNoticeKind::NotConnected).await;
    assert!(refused.reason.contains("Connection refused"), "{refused:?}");
    assert!(!format!("{lost:?} {refused:?}").contains(PASSWORD));
}

#[tokio::test]
async fn a_manager_that_is_closed_leaves_no_connection_behind() {
    let server = Postgres::start().unwrap();
    let manager = connect_for(&server.url(), LEASE).await.unwrap();
    manager.mutex("a").acquire().await.unwrap().release().await.unwrap();
    assert!(connections(&server) > 0);
    manager.close().await;
    drop(manager);
    eventually("all connections are closed", async || connections(&server) == 0).await;
}
