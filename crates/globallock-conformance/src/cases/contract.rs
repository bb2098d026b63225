//! The contract of [`Backend`], checked on the store itself, without the core.

use std::sync::Arc;
use std::time::Duration;

use globallock::Error;
use globallock::backend::{Backend, Claim, ClaimStatus, Grant, Instant, Release, WaitMode};
use globallock::queue::Permits;

use super::{Case, Need, case};
use crate::context::Context;

const MUTEX: Permits = Permits::MUTEX;
const READ: Permits = Permits::READ;

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("contract", enqueueing_twice_has_the_effect_of_once),
        case!("contract", enqueueing_a_waiter_again_keeps_its_position),
        case!("contract", releasing_twice_has_the_effect_of_once),
        case!("contract", releasing_a_claim_that_never_joined_is_no_error),
        case!("contract", a_refused_try_is_not_in_the_queue),
        case!("contract", a_renewal_never_revives_a_claim),
        case!("contract", a_grant_says_when_its_max_hold_ends),
        case!("contract", a_renewal_does_not_change_the_max_hold),
        case!("contract", a_renewal_lengthens_the_lease).needs(Need::Lease),
        case!("contract", a_holder_without_renewals_expires_with_its_lease).needs(Need::Lease),
        case!("contract", a_waiter_without_renewals_expires_with_its_lease).needs(Need::Lease),
        case!("contract", late_requests_of_an_expired_claim_let_nobody_in).needs(Need::Lease),
        case!("contract", a_batch_of_renewals_is_answered_in_order),
        case!("contract", a_change_between_enqueueing_and_watching_is_not_missed),
        case!("contract", the_release_of_the_last_reader_notifies_the_waiting_writer),
        case!("contract", the_address_of_a_store_names_its_kind_and_no_password),
        case!("contract", a_hundred_claims_of_one_store_are_kept_apart),
        case!("contract", a_store_that_tells_a_waiter_its_place_tells_the_right_one),
    ]
}

fn held(status: &ClaimStatus) -> bool {
    matches!(status, ClaimStatus::Held(_))
}

fn granted(status: ClaimStatus) -> Grant {
    match status {
        ClaimStatus::Held(grant) => grant,
        other => panic!("{other:?}"),
    }
}

/// Waits until the claim waits no more, as its core would learn it, and returns its status.
pub(super) async fn settled(backend: &dyn Backend, claim: &Claim) -> ClaimStatus {
    loop {
        let status = match backend.wait_for_change(claim).await.unwrap() {
            Some(status) => status,
            None => backend.enqueue(claim).await.unwrap(),
        };
        if status != ClaimStatus::Waiting {
            return status;
        }
    }
}

async fn enqueueing_twice_has_the_effect_of_once(context: Context) {
    let backend = context.backend().await;
    let claim = context.claim(1, MUTEX, WaitMode::Wait);
    assert!(held(&backend.enqueue(&claim).await.unwrap()));
    assert!(held(&backend.enqueue(&claim).await.unwrap()));
    assert_eq!(backend.inspect(&claim.name).await.unwrap().len(), 1);
    assert_eq!(backend.release(&claim).await.unwrap(), Release::Released);
    assert!(backend.inspect(&claim.name).await.unwrap().is_empty());
}

async fn enqueueing_a_waiter_again_keeps_its_position(context: Context) {
    let backend = context.backend().await;
    let [holder, first, second] = [1, 2, 3].map(|number| context.claim(number, MUTEX, WaitMode::Wait));
    assert!(held(&backend.enqueue(&holder).await.unwrap()));
    for claim in [&first, &second, &first] {
        assert_eq!(backend.enqueue(claim).await.unwrap(), ClaimStatus::Waiting);
    }
    let queue = backend.inspect(&holder.name).await.unwrap();
    let ids: Vec<_> = queue.iter().filter_map(|entry| entry.id).collect();
    assert_eq!(ids, [holder.id, first.id, second.id]);
    for claim in [second, first, holder] {
        backend.release(&claim).await.unwrap();
    }
}

async fn releasing_twice_has_the_effect_of_once(context: Context) {
    let backend = context.backend().await;
    let [first, second] = [1, 2].map(|number| context.claim(number, MUTEX, WaitMode::Wait));
    backend.enqueue(&first).await.unwrap();
    assert_eq!(backend.release(&first).await.unwrap(), Release::Released);
    let fencing_token = granted(backend.enqueue(&second).await.unwrap()).fencing_token;
    assert_eq!(backend.release(&first).await.unwrap(), Release::NotHeld);
    let again = granted(backend.enqueue(&second).await.unwrap()).fencing_token;
    assert_eq!(again, fencing_token, "the second release does not release another claim");
    backend.release(&second).await.unwrap();
}

