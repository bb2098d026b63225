//! A request whose outcome is unknown is repeated, and has the effect of one request.

use globallock::Release;

use super::{Case, case};
use crate::context::Context;
use crate::faulty::{Fault, Verb};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("unknown", an_acquire_whose_answer_was_lost_holds_once).over_kinds(),
        case!("unknown", an_acquire_that_did_not_arrive_is_repeated).over_kinds(),
        case!("unknown", a_wait_whose_answer_was_lost_waits_once).over_kinds(),
        case!("unknown", a_release_whose_answer_was_lost_frees).over_kinds(),
        case!("unknown", a_release_that_did_not_arrive_is_repeated).over_kinds(),
        case!("unknown", a_drop_that_did_not_arrive_is_repeated),
        case!("unknown", a_renewal_whose_answer_was_lost_loses_nothing).over_kinds(),
        case!("unknown", a_waiter_whose_watch_failed_watches_again).over_kinds(),
    ]
}

async fn an_acquire_whose_answer_was_lost_holds_once(context: Context) {
    let (store, manager) = context.faulty().await;
    store.next(Verb::Enqueue, [Fault::LoseAnswer, Fault::LoseAnswer]);
    let guard = context.lock(&manager).acquire().await.unwrap();
    assert_eq!(store.failed(), 2);
    assert_eq!(context.queue(&manager).await.len(), 1);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    assert!(context.queue(&manager).await.is_empty());
}

async fn an_acquire_that_did_not_arrive_is_repeated(context: Context) {
    let (store, manager) = context.faulty().await;
    store.next(Verb::Enqueue, [Fault::Refuse, Fault::Refuse]);
    let guard = context.lock(&manager).acquire().await.unwrap();
    assert_eq!(store.asked(Verb::Enqueue), 3);
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

async fn a_wait_whose_answer_was_lost_waits_once(context: Context) {
    let holder = context.manager().await;
    let (store, manager) = context.faulty().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    store.next(Verb::Enqueue, [Fault::LoseAnswer]);
    let lock = context.lock(&manager);
    let waiter = tokio::spawn(async move { lock.acquire().await });
    crate::context::eventually("it asks again", async || store.asked(Verb::Enqueue) == 2).await;
    context.until(&holder, 1, 1).await;
    guard.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
}

async fn a_release_whose_answer_was_lost_frees(context: Context) {
    let (store, manager) = context.faulty().await;
    let next = context.manager().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    store.next(Verb::Release, [Fault::LoseAnswer]);
    assert!(guard.release().await.unwrap_err().is_retryable());
    let next = context.lock(&next).acquire().await.unwrap();
    manager.close().await;
    assert!(next.is_held(), "the repeated release does not release the next holder");
    assert_eq!(next.release().await.unwrap(), Release::Released);
}

async fn a_release_that_did_not_arrive_is_repeated(context: Context) {
    let (store, manager) = context.faulty().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    store.next(Verb::Release, [Fault::Refuse]);
    assert!(guard.release().await.unwrap_err().is_unavailable());
    manager.close().await;
    assert!(store.asked(Verb::Release) >= 2);
    assert!(context.queue(&manager).await.is_empty());
}

async fn a_drop_that_did_not_arrive_is_repeated(context: Context) {
    let (store, manager) = context.faulty().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    store.next(Verb::Release, [Fault::Refuse, Fault::Refuse]);
    drop(guard);
    manager.close().await;
    assert_eq!(store.asked(Verb::Release), 3);
    assert!(context.queue(&manager).await.is_empty());
}

async fn a_renewal_whose_answer_was_lost_loses_nothing(context: Context) {
    let (store, manager) = context.faulty().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    store.next(Verb::Renew, [Fault::LoseAnswer]);
    crate::context::eventually("the renewal is repeated", async || store.asked(Verb::Renew) >= 3).await;
    assert!(guard.is_held());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
}

async fn a_waiter_whose_watch_failed_watches_again(context: Context) {
    let holder = context.manager().await;
    let (store, manager) = context.faulty().await;
    let guard = context.lock(&holder).acquire().await.unwrap();
    store.next(Verb::WaitForChange, [Fault::Refuse, Fault::LoseAnswer]);
    let lock = context.lock(&manager);
    let waiter = tokio::spawn(async move { lock.acquire().await });
    crate::context::eventually("it watches again", async || store.asked(Verb::WaitForChange) >= 2).await;
    guard.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
    assert!(store.failed() >= 1);
}
