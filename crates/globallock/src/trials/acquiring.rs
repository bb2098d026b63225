//! Acquiring a lock: when the store is asked, how often, and when the attempt ends.

use std::time::Duration;

use super::{
    Fault, Fixture, LEASE, MILLISECOND, SECOND, Verb, about, double, in_virtual_time, options, pauses, since,
    sleep,
};
use crate::backend::{ClaimStatus, Grant};
use crate::error::Error;
use crate::options::Options;
use crate::sync::now;

#[test]
fn a_store_that_fails_is_asked_again_at_a_bounded_rate_until_the_store_timeout() {
    in_virtual_time(async {
        let timeout = SECOND * 10;
        let fixture = Fixture::with_options(Options { store_timeout: Some(timeout), ..options() });
        fixture.store.always(Verb::Enqueue, Fault::Refuse);
        let begin = now();
        let error = fixture.mutex().acquire().await.unwrap_err();
        assert!(error.is_unavailable() && error.to_string().contains("scripted fault"), "{error}");
        assert!(since(begin) <= timeout && since(begin) >= timeout - MILLISECOND * 20, "{:?}", since(begin));
        let pauses = pauses(&fixture.store.requests(Verb::Enqueue));
        // The last ones come closer and closer to the end.
        let left = |at: usize| timeout - pauses[..at].iter().sum::<Duration>();
        let is_last = |at: &usize| left(*at) <= MILLISECOND * 500;
        let (doubling, last) = pauses.split_at((0..pauses.len()).find(is_last).unwrap_or(pauses.len()));
        assert!(double(doubling, MILLISECOND * 20, MILLISECOND * 500), "{pauses:?}");
        assert!(last.len() <= 6, "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause >= MILLISECOND * 10), "{pauses:?}");
    });
}

#[test]
fn the_store_timeout_counts_from_the_first_failure() {
    in_virtual_time(async {
        let timeout = SECOND * 10;
        let fixture = Fixture::with_options(Options { store_timeout: Some(timeout), ..options() });
        let begin = now();
        fixture.store.next(Verb::Enqueue, [Fault::Refuse]);
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        let error = fixture.mutex().acquire().await.unwrap_err();
        assert!(error.is_unavailable() && about(since(begin), timeout), "{:?}: {error}", since(begin));
        // The error is the store's own, and not that the store was silent afterwards.
        assert!(error.to_string().contains("scripted fault"), "{error}");
    });
}

#[test]
fn an_error_says_how_long_the_store_was_silent() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(Options { store_timeout: Some(SECOND * 7), ..options() });
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        let error = fixture.mutex().acquire().await.unwrap_err();
        assert!(error.is_unavailable() && error.to_string().contains("no answer within 7 s"), "{error}");
    });
}

#[test]
fn an_answer_resets_the_store_timeout() {
    in_virtual_time(async {
        let timeout = SECOND * 10;
        let fixture = Fixture::with_options(Options { store_timeout: Some(timeout), ..options() });
        fixture.store.always(Verb::Enqueue, Fault::Late(timeout - SECOND));
        let (held, waiter) = fixture.waiting(fixture.mutex()).await;
        // The store is silent three times. Each time is shorter than the store timeout; two together are
        // longer.
        for _ in 0..3 {
            sleep(SECOND * 20).await;
            fixture.store.next(Verb::Enqueue, [Fault::Late(timeout * 2 / 3)]);
            fixture.store.next(Verb::Renew, [Fault::Answer(ClaimStatus::Gone)]);
        }
        assert!(!waiter.is_finished());
        held.release().await.unwrap();
        assert!(waiter.await.unwrap().unwrap().is_held());
    });
}