async fn releasing_a_claim_that_never_joined_is_no_error(context: Context) {
    let backend = context.backend().await;
    let claim = context.claim(1, MUTEX, WaitMode::Wait);
    assert_eq!(backend.release(&claim).await.unwrap(), Release::NotHeld);
}

async fn a_store_that_tells_a_waiter_its_place_tells_the_right_one(context: Context) {
    let [one, other] = [context.backend().await, context.backend().await];
    let lease = Duration::from_secs(60);
    let claims: Vec<Claim> =
        (0..5).map(|number| context.claim(number, MUTEX, WaitMode::Wait).with_lease(lease)).collect();
    for (front, claim) in claims.iter().enumerate() {
        let backend = if front % 2 == 0 { &one } else { &other };
        let status = backend.enqueue(claim).await.unwrap();
        assert_eq!(status == ClaimStatus::Waiting, front > 0, "{status:?}");
        if front > 0 {
            let place = backend.place(claim);
            assert!(place.is_none_or(|place| place == front), "{place:?} behind {front}");
        }
    }
    for (front, claim) in claims.iter().enumerate() {
        let backend = if front % 2 == 0 { &one } else { &other };
        backend.release(claim).await.unwrap();
    }
}

async fn a_refused_try_is_not_in_the_queue(context: Context) {
    let backend = context.backend().await;
    let holder = context.claim(1, MUTEX, WaitMode::Try);
    let refused = context.claim(2, MUTEX, WaitMode::Try);
    assert!(held(&backend.enqueue(&holder).await.unwrap()));
    assert_eq!(backend.enqueue(&refused).await.unwrap(), ClaimStatus::Gone);
    assert_eq!(backend.release(&refused).await.unwrap(), Release::NotHeld);
    assert_eq!(backend.inspect(&holder.name).await.unwrap().len(), 1);
    backend.release(&holder).await.unwrap();
}

async fn a_renewal_never_revives_a_claim(context: Context) {
    let backend = context.backend().await;
    let claim = Arc::new(context.claim(1, MUTEX, WaitMode::Wait));
    let gone =
        |answers: Vec<globallock::Result<ClaimStatus>>| answers[0].as_ref().unwrap() == &ClaimStatus::Gone;
    assert!(gone(backend.renew(&[Arc::clone(&claim)]).await), "before it joined the queue");
    backend.enqueue(&claim).await.unwrap();
    backend.release(&claim).await.unwrap();
    assert!(gone(backend.renew(&[Arc::clone(&claim)]).await), "after its release");
    assert!(backend.inspect(&claim.name).await.unwrap().is_empty());
}

/// How far the end of a max hold time may be off, because some stores count in milliseconds.
const ROUNDING: Duration = Duration::from_millis(3);

async fn a_grant_says_when_its_max_hold_ends(context: Context) {
    let backend = context.backend().await;
    let hold = Duration::from_secs(60);
    let claim = context.claim(1, MUTEX, WaitMode::Wait).with_max_hold(Some(hold));
    let asked = Instant::now();
    let ends =
        granted(backend.enqueue(&claim).await.unwrap()).hold_ends.expect("the max hold time has an end");
    assert!(ends + ROUNDING >= asked + hold && ends <= Instant::now() + hold, "{:?}", ends - asked);
    backend.release(&claim).await.unwrap();
}

async fn a_renewal_does_not_change_the_max_hold(context: Context) {
    let backend = context.backend().await;
    let hold = Duration::from_secs(60);
    let claim = context.claim(1, MUTEX, WaitMode::Wait).with_max_hold(Some(hold));
    let asked = Instant::now();
    granted(backend.enqueue(&claim).await.unwrap());
    let answered = Instant::now();
    let claim = Arc::new(claim);
    // The last renewal is sent long enough after the grant to show whether renewals restart the max hold
    // time.
    let mut sent = answered;
    while sent < answered + Duration::from_millis(50) {
        sent = Instant::now();
        let renewed = granted(backend.renew(&[Arc::clone(&claim)]).await.remove(0).unwrap());
        let (ends, took) = (renewed.hold_ends.expect("the max hold time has an end"), sent.elapsed());
        // The owner counts from the moment when it sent the request. So its end may be too early by the time
        // that the answer took.
        assert!(ends <= answered + hold + ROUNDING, "{:?} too late", ends - (answered + hold));
        assert!(ends + took + ROUNDING >= asked + hold, "{:?} too early", asked + hold - ends);
    }
    backend.release(&claim).await.unwrap();
}

