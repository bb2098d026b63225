//! Every grant has a fencing token that is higher than those of all earlier grants of its name.

use globallock::backend::{ClaimStatus, WaitMode};
use globallock::queue::Permits;

use super::{Case, Need, case};
use crate::child::Owner;
use crate::context::{Context, lock_of};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("fencing", tokens_rise_with_every_grant).over_kinds(),
        case!("fencing", tokens_rise_from_owner_to_owner).over_kinds(),
        case!("fencing", tokens_rise_across_a_crash).over_kinds().needs(Need::Owner),
        case!("fencing", tokens_rise_after_a_max_hold_has_ended),
        case!("fencing", tokens_rise_after_claims_were_deleted).needs(Need::Sabotage),
        case!("fencing", readers_have_tokens_of_their_own),
        case!("fencing", enqueueing_again_returns_the_same_token),
        case!("fencing", renewing_returns_the_same_token),
        case!("fencing", tokens_of_one_name_rise_from_kind_to_kind),
    ]
}

const MUTEX: Permits = Permits::MUTEX;

async fn tokens_rise_with_every_grant(context: Context) {
    let manager = context.manager().await;
    let mut last = 0;
    for _ in 0..30 {
        let guard = context.lock(&manager).acquire().await.unwrap();
        assert!(guard.fencing_token() > last);
        last = guard.fencing_token();
        guard.release().await.unwrap();
    }
}

async fn tokens_rise_from_owner_to_owner(context: Context) {
    let mut last = 0;
    for _ in 0..5 {
        let manager = context.manager().await;
        let guard = context.lock(&manager).acquire().await.unwrap();
        assert!(guard.fencing_token() > last);
        last = guard.fencing_token();
        guard.release().await.unwrap();
        manager.close().await;
    }
}

async fn tokens_rise_across_a_crash(context: Context) {
    let manager = context.manager().await;
    let before = {
        let guard = context.lock(&manager).acquire().await.unwrap();
        let fencing_token = guard.fencing_token();
        guard.release().await.unwrap();
        fencing_token
    };
    let mut owner = Owner::start(&context, context.kind(), None);
    let during = owner.granted().await;
    owner.kill().await;
    let guard = context.lock(&manager).acquire().await.unwrap();
    assert!(before < during && during < guard.fencing_token());
}

async fn tokens_rise_after_a_max_hold_has_ended(context: Context) {
    let [first, second] = context.managers().await;
    let late = context.briefly_held(&first).await;
    let next = context.lock(&second).acquire().await.unwrap();
    assert!(next.fencing_token() > late.fencing_token());
}

async fn tokens_rise_after_claims_were_deleted(context: Context) {
    let [first, second] = context.managers().await;
    let guard = context.lock(&first).acquire().await.unwrap();
    let sabotage = context.store().sabotage.clone().unwrap();
    sabotage(guard.name().clone()).await;
    let next = context.lock(&second).acquire().await.unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
}

async fn readers_have_tokens_of_their_own(context: Context) {
    let [a, b] = context.managers().await;
    let lock = |manager| lock_of(manager, context.name(), "read").unwrap();
    let first = lock(&a).acquire().await.unwrap();
    let second = lock(&b).acquire().await.unwrap();
    assert!(second.fencing_token() > first.fencing_token());
}

async fn enqueueing_again_returns_the_same_token(context: Context) {
    let backend = context.backend().await;
    let claim = context.claim(1, MUTEX, WaitMode::Wait);
    let fencing_token = |status| match status {
        ClaimStatus::Held(grant) => grant.fencing_token,
        other => panic!("{other:?}"),
    };
    let first = fencing_token(backend.enqueue(&claim).await.unwrap());
    assert_eq!(fencing_token(backend.enqueue(&claim).await.unwrap()), first);
    backend.release(&claim).await.unwrap();
}

async fn renewing_returns_the_same_token(context: Context) {
    let backend = context.backend().await;
    let claim = std::sync::Arc::new(context.claim(1, MUTEX, WaitMode::Wait));
    let first = backend.enqueue(&claim).await.unwrap();
    let renewed = backend.renew(&[std::sync::Arc::clone(&claim)]).await.remove(0).unwrap();
    match (first, renewed) {
        (ClaimStatus::Held(first), ClaimStatus::Held(renewed)) => {
            assert_eq!(first.fencing_token, renewed.fencing_token);
        }
        other => panic!("{other:?}"),
    }
    backend.release(&claim).await.unwrap();
}

async fn tokens_of_one_name_rise_from_kind_to_kind(context: Context) {
    let manager = context.manager().await;
    let mut last = 0;
    for kind in ["mutex", "read", "write", "2/3", "mutex"] {
        let guard = lock_of(&manager, context.name(), kind).unwrap().acquire().await.unwrap();
        assert!(guard.fencing_token() > last, "{kind}");
        last = guard.fencing_token();
        guard.release().await.unwrap();
    }
}
