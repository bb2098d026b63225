//! Locks that are held at least for a time: what the store is asked, and when others are let in.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::observing::observed;
use super::store::{Fault, Verb};
use super::{
    DAY, Fixture, LEASE, MILLISECOND, SECOND, about, double, in_virtual_time, now, options, pauses, since,
    sleep,
};
use crate::backend::{Backend, ClaimStatus, Eviction, Release};
use crate::deadline::margin;
use crate::error::Error;
use crate::loss::Loss;
use crate::name::Name;
use crate::owner::Owner;

const TIME: Duration = Duration::from_secs(3600);

/// A fixture with the mutex of an owner that holds it at least for [`TIME`].
fn fixture(keeps_nothing: bool) -> Fixture {
    let fixture = Fixture::with_options(options().hold_at_least(TIME));
    if keeps_nothing {
        fixture.store.keeps_nothing();
    }
    fixture
}

fn asked(fixture: &Fixture) -> [usize; 5] {
    [Verb::Enqueue, Verb::KeepFor, Verb::Renew, Verb::Release, Verb::ReleaseAfter]
        .map(|verb| fixture.store.requests(verb).len())
}

#[test]
fn the_store_is_asked_once_more_at_the_grant_and_nothing_more_later() {
    in_virtual_time(async {
        let plain = Fixture::new();
        let guard = plain.mutex().acquire().await.unwrap();
        sleep(LEASE * 2).await;
        guard.release().await.unwrap();
        let [enqueues, _, renewals, ..] = asked(&plain);
        assert_eq!(asked(&plain), [enqueues, 0, renewals, 1, 0]);
        let fixture = fixture(false);
        let guard = fixture.mutex().acquire().await.unwrap();
        assert_eq!(asked(&fixture), [1, 1, 0, 0, 0]);
        sleep(LEASE * 2).await;
        assert_eq!(guard.release().await.unwrap(), Release::Released);
        assert_eq!(asked(&fixture), [enqueues, 1, renewals, 0, 1]);
        assert!(
            pauses(&fixture.store.requests(Verb::Renew))
                .iter()
                .all(|pause| *pause <= LEASE / 3 + MILLISECOND * 2)
        );
        // A store that cannot keep it is not asked for anything before the time for the release.
        let fixture = self::fixture(true);
        drop(fixture.mutex().acquire().await.unwrap());
        assert_eq!(asked(&fixture), [1, 0, 0, 0, 0]);
    });
}

#[test]
fn a_lock_that_the_store_keeps_is_held_for_its_time_though_no_renewal_succeeds() {
    in_virtual_time(async {
        let fixture = fixture(false);
        let begin = now();
        let guard = fixture.mutex().acquire().await.unwrap();
        fixture.store.always(Verb::Renew, Fault::Refuse);
        assert!(about(guard.remaining().unwrap(), TIME - margin(TIME)), "{:?}", guard.remaining());
        assert_eq!(guard.lost().await, Loss::Expired);
        assert!(about(since(begin), TIME - margin(TIME)), "{:?}", since(begin));
        // Others are let in as late as if it had not been lost.
        let other = fixture.other();
        drop(guard);
        let next = other.mutex("a").acquire().await.unwrap();
        assert!(since(begin) >= TIME && since(begin) < TIME + SECOND, "{:?}", since(begin));
        drop(next);
    });
}

