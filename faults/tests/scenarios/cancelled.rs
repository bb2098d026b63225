//! A cancelled acquire leaves nothing: wherever its future is dropped, no claim stays in the queue, and
//! nothing is held or renewed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock::LockManager;
use globallock_conformance::context::{Context, dropped_at, eventually, lock_of};
use globallock_conformance::faulty::{Fault, Faulty, Verb};

use crate::store::{KINDS, Store};

/// More suspension points than any acquire has.
const TOO_MANY: usize = 300;

/// A call for a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    /// `try_acquire` of a free lock.
    TryFree,
    /// `try_acquire` of a lock that is held.
    TryHeld,
    /// `acquire` of a free lock.
    AcquireFree,
    /// `acquire` of a lock that is held, and released as soon as the call waits.
    AcquireHeld,
}

/// Makes a call, and drops it at this suspension point. Returns whether the call ended before.
async fn cancel_at(
    point: usize,
    context: &Context,
    owner: &LockManager,
    other: &LockManager,
    call: Call,
) -> bool {
    let (kind, against) = KINDS.into_iter().find(|(kind, _)| *kind == context.kind()).unwrap();
    let lock = lock_of(owner, context.name(), kind).unwrap();
    let against = lock_of(other, context.name(), against).unwrap();
    let is_taken = matches!(call, Call::TryHeld | Call::AcquireHeld);
    let holder = if is_taken { Some(against.acquire().await.unwrap()) } else { None };
    // A guard is dropped here as well, because a caller may be cancelled right after the grant.
    let ended = match call {
        Call::TryFree | Call::TryHeld => {
            let ended = dropped_at(point, lock.try_acquire()).await;
            ended.map(|tried| assert_eq!(tried.unwrap().is_some(), call == Call::TryFree))
        }
        Call::AcquireFree => dropped_at(point, lock.acquire()).await.map(|acquired| drop(acquired.unwrap())),
        Call::AcquireHeld => {
            let release = async {
                context.until(other, 1, 1).await;
                holder.unwrap().release().await.unwrap();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                ended = dropped_at(point, lock.acquire()) => ended.map(|acquired| drop(acquired.unwrap())),
                () = release => unreachable!("it never ends"),
            }
        }
    };
    // By now the holder has released the lock, or was dropped with `release`.
    let fresh = tokio::time::timeout(context.lease() + context.lease() / 3, async {
        if call != Call::TryHeld { Some(against.acquire().await.unwrap()) } else { None }
    });
    drop(
        fresh.await.unwrap_or_else(|_| {
            panic!("{call:?} cancelled at {point}: the next owner is not granted the lock")
        }),
    );
    ended.is_some()
}

pub(crate) async fn a_cancelled_acquire_leaves_nothing(store: Store) {
    let subject = store.under_test(None);
    for (kind, _) in KINDS {
        for call in [Call::TryFree, Call::TryHeld, Call::AcquireFree, Call::AcquireHeld] {
            let context = Context::new(&subject, "cancelled", kind);
            let (store, owner) = context.faulty().await;
            let other = context.manager().await;
            // A delay before and after the store serves a request, so that each request has suspension points
            // at both.
            for verb in [Verb::Enqueue, Verb::WaitForChange, Verb::Release] {
                store.always(verb, Fault::Delay(Duration::from_millis(2)));
            }
            let mut point = 0;
            while !cancel_at(point, &context, &owner, &other, call).await {
                context.until_empty(&other).await;
                point += 1;
                assert!(point < TOO_MANY, "{kind}, {call:?}: it never ends");
            }
            context.until_empty(&other).await;
            println!("{}, {kind}, {call:?}: {point} points", subject.kind);
            nothing_is_renewed(&store, &context, &other).await;
        }
    }
}

/// Checks that for more than a lease, while the manager lives on, no claim comes back and nothing is
/// requested.
async fn nothing_is_renewed(store: &Arc<Faulty>, context: &Context, other: &LockManager) {
    let (enqueued, renewed) = (store.asked(Verb::Enqueue), store.asked(Verb::Renew));
    let since = Instant::now();
    eventually("more than a lease goes by", async || {
        assert!(context.queue(other).await.is_empty(), "a claim comes back");
        since.elapsed() > context.lease() * 3 / 2
    })
    .await;
    assert_eq!(
        (store.asked(Verb::Enqueue), store.asked(Verb::Renew)),
        (enqueued, renewed),
        "something is requested"
    );
}
