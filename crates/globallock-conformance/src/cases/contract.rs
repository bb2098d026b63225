//! The contract of the stores, asked of the store itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock::Error;
use globallock::backend::{Backend, Claim, Departure, Grant, Patience, Standing};
use globallock::queue::{MAX_CAPACITY, Share};

use super::{Case, Need, case};
use crate::world::World;

const MUTEX: Share = Share { weight: 1, capacity: 1 };
const READ: Share = Share { weight: 1, capacity: MAX_CAPACITY };

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("contract", joining_twice_is_joining_once),
        case!("contract", joining_again_in_the_queue_keeps_the_place),
        case!("contract", leaving_twice_is_leaving_once),
        case!("contract", leaving_without_having_joined_is_no_error),
        case!("contract", who_does_not_wait_is_not_in_the_queue),
        case!("contract", a_renewal_never_revives),
        case!("contract", a_grant_says_when_its_longest_hold_ends),
        case!("contract", a_renewal_leaves_the_longest_hold_as_it_is),
        case!("contract", a_renewal_lengthens_the_lease).needs(Need::Lease),
        case!("contract", a_claim_without_renewals_ends_with_its_lease).needs(Need::Lease),
        case!("contract", a_waiter_without_renewals_ends_with_its_lease).needs(Need::Lease),
        case!("contract", an_owner_that_comes_back_late_lets_nobody_in).needs(Need::Lease),
        case!("contract", a_batch_of_renewals_is_answered_in_order),
        case!("contract", a_change_between_asking_and_watching_is_not_missed),
        case!("contract", a_departure_of_a_reader_tells_the_waiting_writer),
        case!("contract", a_hundred_claims_of_one_store_are_kept_apart),
    ]
}

fn held(standing: Standing) -> bool {
    matches!(standing, Standing::Held(_))
}

fn granted(standing: Standing) -> Grant {
    match standing {
        Standing::Held(grant) => grant,
        other => panic!("{other:?}"),
    }
}

/// Waits until the claim stands otherwise than waiting.
async fn settled(backend: &dyn Backend, claim: &Claim) -> Standing {
    loop {
        let standing = match backend.changed(claim).await.unwrap() {
            Some(standing) => standing,
            None => backend.join(claim).await.unwrap(),
        };
        if standing != Standing::Waiting {
            return standing;
        }
    }
}

async fn joining_twice_is_joining_once(world: World) {
    let backend = world.backend().await;
    let claim = world.claim(1, MUTEX, Patience::Queue);
    assert!(held(backend.join(&claim).await.unwrap()));
    assert!(held(backend.join(&claim).await.unwrap()));
    assert_eq!(backend.inspect(&claim.name).await.unwrap().len(), 1);
    assert_eq!(backend.leave(&claim).await.unwrap(), Departure::Left);
    assert!(backend.inspect(&claim.name).await.unwrap().is_empty());
}

async fn joining_again_in_the_queue_keeps_the_place(world: World) {
    let backend = world.backend().await;
    let [holder, first, second] = [1, 2, 3].map(|number| world.claim(number, MUTEX, Patience::Queue));
    assert!(held(backend.join(&holder).await.unwrap()));
    for claim in [&first, &second, &first] {
        assert_eq!(backend.join(claim).await.unwrap(), Standing::Waiting);
    }
    let queue = backend.inspect(&holder.name).await.unwrap();
    let ids: Vec<_> = queue.iter().filter_map(|entry| entry.id).collect();
    assert_eq!(ids, [holder.id, first.id, second.id]);
    for claim in [second, first, holder] {
        backend.leave(&claim).await.unwrap();
    }
}

async fn leaving_twice_is_leaving_once(world: World) {
    let backend = world.backend().await;
    let [first, second] = [1, 2].map(|number| world.claim(number, MUTEX, Patience::Queue));
    backend.join(&first).await.unwrap();
    assert_eq!(backend.leave(&first).await.unwrap(), Departure::Left);
    let fence = granted(backend.join(&second).await.unwrap()).fence;
    assert_eq!(backend.leave(&first).await.unwrap(), Departure::Gone);
    let again = granted(backend.join(&second).await.unwrap()).fence;
    assert_eq!(again, fence, "the second departure takes nobody else out");
    backend.leave(&second).await.unwrap();
}

async fn leaving_without_having_joined_is_no_error(world: World) {
    let backend = world.backend().await;
    let claim = world.claim(1, MUTEX, Patience::Queue);
    assert_eq!(backend.leave(&claim).await.unwrap(), Departure::Gone);
}

async fn who_does_not_wait_is_not_in_the_queue(world: World) {
    let backend = world.backend().await;
    let holder = world.claim(1, MUTEX, Patience::Once);
    let refused = world.claim(2, MUTEX, Patience::Once);
    assert!(held(backend.join(&holder).await.unwrap()));
    assert_eq!(backend.join(&refused).await.unwrap(), Standing::Gone);
    assert_eq!(backend.leave(&refused).await.unwrap(), Departure::Gone);
    assert_eq!(backend.inspect(&holder.name).await.unwrap().len(), 1);
    backend.leave(&holder).await.unwrap();
}