#[test]
fn after_its_time_a_lock_is_held_by_its_lease_and_the_margin_of_that() {
    in_virtual_time(async {
        let fixture = fixture(false);
        let begin = now();
        let guard = fixture.mutex().acquire().await.unwrap();
        while since(begin) < TIME + LEASE {
            sleep(SECOND).await;
            assert!(guard.is_held(), "after {:?}", since(begin));
        }
        assert!(guard.renew().await.unwrap());
        assert_eq!(guard.kept_for(), None);
        assert!(about(guard.remaining().unwrap(), LEASE - margin(LEASE)), "{:?}", guard.remaining());
        guard.release().await.unwrap();
        assert_eq!(asked(&fixture)[3..], [1, 0]);
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn a_grant_that_the_store_cannot_be_told_to_keep_is_given_up() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(options().hold_at_least(TIME).store_timeout(SECOND * 5));
        for (fault, after) in [(Fault::Refuse, 5), (Fault::Silence, 5), (Fault::Deny, 0)] {
            let begin = now();
            fixture.store.always(Verb::KeepFor, fault.clone());
            let refused = fixture.mutex().acquire().await.unwrap_err();
            assert_eq!(refused.is_unavailable(), after > 0, "{refused}");
            let took = since(begin);
            assert!(
                took <= SECOND * after + MILLISECOND && took >= SECOND * after / 2,
                "{fault:?}: {took:?}"
            );
            sleep(MILLISECOND).await;
            assert!(fixture.claims().await.is_empty(), "{fault:?}: nobody has it, so nobody is kept out");
        }
        // One failure is none.
        fixture.store.always(Verb::KeepFor, Fault::None);
        fixture.store.next(Verb::KeepFor, [Fault::Refuse, Fault::Refuse]);
        let guard = fixture.mutex().acquire().await.unwrap();
        assert!(guard.kept_for() > Some(TIME - SECOND), "{:?}", guard.kept_for());
    });
}

#[test]
fn a_claim_that_is_lost_before_it_is_kept_is_lost_and_keeps_nobody_out() {
    in_virtual_time(async {
        let fixture = fixture(false);
        fixture.store.next(Verb::KeepFor, [Fault::Answer(ClaimStatus::Gone)]);
        let guard = fixture.mutex().acquire().await.unwrap();
        assert!(!guard.is_held());
        assert_eq!((guard.lost().await, guard.kept_for()), (Loss::Revoked, None));
        assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
        sleep(SECOND).await;
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn a_release_that_fails_is_repeated_with_what_is_left_then_and_as_a_plain_one_when_nothing_is() {
    in_virtual_time(async {
        for (away, plain) in [(SECOND * 10, 0), (TIME + SECOND * 10, 1)] {
            let fixture = fixture(false);
            let begin = now();
            let guard = fixture.mutex().acquire().await.unwrap();
            for verb in [Verb::Release, Verb::ReleaseAfter] {
                fixture.store.always(verb, Fault::Refuse);
            }
            assert!(guard.release().await.unwrap_err().is_unavailable());
            let other = fixture.other();
            let next = tokio::spawn(async move { other.mutex("a").acquire().await.unwrap() });
            sleep(away).await;
            fixture.store.always(Verb::ReleaseAfter, Fault::None);
            fixture.store.always(Verb::Release, Fault::None);
            let tries = fixture.store.requests(Verb::ReleaseAfter);
            assert!(double(&pauses(&tries)[1..], MILLISECOND * 50, SECOND), "{:?}", pauses(&tries));
            sleep(SECOND * 2).await;
            let answered = asked(&fixture);
            assert_eq!(answered[3] > 0, plain > 0, "{answered:?}");
            let next = next.await.unwrap();
            assert!(
                since(begin) >= TIME && since(begin) < TIME + away.min(SECOND * 13),
                "{:?}",
                since(begin)
            );
            drop(next);
            assert_eq!(asked(&fixture), answered, "it is not asked again");
        }
    });
}

#[test]
fn where_the_store_cannot_a_released_lock_is_renewed_until_its_time_and_released_then() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.keeps_nothing();
        let (owner, heard) = observed(&fixture);
        let begin = now();
        let guard = owner.mutex("a").hold_at_least(TIME).acquire().await.unwrap();
        assert!(about(guard.kept_for().unwrap(), TIME));
        assert_eq!(guard.release().await.unwrap(), Release::Released);
        assert_eq!(heard.take(), ["granted 1 after 0", "released after 0", "kept for 3600"]);
        fixture.store.next(Verb::Renew, [Fault::None, Fault::Refuse, Fault::Refuse]);
        let next = fixture.other().mutex("a").acquire().await.unwrap();
        assert!(about(since(begin), TIME), "{:?}", since(begin));
        let pauses = pauses(&fixture.store.requests(Verb::Renew));
        assert!(about(pauses[0], LEASE / 3) && about(pauses[1], SECOND) && about(pauses[3], LEASE / 3));
        assert!(pauses.iter().all(|pause| *pause <= LEASE / 3 + MILLISECOND * 2), "{pauses:?}");
        assert_eq!(asked(&fixture)[3..], [1, 0]);
        assert_eq!(heard.take(), [""; 0]);
        drop(next);
    });
}

