//! Releases: no claim is left in the store, where it would block others until its lease expires.

use super::{
    Fault, Fixture, LEASE, MILLISECOND, SECOND, Verb, about, double, in_virtual_time, options, pauses, since,
    sleep,
};
use crate::backend::{ClaimStatus, Release};
use crate::error::Error;
use crate::options::Options;
use crate::sync::now;

#[test]
fn whatever_error_ends_an_acquire_its_claim_is_released_at_once() {
    in_virtual_time(async {
        let endings: [(Fault, Options); 4] = [
            (Fault::Deny, options()),
            (Fault::Silence, Options { store_timeout: Some(SECOND), ..options() }),
            (Fault::Refuse, Options { store_timeout: Some(SECOND), ..options() }),
            (Fault::Silence, Options { wait: Some(SECOND * 21), ..options() }),
        ];
        for (fault, options) in endings {
            let fixture = Fixture::with_options(options);
            let (held, waiter) = fixture.waiting(fixture.mutex()).await;
            // The next renewal fails, so that the waiter asks the store again.
            fixture.store.always(Verb::Enqueue, fault.clone());
            fixture.store.next(Verb::Renew, [Fault::Refuse]);
            let begin = now();
            waiter.await.unwrap().unwrap_err();
            sleep(MILLISECOND).await;
            assert!(since(begin) < LEASE / 2);
            assert_eq!(fixture.claims().await.len(), 1, "{fault:?}");
            assert!(held.is_held());
            assert_eq!(fixture.store.requests(Verb::Release).len(), 1);
        }
    });
}

#[test]
fn an_acquire_whose_answer_was_lost_leaves_no_claim_when_it_fails_or_is_dropped() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(Options { store_timeout: Some(SECOND), ..options() });
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 5));
        assert!(fixture.mutex().acquire().await.unwrap_err().is_unavailable());
        sleep(MILLISECOND).await;
        assert!(fixture.claims().await.is_empty());
        let lock = fixture.mutex();
        let dropped = tokio::spawn(async move { lock.acquire().await });
        sleep(MILLISECOND).await;
        assert_eq!(fixture.claims().await.len(), 1);
        dropped.abort();
        sleep(MILLISECOND).await;
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn a_release_that_fails_is_retried_at_a_bounded_rate_until_the_lease_expires() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        fixture.store.always(Verb::Release, Fault::Refuse);
        let begin = now();
        drop(guard);
        fixture.owner.close().await;
        assert!(since(begin) <= LEASE && since(begin) >= LEASE - SECOND * 2, "{:?}", since(begin));
        let pauses = pauses(&fixture.store.requests(Verb::Release));
        assert!(double(&pauses, MILLISECOND * 50, SECOND) && pauses.len() > 50, "{pauses:?}");
    });
}

#[test]
fn a_failed_release_is_repeated_when_the_store_answers_again() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        fixture.store.always(Verb::Release, Fault::Refuse);
        assert!(guard.release().await.unwrap_err().is_unavailable());
        sleep(LEASE / 2).await;
        fixture.store.always(Verb::Release, Fault::None);
        sleep(SECOND * 2).await;
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn a_release_is_one_request_and_returns_the_stores_answer() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        assert_eq!(guard.release().await.unwrap(), Release::Released);
        let guard = fixture.mutex().acquire().await.unwrap();
        fixture.store.next(Verb::Release, [Fault::Answer(ClaimStatus::Gone)]);
        assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
        sleep(SECOND).await;
        assert_eq!(fixture.store.requests(Verb::Release).len(), 2);
    });
}

#[test]
fn a_dropped_guard_is_released_once() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        drop(fixture.mutex().acquire().await.unwrap());
        sleep(MILLISECOND).await;
        assert!(fixture.claims().await.is_empty());
        sleep(LEASE * 2).await;
        assert_eq!(fixture.store.requests(Verb::Release).len(), 1);
    });
}

#[test]
fn a_loss_that_the_owner_notices_first_is_released_in_the_store() {
    in_virtual_time(async {
        for released in [false, true] {
            let fixture = Fixture::new();
            fixture.store.always(Verb::Renew, Fault::Silence);
            let guard = fixture.mutex().acquire().await.unwrap();
            let remaining = guard.remaining().unwrap();
            // No other task has run since the deadline.
            tokio::time::advance(remaining).await;
            if released {
                assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
            } else {
                drop(guard);
            }
            sleep(MILLISECOND).await;
            assert_eq!(fixture.store.requests(Verb::Release).len(), 1, "{released}");
        }
    });
}

#[test]
fn closing_refuses_new_claims_ends_waits_and_keeps_held_locks() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let kept = fixture.owner.mutex("kept").acquire().await.unwrap();
        let (held, waiter) = fixture.waiting(fixture.mutex()).await;
        fixture.owner.close().await;
        assert_eq!(fixture.claims().await.len(), 1, "the waiter is out when the call returns");
        let ended = waiter.await.unwrap();
        assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
        assert!(matches!(fixture.mutex().try_acquire().await, Err(Error::Closed)));
        sleep(LEASE * 2).await;
        assert!(kept.is_held() && held.is_held());
        assert_eq!(kept.release().await.unwrap(), Release::Released);
    });
}

#[test]
fn closing_ends_an_acquire_on_a_store_that_fails() {
    in_virtual_time(async {
        for fault in [Fault::Refuse, Fault::Answer(ClaimStatus::Gone)] {
            let fixture = Fixture::new();
            fixture.store.always(Verb::Enqueue, fault.clone());
            let lock = fixture.mutex();
            let acquire = tokio::spawn(async move { lock.acquire().await });
            sleep(SECOND).await;
            let begin = now();
            fixture.owner.close().await;
            let ended = acquire.await.unwrap();
            assert!(matches!(ended, Err(Error::Closed)), "{ended:?}");
            assert!(since(begin) <= SECOND, "{:?}", since(begin));
        }
    });
}

#[test]
fn closing_waits_for_all_releases_in_the_background() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guards = [fixture.mutex(), fixture.owner.mutex("b")];
        let mut held = Vec::new();
        for lock in guards {
            held.push(lock.acquire().await.unwrap());
        }
        fixture.store.next(Verb::Release, [Fault::Late(SECOND * 2), Fault::Late(SECOND * 5)]);
        let begin = now();
        drop(held);
        fixture.owner.close().await;
        assert!(about(since(begin), SECOND * 5), "{:?}", since(begin));
        // A second close has no releases to wait for.
        fixture.owner.close().await;
        assert!(about(since(begin), SECOND * 5), "{:?}", since(begin));
    });
}
