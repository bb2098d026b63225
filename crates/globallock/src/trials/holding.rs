//! How long a lock is held, and what its guard reports meanwhile.

use std::time::Duration;

use super::{
    Fault, Fixture, LEASE, MILLISECOND, SECOND, Verb, about, in_virtual_time, options, since, sleep,
};
use crate::backend::{Claim, ClaimStatus, Grant, Release};
use crate::context::Request;
use crate::deadline::margin;
use crate::hold::{Hold, Phase};
use crate::loss::Loss;
use crate::name::Name;
use crate::observe::NotGranted;
use crate::options::Options;
use crate::queue::Permits;
use crate::sync::now;

/// The store may free the lock one lease after the request arrived. The owner counts from the moment before
/// the request, so that it gives the lock up earlier.
#[test]
fn a_lock_is_lost_a_margin_before_the_end_of_its_lease_counted_from_the_request() {
    in_virtual_time(async {
        for late in [Duration::ZERO, SECOND, LEASE / 2] {
            let fixture = Fixture::new();
            fixture.store.always(Verb::Renew, Fault::Refuse);
            fixture.store.next(Verb::Enqueue, [Fault::Late(late)]);
            let asked = now();
            let guard = fixture.mutex().acquire().await.unwrap();
            assert!(about(since(asked), late));
            assert!(
                about(guard.remaining().unwrap(), LEASE - margin(LEASE) - late),
                "{:?}",
                guard.remaining()
            );
            assert_eq!(guard.lost().await, Loss::Expired);
            assert!(since(asked) <= LEASE - margin(LEASE) + MILLISECOND, "{:?}", since(asked));
            assert!(!guard.is_held());
            assert_eq!(guard.remaining(), Some(Duration::ZERO));
        }
    });
}

#[test]
fn a_lock_counts_as_lost_at_its_deadline_even_if_no_task_has_run() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        let remaining = guard.remaining().unwrap();
        // No other task runs.
        tokio::time::advance(remaining - MILLISECOND).await;
        assert!(guard.remaining().unwrap() <= LEASE);
        let fixture = Fixture::new();
        fixture.store.always(Verb::Renew, Fault::Silence);
        let guard = fixture.mutex().acquire().await.unwrap();
        tokio::time::advance(guard.remaining().unwrap()).await;
        assert!(!guard.is_held());
    });
}

#[test]
fn a_max_hold_time_ends_a_hold_whatever_the_lease() {
    in_virtual_time(async {
        for (lease, hold) in [(LEASE, SECOND * 10), (SECOND * 2, SECOND * 10), (SECOND * 10, SECOND * 10)] {
            let fixture =
                Fixture::with_options(Options { lease, max_hold: Some(hold), ..Options::default() });
            let begin = now();
            let guard = fixture.mutex().acquire().await.unwrap();
            assert!(guard.remaining().unwrap() <= hold - margin(hold));
            sleep(hold - margin(hold) - MILLISECOND * 5).await;
            assert!(guard.is_held(), "{lease:?}");
            assert_eq!(guard.lost().await, Loss::MaxHold);
            assert!(about(since(begin), hold - margin(hold)), "{:?}", since(begin));
            assert!(!guard.is_held());
        }
    });
}

#[test]
fn a_max_hold_time_within_the_lease_needs_no_renewal() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(Options { max_hold: Some(LEASE / 2), ..options() });
        let guard = fixture.mutex().acquire().await.unwrap();
        assert_eq!(guard.lost().await, Loss::MaxHold);
        assert!(fixture.store.batches().len() <= 1, "{:?}", fixture.store.batches());
    });
}

#[test]
fn a_max_hold_time_counts_from_the_grant_and_no_renewal_extends_it() {
    in_virtual_time(async {
        let hold = SECOND * 100;
        let fixture = Fixture::with_options(Options { max_hold: Some(hold), ..options() });
        let (held, waiter) = fixture.waiting(fixture.mutex()).await;
        sleep(SECOND * 30).await;
        held.release().await.unwrap();
        let guard = waiter.await.unwrap().unwrap();
        let begin = now();
        for _ in 0..5 {
            sleep(SECOND * 10).await;
            assert!(guard.renew().await.unwrap());
        }
        assert_eq!(guard.lost().await, Loss::MaxHold);
        assert!(about(since(begin), hold - margin(hold)), "{:?}", since(begin));
    });
}

/// A store may cut the lease to the max hold time, so that both end at the same moment.
#[test]
fn a_lock_whose_lease_ends_with_its_max_hold_time_is_lost_by_the_latter() {
    in_virtual_time(async {
        let hold = SECOND * 5;
        let fixture = Fixture::with_options(Options { max_hold: Some(hold), ..options() });
        let end = now() + hold;
        let grant =
            Grant { fencing_token: 7, expires: Some(end), lease: None, hold_ends: Some(end), value: None };
        fixture.store.next(Verb::Enqueue, [Fault::Answer(ClaimStatus::Held(grant))]);
        let guard = fixture.mutex().acquire().await.unwrap();
        assert_eq!(guard.fencing_token(), 7);
        assert_eq!(guard.lost().await, Loss::MaxHold);
    });
}

