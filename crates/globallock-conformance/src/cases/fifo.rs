//! Waiters are granted in the order in which they joined, and do not poll the store.

use std::sync::Arc;
use std::time::Duration;

use globallock::{Error, Guard, LockManager, Options, Result};
use tokio::task::{JoinHandle, JoinSet};

use super::{Case, case};
use crate::context::Context;
use crate::faulty::Verb;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("fifo", waiters_are_granted_in_the_order_of_joining).over_kinds(),
        case!("fifo", a_latecomer_does_not_pass_a_waiter).over_kinds(),
        case!("fifo", a_waiter_that_gives_up_lets_the_next_in).over_kinds(),
        case!("fifo", a_dropped_waiter_lets_the_next_in).over_kinds(),
        case!("fifo", a_release_wakes_only_the_next).over_kinds(),
        case!("fifo", a_waiter_asks_the_store_about_as_often_as_it_renews).over_kinds(),
        case!("fifo", two_hundred_waiters_are_all_granted),
    ]
}

async fn waiters_are_granted_in_the_order_of_joining(context: Context) {
    let [holder, a, b, c, d, e] = context.managers().await;
    let mut guard = context.lock(&holder).acquire().await.unwrap();
    let mut waiters = Vec::new();
    for manager in [&a, &b, &c, &d, &e] {
        waiters.push(context.queued(context.lock(manager), 1, waiters.len() + 1).await);
    }
    for waiter in waiters {
        let fencing_token = guard.fencing_token();
        guard.release().await.unwrap();
        guard = waiter.await.unwrap().unwrap();
        assert!(guard.fencing_token() > fencing_token);
    }
}

async fn a_latecomer_does_not_pass_a_waiter(context: Context) {
    let [holder, waits, late] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let waiter = context.queued(context.lock(&waits), 1, 1).await;
    assert!(context.lock(&late).try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    assert!(context.lock(&late).try_acquire().await.unwrap().is_none(), "the waiter has the lock already");
    waiter.await.unwrap().unwrap().release().await.unwrap();
    assert!(context.lock(&late).try_acquire().await.unwrap().is_some());
}

async fn a_waiter_that_gives_up_lets_the_next_in(context: Context) {
    let [holder, gives_up, next] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    // Long enough for the second waiter to join behind it.
    let lock = context.lock_with_wait(&gives_up, Duration::from_secs(3));
    let first = context.queued(lock, 1, 1).await;
    let second = context.queued(context.lock(&next), 1, 2).await;
    let refused = first.await.unwrap();
    assert!(matches!(refused, Err(Error::TimedOut { .. })), "{refused:?}");
    context.until(&holder, 1, 1).await;
    guard.release().await.unwrap();
    assert!(second.await.unwrap().unwrap().is_held());
}

async fn a_dropped_waiter_lets_the_next_in(context: Context) {
    let [holder, dropped, next] = context.managers().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let first = context.queued(context.lock(&dropped), 1, 1).await;
    let second = context.queued(context.lock(&next), 1, 2).await;
    first.abort();
    context.until(&holder, 1, 1).await;
    guard.release().await.unwrap();
    assert!(second.await.unwrap().unwrap().is_held());
}

async fn a_release_wakes_only_the_next(context: Context) {
    let holder = context.manager().await;
    // A long lease, because waiters may ask by themselves when the holder's lease could have expired.
    let long = Options::new().lease(context.lease() * 60);
    let guard = context.lock(&holder).with_options(long).acquire().await.unwrap();
    let mut waiters = Vec::new();
    for before in 0..6 {
        let (store, manager) = context.faulty().await;
        waiters.push((store, context.queued(context.lock(&manager), 1, before + 1).await));
    }
    // A waiter can be in the queue and not watch yet. Its requests to begin would be counted below.
    crate::context::eventually("all waiters watch", async || {
        waiters.iter().all(|(store, _)| store.asked(Verb::WaitForChange) > 0)
    })
    .await;
    let asked = |waiters: &[(Arc<crate::faulty::Faulty>, JoinHandle<Result<Guard>>)]| -> u64 {
        waiters.iter().map(|(store, _)| store.asked(Verb::Enqueue) + store.asked(Verb::WaitForChange)).sum()
    };
    let mut behind = waiters.split_off(1);
    let before = asked(&behind);
    guard.release().await.unwrap();
    let next = waiters.pop().unwrap().1.await.unwrap().unwrap();
    assert_eq!(asked(&behind), before, "the waiters behind the next one are not woken");
    next.release().await.unwrap();
    for (_, waiter) in behind.drain(..) {
        waiter.await.unwrap().unwrap().release().await.unwrap();
    }
}

async fn a_waiter_asks_the_store_about_as_often_as_it_renews(context: Context) {
    let holder = context.manager().await;
    let (store, waits) = context.faulty().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    let leases = 3;
    let refused = context.lock_with_wait(&waits, context.lease() * leases).acquire().await;
    assert!(matches!(refused, Err(Error::TimedOut { .. })), "{refused:?}");
    let asked: u64 =
        [Verb::Enqueue, Verb::WaitForChange, Verb::Renew].map(|verb| store.asked(verb)).iter().sum();
    let pace = u64::from(leases * globallock::backend::RENEWALS_PER_LEASE);
    assert!(asked <= 2 * pace + 4, "{asked} requests in {leases} leases");
    guard.release().await.unwrap();
}

async fn two_hundred_waiters_are_all_granted(context: Context) {
    let managers: [LockManager; 4] = context.managers().await;
    let mut waiters = JoinSet::new();
    for number in 0..200 {
        let lock = context.lock(&managers[number % managers.len()]);
        waiters.spawn(async move { lock.acquire().await.unwrap().release().await.unwrap() });
    }
    assert_eq!(waiters.join_all().await.len(), 200);
    context.until_empty(&managers[0]).await;
}
