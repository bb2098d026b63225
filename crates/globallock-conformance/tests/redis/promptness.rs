//! A free lock is granted at once, also where nobody could notify the waiter. Leases are a minute long, and
//! no limit is as long as the time between two renewals, so that neither can hide a waiter that was
//! forgotten.

use std::time::Duration;

use globallock::{Guard, LockManager, Result};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, queue_is, waits};
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::redis::Redis;
use tokio::task::JoinHandle;

const LEASE: Duration = Duration::from_secs(60);
/// Waiters renew after 20 s.
const SOON: Duration = Duration::from_secs(15);

async fn manager(server: &Redis) -> LockManager {
    connect_for(&server.url(), LEASE).await.unwrap()
}

async fn behind_proxy(server: &Redis) -> (Proxy, LockManager) {
    let (proxy, url) = crate::behind_proxy(server, "?timeout=10s").await;
    (proxy, connect_for(&url, LEASE).await.unwrap())
}

async fn granted(waiter: JoinHandle<Result<Guard>>) -> Guard {
    tokio::time::timeout(SOON, waiter).await.expect("it is granted without a renewal").unwrap().unwrap()
}

/// A waiter of the lock `a` whose process dies: its connection ends, and nobody releases its claim.
async fn dead_waiter(server: &Redis, sees: &LockManager, waiting: usize) {
    let (proxy, dies) = behind_proxy(server).await;
    let waiter = waits(&dies, "a");
    queue_is(sees, "a", 1, waiting).await;
    let listening = || server.cli(&["PUBSUB", "CHANNELS", "globallock:wake:*"]).lines().count();
    let before = listening();
    proxy.requests(Flow::Hold);
    proxy.cut();
    eventually("nobody listens for it", async || listening() < before).await;
    waiter.abort();
    std::mem::forget(proxy);
}

#[tokio::test]
async fn a_dead_waiter_is_not_granted_the_lock() {
    let server = Redis::start().unwrap();
    let (holder, next) = (manager(&server).await, manager(&server).await);
    for permits in [2, 1] {
        // With one permit of two, the lock is shared, and its release has no fast path.
        let lock = holder.semaphore("a", 2).permits(permits);
        let guard = lock.acquire().await.unwrap();
        dead_waiter(&server, &holder, 1).await;
        let waiter = waits(&next, "a");
        queue_is(&holder, "a", 1, 2).await;
        guard.release().await.unwrap();
        granted(waiter).await.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_grant_that_was_lost_with_the_connection_is_found_over_the_next_one() {
    let server = Redis::start().unwrap();
    let holder = manager(&server).await;
    let (proxy, other) = behind_proxy(&server).await;
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&holder, "a", 1, 1).await;
    proxy.answers(Flow::Swallow);
    guard.release().await.unwrap();
    eventually("the message is lost", async || proxy.swallowed() > 0).await;
    assert!(!waiter.is_finished());
    proxy.answers(Flow::Pass);
    proxy.cut();
    assert!(granted(waiter).await.is_held());
}

#[tokio::test]
async fn a_lock_that_a_foreign_holder_releases_is_granted_at_once() {
    let server = Redis::start().unwrap();
    let waits_for_it = manager(&server).await;
    for value in ["somebody", "glk1", ""] {
        server.cli(&["SET", "_glocks:a", value, "NX", "PX", "600000"]);
        let waiter = waits(&waits_for_it, "a");
        queue_is(&waits_for_it, "a", 1, 1).await;
        assert_eq!(server.cli(&["DEL", "_glocks:a"]), "1");
        granted(waiter).await.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_lock_that_a_foreign_holder_releases_is_granted_behind_a_dead_waiter() {
    let server = Redis::start().unwrap();
    let living = manager(&server).await;
    server.cli(&["SET", "_glocks:a", "somebody", "NX", "PX", "600000"]);
    dead_waiter(&server, &living, 1).await;
    let waiter = waits(&living, "a");
    queue_is(&living, "a", 1, 2).await;
    assert_eq!(server.cli(&["DEL", "_glocks:a"]), "1");
    assert!(granted(waiter).await.is_held());
}

#[tokio::test]
async fn the_permits_of_a_dead_owner_are_freed_beside_a_living_one() {
    let lease = Duration::from_secs(1);
    let server = Redis::start().unwrap();
    let (proxy, url) = crate::behind_proxy(&server, "?timeout=500ms").await;
    let dies = connect_for(&url, lease).await.unwrap();
    let lives = connect_for(&server.url(), lease).await.unwrap();
    // It does not renew before the limit, so that its first poll must get the grant.
    let waits = manager(&server).await;
    let permit = |manager: &LockManager| manager.semaphore("a", 2).permits(1);
    let live = permit(&lives).acquire().await.unwrap();
    let dead = permit(&dies).acquire().await.unwrap();
    proxy.requests(Flow::Hold);
    let lock = permit(&waits);
    let waiter = tokio::spawn(async move { lock.acquire().await });
    let guard = granted(waiter).await;
    assert!(guard.is_held() && live.is_held() && !dead.is_held());
}

#[tokio::test]
async fn an_acquire_that_is_dropped_before_its_answer_leaves_nothing() {
    let server = Redis::start().unwrap();
    let sees = manager(&server).await;
    let (proxy, asks) = behind_proxy(&server).await;
    // Loads the scripts.
    asks.mutex("a").acquire().await.unwrap().release().await.unwrap();
    for taken in [false, true] {
        let holds = if taken { Some(sees.mutex("a").acquire().await.unwrap()) } else { None };
        proxy.answers(Flow::Hold);
        let waiter = waits(&asks, "a");
        queue_is(&sees, "a", 1, usize::from(taken)).await;
        waiter.abort();
        assert!(waiter.await.unwrap_err().is_cancelled(), "it was dropped before it was answered");
        proxy.answers(Flow::Pass);
        queue_is(&sees, "a", usize::from(taken), 0).await;
        if let Some(guard) = holds {
            guard.release().await.unwrap();
        }
    }
}
