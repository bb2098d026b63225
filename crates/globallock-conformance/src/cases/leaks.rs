//! A future or guard that is dropped, at whatever point, leaves no claim behind.

use std::pin::pin;
use std::time::Duration;

use globallock::Error;

use super::{Case, case};
use crate::context::{Context, dropped_at, run_out};
use crate::faulty::{Fault, Verb};

/// More suspension points than any path through an acquire has.
const MANY: usize = 200;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("leaks", an_acquire_dropped_at_any_point_leaves_nothing).over_kinds(),
        case!("leaks", a_waiting_acquire_dropped_at_any_point_leaves_nothing).over_kinds(),
        case!("leaks", a_try_dropped_at_any_point_leaves_nothing).over_kinds(),
        case!("leaks", a_release_dropped_at_any_point_frees).over_kinds(),
        case!("leaks", a_lock_all_dropped_at_any_point_leaves_nothing),
        case!("leaks", a_wait_that_ran_out_leaves_nothing).over_kinds(),
        case!("leaks", a_wait_that_ran_out_in_silence_leaves_nothing),
        case!("leaks", a_guard_outlives_its_manager),
        case!("leaks", a_closed_manager_refuses_and_keeps_what_is_held),
        case!("leaks", closing_a_manager_ends_its_waiters),
        case!("leaks", closing_waits_for_releases_in_the_background),
    ]
}

/// A manager with delayed requests and answers: each request suspends once before and once after it is
/// served.
async fn slow(context: &Context) -> globallock::LockManager {
    let (store, manager) = context.faulty().await;
    for verb in [Verb::Enqueue, Verb::Release, Verb::Renew] {
        store.always(verb, Fault::Delay(Duration::from_millis(3)));
    }
    manager
}

async fn an_acquire_dropped_at_any_point_leaves_nothing(context: Context) {
    let (slow, other) = (slow(&context).await, context.manager().await);
    for point in 0..MANY {
        let ended = dropped_at(point, context.lock(&slow).acquire()).await;
        let done = ended.is_some();
        drop(ended);
        context.until_empty(&other).await;
        if done {
            assert!(point >= 2, "a request has a suspension before and after");
            return;
        }
    }
    panic!("the acquire never ended");
}

async fn a_waiting_acquire_dropped_at_any_point_leaves_nothing(context: Context) {
    let (slow, holder) = (slow(&context).await, context.manager().await);
    for point in 0..MANY {
        let guard = context.lock(&holder).acquire().await.unwrap();
        let lock = context.lock(&slow);
        let mut waiter = pin!(dropped_at(point, lock.acquire()));
        // The holder releases as soon as the waiter is in the queue, so that the waiter is granted.
        let releases = async {
            context.until(&holder, 1, 1).await;
            guard.release().await.unwrap();
            std::future::pending::<()>().await;
        };
        let ended = tokio::select! {
            ended = &mut waiter => ended,
            () = releases => unreachable!("it never ends"),
        };
        let done = ended.is_some();
        // The dropped waiter may have been waiting or granted. The holder's guard may be held still, and is
        // dropped with `releases`.
        drop(ended);
        context.until_empty(&holder).await;
        if done {
            return;
        }
    }
    panic!("the acquire never ended");
}

async fn a_try_dropped_at_any_point_leaves_nothing(context: Context) {
    let (slow, other) = (slow(&context).await, context.manager().await);
    for point in 0..MANY {
        let ended = dropped_at(point, context.lock(&slow).try_acquire()).await;
        let done = ended.is_some();
        drop(ended);
        context.until_empty(&other).await;
        if done {
            return;
        }
    }
    panic!("the try never ended");
}

async fn a_release_dropped_at_any_point_frees(context: Context) {
    let (slow, other) = (slow(&context).await, context.manager().await);
    for point in 0..MANY {
        let guard = context.lock(&slow).acquire().await.unwrap();
        let done = dropped_at(point, guard.release()).await.is_some();
        context.lock(&other).acquire().await.unwrap().release().await.unwrap();
        context.until_empty(&other).await;
        if done {
            return;
        }
    }
    panic!("the release never ended");
}

async fn a_lock_all_dropped_at_any_point_leaves_nothing(context: Context) {
    let (slow, other) = (slow(&context).await, context.manager().await);
    let names = ["a", "b", "c"].map(|part| format!("{}-{part}", context.name()));
    for point in 0..MANY {
        let ended = dropped_at(point, slow.lock_all(&names)).await;
        let done = ended.is_some();
        drop(ended);
        for name in &names {
            let lock = other.mutex(name);
            lock.acquire().await.unwrap().release().await.unwrap();
        }
        if done {
            return;
        }
    }
    panic!("the locks were never all acquired");
}

async fn a_wait_that_ran_out_leaves_nothing(context: Context) {
    let holder = context.manager().await;
    let (store, waits) = context.faulty().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let wait = Duration::from_millis(500);
    run_out(&store, wait, 1, async |wait| context.lock_with_wait(&waits, wait).acquire().await).await;
    context.until(&holder, 1, 0).await;
    guard.release().await.unwrap();
}

async fn a_wait_that_ran_out_in_silence_leaves_nothing(context: Context) {
    let (store, manager) = context.faulty().await;
    store.next(Verb::Enqueue, [Fault::SilenceAfter]);
    let refused = context.lock_with_wait(&manager, Duration::from_millis(150)).acquire().await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    context.until_empty(&manager).await;
}

async fn a_guard_outlives_its_manager(context: Context) {
    let [manager, other] = context.managers().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    drop(manager);
    let refused = context.lock_with_wait(&other, context.lease() * 2).acquire().await;
    assert!(matches!(refused, Err(Error::TimedOut { .. })), "{refused:?}");
    assert!(guard.is_held());
    drop(guard);
    assert!(context.lock(&other).acquire().await.unwrap().is_held());
}

async fn a_closed_manager_refuses_and_keeps_what_is_held(context: Context) {
    let [manager, other] = context.managers().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    manager.close().await;
    assert!(matches!(context.lock(&manager).acquire().await, Err(Error::Closed)));
    assert!(guard.is_held());
    assert!(context.lock(&other).try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    assert!(context.lock(&other).try_acquire().await.unwrap().is_some());
}

async fn closing_a_manager_ends_its_waiters(context: Context) {
    let [holder, closes] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let waiter = context.queued(context.lock(&closes), 1, 1).await;
    closes.close().await;
    assert!(matches!(waiter.await.unwrap(), Err(Error::Closed)));
    context.until(&holder, 1, 0).await;
    guard.release().await.unwrap();
}

async fn closing_waits_for_releases_in_the_background(context: Context) {
    let (slow, other) = (slow(&context).await, context.manager().await);
    drop(context.lock(&slow).acquire().await.unwrap());
    slow.close().await;
    assert!(context.queue(&other).await.is_empty());
}
