//! A lock that can no longer be assumed held is reported as lost, before the store can grant it to the next
//! owner.

use std::time::{Duration, Instant};

use globallock::{Loss, Release};

use super::{Case, Need, case};
use crate::context::Context;
use crate::faulty::{Fault, Verb};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("loss", failing_renewals_end_a_hold_before_the_next_grant).over_kinds().needs(Need::Lease),
        case!("loss", a_silent_store_ends_a_hold_before_the_next_grant).over_kinds().needs(Need::Lease),
        case!("loss", one_failed_renewal_loses_nothing).over_kinds(),
        case!("loss", an_answer_from_before_a_grant_does_not_end_the_hold).over_kinds(),
        case!("loss", a_lost_lock_stays_lost).needs(Need::Lease),
        case!("loss", a_loss_is_reported_to_every_caller).needs(Need::Lease),
        case!("loss", a_deleted_claim_is_reported_as_lost).over_kinds().needs(Need::Sabotage),
        case!("loss", a_deleted_waiter_joins_the_queue_again).over_kinds().needs(Need::Sabotage),
        case!("loss", the_release_of_a_lost_lock_does_not_affect_the_next_holder)
            .over_kinds()
            .needs(Need::Lease),
        case!("loss", the_remaining_lease_is_known).needs(Need::Lease),
    ]
}

/// Makes the renewals of one owner fail, and checks that its deadline is not after the next grant.
async fn lost_before_the_next_grant(context: Context, fault: Fault) {
    let (store, owner) = context.faulty().await;
    let next = context.manager().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    store.always(Verb::Renew, fault);
    let lock = context.lock(&next);
    let waiter = tokio::spawn(async move {
        let guard = lock.acquire().await.unwrap();
        (guard, Instant::now())
    });
    // The promise is about the deadline, not about the moment when a task is notified of it.
    let deadline = {
        assert!(guard.is_held());
        Instant::now() + guard.remaining().expect("this lease ends")
    };
    assert_eq!(guard.lost().await, Loss::Expired);
    assert!(!guard.is_held());
    let (next, granted) = waiter.await.unwrap();
    assert!(deadline <= granted, "the deadline is {:?} after the next grant", deadline - granted);
    assert!(next.is_held());
    assert!(store.failed() > 0, "the fault took effect");
}

async fn failing_renewals_end_a_hold_before_the_next_grant(context: Context) {
    lost_before_the_next_grant(context, Fault::Refuse).await;
}

async fn a_silent_store_ends_a_hold_before_the_next_grant(context: Context) {
    lost_before_the_next_grant(context, Fault::Silence).await;
}

async fn one_failed_renewal_loses_nothing(context: Context) {
    let (store, owner) = context.faulty().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    store.next(Verb::Renew, [Fault::Refuse]);
    crate::context::eventually("the renewal is repeated", async || store.asked(Verb::Renew) >= 3).await;
    assert_eq!(store.failed(), 1);
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

async fn an_answer_from_before_a_grant_does_not_end_the_hold(context: Context) {
    let (store, waits) = context.faulty().await;
    let holder = context.manager().await;
    let held = context.lock(&holder).acquire().await.unwrap();
    let waiter = context.queued(context.lock(&waits), 1, 1).await;
    // The store answers "waiting" to a renewal, and that answer arrives after the grant.
    store.always(Verb::Renew, Fault::HoldAnswer);
    crate::context::eventually("a renewal is answered", async || store.held() > 0).await;
    store.always(Verb::Renew, Fault::None);
    held.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    let before = store.asked(Verb::Renew);
    store.deliver();
    // Only a renewal that was sent after the grant shows that the late answer did no harm.
    let renewed_or_lost = async || store.asked(Verb::Renew) > before + 1 || !guard.is_held();
    crate::context::eventually("the claim is renewed or lost", renewed_or_lost).await;
    if !guard.is_held() {
        panic!("{:?}", guard.lost().await);
    }
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

async fn a_lost_lock_stays_lost(context: Context) {
    let (store, owner) = context.faulty().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    store.always(Verb::Renew, Fault::Refuse);
    guard.lost().await;
    store.always(Verb::Renew, Fault::None);
    context.until_empty(&owner).await;
    assert!(!guard.is_held());
    assert_eq!(guard.lost().await, Loss::Expired);
    assert_eq!(guard.remaining(), Some(Duration::ZERO));
}

async fn a_loss_is_reported_to_every_caller(context: Context) {
    let (store, owner) = context.faulty().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    store.always(Verb::Renew, Fault::Refuse);
    let losses = tokio::join!(guard.lost(), guard.lost(), guard.lost());
    assert_eq!(losses, (Loss::Expired, Loss::Expired, Loss::Expired));
}

async fn a_deleted_claim_is_reported_as_lost(context: Context) {
    let [owner, next] = context.managers().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    let sabotage = context.store().sabotage.clone().unwrap();
    sabotage(guard.name().clone()).await;
    assert_eq!(guard.lost().await, Loss::Revoked);
    assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
    assert!(context.lock(&next).acquire().await.unwrap().is_held());
}

async fn a_deleted_waiter_joins_the_queue_again(context: Context) {
    let [owner, waits] = context.managers().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    let waiter = context.queued(context.lock(&waits), 1, 1).await;
    let sabotage = context.store().sabotage.clone().unwrap();
    sabotage(guard.name().clone()).await;
    assert!(waiter.await.unwrap().unwrap().is_held());
    guard.lost().await;
}

async fn the_release_of_a_lost_lock_does_not_affect_the_next_holder(context: Context) {
    let (store, owner) = context.faulty().await;
    let next = context.manager().await;
    let guard = context.lock(&owner).acquire().await.unwrap();
    store.always(Verb::Renew, Fault::Refuse);
    store.always(Verb::Release, Fault::Refuse);
    guard.lost().await;
    let next = context.lock(&next).acquire().await.unwrap();
    store.always(Verb::Release, Fault::None);
    assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
    assert!(next.is_held());
    assert_eq!(next.release().await.unwrap(), Release::Released);
}

async fn the_remaining_lease_is_known(context: Context) {
    let manager = context.manager().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    let remaining = guard.remaining().expect("this lease ends");
    assert!(remaining <= context.lease() && remaining > Duration::ZERO, "{remaining:?}");
}
