//! The network and the server fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use globallock::{Error, Guard, LockManager, Loss, Options, Release};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::connect_for;
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::redis::{Redis, Sentinels};
use tokio::task::JoinHandle;

use crate::{LEASE, manager, queue_is};

async fn behind_proxy(server: &Redis) -> (Proxy, LockManager) {
    let (proxy, url) = crate::behind_proxy(server, "?timeout=500ms").await;
    (proxy, manager(&url).await)
}

fn waits(manager: &LockManager, name: &str) -> JoinHandle<globallock::Result<Guard>> {
    let lock = manager.mutex(name);
    tokio::spawn(async move { lock.acquire().await })
}

#[tokio::test]
async fn a_lost_message_is_noticed_by_the_next_renewal() {
    let server = Redis::start().unwrap();
    let holder = manager(&server.url()).await;
    let (proxy, other) = behind_proxy(&server).await;
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&holder, "a", 1, 1).await;
    proxy.answers(Flow::Swallow);
    guard.release().await.unwrap();
    eventually("the message is lost", async || proxy.swallowed() > 0).await;
    proxy.answers(Flow::Pass);
    assert!(waiter.await.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn a_waiter_that_cannot_be_reached_is_passed_over() {
    let server = Redis::start().unwrap();
    let [holder, next] = [manager(&server.url()).await, manager(&server.url()).await];
    let (proxy, cut_off) = behind_proxy(&server).await;
    let guard = holder.mutex("a").acquire().await.unwrap();
    let unreachable = waits(&cut_off, "a");
    queue_is(&holder, "a", 1, 1).await;
    let waiter = waits(&next, "a");
    queue_is(&holder, "a", 1, 2).await;
    proxy.requests(Flow::Hold);
    proxy.cut();
    eventually("nobody listens for it", async || {
        server.cli(&["PUBSUB", "CHANNELS", "globallock:wake:*"]).lines().count() == 2
    })
    .await;
    guard.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(proxy.cuts() > 0);
    proxy.requests(Flow::Pass);
    guard.release().await.unwrap();
    assert!(unreachable.await.unwrap().unwrap().is_held(), "it comes back and is granted in its turn");
}

#[tokio::test]
async fn a_silent_network_is_reported_within_the_store_timeout_and_loses_the_lock() {
    let server = Redis::start().unwrap();
    let (proxy, manager) = behind_proxy(&server).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    proxy.answers(Flow::Swallow);
    let asked = std::time::Instant::now();
    let options = Options::new().store_timeout(Some(Duration::from_millis(700))).lease(LEASE);
    let refused = manager.mutex("b").with_options(options).acquire().await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    assert!(asked.elapsed() < Duration::from_secs(10));
    assert_eq!(guard.lost().await, Loss::Expired);
    assert!(proxy.swallowed() > 0);
}

#[tokio::test]
async fn connections_that_break_all_the_time_break_no_lock() {
    let server = Redis::start().unwrap();
    let direct = manager(&server.url()).await;
    let inside = Arc::new(AtomicBool::new(false));
    let mut proxies = Vec::new();
    let mut owners = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (proxy, manager) = behind_proxy(&server).await;
        let proxy = Arc::new(proxy);
        proxies.push(Arc::clone(&proxy));
        let inside = Arc::clone(&inside);
        owners.spawn(async move {
            let mut rounds = 0;
            while rounds < 20 || proxy.cuts() < 4 {
                rounds += 1;
                // A connection that breaks twice in one request is an error, and nothing is left behind.
                let Ok(guard) = manager.mutex("a").acquire().await else { continue };
                assert!(!inside.swap(true, Ordering::SeqCst));
                tokio::task::yield_now().await;
                assert!(inside.swap(false, Ordering::SeqCst));
                drop(guard.release().await);
            }
            manager.close().await;
        });
    }
    let cutting = async {
        let mut pace = tokio::time::interval(Duration::from_millis(7));
        loop {
            pace.tick().await;
            proxies.iter().for_each(|proxy| proxy.cut());
        }
    };
    tokio::select! {
        _ = owners.join_all() => {}
        () = cutting => unreachable!("it never ends"),
    }
    queue_is(&direct, "a", 0, 0).await;
}