async fn a_renewal_never_revives(world: World) {
    let backend = world.backend().await;
    let claim = Arc::new(world.claim(1, MUTEX, Patience::Queue));
    let gone = |answers: Vec<globallock::Result<Standing>>| answers[0].as_ref().unwrap() == &Standing::Gone;
    assert!(gone(backend.renew(&[Arc::clone(&claim)]).await), "before it joined");
    backend.join(&claim).await.unwrap();
    backend.leave(&claim).await.unwrap();
    assert!(gone(backend.renew(&[Arc::clone(&claim)]).await), "after it left");
    assert!(backend.inspect(&claim.name).await.unwrap().is_empty());
}

/// How far the end of a longest hold may be from where it should, for stores that count milliseconds.
const ROUNDING: Duration = Duration::from_millis(3);

async fn a_grant_says_when_its_longest_hold_ends(world: World) {
    let backend = world.backend().await;
    let hold = Duration::from_secs(60);
    let claim = Claim { max_hold: Some(hold), ..world.claim(1, MUTEX, Patience::Queue) };
    let asked = Instant::now();
    let ends = granted(backend.join(&claim).await.unwrap()).hold_ends.expect("the longest hold ends");
    assert!(ends + ROUNDING >= asked + hold && ends <= Instant::now() + hold, "{:?}", ends - asked);
    backend.leave(&claim).await.unwrap();
}

async fn a_renewal_leaves_the_longest_hold_as_it_is(world: World) {
    let backend = world.backend().await;
    let hold = Duration::from_secs(60);
    let claim = Claim { max_hold: Some(hold), ..world.claim(1, MUTEX, Patience::Queue) };
    let asked = Instant::now();
    granted(backend.join(&claim).await.unwrap());
    let answered = Instant::now();
    let claim = Arc::new(claim);
    // The last is sent long enough after the grant that a hold which it began again would be seen.
    let mut sent = answered;
    while sent < answered + Duration::from_millis(50) {
        sent = Instant::now();
        let renewed = granted(backend.renew(&[Arc::clone(&claim)]).await.remove(0).unwrap());
        let (ends, took) = (renewed.hold_ends.expect("the longest hold ends"), sent.elapsed());
        // The owner counts from when it asked: it may believe the end to be as much too early as the answer took.
        assert!(ends <= answered + hold + ROUNDING, "{:?} too late", ends - (answered + hold));
        assert!(ends + took + ROUNDING >= asked + hold, "{:?} too early", asked + hold - ends);
    }
    backend.leave(&claim).await.unwrap();
}

async fn a_renewal_lengthens_the_lease(world: World) {
    let backend = world.backend().await;
    let claim = Arc::new(world.claim(1, MUTEX, Patience::Queue));
    let expires = |standing: Standing| granted(standing).expires.expect("this lease ends");
    let first = expires(backend.join(&claim).await.unwrap());
    let mut last = first;
    while last < first + Duration::from_millis(50) {
        last = expires(backend.renew(&[Arc::clone(&claim)]).await.remove(0).unwrap());
    }
    backend.leave(&claim).await.unwrap();
}