#[test]
fn an_answer_resets_the_pause_between_requests() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(Options { store_timeout: Some(SECOND * 30), ..options() });
        let _held = fixture.other().mutex("a").acquire().await.unwrap();
        fixture.store.next(Verb::Enqueue, vec![Fault::Refuse; 8]);
        let lock = fixture.mutex();
        let _waits = tokio::spawn(async move { lock.acquire().await });
        sleep(SECOND * 10).await;
        let before = fixture.store.requests(Verb::Enqueue).len();
        assert_eq!(before, 9);
        // The next failure counts as the first one.
        fixture.store.next(Verb::Enqueue, [Fault::Refuse, Fault::Refuse]);
        fixture.store.always(Verb::Renew, Fault::Answer(ClaimStatus::Gone));
        sleep(LEASE / 2).await;
        let requests = fixture.store.requests(Verb::Enqueue);
        let pause = requests[before + 1].duration_since(requests[before]);
        assert!(double(&[pause], MILLISECOND * 20, MILLISECOND * 500), "{:?}", pauses(&requests));
    });
}

#[test]
fn a_wait_ends_at_its_limit() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex().with_options(Options { wait: Some(SECOND * 3), ..options() });
        let begin = now();
        let (_held, waiter) = fixture.waiting(lock).await;
        let Err(Error::TimedOut { waited, .. }) = waiter.await.unwrap() else { panic!("the lock is taken") };
        assert!(about(waited, SECOND * 3) && about(since(begin), SECOND * 3), "{waited:?}");
    });
}

#[test]
fn a_wait_of_zero_sends_one_request_however_slow_the_answer() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 5));
        let lock = fixture.mutex().with_options(Options { wait: Some(Default::default()), ..options() });
        let guard = lock.acquire().await.unwrap();
        assert!(guard.is_held());
        let begin = now();
        let Err(Error::TimedOut { .. }) = lock.acquire().await else { panic!("the lock is taken") };
        assert!(about(since(begin), SECOND * 5));
        assert_eq!(fixture.store.requests(Verb::Enqueue).len(), 2);
    });
}

#[test]
fn the_wait_limit_does_not_bound_a_claim_that_does_not_wait() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 5));
        let lock = fixture.mutex().with_options(Options { wait: Some(SECOND), ..options() });
        assert!(lock.try_acquire().await.unwrap().is_some());
    });
}

#[test]
fn a_wait_limit_that_ends_in_silence_is_a_timeout_if_the_claim_was_seen_waiting() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex().with_options(Options { wait: Some(SECOND * 30), ..options() });
        let begin = now();
        let (_held, waiter) = fixture.waiting(lock).await;
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        fixture.store.always(Verb::Renew, Fault::Refuse);
        let ended = waiter.await.unwrap();
        assert!(matches!(ended, Err(Error::TimedOut { .. })), "{ended:?}");
        assert!(about(since(begin), SECOND * 30), "{:?}", since(begin));
    });
}

#[test]
fn a_wait_limit_that_ends_in_silence_is_unavailability_if_there_was_no_answer() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        // An answer to an earlier request does not count.
        assert!(fixture.mutex().try_acquire().await.unwrap().is_some());
        sleep(SECOND).await;
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        let lock = fixture.mutex().with_options(Options { wait: Some(SECOND * 3), ..options() });
        let begin = now();
        let ended = lock.acquire().await;
        assert!(ended.is_err_and(|error| error.is_unavailable()));
        assert!(about(since(begin), SECOND * 3), "{:?}", since(begin));
    });
}

#[test]
fn a_store_timeout_before_the_wait_limit_is_unavailability_even_for_a_waiter() {
    in_virtual_time(async {
        let timeout = SECOND * 5;
        let fixture = Fixture::with_options(Options { store_timeout: Some(timeout), ..options() });
        let lock = fixture
            .mutex()
            .with_options(Options { wait: Some(SECOND * 300), ..fixture.mutex().options().clone() });
        let (_held, waiter) = fixture.waiting(lock).await;
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        fixture.store.always(Verb::Renew, Fault::Refuse);
        let ended = waiter.await.unwrap();
        assert!(ended.is_err_and(|error| error.is_unavailable()));
    });
}

