//! Two owners never hold an exclusive lock at the same time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use globallock::{Error, Release};
use std::time::Duration;

use super::{Case, case};
use crate::context::{Context, run_out};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("exclusion", one_owner_holds_at_a_time).over_kinds(),
        case!("exclusion", a_try_of_a_taken_lock_is_refused).over_kinds(),
        case!("exclusion", a_try_of_a_free_lock_is_granted).over_kinds(),
        case!("exclusion", a_wait_of_zero_asks_once),
        case!("exclusion", a_wait_that_runs_out_is_reported).over_kinds(),
        case!("exclusion", a_dropped_guard_releases).over_kinds(),
        case!("exclusion", a_release_says_that_the_lock_was_held).over_kinds(),
        case!("exclusion", tasks_of_one_manager_exclude_each_other).over_kinds(),
        case!("exclusion", a_held_lock_is_renewed_beyond_its_lease).over_kinds(),
    ]
}

/// Takes the lock this many times, and panics if another owner is inside.
async fn take_turns(context: &Context, lock: globallock::Lock, inside: Arc<AtomicBool>, times: usize) {
    for _ in 0..times {
        let guard = lock.acquire().await.expect("the lock is granted");
        assert!(!inside.swap(true, Ordering::SeqCst), "another owner holds {}", context.name());
        tokio::task::yield_now().await;
        assert!(inside.swap(false, Ordering::SeqCst), "another owner was inside {}", context.name());
        assert!(guard.is_held());
        guard.release().await.expect("the store answers");
    }
}

async fn one_owner_holds_at_a_time(context: Context) {
    let context = Arc::new(context);
    let inside = Arc::new(AtomicBool::new(false));
    let mut owners = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (context, inside) = (Arc::clone(&context), Arc::clone(&inside));
        owners.spawn(async move {
            let manager = context.manager().await;
            take_turns(&context, context.lock(&manager), inside, 25).await;
        });
    }
    owners.join_all().await;
}

async fn tasks_of_one_manager_exclude_each_other(context: Context) {
    let context = Arc::new(context);
    let manager = context.manager().await;
    let inside = Arc::new(AtomicBool::new(false));
    let mut owners = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (context, inside, lock) = (Arc::clone(&context), Arc::clone(&inside), context.lock(&manager));
        owners.spawn(async move { take_turns(&context, lock, inside, 25).await });
    }
    owners.join_all().await;
}

async fn a_try_of_a_taken_lock_is_refused(context: Context) {
    let [first, second] = context.managers().await;
    let guard = context.lock(&first).acquire().await.unwrap();
    assert!(context.lock(&second).try_acquire().await.unwrap().is_none());
    assert_eq!(context.queue(&second).await.len(), 1, "the refused try is not in the queue");
    guard.release().await.unwrap();
}

async fn a_try_of_a_free_lock_is_granted(context: Context) {
    let [first, second] = context.managers().await;
    let guard = context.lock(&first).try_acquire().await.unwrap().expect("the lock is free");
    guard.release().await.unwrap();
    let guard = context.lock(&second).try_acquire().await.unwrap().expect("the lock is free again");
    assert!(guard.is_held());
}

async fn a_wait_of_zero_asks_once(context: Context) {
    let [first, second] = context.managers().await;
    let lock = context.lock_with_wait(&second, Duration::ZERO);
    let guard = context.lock(&first).acquire().await.unwrap();
    assert!(matches!(lock.acquire().await, Err(Error::TimedOut { .. })));
    guard.release().await.unwrap();
    lock.acquire().await.expect("zero is enough for a free lock").release().await.unwrap();
}

async fn a_wait_that_runs_out_is_reported(context: Context) {
    let first = context.manager().await;
    let (store, second) = context.faulty().await;
    let guard = context.lock(&first).acquire().await.unwrap();
    let wait = Duration::from_millis(120);
    run_out(&store, wait, 1, async |wait| context.lock_with_wait(&second, wait).acquire().await).await;
    guard.release().await.unwrap();
}

async fn a_dropped_guard_releases(context: Context) {
    let [first, second] = context.managers().await;
    let guard = context.lock(&first).acquire().await.unwrap();
    let waiter = context.queued(context.lock(&second), 1, 1).await;
    drop(guard);
    assert!(waiter.await.unwrap().unwrap().is_held());
}

async fn a_release_says_that_the_lock_was_held(context: Context) {
    let manager = context.manager().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(context.queue(&manager).await.is_empty());
}

async fn a_held_lock_is_renewed_beyond_its_lease(context: Context) {
    let [first, second] = context.managers().await;
    let guard = context.lock(&first).acquire().await.unwrap();
    let options = context.options().wait(Some(context.lease() * 3));
    let refused = context.lock(&second).with_options(options).acquire().await;
    assert!(matches!(refused, Err(Error::TimedOut { .. })), "{refused:?}");
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}