#[tokio::test]
async fn forgotten_scripts_are_loaded_again() {
    let server = Redis::start().unwrap();
    let manager = connect_for(&server.url(), Duration::from_secs(6)).await.unwrap();
    let lock = manager.mutex("a");
    for _ in 0..2 {
        server.cli(&["SCRIPT", "FLUSH"]);
        let guard = lock.acquire().await.unwrap();
        server.cli(&["SCRIPT", "FLUSH"]);
        let left = || server.cli(&["PTTL", "_glocks:a"]).parse::<i64>().unwrap();
        let mut last = left();
        eventually("it is renewed", async || left() > std::mem::replace(&mut last, left())).await;
        server.cli(&["SCRIPT", "FLUSH"]);
        assert_eq!(guard.release().await.unwrap(), Release::Released);
    }
}

#[tokio::test]
async fn flushed_data_is_reported_as_a_loss_and_tokens_go_on_rising() {
    let server = Redis::start().unwrap();
    let [holder, other] = [manager(&server.url()).await, manager(&server.url()).await];
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&holder, "a", 1, 1).await;
    server.cli(&["FLUSHALL"]);
    let next = waiter.await.unwrap().unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
    assert_eq!(guard.lost().await, Loss::Revoked);
    assert!(next.is_held());
}

#[tokio::test]
async fn a_server_that_restarts_within_the_lease_keeps_its_waiters() {
    let mut server = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]).unwrap();
    let options = Options::new().lease(Duration::from_secs(20));
    let holder = LockManager::connect_with(&server.url(), options.clone()).await.unwrap();
    let other = LockManager::connect_with(&server.url(), options).await.unwrap();
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&holder, "a", 1, 1).await;
    server.kill();
    server.resume_after_kill().unwrap();
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(waiter.await.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn a_stopped_server_that_goes_on_in_time_loses_nothing() {
    let server = Redis::start().unwrap();
    let options = Options::new().lease(Duration::from_secs(20));
    let url = format!("{}?timeout=200ms", server.url());
    let manager = LockManager::connect_with(&url, options).await.unwrap();
    let guard = manager.mutex("a").acquire().await.unwrap();
    server.stop();
    let short = Options::new().store_timeout(Some(Duration::from_millis(300)));
    let refused = manager.mutex("b").with_options(short).acquire().await;
    assert!(refused.unwrap_err().is_unavailable());
    server.go_on();
    assert!(manager.mutex("b").acquire().await.unwrap().is_held());
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

#[tokio::test]
async fn a_failover_by_sentinels_is_followed() {
    let mut set = Sentinels::start().unwrap();
    let options = Options::new().lease(Duration::from_secs(30));
    let manager = LockManager::connect_with(&set.url(), options).await.unwrap();
    let lock = manager.mutex("a");
    let guard = lock.acquire().await.unwrap();
    let before = guard.fencing_token();
    guard.release().await.unwrap();
    assert_eq!(set.primary.cli(&["EXISTS", "{_glocks:a}:fence"]), "1");
    set.primary.kill();
    set.wait_failover().unwrap();
    let guard = lock.acquire().await.unwrap();
    assert!(guard.fencing_token() > before);
    assert!(set.replica.cli(&["GET", "_glocks:a"]).starts_with("glk1:"), "the lock is in the new primary");
    guard.release().await.unwrap();
}

#[tokio::test]
async fn messages_of_a_connection_that_was_given_up_are_ignored() {
    let server = Redis::start().unwrap();
    let (proxy, url) = crate::behind_proxy(&server, "?timeout=2s").await;
    let owner = connect_for(&url, Duration::from_secs(30)).await.unwrap();
    let other = connect_for(&server.url(), Duration::from_secs(30)).await.unwrap();
    let first = other.mutex("a").acquire().await.unwrap();
    let waiter = waits(&owner, "a");
    queue_is(&other, "a", 1, 1).await;
    // When a request is not answered in time, the owner connects again. Later requests still wait for answers
    // on the old connection, so that it stays subscribed and the server notifies both.
    proxy.answers_on_open_connections(Flow::Hold);
    while proxy.connections() == 1 {
        let asks = owner.clone();
        tokio::spawn(async move { asks.inspect("b").await });
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    queue_is(&owner, "a", 1, 1).await;
    assert_eq!(proxy.connections(), 2);
    first.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    // Now the message arrives over the old connection too, which ends then.
    assert_eq!(proxy.ended(), 0);
    proxy.answers_on_open_connections(Flow::Pass);
    eventually("the old connection ends", async || proxy.ended() > 0).await;
    queue_is(&owner, "a", 1, 0).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}