#[test]
fn a_grant_that_took_longer_than_its_lease_is_requested_again() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(Options {
            lease: SECOND * 2,
            store_timeout: Some(SECOND * 60),
            ..Options::default()
        });
        let stale =
            Grant { fencing_token: 1, expires: Some(now()), lease: None, hold_ends: None, value: None };
        fixture
            .store
            .next(Verb::Enqueue, [Fault::Answer(ClaimStatus::Held(stale)), Fault::Answer(ClaimStatus::Gone)]);
        let guard = fixture.mutex().acquire().await.unwrap();
        assert!(guard.is_held());
        let requests = fixture.store.requests(Verb::Enqueue);
        assert!(
            requests.len() == 3 && pauses(&requests).iter().all(|pause| *pause >= MILLISECOND * 15),
            "{requests:?}"
        );
    });
}

#[test]
fn a_store_whose_answers_are_useless_is_asked_until_the_wait_limit_and_never_without_a_pause() {
    in_virtual_time(async {
        for wait in [None, Some(SECOND * 20)] {
            for timeout in [SECOND / 10, SECOND, SECOND * 60] {
                let fixture = Fixture::new();
                fixture.store.always(Verb::Enqueue, Fault::Answer(ClaimStatus::Gone));
                let options = Options { wait, store_timeout: Some(timeout), ..options() };
                let lock = fixture.mutex().with_options(options);
                let begin = now();
                let ended = tokio::time::timeout(SECOND * 30, lock.acquire()).await;
                if let Some(wait) = wait {
                    assert!(matches!(ended, Ok(Err(Error::TimedOut { .. }))), "{ended:?}");
                    assert!(since(begin) <= wait && since(begin) >= wait - SECOND, "{:?}", since(begin));
                }
                let requests = fixture.store.requests(Verb::Enqueue).len();
                assert!(requests < 100, "{requests} requests in {:?}", since(begin));
            }
        }
    });
}

#[test]
fn a_watch_that_fails_is_restarted_at_a_bounded_rate_and_misses_no_grant() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(Options { store_timeout: Some(SECOND * 100), ..options() });
        fixture.store.next(Verb::WaitForChange, vec![Fault::Refuse; 5]);
        let (held, waiter) = fixture.waiting(fixture.mutex()).await;
        sleep(SECOND * 5).await;
        assert!(
            fixture.store.requests(Verb::WaitForChange).len() == 6,
            "{:?}",
            fixture.store.requests(Verb::WaitForChange)
        );
        let begin = now();
        held.release().await.unwrap();
        assert!(waiter.await.unwrap().unwrap().is_held());
        assert!(since(begin) <= MILLISECOND);
    });
}

#[test]
fn an_error_that_no_retry_can_fix_is_returned_at_once() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.next(Verb::Enqueue, [Fault::Deny]);
        let begin = now();
        assert!(matches!(fixture.mutex().acquire().await, Err(Error::PermissionDenied { .. })));
        let _held = fixture.other().mutex("a").acquire().await.unwrap();
        fixture.store.next(Verb::WaitForChange, [Fault::Deny]);
        assert!(matches!(fixture.mutex().acquire().await, Err(Error::PermissionDenied { .. })));
        assert!(since(begin) <= MILLISECOND * 2, "{:?}", since(begin));
    });
}

#[test]
fn a_waiter_that_is_notified_without_a_grant_keeps_waiting() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.next(Verb::WaitForChange, [Fault::Answer(ClaimStatus::Waiting)]);
        let (held, waiter) = fixture.waiting(fixture.mutex()).await;
        assert_eq!(fixture.store.requests(Verb::Enqueue).len(), 1);
        held.release().await.unwrap();
        assert!(waiter.await.unwrap().unwrap().is_held());
        assert_eq!(fixture.store.requests(Verb::Enqueue).len(), 1, "the push alone is enough");
    });
}

#[test]
fn a_push_of_an_expired_grant_is_no_grant() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let stale =
            Grant { fencing_token: 1, expires: Some(now()), lease: None, hold_ends: None, value: None };
        fixture.store.next(Verb::WaitForChange, [Fault::Answer(ClaimStatus::Held(stale))]);
        let (held, waiter) = fixture.waiting(fixture.mutex()).await;
        sleep(SECOND).await;
        assert!(!waiter.is_finished());
        held.release().await.unwrap();
        assert!(waiter.await.unwrap().unwrap().is_held());
    });
}
