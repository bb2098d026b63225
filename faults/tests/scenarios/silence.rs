//! The network swallows everything silently: a lock is reported lost by its deadline, before another owner
//! holds it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use globallock::Loss;
use globallock_conformance::context::{eventually, lock_of};
use globallock_conformance::fixtures::queue_is;
use globallock_conformance::pauses::Pauses;
use globallock_conformance::proxy::{Flow, Proxy};

use crate::store::{BUSY, KINDS, Store, connect};

const LEASE: Duration = Duration::from_secs(3);
/// How late a task may notice its deadline.
const LATE: Duration = Duration::from_millis(500);

/// The direction in which nothing passes.
#[derive(Clone, Copy, Debug)]
enum Hole {
    Requests,
    Answers,
    Both,
}

impl Hole {
    fn open(self, proxy: &Proxy) {
        if matches!(self, Hole::Requests | Hole::Both) {
            proxy.requests(Flow::Hold);
        }
        if matches!(self, Hole::Answers | Hole::Both) {
            proxy.answers(Flow::Swallow);
        }
    }
}

async fn is_lost_in(store: &Store, hole: Hole, kind: &str, against: &str) {
    let pauses = Pauses::watch();
    let proxy = Proxy::start(store.port()).await.unwrap();
    let owner = connect(&store.behind(proxy.port()), LEASE).await.unwrap();
    let next = connect(&store.url(), LEASE).await.unwrap();
    let name = format!("{hole:?}-{kind}");
    let guard = lock_of(&owner, &name, kind).unwrap().acquire().await.unwrap();
    let lock = lock_of(&next, &name, against).unwrap();
    let waiter = tokio::spawn(async move {
        let guard = lock.acquire().await.unwrap();
        (guard, Instant::now())
    });
    queue_is(&next, &name, 1, 1).await;
    hole.open(&proxy);
    let (since, before) = (Instant::now(), pauses.spent());
    // From then on nothing can confirm the lease.
    eventually("something is swallowed", async || proxy.held() + proxy.swallowed() > 0).await;
    let deadline = Instant::now() + guard.remaining().expect("this lease ends");
    assert!(deadline <= since + LEASE + LATE + (pauses.spent() - before));
    assert_eq!(guard.lost().await, Loss::Expired);
    let lost = Instant::now();
    assert!(!guard.is_held());
    let busy = pauses.spent() - before;
    assert!(lost < deadline + LATE + busy, "reported {:?} late", lost - deadline);
    let granted = tokio::time::timeout(LEASE * 10, waiter).await;
    let (next, granted) = granted.expect("the next owner is granted it").unwrap();
    assert!(granted >= deadline, "granted {:?} before the deadline", deadline - granted);
    // A request that reaches the server before the deadline still counts as a sign of life, and extends the
    // lease there.
    let busy = BUSY + (pauses.spent() - before);
    assert!(granted < deadline + LEASE + LEASE / 3 + busy, "granted {:?} late", granted - deadline);
    let late = lost.saturating_duration_since(deadline);
    println!(
        "{}, {name}: lost {late:.0?} and granted {:.1?} after the deadline",
        store.kind,
        granted - deadline
    );
    proxy.cut();
    proxy.answers(Flow::Pass);
    proxy.requests(Flow::Pass);
    assert_eq!(guard.release().await.unwrap(), globallock::Release::NotHeld);
    assert!(next.is_held() && next.release().await.unwrap() == globallock::Release::Released);
    let again = lock_of(&owner, &name, kind).unwrap();
    eventually("the owner goes on", async || again.acquire().await.is_ok()).await;
}

pub(crate) async fn a_lock_of_a_silent_store_is_lost_by_its_deadline(store: Store) {
    let holes = [Hole::Requests, Hole::Answers, Hole::Both];
    let losses = holes.into_iter().flat_map(|hole| KINDS.map(|kinds| (hole, kinds)));
    join_all(losses.map(|(hole, (kind, against))| is_lost_in(&store, hole, kind, against))).await;
}
