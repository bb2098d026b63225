//! A sentinel key for each lease: a key that is attached to the lease and is watched.
//!
//! When the cluster deletes it, the lease has expired or was revoked. So one watch per lease is enough to
//! learn this at once, however many claims are attached to the lease.

use std::sync::{Arc, Weak};

use super::connection::Connection;
use super::keys;
use super::lease::{Lease, Leases};
use super::messages::{PutRequest, RangeRequest, revision};
use super::watch::Watches;
use crate::error::Result;

/// Watches a lease in the background, and records it when the lease ends.
///
/// The watch is for speed only: the next renewal would find an expired lease too.
pub(super) fn watch_lease(leases: &Arc<Leases>, watches: &Arc<Watches>, lease: Lease) {
    tokio::spawn(follow(Arc::downgrade(leases), Arc::downgrade(watches), lease));
}

/// Goes on until the lease ends, or the store is gone.
async fn follow(leases: Weak<Leases>, watches: Weak<Watches>, lease: Lease) -> Option<()> {
    let connection = || Some(Arc::clone(&leases.upgrade()?.connection));
    let key = keys::sentinel(&connection()?.config().prefix, lease.id);
    let put = PutRequest::new(key.clone(), Vec::new(), lease.id);
    let mut read_at = revision(connection()?.unary(put).await.ok()?.header.as_ref());
    loop {
        leases.upgrade()?.find(lease.id)?;
        let subscription = watches.upgrade()?.subscribe(&connection()?, [(key.clone(), None)], read_at);
        let changes = subscription.changes_within(lease.ttl()).await;
        drop(subscription);
        let connection = connection()?;
        let was_deleted = changes.is_some_and(|changes| !changes.deleted.is_empty());
        match if was_deleted { Ok(None) } else { read(&connection, &key).await } {
            Ok(Some(as_of)) => read_at = as_of,
            Ok(None) => return leases.upgrade().map(|leases| leases.ended(lease.id)),
            // No answer proves nothing. The renewals of the claims decide whether the lease has expired.
            Err(_) => tokio::time::sleep(connection.config().timeout).await,
        }
    }
}

