//! Renewals fail, once or many times, and afterwards the lock is still held and renewed.

use std::time::{Duration, Instant};

use globallock::{Guard, LockManager, ManagerOptions};
use globallock_conformance::context::{eventually, lock_of};
use globallock_conformance::fixtures::{queue_is, waits};
use globallock_conformance::proxy::{Flow, Proxy};

use crate::store::{KINDS, Store, connect, options};

/// Long enough for many renewals to fail in one lease.
const LEASE: Duration = Duration::from_secs(5);

/// The shortest time that one of the guards remains held.
fn remaining(guards: &[Guard]) -> Duration {
    let all = guards.iter().map(|guard| guard.remaining().expect("this lease ends"));
    all.min().expect("there are some")
}

/// Cuts the network for this share of what remains of the lease. The share must be above a third, because
/// renewals are due after a third of the lease.
async fn fail(proxy: &Proxy, guards: &[Guard], share: f64) {
    let held = proxy.held();
    proxy.requests(Flow::Hold);
    proxy.cut();
    let whole = remaining(guards);
    eventually("renewals fail", async || remaining(guards) < whole.mul_f64(1.0 - share)).await;
    assert!(proxy.held() > held, "nothing passed");
    assert!(remaining(guards) > Duration::ZERO, "the lease has not expired");
    proxy.cut();
    proxy.requests(Flow::Pass);
    eventually("they are renewed", async || remaining(guards) > whole.mul_f64(0.9)).await;
}

pub(crate) async fn failed_renewals_do_not_end_renewal(store: Store) {
    let proxy = Proxy::start(store.port()).await.unwrap();
    // The store timeout is longer than any outage, so that waiting goes on.
    let locks = options(LEASE).store_timeout(Some(LEASE * 4));
    let options = ManagerOptions::new().locks(locks);
    let owner = LockManager::connect_with(&store.behind(proxy.port()), options).await.unwrap();
    let observer = connect(&store.url(), LEASE).await.unwrap();
    let (mut guards, mut others) = (Vec::new(), Vec::new());
    for (kind, against) in KINDS {
        guards.push(lock_of(&owner, kind, kind).unwrap().acquire().await.unwrap());
        let next = lock_of(&observer, kind, against).unwrap();
        others.push(tokio::spawn(async move { next.acquire().await.unwrap().release().await }));
        queue_is(&observer, kind, 1, 1).await;
    }
    // A waiter is renewed as well.
    let taken = observer.mutex("taken").acquire().await.unwrap();
    let waiter = waits(&owner, "taken");
    queue_is(&observer, "taken", 1, 1).await;
    eventually("they are renewed", async || {
        guards.iter().all(|guard| guard.remaining().is_some_and(|left| left > LEASE * 7 / 10))
    })
    .await;

    // Each outage is longer than the last: about one failed renewal, then some, then many.
    for share in [0.4, 0.5, 0.6] {
        fail(&proxy, &guards, share).await;
    }

    let (since, mut renewals) = (Instant::now(), 0);
    let mut before = remaining(&guards);
    eventually("three leases go by", async || {
        let left = remaining(&guards);
        renewals += usize::from(left > before);
        before = left;
        assert!(guards.iter().all(Guard::is_held), "it is held");
        assert!(!others.iter().any(tokio::task::JoinHandle::is_finished), "nobody else is granted it");
        since.elapsed() > LEASE * 3
    })
    .await;
    println!("{}: {renewals} renewals in three leases", store.kind);
    assert!(renewals >= 6, "{renewals} renewals");
    queue_is(&observer, "taken", 1, 1).await;
    taken.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    for (guard, other) in guards.into_iter().zip(others) {
        assert_eq!(guard.release().await.unwrap(), globallock::Release::Released);
        assert_eq!(other.await.unwrap().unwrap(), globallock::Release::Released);
    }
}