#[test]
fn a_manager_that_is_closed_lets_others_in_where_the_store_cannot_and_says_how_much_was_left() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.keeps_nothing();
        let (owner, heard) = observed(&fixture);
        let lock = owner.mutex("a").hold_at_least(TIME);
        drop(lock.acquire().await.unwrap());
        let held = owner.mutex("b").hold_at_least(TIME).acquire().await.unwrap();
        // Between two renewals.
        sleep(SECOND * 610).await;
        heard.take();
        owner.close().await;
        assert!(fixture.claims().await.is_empty());
        assert_eq!(heard.take(), ["cut short by 2990"]);
        assert!(held.is_held());
        held.release().await.unwrap();
        sleep(MILLISECOND).await;
        assert_eq!(heard.take(), ["released after 610", "kept for 2990", "cut short by 2990"]);
        assert!(fixture.memory.inspect(&Name::new("b").unwrap()).await.unwrap().is_empty());
    });
}

#[test]
fn an_eviction_ends_a_released_lock_where_the_store_cannot_keep_it() {
    in_virtual_time(async {
        let fixture = fixture(true);
        drop(fixture.mutex().acquire().await.unwrap());
        sleep(LEASE * 2).await;
        let key = fixture.claims().await.swap_remove(0).key;
        let by = Eviction::new(Owner::default(), "");
        let name = Name::new("a").unwrap();
        assert_eq!(fixture.memory.evict(&name, &key, &by).await.unwrap(), Release::Released);
        sleep(LEASE).await;
        let renewals = asked(&fixture)[2];
        sleep(LEASE * 2).await;
        assert_eq!(asked(&fixture)[2], renewals, "nothing is left to be renewed");
        fixture.owner.close().await;
    });
}

#[test]
fn a_time_that_the_options_refuse_is_told_by_the_acquire() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        for lock in [
            fixture.mutex().hold_at_least(TIME).max_hold(TIME - MILLISECOND),
            fixture.mutex().hold_at_least(Duration::ZERO),
            fixture.mutex().hold_at_least(DAY * 366),
        ] {
            let refused = lock.acquire().await.unwrap_err();
            assert!(matches!(&refused, Error::InvalidOption { option, .. } if option == "hold_at_least"));
        }
        assert_eq!(asked(&fixture), [0; 5]);
    });
}

proptest! {
    #[test]
    fn others_are_let_in_at_the_release_or_at_the_time_whichever_is_later(
        (lease, least, held) in (100_u64..100_000, 1_u64..300_000, 0_u64..300_000),
        (keeps_nothing, drops, closes) in any::<(bool, bool, bool)>(),
    ) {
        let [lease, least, held] = [lease, least, held].map(Duration::from_millis);
        in_virtual_time(async move {
            let fixture = Fixture::with_options(options().lease(lease).hold_at_least(least));
            if keeps_nothing {
                fixture.store.keeps_nothing();
            }
            let begin = now();
            let guard = fixture.mutex().acquire().await.unwrap();
            let other = fixture.other();
            let next = tokio::spawn(async move { other.mutex("a").acquire().await.unwrap() });
            sleep(held).await;
            assert!(guard.is_held());
            assert_eq!(guard.kept_for(), least.checked_sub(since(begin)).filter(|left| !left.is_zero()));
            if drops {
                drop(guard);
            } else {
                assert_eq!(guard.release().await.unwrap(), Release::Released);
            }
            if closes && !keeps_nothing {
                fixture.owner.close().await;
            }
            let next = next.await.unwrap();
            let expected = held.max(least);
            assert!(since(begin) >= expected && about(since(begin), expected), "{:?}", since(begin));
            drop(next);
            let _alive = Arc::clone(&fixture.memory);
        });
    }
}
