//! Readers share a lock, a semaphore keeps to its capacity, and nobody starves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use globallock::{Guard, LockManager};
use tokio::task::JoinSet;

use super::{Case, case};
use crate::context::{Context, lock_of};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("sharing", readers_share),
        case!("sharing", a_writer_excludes_readers),
        case!("sharing", readers_exclude_a_writer),
        case!("sharing", a_reader_does_not_pass_a_waiting_writer),
        case!("sharing", a_stream_of_readers_does_not_starve_a_writer),
        case!("sharing", all_readers_behind_a_writer_are_granted_together),
        case!("sharing", readers_behind_a_writer_that_gives_up_are_granted),
        case!("sharing", a_semaphore_admits_as_many_as_its_capacity),
        case!("sharing", a_semaphore_is_never_overfilled),
        case!("sharing", the_counts_of_permits_add_up),
        case!("sharing", a_large_claim_is_not_starved_by_small_ones),
        case!("sharing", a_reader_that_releases_early_does_not_affect_the_others),
        case!("sharing", a_mutex_and_a_reader_of_one_name_exclude_each_other),
        case!("sharing", the_smallest_capacity_of_a_name_counts),
    ]
}

async fn take(context: &Context, manager: &LockManager, kind: &str) -> Guard {
    lock_of(manager, context.name(), kind).unwrap().acquire().await.unwrap()
}

async fn refused(context: &Context, manager: &LockManager, kind: &str) -> bool {
    lock_of(manager, context.name(), kind).unwrap().try_acquire().await.unwrap().is_none()
}

async fn readers_share(context: Context) {
    let [a, b, c] = context.managers().await;
    let guards = [take(&context, &a, "read").await, take(&context, &b, "read").await];
    let third = take(&context, &c, "read").await;
    assert!(guards.iter().all(Guard::is_held) && third.is_held());
    assert_eq!(context.queue(&a).await.iter().filter(|entry| entry.held).count(), 3);
}

async fn a_writer_excludes_readers(context: Context) {
    let [a, b] = context.managers().await;
    let guard = take(&context, &a, "write").await;
    assert!(refused(&context, &b, "read").await);
    let reader = context.queued(lock_of(&b, context.name(), "read").unwrap(), 1, 1).await;
    guard.release().await.unwrap();
    assert!(reader.await.unwrap().unwrap().is_held());
}

async fn readers_exclude_a_writer(context: Context) {
    let [a, b, c] = context.managers().await;
    let (first, second) = (take(&context, &a, "read").await, take(&context, &b, "read").await);
    assert!(refused(&context, &c, "write").await);
    let writer = context.queued(lock_of(&c, context.name(), "write").unwrap(), 2, 1).await;
    first.release().await.unwrap();
    context.until(&c, 1, 1).await;
    second.release().await.unwrap();
    assert!(writer.await.unwrap().unwrap().is_held());
}

async fn a_reader_does_not_pass_a_waiting_writer(context: Context) {
    let [a, b, c] = context.managers().await;
    let reader = take(&context, &a, "read").await;
    let writer = context.queued(lock_of(&b, context.name(), "write").unwrap(), 1, 1).await;
    assert!(refused(&context, &c, "read").await);
    let late = context.queued(lock_of(&c, context.name(), "read").unwrap(), 1, 2).await;
    reader.release().await.unwrap();
    let writer = writer.await.unwrap().unwrap();
    assert!(!late.is_finished());
    writer.release().await.unwrap();
    assert!(late.await.unwrap().unwrap().is_held());
}

async fn a_stream_of_readers_does_not_starve_a_writer(context: Context) {
    let context = Arc::new(context);
    let mut readers = JoinSet::new();
    let written = Arc::new(AtomicUsize::new(0));
    for _ in 0..4 {
        let (context, written) = (Arc::clone(&context), Arc::clone(&written));
        readers.spawn(async move {
            let manager = context.manager().await;
            // Each takes the lock again before it releases the guard that it has. Without fairness there
            // would always be a reader.
            let mut held = take(&context, &manager, "read").await;
            while written.load(Ordering::SeqCst) == 0 {
                let lock = lock_of(&manager, context.name(), "read").unwrap();
                match lock.try_acquire().await.unwrap() {
                    Some(next) => drop(std::mem::replace(&mut held, next).release().await.unwrap()),
                    None => {
                        held.release().await.unwrap();
                        held = lock.acquire().await.unwrap();
                    }
                }
            }
        });
    }
    let manager = context.manager().await;
    let writer = take(&context, &manager, "write").await;
    written.store(1, Ordering::SeqCst);
    writer.release().await.unwrap();
    readers.join_all().await;
}

