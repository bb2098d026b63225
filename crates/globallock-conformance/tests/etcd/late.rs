//! Answers that come late, streams that end, and servers that accept no connection.

use std::time::{Duration, Instant};

use globallock_conformance::context::{LIMIT, eventually};
use globallock_conformance::fixtures::{connect_for, manager, queue_is, waits};
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;

/// A lease that does not expire while a test runs.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// A proxy in front of the only member, and the address that leads through it.
pub(super) async fn behind_a_proxy(cluster: &Etcd, options: &str) -> (Proxy, String) {
    let port: u16 = cluster.url().rsplit(':').next().unwrap().parse().unwrap();
    let proxy = Proxy::start(port).await.unwrap();
    let url = format!("etcd://127.0.0.1:{}{options}", proxy.port());
    (proxy, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_counted_from_the_request_and_not_from_its_answer() {
    let cluster = Etcd::start(1).unwrap();
    let (proxy, url) = behind_a_proxy(&cluster, "?timeout=10s").await;
    let lease = Duration::from_secs(6);
    let manager = connect_for(&url, lease).await.unwrap();
    proxy.answers(Flow::Hold);
    let asks = waits(&manager, "a");
    eventually("the lease is granted", async || cluster.ctl(&["lease", "list"]).starts_with("found 1")).await;
    let granted = Instant::now();
    eventually("a second goes by", async || granted.elapsed() > Duration::from_secs(1)).await;
    proxy.answers(Flow::Pass);
    let guard = asks.await.unwrap().unwrap();
    let ends = Instant::now() + guard.remaining().unwrap();
    assert!(ends <= granted + lease, "{:?} later", ends - (granted + lease));

    let delay = Duration::from_millis(200);
    let (mut before, mut renewals) = (guard.remaining().unwrap(), 0);
    // From the second renewal on, the answers were certainly delayed.
    proxy.answers(Flow::Delay(delay));
    while renewals < 3 {
        let left = guard.remaining().unwrap();
        assert!(guard.is_held());
        renewals += u32::from(left > before);
        // A renewal is two requests: one keeps the lease alive, one reads the key.
        assert!(
            renewals < 2 || left <= lease - delay * 2,
            "{left:?} after two answers that took {delay:?} each"
        );
        before = left;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_release_during_a_broken_connection_grants_long_before_the_lease_ends() {
    let cluster = Etcd::start(1).unwrap();
    let (proxy, url) = behind_a_proxy(&cluster, "?timeout=500ms").await;
    let holder = connect_for(&cluster.url(), LONG).await.unwrap();
    let other = connect_for(&url, LONG).await.unwrap();
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&holder, "a", 1, 1).await;
    // After another request has been answered, the waiter's watch has certainly begun.
    let asked = proxy.asked();
    other.inspect("a").await.unwrap();
    assert!(proxy.asked() > asked);
    proxy.requests(Flow::Hold);
    proxy.answers(Flow::Swallow);
    guard.release().await.unwrap();
    proxy.cut();
    eventually("the connection is cut", async || proxy.cuts() > 0).await;
    proxy.requests(Flow::Pass);
    proxy.answers(Flow::Pass);
    let guard = tokio::time::timeout(LIMIT, waiter).await.expect("long before its lease ends");
    assert!(guard.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn a_cluster_that_accepts_no_connection_is_tried_again_with_pauses() {
    let cluster = Etcd::start(1).unwrap();
    let (proxy, url) = behind_a_proxy(&cluster, "?timeout=2s").await;
    let holder = manager(&cluster.url()).await;
    let other = connect_for(&url, LONG).await.unwrap();
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiters: Vec<_> = (0..8).map(|_| waits(&other, "a")).collect();
    queue_is(&holder, "a", 1, 8).await;
    // Nothing listens on that port: each connection ends as soon as it is made.
    proxy.redirect_to(1);
    proxy.cut();
    eventually("the connection is cut", async || proxy.cuts() > 0).await;
    let (begin, before) = (Instant::now(), proxy.connections());
    eventually("some seconds go by", async || begin.elapsed() > Duration::from_secs(3)).await;
    let (made, seconds) = (proxy.connections() - before, begin.elapsed().as_secs());
    assert!(made >= 1, "it is tried again");
    assert!(made <= 60 * (seconds + 1), "{made} connections in {seconds} s");
    guard.release().await.unwrap();
    drop(waiters);
}
