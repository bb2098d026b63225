//! How long an owner may rely on its lease, and what must not wait until a lease expires.

use std::time::{Duration, Instant};

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
    let owner = connect_for(&url, lease).await.unwrap();
    // This creates the session and the lock's node.
    owner.mutex("a").acquire().await.unwrap().release().await.unwrap();
    proxy.answers(Flow::Delay(delay));
    let asked = Instant::now();
    let guard = owner.mutex("a").acquire().await.unwrap();
    // The answer took this long. An owner relies on three quarters of the session's timeout.
    let relied_on = |answered: Instant| answered - delay + lease * 3 / 4;
    let end = Instant::now() + guard.remaining().unwrap();
    assert!(end <= relied_on(Instant::now()), "the grant counts from its answer");
    assert!(end + lease / 10 >= asked + lease * 3 / 4, "it counts for as long as it can");
    assert!(guard.renew().await.unwrap());
    let renewed = Instant::now() + guard.remaining().unwrap();
    assert!(renewed <= relied_on(Instant::now()), "the renewal counts from its answer");
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