async fn all_readers_behind_a_writer_are_granted_together(context: Context) {
    let [a, b, c, d] = context.managers().await;
    let writer = take(&context, &a, "write").await;
    let mut readers = Vec::new();
    for (waiting, manager) in [&b, &c, &d].into_iter().enumerate() {
        readers.push(context.queued(lock_of(manager, context.name(), "read").unwrap(), 1, waiting + 1).await);
    }
    writer.release().await.unwrap();
    let mut guards = Vec::new();
    for reader in readers {
        guards.push(reader.await.unwrap().unwrap());
    }
    assert!(guards.iter().all(Guard::is_held));
}

async fn readers_behind_a_writer_that_gives_up_are_granted(context: Context) {
    let [a, b, c] = context.managers().await;
    let reader = take(&context, &a, "read").await;
    let writer = context.queued(lock_of(&b, context.name(), "write").unwrap(), 1, 1).await;
    let late = context.queued(lock_of(&c, context.name(), "read").unwrap(), 1, 2).await;
    writer.abort();
    assert!(late.await.unwrap().unwrap().is_held());
    assert!(reader.is_held());
}

async fn a_semaphore_admits_as_many_as_its_capacity(context: Context) {
    let [a, b, c, d] = context.managers().await;
    let first = take(&context, &a, "1/3").await;
    let _others = (take(&context, &b, "1/3").await, take(&context, &c, "1/3").await);
    assert!(refused(&context, &d, "1/3").await);
    let fourth = context.queued(lock_of(&d, context.name(), "1/3").unwrap(), 3, 1).await;
    first.release().await.unwrap();
    assert!(fourth.await.unwrap().unwrap().is_held());
}

async fn a_semaphore_is_never_overfilled(context: Context) {
    let context = Arc::new(context);
    let (inside, most) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut owners = JoinSet::new();
    for number in 0..6_u64 {
        let (context, inside, most) = (Arc::clone(&context), Arc::clone(&inside), Arc::clone(&most));
        let count = 1 + number % 3;
        owners.spawn(async move {
            let manager = context.manager().await;
            let lock = lock_of(&manager, context.name(), &format!("{count}/4")).unwrap();
            for _ in 0..20 {
                let guard = lock.acquire().await.unwrap();
                most.fetch_max(inside.fetch_add(count, Ordering::SeqCst) + count, Ordering::SeqCst);
                tokio::task::yield_now().await;
                inside.fetch_sub(count, Ordering::SeqCst);
                guard.release().await.unwrap();
            }
        });
    }
    owners.join_all().await;
    let most = most.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} permits of 4 were in use");
}

async fn the_counts_of_permits_add_up(context: Context) {
    let [a, b] = context.managers().await;
    let two = take(&context, &a, "2/3").await;
    assert!(refused(&context, &b, "2/3").await);
    let one = take(&context, &b, "1/3").await;
    assert!(refused(&context, &b, "1/3").await);
    two.release().await.unwrap();
    let two = take(&context, &b, "2/3").await;
    assert!(one.is_held() && two.is_held());
}

async fn a_large_claim_is_not_starved_by_small_ones(context: Context) {
    let [a, b, c] = context.managers().await;
    let small = take(&context, &a, "1/3").await;
    let large = context.queued(lock_of(&b, context.name(), "3/3").unwrap(), 1, 1).await;
    assert!(
        refused(&context, &c, "1/3").await,
        "a small claim does not pass the large one, though it would fit"
    );
    small.release().await.unwrap();
    assert!(large.await.unwrap().unwrap().is_held());
}

async fn a_reader_that_releases_early_does_not_affect_the_others(context: Context) {
    let [a, b, c] = context.managers().await;
    let first = take(&context, &a, "read").await;
    let second = take(&context, &b, "read").await;
    first.release().await.unwrap();
    assert!(refused(&context, &c, "write").await);
    let third = take(&context, &c, "read").await;
    second.release().await.unwrap();
    assert!(refused(&context, &a, "write").await);
    third.release().await.unwrap();
    assert!(!refused(&context, &a, "write").await);
}

async fn a_mutex_and_a_reader_of_one_name_exclude_each_other(context: Context) {
    let [a, b] = context.managers().await;
    let mutex = take(&context, &a, "mutex").await;
    assert!(refused(&context, &b, "read").await);
    mutex.release().await.unwrap();
    let reader = take(&context, &b, "read").await;
    assert!(refused(&context, &a, "mutex").await);
    reader.release().await.unwrap();
}

async fn the_smallest_capacity_of_a_name_counts(context: Context) {
    let [a, b] = context.managers().await;
    let five = take(&context, &a, "1/5").await;
    let two = take(&context, &b, "1/2").await;
    assert!(refused(&context, &a, "1/5").await, "two of the smaller capacity are in use");
    two.release().await.unwrap();
    assert!(!refused(&context, &a, "1/5").await);
    five.release().await.unwrap();
}