async fn a_renewal_lengthens_the_lease(context: Context) {
    let backend = context.backend().await;
    let claim = Arc::new(context.claim(1, MUTEX, WaitMode::Wait));
    let expires = |status: ClaimStatus| granted(status).expires.expect("this lease ends");
    let first = expires(backend.enqueue(&claim).await.unwrap());
    let mut last = first;
    while last < first + Duration::from_millis(50) {
        last = expires(backend.renew(&[Arc::clone(&claim)]).await.remove(0).unwrap());
    }
    backend.release(&claim).await.unwrap();
}

async fn a_holder_without_renewals_expires_with_its_lease(context: Context) {
    let [owner, other] = [context.backend().await, context.backend().await];
    let claim = Arc::new(context.claim(1, MUTEX, WaitMode::Wait));
    let next = context.claim(2, READ, WaitMode::Wait);
    let before = Instant::now();
    assert!(held(&owner.enqueue(&claim).await.unwrap()));
    assert_eq!(other.enqueue(&next).await.unwrap(), ClaimStatus::Waiting);
    // The waiter has a lease of the same length and can expire as well, even before the store has noticed the
    // first expiry. Then it joins the queue again.
    loop {
        let answered = match other.enqueue(&next).await {
            Ok(ClaimStatus::Waiting) => other.wait_for_change(&next).await,
            answered => answered.map(Some),
        };
        match answered {
            Ok(Some(ClaimStatus::Held(_))) => break,
            Ok(_) | Err(Error::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(before.elapsed() >= context.lease() - Duration::from_millis(2));
    assert_eq!(owner.renew(&[claim]).await[0].as_ref().unwrap(), &ClaimStatus::Gone);
    other.release(&next).await.unwrap();
}

async fn a_waiter_without_renewals_expires_with_its_lease(context: Context) {
    let backend = context.backend().await;
    let holder = Arc::new(context.claim(1, MUTEX, WaitMode::Wait).with_lease(context.lease() * 20));
    let waiter = Arc::new(context.claim(2, MUTEX, WaitMode::Wait));
    assert!(held(&backend.enqueue(&holder).await.unwrap()));
    assert_eq!(backend.enqueue(&waiter).await.unwrap(), ClaimStatus::Waiting);
    crate::context::eventually("the waiter has expired", async || {
        backend.renew(&[Arc::clone(&holder)]).await.remove(0).unwrap();
        let queue = backend.inspect(&holder.name).await.unwrap();
        queue.iter().all(|entry| entry.expires_in.is_none_or(|left| left > Duration::ZERO))
            && queue.len() == 1
    })
    .await;
    assert_eq!(backend.renew(&[waiter]).await[0].as_ref().unwrap(), &ClaimStatus::Gone);
    backend.release(&holder).await.unwrap();
}

async fn late_requests_of_an_expired_claim_let_nobody_in(context: Context) {
    let [late, others] = [context.backend().await, context.backend().await];
    let write = Permits::WRITE;
    let long = |number, permits, wait_mode| {
        context.claim(number, permits, wait_mode).with_lease(context.lease() * 20)
    };
    let expired = context.claim(1, READ, WaitMode::Wait);
    let [writer, reader] =
        [(2, write), (3, READ)].map(|(number, permits)| long(number, permits, WaitMode::Wait));
    assert!(held(&late.enqueue(&expired).await.unwrap()));
    for claim in [&writer, &reader] {
        assert_eq!(others.enqueue(claim).await.unwrap(), ClaimStatus::Waiting);
        assert_eq!(others.renew(&[Arc::new(claim.clone())]).await.remove(0).unwrap(), ClaimStatus::Waiting);
    }
    // The first claim is not renewed and expires. Then the writer holds the lock, and after it the second
    // reader.
    assert!(held(&settled(&*others, &writer).await));
    others.release(&writer).await.unwrap();
    assert!(held(&settled(&*others, &reader).await));
    assert_eq!(late.renew(&[Arc::new(expired.clone())]).await.remove(0).unwrap(), ClaimStatus::Gone);
    let next = long(4, write, WaitMode::Try);
    assert_eq!(others.enqueue(&next).await.unwrap(), ClaimStatus::Gone, "after a late renewal");
    assert_eq!(late.release(&expired).await.unwrap(), Release::NotHeld);
    let next = long(5, write, WaitMode::Try);
    assert_eq!(others.enqueue(&next).await.unwrap(), ClaimStatus::Gone, "after a late release");
    assert_eq!(others.release(&reader).await.unwrap(), Release::Released);
}

/// This many claims on a mutex, with leases that do not expire before a case has ended.
fn many(context: &Context, count: u64) -> impl Iterator<Item = Claim> {
    let lease = context.lease() * 60;
    (0..count).map(move |number| context.claim(number, MUTEX, WaitMode::Wait).with_lease(lease))
}

async fn a_batch_of_renewals_is_answered_in_order(context: Context) {
    let backend = context.backend().await;
    let claims: Vec<Arc<Claim>> = many(&context, 40).map(Arc::new).collect();
    for claim in &claims {
        backend.enqueue(claim).await.unwrap();
    }
    backend.release(&claims[20]).await.unwrap();
    let answers: Vec<ClaimStatus> = backend.renew(&claims).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.len(), claims.len());
    for (number, answer) in answers.into_iter().enumerate() {
        match number {
            0 => assert!(held(&answer)),
            20 => assert_eq!(answer, ClaimStatus::Gone),
            _ => assert_eq!(answer, ClaimStatus::Waiting, "{number}"),
        }
    }
    for claim in &claims {
        backend.release(claim).await.unwrap();
    }
}

async fn a_change_between_enqueueing_and_watching_is_not_missed(context: Context) {
    let [one, other] = [context.backend().await, context.backend().await];
    for number in 0..20 {
        let holder = context.claim(2 * number, MUTEX, WaitMode::Wait);
        let waiter = context.claim(2 * number + 1, MUTEX, WaitMode::Wait);
        assert!(held(&one.enqueue(&holder).await.unwrap()));
        assert_eq!(other.enqueue(&waiter).await.unwrap(), ClaimStatus::Waiting);
        one.release(&holder).await.unwrap();
        assert!(held(&settled(&*other, &waiter).await));
        other.release(&waiter).await.unwrap();
    }
}

async fn the_release_of_the_last_reader_notifies_the_waiting_writer(context: Context) {
    let [one, other] = [context.backend().await, context.backend().await];
    let readers = [1, 2].map(|number| context.claim(number, READ, WaitMode::Wait));
    let write = Permits::WRITE;
    let writer = context.claim(3, write, WaitMode::Wait);
    for reader in &readers {
        assert!(held(&one.enqueue(reader).await.unwrap()));
    }
    assert_eq!(other.enqueue(&writer).await.unwrap(), ClaimStatus::Waiting);
    let (status, ()) = tokio::join!(settled(&*other, &writer), async {
        for reader in &readers {
            one.release(reader).await.unwrap();
        }
    });
    assert!(held(&status));
    other.release(&writer).await.unwrap();
}

async fn a_hundred_claims_of_one_store_are_kept_apart(context: Context) {
    let backend = context.backend().await;
    let claims: Vec<Claim> = many(&context, 100).collect();
    let mut waits = tokio::task::JoinSet::new();
    for claim in claims {
        assert!(backend.enqueue(&claim).await.unwrap() != ClaimStatus::Gone);
        let backend = Arc::clone(&backend);
        waits.spawn(async move {
            if backend.enqueue(&claim).await.unwrap() == ClaimStatus::Waiting {
                assert!(held(&settled(&*backend, &claim).await));
            }
            backend.release(&claim).await.unwrap()
        });
    }
    assert!(waits.join_all().await.into_iter().all(|release| release == Release::Released));
}

async fn the_address_of_a_store_names_its_kind_and_no_password(context: Context) {
    let (one, other) = (context.backend().await, context.backend().await);
    let (shown, kind) = (one.address(), one.capabilities().kind);
    assert!(shown.starts_with(kind) && shown.contains(':'), "{shown:?} is of kind {kind}");
    assert_eq!(shown, other.address());
    let given = context.store().url.clone().unwrap_or_default();
    let login = given.split_once("://").and_then(|(_, rest)| rest.split_once('@')).map(|(login, _)| login);
    if let Some((_, password)) = login.and_then(|login| login.split_once(':')) {
        assert!(!shown.contains(password), "the password is shown");
    }
}
