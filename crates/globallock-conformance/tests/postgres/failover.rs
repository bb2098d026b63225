//! A primary and its replica that change places.

use std::time::Duration;

use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, queue_is, waits};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::postgres::Pair;
use tokio::task::spawn_blocking;

/// Longer than a failover takes.
const LEASE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_planned_change_of_the_primary_loses_no_lock() {
    let mut pair = Pair::start().unwrap();
    let url = Cluster::url(&pair);
    let manager = connect_for(&url, LEASE).await.unwrap();
    let guard = manager.mutex("a").acquire().await.unwrap();
    let waiter = waits(&manager, "a");
    queue_is(&manager, "a", 1, 1).await;
    let token = guard.fencing_token();
    let pair = spawn_blocking(move || pair.change_places(true, || ()).map(|_| pair)).await.unwrap().unwrap();
    assert_eq!(pair.primary(), Some(1));
    assert!(guard.renew().await.unwrap());
    queue_is(&manager, "a", 1, 1).await;
    guard.release().await.unwrap();
    let next = waiter.await.unwrap().unwrap();
    assert!(next.fencing_token() > token);
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fencing_tokens_rise_past_a_failover_that_lost_the_last_grants() {
    let mut pair = Pair::start().unwrap();
    let manager = connect_for(&Cluster::url(&pair), LEASE).await.unwrap();
    let lock = manager.mutex("a");
    lock.acquire().await.unwrap().release().await.unwrap();
    let handle = tokio::runtime::Handle::current();
    let (lost, last, pair) = spawn_blocking(move || {
        let mut last = 0;
        let lost = pair.change_places(false, || {
            // What the replica does not get any more: more grants than a sequence is logged ahead for.
            last = handle.block_on(async {
                let mut last = 0;
                for _ in 0..100 {
                    let guard = lock.acquire().await.unwrap();
                    last = guard.fencing_token();
                    guard.release().await.unwrap();
                }
                last
            });
        });
        (lost.unwrap(), last, pair)
    })
    .await
    .unwrap();
    assert!(lost > 0 && last > 0);
    let next = manager.mutex("a").acquire().await.unwrap();
    assert!(next.fencing_token() > last, "{} after {last}", next.fencing_token());
    drop(pair);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_synchronous_replica_has_hands_over_no_lock() {
    let mut pair = Pair::start_synchronous().unwrap();
    let url = format!("{}?timeout=500ms", Cluster::url(&pair));
    let [holder, other] = [connect_for(&url, LEASE).await.unwrap(), connect_for(&url, LEASE).await.unwrap()];
    let guard = holder.mutex("a").acquire().await.unwrap();
    let mut waiter = waits(&other, "a");
    queue_is(&holder, "a", 1, 1).await;
    let (log, handle) = (pair.server(0).log(), tokio::runtime::Handle::current());
    let (missed, waiter) = spawn_blocking(move || {
        let missed = pair.change_places(false, || {
            handle.block_on(async {
                // It is given up, and the server is told so. Then the primary shows it, and only the primary.
                let given_up = || {
                    let log = std::fs::read_to_string(&log).unwrap();
                    log.matches("canceling wait for synchronous").count()
                };
                // On a busy machine, requests of before may have been given up too.
                let before = given_up();
                tokio::spawn(guard.release());
                eventually("the commit waits no longer", async || given_up() > before).await;
                // Messages from before come before the answers.
                for _ in 0..5 {
                    let _ = other.inspect("a").await;
                }
                // It may have asked in vain for too long.
                if waiter.is_finished() {
                    let told = (&mut waiter).await.unwrap();
                    assert!(told.is_err(), "{told:?}");
                }
            });
        });
        (missed.unwrap(), waiter)
    })
    .await
    .unwrap();
    assert!(missed > 0);
    waiter.abort();
}