/// The revision as of which a sentinel key exists; `None` if it does not.
async fn read(connection: &Connection, key: &[u8]) -> Result<Option<i64>> {
    let request = RangeRequest { key: key.to_vec(), keys_only: true, ..RangeRequest::default() };
    let answer = connection.unary(request).await?;
    Ok((!answer.kvs.is_empty()).then(|| revision(answer.header.as_ref())))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::stores::etcd::messages::{
        Event, KeyValue, PutResponse, RangeResponse, WatchRequest, WatchResponse,
    };
    use crate::stores::etcd::owner::Shared;
    use crate::stores::etcd::scripted::{Call, Cluster, as_of, created_watch, soon};

    const LEASE: i64 = 0x1f;
    const SENTINEL: &[u8] = b"/locks/_glocks//1f";

    /// A store with a lease whose sentinel key was put at revision 7.
    async fn watched_lease() -> (Cluster, Arc<Shared>, Lease) {
        let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        shared.leases.pretend(LEASE);
        let lease = shared.leases.find(LEASE).unwrap();
        watch_lease(&shared.leases, &shared.watches, lease);
        let (asked, call) = soon(cluster.asked::<PutRequest>("KV/Put")).await;
        assert_eq!(asked, PutRequest::new(SENTINEL.to_vec(), Vec::new(), LEASE));
        call.answer(&PutResponse { header: as_of(7) });
        (cluster, shared, lease)
    }

    /// Checks that a request watches the sentinel key from this revision on; returns the id of the watch.
    fn check_watch(request: WatchRequest, from: i64) -> i64 {
        let create = created_watch(request);
        assert_eq!((&create.key[..], create.start_revision), (SENTINEL, from));
        create.watch_id
    }

    /// Expects a read of the sentinel key.
    async fn expect_read(cluster: &mut Cluster) -> Call {
        let (asked, call) = cluster.asked::<RangeRequest>("KV/Range").await;
        assert_eq!(
            asked,
            RangeRequest { key: SENTINEL.to_vec(), keys_only: true, ..RangeRequest::default() }
        );
        call
    }

    #[tokio::test(start_paused = true)]
    async fn the_deletion_of_the_sentinel_key_ends_its_lease_at_once() {
        let (mut cluster, shared, _) = watched_lease().await;
        let (first, stream) = soon(cluster.asked("Watch/Watch")).await;
        let watch_id = check_watch(first, 8);
        stream.say(&WatchResponse { header: as_of(7), watch_id, created: true, ..Default::default() });
        assert!(cluster.is_idle().await);
        assert!(shared.leases.find(LEASE).is_some());
        let events = vec![Event::default()];
        stream.say(&WatchResponse { header: as_of(9), watch_id, events, ..Default::default() });
        soon(shared.session_lost.notified()).await;
        assert_eq!(shared.leases.find(LEASE), None);
        assert!(cluster.is_idle().await, "the deletion is proof: no read is needed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_sentinel_key_is_read_once_per_lease_if_its_watch_is_silent() {
        let (mut cluster, shared, lease) = watched_lease().await;
        let (first, mut stream) = soon(cluster.asked("Watch/Watch")).await;
        check_watch(first, 8);
        // Its claims renew it meanwhile.
        tokio::time::advance(lease.ttl() - Duration::from_millis(1)).await;
        shared.leases.forget(LEASE);
        shared.leases.pretend(LEASE);
        assert!(cluster.is_idle().await);
        tokio::time::advance(Duration::from_millis(1)).await;
        let kvs = vec![KeyValue { key: SENTINEL.to_vec(), ..KeyValue::default() }];
        soon(expect_read(&mut cluster)).await.answer(&RangeResponse { header: as_of(20), kvs, more: false });
        let again = async {
            // The cancellation of the first watch comes first.
            stream.request::<WatchRequest>().await;
            check_watch(stream.request().await, 21)
        };
        soon(again).await;
        assert!(shared.leases.find(LEASE).is_some());
        tokio::time::advance(lease.ttl() - Duration::from_millis(1)).await;
        shared.leases.forget(LEASE);
        shared.leases.pretend(LEASE);
        tokio::time::advance(Duration::from_millis(1)).await;
        soon(expect_read(&mut cluster))
            .await
            .answer(&RangeResponse { header: as_of(30), ..Default::default() });
        soon(shared.session_lost.notified()).await;
        assert_eq!(shared.leases.find(LEASE), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_of_the_cluster_ends_no_lease_and_the_sentinel_key_is_watched_again() {
        let (mut cluster, shared, _) = watched_lease().await;
        let (first, stream) = soon(cluster.asked("Watch/Watch")).await;
        let watch_id = check_watch(first, 8);
        // Somebody wrote after the put and before the watch, so the deletion may have been missed.
        stream.say(&WatchResponse { header: as_of(8), watch_id, created: true, ..Default::default() });
        let refusal = tonic::Status::invalid_argument("it is confused");
        soon(expect_read(&mut cluster)).await.fail(refusal);
        assert!(cluster.is_idle().await);
        assert!(shared.leases.find(LEASE).is_some());
        tokio::time::advance(shared.connection.config().timeout).await;
        let mut stream = stream;
        soon(stream.request::<WatchRequest>()).await;
        check_watch(soon(stream.request()).await, 8);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_has_expired_or_has_no_sentinel_key_is_not_watched() {
        let (mut cluster, shared, _) = watched_lease().await;
        shared.leases.forget(LEASE);
        assert!(cluster.is_idle().await);
        shared.leases.pretend(LEASE);
        watch_lease(&shared.leases, &shared.watches, shared.leases.find(LEASE).unwrap());
        let (_, call) = soon(cluster.asked::<PutRequest>("KV/Put")).await;
        call.fail(tonic::Status::permission_denied("it may not be put"));
        assert!(cluster.is_idle().await);
        assert!(shared.leases.find(LEASE).is_some());
    }
}
