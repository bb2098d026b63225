//! The network swallows everything and says nothing: a lock is told lost by its deadline, before anybody else has it.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use globallock::Loss;
use globallock_conformance::context::{eventually, lock_of};
use globallock_conformance::fixtures::queue_is;
use globallock_conformance::pauses::Pauses;
use globallock_conformance::proxy::{Flow, Proxy};

use crate::store::{BUSY, KINDS, Store, connect};

const LEASE: Duration = Duration::from_secs(3);
/// How late a task may hear of its deadline.
const LATE: Duration = Duration::from_millis(500);

/// Which way nothing passes.
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

async fn falls_in(store: &Store, hole: Hole, kind: &str, against: &str) {
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
    // Then nothing can confirm the lease any more.
    eventually("something is gone", async || proxy.held() + proxy.swallowed() > 0).await;
    let deadline = Instant::now() + guard.remaining().expect("this lease ends");
    assert!(deadline <= since + LEASE + LATE + (pauses.spent() - before));
    assert_eq!(guard.lost().await, Loss::Expired);
    let told = Instant::now();
    assert!(!guard.is_held());
    let busy = pauses.spent() - before;
    assert!(told < deadline + LATE + busy, "told {:?} late", told - deadline);
    let granted = tokio::time::timeout(LEASE * 10, waiter).await;
    let (next, granted) = granted.expect("somebody else is granted it").unwrap();
    assert!(granted >= deadline, "granted {:?} before the deadline", deadline - granted);
    // What still arrives at the server before the deadline is a sign of life.
    let busy = BUSY + (pauses.spent() - before);
    assert!(granted < deadline + LEASE + LEASE / 3 + busy, "granted {:?} late", granted - deadline);
    let late = told.saturating_duration_since(deadline);
    println!(
        "{}, {name}: told {late:.0?} and granted {:.1?} after the deadline",
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

async fn silence_is_told_by_the_deadline(store: Store) {
    let holes = [Hole::Requests, Hole::Answers, Hole::Both];
    let falls = holes.into_iter().flat_map(|hole| KINDS.map(|kinds| (hole, kinds)));
    join_all(falls.map(|(hole, (kind, against))| falls_in(&store, hole, kind, against))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_told_by_the_deadline_on_redis() {
    silence_is_told_by_the_deadline(Store::redis()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_told_by_the_deadline_on_etcd() {
    silence_is_told_by_the_deadline(Store::etcd()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_is_told_by_the_deadline_on_zookeeper() {
    silence_is_told_by_the_deadline(Store::zookeeper()).await;
}
