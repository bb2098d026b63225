//! A caller that gives up is gone: wherever its future is dropped, nothing stays in the queue, is held, or is renewed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock::{LockManager, Memory};
use globallock_conformance::context::{Context, dropped_at, eventually, lock_of};
use globallock_conformance::faulty::{Fault, Faulty, Verb};
use globallock_conformance::store_under_test::StoreUnderTest;
use tempfile::TempDir;

use crate::store::{KINDS, Store};

/// More suspension points than any way through an acquire has.
const MANY: usize = 300;

/// A way to ask for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    /// Once, for a lock that is free.
    Tries,
    /// Once, for a lock that is taken.
    TriesInVain,
    /// With patience, for a lock that is free.
    Acquires,
    /// With patience, for a lock that is taken, and given up as soon as somebody waits.
    Waits,
}

/// Asks, and gives up at this suspension point; says whether it came to its end before.
async fn gives_up_at(
    point: usize,
    context: &Context,
    impatient: &LockManager,
    other: &LockManager,
    asks: Asks,
) -> bool {
    let (kind, against) = KINDS.into_iter().find(|(kind, _)| *kind == context.kind()).unwrap();
    let lock = lock_of(impatient, context.name(), kind).unwrap();
    let against = lock_of(other, context.name(), against).unwrap();
    let is_taken = matches!(asks, Asks::TriesInVain | Asks::Waits);
    let holder = if is_taken { Some(against.acquire().await.unwrap()) } else { None };
    // What was granted is dropped here as well: a caller may give up right then.
    let ended = match asks {
        Asks::Tries | Asks::TriesInVain => {
            let ended = dropped_at(point, lock.try_acquire()).await;
            ended.map(|tried| assert_eq!(tried.unwrap().is_some(), asks == Asks::Tries))
        }
        Asks::Acquires => dropped_at(point, lock.acquire()).await.map(|acquired| drop(acquired.unwrap())),
        Asks::Waits => {
            let leaves = async {
                context.until(other, 1, 1).await;
                holder.unwrap().release().await.unwrap();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                ended = dropped_at(point, lock.acquire()) => ended.map(|acquired| drop(acquired.unwrap())),
                () = leaves => unreachable!("it never ends"),
            }
        }
    };
    // The holder has gone, or was dropped with `leaves`.
    let fresh = tokio::time::timeout(context.lease() + context.lease() / 3, async {
        if asks != Asks::TriesInVain { Some(against.acquire().await.unwrap()) } else { None }
    });
    drop(fresh.await.unwrap_or_else(|_| panic!("{asks:?} given up at {point}: nobody gets the lock")));
    ended.is_some()
}

async fn leaves_nothing(subject: StoreUnderTest) {
    for (kind, _) in KINDS {
        for asks in [Asks::Tries, Asks::TriesInVain, Asks::Acquires, Asks::Waits] {
            let context = Context::new(&subject, "cancelled", kind);
            let (store, impatient) = context.faulty().await;
            let other = context.manager().await;
            // Slow on both ways, so that each request has a suspension before and after the store has served it.
            for verb in [Verb::Enqueue, Verb::WaitForChange, Verb::Release] {
                store.always(verb, Fault::Delay(Duration::from_millis(2)));
            }
            let mut point = 0;
            while !gives_up_at(point, &context, &impatient, &other, asks).await {
                context.until_empty(&other).await;
                point += 1;
                assert!(point < MANY, "{kind}, {asks:?}: it never comes to its end");
            }
            context.until_empty(&other).await;
            println!("{}, {kind}, {asks:?}: {point} points", subject.kind);
            nothing_is_renewed(&store, &context, &other).await;
        }
    }
}

/// Checks that nothing comes back, nor is asked for, while its owner lives on for more than a lease.
async fn nothing_is_renewed(store: &Arc<Faulty>, context: &Context, other: &LockManager) {
    let (joined, renewed) = (store.asked(Verb::Enqueue), store.asked(Verb::Renew));
    let since = Instant::now();
    eventually("more than a lease goes by", async || {
        assert!(context.queue(other).await.is_empty(), "a claim comes back");
        since.elapsed() > context.lease() * 3 / 2
    })
    .await;
    assert_eq!((store.asked(Verb::Enqueue), store.asked(Verb::Renew)), (joined, renewed), "it is asked for");
}

fn on(store: &Store) -> StoreUnderTest {
    StoreUnderTest { lease: Duration::from_secs(2), ..StoreUnderTest::at(store.kind, &store.url(), None) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_leaves_nothing_in_memory() {
    let store = Memory::new();
    leaves_nothing(StoreUnderTest::new("memory", move || {
        let store = Arc::clone(&store) as Arc<dyn globallock::Backend>;
        async move { Ok(store) }
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_leaves_nothing_in_files() {
    let directory = TempDir::new().unwrap();
    leaves_nothing(StoreUnderTest::at("file", &format!("file://{}/locks", directory.path().display()), None))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_leaves_nothing_on_redis() {
    leaves_nothing(on(&Store::redis())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_leaves_nothing_on_etcd() {
    leaves_nothing(on(&Store::etcd())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_leaves_nothing_on_zookeeper() {
    leaves_nothing(on(&Store::zookeeper())).await;
}
