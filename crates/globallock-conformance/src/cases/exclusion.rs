//! At no time do two owners both hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use globallock::{Error, Options, Release};
use std::time::Duration;

use super::{Case, case};
use crate::world::{World, run_out};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("exclusion", one_owner_holds_at_a_time).over_kinds(),
        case!("exclusion", a_taken_lock_is_refused_to_who_does_not_wait).over_kinds(),
        case!("exclusion", a_free_lock_is_granted_to_who_does_not_wait).over_kinds(),
        case!("exclusion", a_wait_of_zero_asks_once),
        case!("exclusion", a_wait_that_runs_out_is_told).over_kinds(),
        case!("exclusion", a_dropped_guard_releases).over_kinds(),
        case!("exclusion", a_release_says_that_the_lock_was_held).over_kinds(),
        case!("exclusion", tasks_of_one_manager_exclude_each_other).over_kinds(),
        case!("exclusion", a_held_lock_is_kept_beyond_its_lease).over_kinds(),
    ]
}

/// Takes the lock many times, and panics if somebody else is inside.
async fn take_turns(world: &World, lock: globallock::Lock, inside: Arc<AtomicBool>, times: usize) {
    for _ in 0..times {
        let guard = lock.acquire().await.expect("the lock is granted");
        assert!(!inside.swap(true, Ordering::SeqCst), "somebody else holds {}", world.name());
        tokio::task::yield_now().await;
        assert!(inside.swap(false, Ordering::SeqCst), "somebody else was inside {}", world.name());
        assert!(guard.is_held());
        guard.release().await.expect("the store answers");
    }
}

async fn one_owner_holds_at_a_time(world: World) {
    let world = Arc::new(world);
    let inside = Arc::new(AtomicBool::new(false));
    let mut owners = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (world, inside) = (Arc::clone(&world), Arc::clone(&inside));
        owners.spawn(async move {
            let manager = world.manager().await;
            take_turns(&world, world.lock(&manager), inside, 25).await;
        });
    }
    owners.join_all().await;
}

async fn tasks_of_one_manager_exclude_each_other(world: World) {
    let world = Arc::new(world);
    let manager = world.manager().await;
    let inside = Arc::new(AtomicBool::new(false));
    let mut owners = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (world, inside, lock) = (Arc::clone(&world), Arc::clone(&inside), world.lock(&manager));
        owners.spawn(async move { take_turns(&world, lock, inside, 25).await });
    }
    owners.join_all().await;
}

async fn a_taken_lock_is_refused_to_who_does_not_wait(world: World) {
    let [first, second] = world.managers().await;
    let guard = world.lock(&first).acquire().await.unwrap();
    assert!(world.lock(&second).try_acquire().await.unwrap().is_none());
    assert_eq!(world.queue(&second).await.len(), 1, "the one who was refused is not in the queue");
    guard.release().await.unwrap();
}

async fn a_free_lock_is_granted_to_who_does_not_wait(world: World) {
    let [first, second] = world.managers().await;
    let guard = world.lock(&first).try_acquire().await.unwrap().expect("the lock is free");
    guard.release().await.unwrap();
    let guard = world.lock(&second).try_acquire().await.unwrap().expect("the lock is free again");
    assert!(guard.is_held());
}

async fn a_wait_of_zero_asks_once(world: World) {
    let [first, second] = world.managers().await;
    let lock = world.lock_within(&second, Duration::ZERO);
    let guard = world.lock(&first).acquire().await.unwrap();
    assert!(matches!(lock.acquire().await, Err(Error::TimedOut { .. })));
    guard.release().await.unwrap();
    lock.acquire().await.expect("zero is enough for a free lock").release().await.unwrap();
}

async fn a_wait_that_runs_out_is_told(world: World) {
    let first = world.manager().await;
    let (store, second) = world.faulty().await;
    let guard = world.lock(&first).acquire().await.unwrap();
    let wait = Duration::from_millis(120);
    run_out(&store, wait, 1, async |wait| world.lock_within(&second, wait).acquire().await).await;
    guard.release().await.unwrap();
}

async fn a_dropped_guard_releases(world: World) {
    let [first, second] = world.managers().await;
    let guard = world.lock(&first).acquire().await.unwrap();
    let waiter = world.queued(world.lock(&second), 1, 1).await;
    drop(guard);
    assert!(waiter.await.unwrap().unwrap().is_held());
}

async fn a_release_says_that_the_lock_was_held(world: World) {
    let manager = world.manager().await;
    let guard = world.lock(&manager).acquire().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(world.queue(&manager).await.is_empty());
}

async fn a_held_lock_is_kept_beyond_its_lease(world: World) {
    let [first, second] = world.managers().await;
    let guard = world.lock(&first).acquire().await.unwrap();
    let options = Options { wait: Some(world.lease() * 3), ..world.options() };
    let refused = world.lock(&second).with_options(options).unwrap().acquire().await;
    assert!(matches!(refused, Err(Error::TimedOut { .. })), "{refused:?}");
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}
