//! A server that refuses writes: a replica, or one that lacks its replicas.

use std::time::Duration;

use globallock_conformance::fixtures::{connect_for, queue_is, waits};
use globallock_conformance::server::redis::Redis;

use crate::full::FORMS;

/// The lease of the claims; nobody renews within it.
const LEASE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_server_that_became_a_replica_grants_nothing() {
    for options in FORMS {
        let server = Redis::start().unwrap();
        let url = format!("{}{options}", server.url());
        let [owner, other] =
            [connect_for(&url, LEASE).await.unwrap(), connect_for(&url, LEASE).await.unwrap()];
        let holder = other.mutex("a").acquire().await.unwrap();
        let waiter = waits(&owner, "a");
        queue_is(&other, "a", 1, 1).await;
        // The lock is free, as after an expiry, and nobody is told. The new primary cannot be reached;
        // clients stay connected.
        server.cli(&["DEL", "_glocks:a"]);
        assert_eq!(server.cli(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
        // Messages that were sent to the owner meanwhile arrive before the answer to this one.
        for _ in 0..3 {
            let refused = other.rwlock("a").read().wait(Duration::from_millis(100)).acquire().await;
            assert!(refused.is_err(), "{options}: {refused:?}");
        }
        let _ = owner.inspect("a").await;
        assert!(!waiter.is_finished(), "{options}: nothing is granted");
        waiter.abort();
        drop(holder);
    }
}
