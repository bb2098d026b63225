//! A claim with a max hold time is freed when that time ends, whether its owner is alive or not.

use std::time::{Duration, Instant};

use globallock::{Loss, Release};

use super::{Case, case};
use crate::context::{Context, lock_of};

/// A max hold time below the lease, so that only it can end the hold.
const HOLD: Duration = Duration::from_millis(500);

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("max_hold", a_live_owner_loses_the_lock_at_its_max_hold).over_kinds(),
        case!("max_hold", a_max_hold_longer_than_the_lease_is_kept_to_its_end).over_kinds(),
        case!("max_hold", the_max_hold_counts_from_the_grant).over_kinds(),
        case!("max_hold", the_max_hold_of_a_reader_lets_a_writer_in),
        case!("max_hold", the_max_hold_of_one_reader_does_not_affect_the_others),
    ]
}

/// The max hold time less the owner's margin: an owner gives the lock up a little early, because clocks may
/// run at different rates.
fn nearly(hold: Duration) -> Duration {
    hold - hold / 100 - Duration::from_millis(5)
}

async fn a_live_owner_loses_the_lock_at_its_max_hold(context: Context) {
    let [owner, next] = context.managers().await;
    let asked = Instant::now();
    let guard = context.lock_with_max_hold(&owner, HOLD).acquire().await.unwrap();
    let lock = context.lock(&next);
    let waiter = tokio::spawn(async move {
        let guard = lock.acquire().await.unwrap();
        (guard, Instant::now())
    });
    // The promise is about the deadline, not about the moment when a task is notified of it.
    let deadline = Instant::now() + guard.remaining().expect("this hold ends");
    assert_eq!(guard.lost().await, Loss::MaxHold);
    assert!(!guard.is_held());
    let (next, granted) = waiter.await.unwrap();
    assert!(granted >= asked + nearly(HOLD), "granted after {:?}", granted - asked);
    assert!(deadline <= granted, "the deadline is {:?} after the next grant", deadline - granted);
    assert!(next.fencing_token() > guard.fencing_token());
    assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
    assert!(next.is_held());
}

async fn a_max_hold_longer_than_the_lease_is_kept_to_its_end(context: Context) {
    let [owner, next] = context.managers().await;
    let hold = context.lease() * 2;
    let asked = Instant::now();
    let guard = context.lock_with_max_hold(&owner, hold).acquire().await.unwrap();
    let next = context.lock(&next).acquire().await.unwrap();
    assert!(asked.elapsed() >= nearly(hold), "it came after {:?}", asked.elapsed());
    assert_eq!(guard.lost().await, Loss::MaxHold);
    assert!(next.is_held());
}

async fn the_max_hold_counts_from_the_grant(context: Context) {
    let first = context.manager().await;
    let (store, second) = context.faulty().await;
    let guard = context.lock(&first).acquire().await.unwrap();
    let waiter = context.queued(context.lock_with_max_hold(&second, HOLD), 1, 1).await;
    // The wait is longer than the max hold time.
    let other = lock_of(&first, &format!("{}-timer", context.name()), "mutex").unwrap();
    let options = context.options().max_hold(Some(HOLD + HOLD / 2));
    let timer = other.with_options(options).acquire().await.unwrap();
    timer.lost().await;
    assert!(guard.is_held());
    let released = Instant::now();
    guard.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert_eq!(guard.lost().await, Loss::MaxHold);
    // The owner reads the store's clock from an answer, but counts from the moment when it sent the request.
    let (held, slowest) = (released.elapsed(), store.slowest());
    assert!(held + slowest >= nearly(HOLD), "lost after {held:?}, and answers took up to {slowest:?}");
}

async fn the_max_hold_of_a_reader_lets_a_writer_in(context: Context) {
    let [a, b] = context.managers().await;
    let options = context.options().max_hold(Some(HOLD));
    let lock = lock_of(&a, context.name(), "read").unwrap().with_options(options);
    let reader = lock.acquire().await.unwrap();
    let writer = lock_of(&b, context.name(), "write").unwrap().acquire().await.unwrap();
    assert_eq!(reader.lost().await, Loss::MaxHold);
    assert!(writer.is_held());
}

async fn the_max_hold_of_one_reader_does_not_affect_the_others(context: Context) {
    let [a, b] = context.managers().await;
    let options = context.options().max_hold(Some(HOLD));
    let lock = lock_of(&a, context.name(), "read").unwrap();
    let short = lock.clone().with_options(options).acquire().await.unwrap();
    let long = lock_of(&b, context.name(), "read").unwrap().acquire().await.unwrap();
    short.lost().await;
    context.until(&b, 1, 0).await;
    assert!(long.is_held());
    assert!(lock_of(&a, context.name(), "write").unwrap().try_acquire().await.unwrap().is_none());
    assert_eq!(long.release().await.unwrap(), Release::Released);
}