#[test]
fn a_lock_without_a_lease_or_max_hold_time_has_no_deadline() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let grant = Grant { fencing_token: 7, expires: None, lease: None, hold_ends: None, value: None };
        fixture.store.always(Verb::Enqueue, Fault::Answer(ClaimStatus::Held(grant.clone())));
        fixture.store.always(Verb::Renew, Fault::Answer(ClaimStatus::Held(grant)));
        let guard = fixture.mutex().acquire().await.unwrap();
        assert_eq!(guard.remaining(), None);
        sleep(LEASE * 10).await;
        assert!(guard.is_held());
        assert_eq!(guard.remaining(), None);
        let renewals = fixture.store.batches().len();
        assert!((29..=30).contains(&renewals), "{renewals}");
    });
}

#[test]
fn a_loss_is_reported_to_every_caller_and_is_final() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Renew, Fault::Refuse);
        let guard = fixture.mutex().acquire().await.unwrap();
        let [one, other] = [(); 2].map(|()| tokio::spawn(guard.ended()));
        assert_eq!(guard.lost().await, Loss::Expired);
        assert_eq!((one.await.unwrap(), other.await.unwrap()), (Some(Loss::Expired), Some(Loss::Expired)));
        fixture.store.always(Verb::Renew, Fault::None);
        sleep(LEASE).await;
        assert!(!guard.is_held());
        assert_eq!((guard.lost().await, guard.release().await.unwrap()), (Loss::Expired, Release::NotHeld));
    });
}

#[test]
fn a_release_is_no_loss() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        let ended = tokio::spawn(guard.ended());
        sleep(SECOND).await;
        assert!(!ended.is_finished());
        assert_eq!(guard.release().await.unwrap(), Release::Released);
        assert_eq!(ended.await.unwrap(), None);
    });
}

#[test]
fn a_lost_lock_is_released_in_the_store_once() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        fixture.store.next(Verb::Renew, [Fault::Answer(ClaimStatus::Waiting)]);
        assert_eq!(guard.lost().await, Loss::Revoked);
        sleep(MILLISECOND).await;
        assert_eq!(fixture.store.requests(Verb::Release).len(), 1);
        assert!(fixture.claims().await.is_empty());
        drop(guard);
        sleep(LEASE).await;
        assert_eq!(fixture.store.requests(Verb::Release).len(), 1);
    });
}

#[test]
fn a_lease_that_is_shorter_than_the_max_hold_time_ends_first() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(Options { max_hold: Some(LEASE * 10), ..options() });
        fixture.store.always(Verb::Renew, Fault::Refuse);
        let begin = now();
        let guard = fixture.mutex().acquire().await.unwrap();
        assert!(about(guard.remaining().unwrap(), LEASE - margin(LEASE)), "{:?}", guard.remaining());
        assert_eq!(guard.lost().await, Loss::Expired);
        assert!(about(since(begin), LEASE - margin(LEASE)), "{:?}", since(begin));
    });
}

#[test]
fn a_later_answer_does_not_move_the_end_of_the_max_hold_time() {
    in_virtual_time(async {
        let hold = LEASE / 2;
        let fixture = Fixture::with_options(Options { max_hold: Some(hold), ..options() });
        let begin = now();
        let grant = |hold_ends| Grant {
            fencing_token: 7,
            expires: Some(begin + LEASE * 5),
            lease: None,
            hold_ends: Some(hold_ends),
            value: None,
        };
        fixture.store.next(Verb::Enqueue, [Fault::Answer(ClaimStatus::Held(grant(begin + hold)))]);
        fixture.store.always(Verb::Renew, Fault::Answer(ClaimStatus::Held(grant(begin + hold * 3))));
        let guard = fixture.mutex().acquire().await.unwrap();
        assert!(guard.renew().await.unwrap());
        assert_eq!(guard.lost().await, Loss::MaxHold);
        assert!(about(since(begin), hold - margin(hold)), "{:?}", since(begin));
    });
}

#[test]
fn a_lock_whose_renewal_is_never_answered_is_released_in_the_store_at_its_deadline() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Renew, Fault::Silence);
        let begin = now();
        let _guard = fixture.mutex().acquire().await.unwrap();
        sleep(LEASE - margin(LEASE) + MILLISECOND * 2).await;
        assert_eq!(fixture.store.requests(Verb::Release).len(), 1, "{:?}", since(begin));
    });
}

#[test]
fn a_claim_that_was_given_up_is_never_granted() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let claim = fixture.owner.context().claim(Request {
            name: Name::new("a").unwrap(),
            permits: Permits::MUTEX,
            wait_mode: crate::backend::WaitMode::Wait,
            options: &options(),
            wants_value: false,
        });
        let hold = Hold::unobserved(claim.unwrap());
        let give_up = |hold: &Hold| hold.give_up(NotGranted::Cancelled, now());
        assert!(give_up(&hold) && !give_up(&hold));
        assert_eq!(hold.phase(), Phase::Released);
        let grant = Grant {
            fencing_token: 7,
            expires: Some(now() + LEASE),
            lease: None,
            hold_ends: None,
            value: None,
        };
        assert!(!hold.confirm(&grant, now()) && !hold.is_held());
        let held = Hold::unobserved(Claim::clone(&hold.claim));
        assert!(held.confirm(&grant, now()) && !give_up(&held) && held.is_held());
    });
}

#[test]
fn a_loss_names_its_reason() {
    for (loss, word) in [(Loss::Expired, "lease"), (Loss::MaxHold, "max hold time"), (Loss::Revoked, "store")]
    {
        assert!(loss.to_string().contains(word), "{loss}");
    }
}
