//! How long an owner may rely on its lease, and what must not wait until a lease expires.

use std::time::{Duration, Instant};

use globallock::{LockManager, ManagerOptions, Options};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, queue_is, waits};
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::ZooKeeper;

/// A lease so long that its end makes no test pass.
const LONG: Duration = Duration::from_secs(60);
/// Prompt on a busy machine, and much shorter than a lease.
const PROMPT: Duration = Duration::from_secs(15);

#[tokio::test]
async fn a_lease_counts_from_before_the_request_that_confirmed_it() {
    let delay = Duration::from_millis(400);
    let ensemble = ZooKeeper::start(1).unwrap();
    let proxy = Proxy::start(ensemble.port(0)).await.unwrap();
    let lease = Duration::from_secs(8);
    let url = format!("zookeeper://127.0.0.1:{}?timeout=5s", proxy.port());
    proxy.answers(Flow::Delay(delay));
    let locks = Options::new().lease(lease);
    let owner = LockManager::connect_lazy(&url, ManagerOptions::new().locks(locks)).unwrap();
    let asked = Instant::now();
    let guard = owner.mutex("a").acquire().await.unwrap();
    // The session, the lock's node and the claim's node are created, one after the other.
    let latest = Instant::now() - delay * 3 + lease;
    let end = Instant::now() + guard.remaining().unwrap();
    assert!(end <= latest, "the session counts from its answer");
    assert!(end + lease / 10 >= asked + lease, "it counts for as long as it can");
    // What was requested a third of the timeout before a renewal is known to the leader by then.
    let since = Instant::now();
    eventually("a third goes by", async || since.elapsed() > lease / 3).await;
    let asked = Instant::now();
    assert!(guard.renew().await.unwrap());
    let latest = Instant::now() - delay - lease / 3 + lease;
    let renewed = Instant::now() + guard.remaining().unwrap();
    assert!(renewed <= latest, "the renewal counts from its answer");
    assert!(renewed + lease / 4 + lease / 10 >= asked - lease / 3 + lease, "it counts for as long as it can");
    assert!(renewed > end);
    assert!(proxy.held() > 0);
}

#[tokio::test]
async fn claims_are_handed_over_and_given_up_long_before_a_lease_expires() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let url = ensemble.url();
    let [one, other] = [connect_for(&url, LONG).await.unwrap(), connect_for(&url, LONG).await.unwrap()];
    let held = one.mutex("a").acquire().await.unwrap();
    // Behind a claim of another session, and behind one of its own.
    let mut waiters = Vec::new();
    for (number, manager) in [&other, &one, &one, &other, &other].into_iter().enumerate() {
        waiters.push(waits(manager, "a"));
        queue_is(&one, "a", 1, number + 1).await;
    }
    let since = Instant::now();
    // The middle waiter gives up.
    let gives_up = waiters.remove(2);
    gives_up.abort();
    assert!(gives_up.await.unwrap_err().is_cancelled());
    queue_is(&other, "a", 1, 4).await;
    held.release().await.unwrap();
    for waiter in waiters {
        let guard = tokio::time::timeout(PROMPT, waiter).await.expect("it is granted promptly");
        guard.unwrap().unwrap().release().await.unwrap();
    }
    queue_is(&other, "a", 0, 0).await;
    assert!(since.elapsed() < LONG, "no lease has expired in the meantime");
}
