//! What the store notices by itself is told to observers.

use globallock::StoreNoticeKind;
use globallock_conformance::fixtures::observed;
use globallock_conformance::server::redis::Redis;

use crate::LEASE;

#[tokio::test]
async fn a_lost_connection_is_told_and_so_is_each_failure_to_connect_again() {
    let mut server = Redis::start_with(&["--requirepass", "hunter2"]).unwrap();
    let url = format!("redis://:hunter2@127.0.0.1:{}", server.port());
    let (_manager, notices) = observed(&url, LEASE).await;
    server.kill();
    let lost = notices.first(StoreNoticeKind::ConnectionLost).await;
    let refused = notices.first(StoreNoticeKind::NotConnected).await;
    assert_eq!(notices.of(StoreNoticeKind::ConnectionLost).len(), 1, "it is told once");
    assert!(refused.reason.contains("Connection refused"), "{refused:?}");
    assert!(!format!("{lost:?} {refused:?}").contains("hunter2"));
}

#[tokio::test]
async fn a_server_that_may_evict_locks_is_told_by_each_connection_to_it() {
    let server = Redis::start_with(&["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"]).unwrap();
    let (manager, notices) = observed(&server.url(), LEASE).await;
    let told = notices.first(StoreNoticeKind::MayLoseClaims).await;
    assert!(told.reason.contains("maxmemory-policy to noeviction, not allkeys-lru"), "{told:?}");
    manager.mutex("a").acquire().await.unwrap().release().await.unwrap();
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    let (_manager, safe) = observed(&server.url(), LEASE).await;
    manager.close().await;
    assert_eq!(safe.of(StoreNoticeKind::MayLoseClaims), []);
    assert_eq!(notices.of(StoreNoticeKind::MayLoseClaims).len(), 1);
}
