//! Servers whose ticks and limits of session timeouts are not the usual ones.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use globallock::Loss;
use globallock_conformance::context::{LIMIT, eventually};
use globallock_conformance::fixtures::{calm_manager, connect_for, queue_is, waits};
use globallock_conformance::pauses::busy;
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::clock::Clock;
use globallock_conformance::server::zookeeper::{Setup, ZooKeeper};
use globallock_conformance::server::{Cluster, free_port};

/// In seconds.
const HOUR: i64 = 3600;

/// Starts one server with these lines in its configuration.
fn start(more: &str) -> ZooKeeper {
    ZooKeeper::start_with(1, Setup { more: more.to_owned(), ..Setup::default() }).unwrap()
}

/// Holds a lock for as long as a session lasts, is cut off, and is told before the next is granted.
async fn is_held_and_lost_in_time(ensemble: &ZooKeeper, lease: Duration, session: Duration) {
    let proxy = Proxy::start(ensemble.port(0)).await.unwrap();
    let url = format!("zookeeper://127.0.0.1:{}?timeout=1s", proxy.port());
    let owner = connect_for(&url, lease).await.unwrap();
    let next = calm_manager(&ensemble.url()).await;
    let guard = owner.mutex("a").acquire().await.unwrap();
    let since = Instant::now();
    eventually("a session's timeout goes by", async || since.elapsed() > session).await;
    assert!(guard.is_held(), "it is renewed");
    let left = guard.remaining().unwrap();
    assert!(left <= session, "{left:?} are left");
    let waiter = waits(&next, "a");
    eventually("the next one waits", async || {
        assert!(guard.is_held(), "a pause of the server or of this process outlasted the session");
        next.inspect("a").await.unwrap().len() == 2
    })
    .await;
    proxy.requests(Flow::Hold);
    let granted = waiter.await.unwrap().unwrap();
    assert!(!guard.is_held());
    assert_eq!(guard.lost().await, Loss::Expired);
    granted.release().await.unwrap();
}

/// Sessions do not end by the time of day.
#[tokio::test]
async fn a_clock_that_is_wrong_and_is_set_while_locks_are_held() {
    let place = tempfile::TempDir::new().unwrap();
    let clock = Arc::new(Clock::new(place.path(), "servers").unwrap());
    clock.set(-2 * HOUR).unwrap();
    let ensemble =
        ZooKeeper::start_with(1, Setup { clock: Some(Arc::clone(&clock)), ..Setup::default() }).unwrap();
    let lease = Duration::from_secs(2);
    let owner = connect_for(&ensemble.url(), lease).await.unwrap();
    let guard = owner.mutex("b").acquire().await.unwrap();
    let age = owner.inspect("b").await.unwrap()[0].age.unwrap();
    assert!(age > Duration::from_secs(7000), "it is two hours old by the server's clock, and not {age:?}");
    for time in [5 * HOUR, -30 * 24 * HOUR, 0] {
        clock.set(time).unwrap();
        is_held_and_lost_in_time(&ensemble, lease, lease).await;
        assert!(guard.is_held(), "it is renewed");
        assert!(guard.remaining().unwrap() <= lease);
    }
    assert_eq!(guard.release().await.unwrap(), globallock::Release::Released);
}

#[tokio::test]
async fn a_tick_of_100_ms() {
    let ensemble = start("tickTime=100\n");
    let lease = Duration::from_secs(2);
    is_held_and_lost_in_time(&ensemble, lease, lease).await;
}

/// Two ticks are as long as a pause of a busy machine. So the owner may lose the lock any time, but is told.
#[tokio::test]
async fn the_shortest_session_of_a_tick_of_100_ms() {
    let ensemble = start("tickTime=100\n");
    let lease = Duration::from_millis(100);
    let proxy = Proxy::start(ensemble.port(0)).await.unwrap();
    let url = format!("zookeeper://127.0.0.1:{}?timeout=1s", proxy.port());
    let owner = connect_for(&url, lease).await.unwrap();
    let next = calm_manager(&ensemble.url()).await;
    // How long a busy server takes is not tested here.
    let lock = owner.mutex("a").store_timeout(LIMIT);
    for _ in 0..5 {
        let guard = lock.acquire().await.unwrap();
        proxy.requests(Flow::Hold);
        let granted = next.mutex("a").acquire().await.unwrap();
        assert!(!guard.is_held(), "{:?} are left", guard.remaining());
        guard.lost().await;
        granted.release().await.unwrap();
        proxy.requests(Flow::Pass);
    }
}

#[tokio::test]
async fn a_longest_session_that_is_shorter_than_the_lease() {
    let ensemble = start("maxSessionTimeout=3000\n");
    let [lease, session] = [60, 3].map(Duration::from_secs);
    let owner = connect_for(&ensemble.url(), lease).await.unwrap();
    let guard = owner.mutex("b").acquire().await.unwrap();
    assert!(guard.remaining().unwrap() <= session);
    is_held_and_lost_in_time(&ensemble, session, session).await;
    assert!(guard.is_held(), "it is renewed often enough");
}

#[tokio::test]
async fn a_tick_of_10_s_delays_no_grant() {
    let ensemble = start("tickTime=10000\n");
    let lease = Duration::from_secs(1);
    let [one, other] = [
        connect_for(&ensemble.url(), lease).await.unwrap(),
        connect_for(&ensemble.url(), lease).await.unwrap(),
    ];
    let since = Instant::now();
    let mut held = one.mutex("a").acquire().await.unwrap();
    for turn in 0..20 {
        let waiter = waits(if turn % 2 == 0 { &other } else { &one }, "a");
        queue_is(&one, "a", 1, 1).await;
        held.release().await.unwrap();
        held = waiter.await.unwrap().unwrap();
    }
    assert!(since.elapsed() < Duration::from_secs(10), "no grant waited for a tick: {:?}", since.elapsed());
}

/// Waits for about half a minute: two ticks are the shortest session, and the server rounds its end up to a
/// tick.
#[tokio::test]
async fn with_a_tick_of_10_s_a_loss_is_told_before_the_next_grant_and_a_dead_owners_claim_ends() {
    let ensemble = start("tickTime=10000\n");
    let [session, tick] = [20, 10].map(Duration::from_secs);
    let next = calm_manager(&ensemble.url()).await;
    let proxies =
        [Proxy::start(ensemble.port(0)).await.unwrap(), Proxy::start(ensemble.port(0)).await.unwrap()];
    let mut guards = Vec::new();
    for (proxy, name) in proxies.iter().zip(["silent", "dead"]) {
        let owner = connect_for(&format!("zookeeper://127.0.0.1:{}", proxy.port()), session).await.unwrap();
        guards.push(owner.mutex(name).acquire().await.unwrap());
    }
    let waiters = [waits(&next, "silent"), waits(&next, "dead")];
    for name in ["silent", "dead"] {
        queue_is(&next, name, 1, 1).await;
    }
    let since = Instant::now();
    proxies[0].requests(Flow::Hold);
    // The server sees as much of an owner that was killed.
    proxies[1].redirect_to(free_port());
    proxies[1].cut();
    let granted = waiters.into_iter().zip(&guards).map(async |(waiter, guard)| {
        let granted = waiter.await.unwrap().unwrap();
        let took = since.elapsed();
        assert!(!guard.is_held());
        assert_eq!(guard.lost().await, Loss::Expired);
        granted.release().await.unwrap();
        took
    });
    let took = join_all(granted).await;
    assert!(took.iter().all(|took| *took < session + tick + Duration::from_secs(5) * busy()), "{took:?}");
}