async fn a_claim_without_renewals_ends_with_its_lease(world: World) {
    let [owner, other] = [world.backend().await, world.backend().await];
    let claim = Arc::new(world.claim(1, MUTEX, Patience::Queue));
    let next = world.claim(2, READ, Patience::Queue);
    let before = Instant::now();
    assert!(held(owner.join(&claim).await.unwrap()));
    assert_eq!(other.join(&next).await.unwrap(), Standing::Waiting);
    // The waiter ends with its own lease too, and joins again: also where the store has only just noticed.
    loop {
        let answered = match other.join(&next).await {
            Ok(Standing::Waiting) => other.changed(&next).await,
            answered => answered.map(Some),
        };
        match answered {
            Ok(Some(Standing::Held(_))) => break,
            Ok(_) | Err(Error::Unavailable { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(before.elapsed() >= world.lease() - Duration::from_millis(2));
    assert_eq!(owner.renew(&[claim]).await[0].as_ref().unwrap(), &Standing::Gone);
    other.leave(&next).await.unwrap();
}

async fn a_waiter_without_renewals_ends_with_its_lease(world: World) {
    let backend = world.backend().await;
    let holder = Arc::new(Claim { lease: world.lease() * 20, ..world.claim(1, MUTEX, Patience::Queue) });
    let waiter = Arc::new(world.claim(2, MUTEX, Patience::Queue));
    assert!(held(backend.join(&holder).await.unwrap()));
    assert_eq!(backend.join(&waiter).await.unwrap(), Standing::Waiting);
    crate::world::eventually("the waiter is dropped", async || {
        backend.renew(&[Arc::clone(&holder)]).await.remove(0).unwrap();
        let queue = backend.inspect(&holder.name).await.unwrap();
        queue.iter().all(|entry| entry.expires_in.is_none_or(|left| left > Duration::ZERO))
            && queue.len() == 1
    })
    .await;
    assert_eq!(backend.renew(&[waiter]).await[0].as_ref().unwrap(), &Standing::Gone);
    backend.leave(&holder).await.unwrap();
}

async fn an_owner_that_comes_back_late_lets_nobody_in(world: World) {
    let [late, others] = [world.backend().await, world.backend().await];
    let write = Share { weight: MAX_CAPACITY, capacity: MAX_CAPACITY };
    let long =
        |number, share, patience| Claim { lease: world.lease() * 20, ..world.claim(number, share, patience) };
    let over = world.claim(1, READ, Patience::Queue);
    let [writer, reader] =
        [(2, write), (3, READ)].map(|(number, share)| long(number, share, Patience::Queue));
    assert!(held(late.join(&over).await.unwrap()));
    for claim in [&writer, &reader] {
        assert_eq!(others.join(claim).await.unwrap(), Standing::Waiting);
        assert_eq!(others.renew(&[Arc::new(claim.clone())]).await.remove(0).unwrap(), Standing::Waiting);
    }
    // Nobody renews the first, whose lease ends; then the reader shares the lock in its place.
    assert!(held(settled(&*others, &writer).await));
    others.leave(&writer).await.unwrap();
    assert!(held(settled(&*others, &reader).await));
    assert_eq!(late.renew(&[Arc::new(over.clone())]).await.remove(0).unwrap(), Standing::Gone);
    let next = long(4, write, Patience::Once);
    assert_eq!(others.join(&next).await.unwrap(), Standing::Gone, "after a renewal that came late");
    assert_eq!(late.leave(&over).await.unwrap(), Departure::Gone);
    let next = long(5, write, Patience::Once);
    assert_eq!(others.join(&next).await.unwrap(), Standing::Gone, "after a departure that came late");
    assert_eq!(others.leave(&reader).await.unwrap(), Departure::Left);
}

/// So many claims on a mutex, with leases that outlast what is done to them all.
fn many(world: &World, count: u64) -> impl Iterator<Item = Claim> {
    let lease = world.lease() * 60;
    (0..count).map(move |number| Claim { lease, ..world.claim(number, MUTEX, Patience::Queue) })
}

async fn a_batch_of_renewals_is_answered_in_order(world: World) {
    let backend = world.backend().await;
    let claims: Vec<Arc<Claim>> = many(&world, 40).map(Arc::new).collect();
    for claim in &claims {
        backend.join(claim).await.unwrap();
    }
    backend.leave(&claims[20]).await.unwrap();
    let answers: Vec<Standing> = backend.renew(&claims).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.len(), claims.len());
    for (number, answer) in answers.into_iter().enumerate() {
        match number {
            0 => assert!(held(answer)),
            20 => assert_eq!(answer, Standing::Gone),
            _ => assert_eq!(answer, Standing::Waiting, "{number}"),
        }
    }
    for claim in &claims {
        backend.leave(claim).await.unwrap();
    }
}

async fn a_change_between_asking_and_watching_is_not_missed(world: World) {
    let [one, other] = [world.backend().await, world.backend().await];
    for number in 0..20 {
        let holder = world.claim(2 * number, MUTEX, Patience::Queue);
        let waiter = world.claim(2 * number + 1, MUTEX, Patience::Queue);
        assert!(held(one.join(&holder).await.unwrap()));
        assert_eq!(other.join(&waiter).await.unwrap(), Standing::Waiting);
        one.leave(&holder).await.unwrap();
        assert!(held(settled(&*other, &waiter).await));
        other.leave(&waiter).await.unwrap();
    }
}

async fn a_departure_of_a_reader_tells_the_waiting_writer(world: World) {
    let [one, other] = [world.backend().await, world.backend().await];
    let readers = [1, 2].map(|number| world.claim(number, READ, Patience::Queue));
    let write = Share { weight: MAX_CAPACITY, capacity: MAX_CAPACITY };
    let writer = world.claim(3, write, Patience::Queue);
    for reader in &readers {
        assert!(held(one.join(reader).await.unwrap()));
    }
    assert_eq!(other.join(&writer).await.unwrap(), Standing::Waiting);
    let (standing, ()) = tokio::join!(settled(&*other, &writer), async {
        for reader in &readers {
            one.leave(reader).await.unwrap();
        }
    });
    assert!(held(standing));
    other.leave(&writer).await.unwrap();
}

async fn a_hundred_claims_of_one_store_are_kept_apart(world: World) {
    let backend = world.backend().await;
    let claims: Vec<Claim> = many(&world, 100).collect();
    let mut waits = tokio::task::JoinSet::new();
    for claim in claims {
        assert!(backend.join(&claim).await.unwrap() != Standing::Gone);
        let backend = Arc::clone(&backend);
        waits.spawn(async move {
            if backend.join(&claim).await.unwrap() == Standing::Waiting {
                assert!(held(settled(&*backend, &claim).await));
            }
            backend.leave(&claim).await.unwrap()
        });
    }
    assert!(waits.join_all().await.into_iter().all(|departure| departure == Departure::Left));
}
