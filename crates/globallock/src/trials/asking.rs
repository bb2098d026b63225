//! Asking for a lock: when the store is asked, how often, and when that is given up.

use super::{
    Fault, Fixture, LEASE, MILLISECOND, SECOND, Verb, about, in_virtual_time, options, pauses, since, sleep,
};
use crate::backend::{ClaimStatus, Grant};
use crate::error::Error;
use crate::options::Options;
use crate::sync::now;

#[test]
fn a_store_that_fails_is_asked_again_at_a_bounded_rate_while_patience_lasts() {
    in_virtual_time(async {
        let timeout = SECOND * 10;
        let fixture = Fixture::with(Options { store_timeout: Some(timeout), ..options() });
        fixture.store.always(Verb::Enqueue, Fault::Refuse);
        let begin = now();
        let error = fixture.mutex().acquire().await.unwrap_err();
        assert!(error.is_unavailable() && error.to_string().contains("as told"), "{error}");
        assert!(since(begin) <= timeout && since(begin) >= timeout - SECOND / 2, "{:?}", since(begin));
        let pauses = pauses(&fixture.store.asked(Verb::Enqueue));
        assert!(about(pauses[0], MILLISECOND * 20), "{pauses:?}");
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= MILLISECOND * 502), "{pauses:?}");
        assert!(pauses.len() < 30, "{pauses:?}");
    });
}

#[test]
fn the_patience_counts_from_the_first_silence() {
    in_virtual_time(async {
        let timeout = SECOND * 10;
        let fixture = Fixture::with(Options { store_timeout: Some(timeout), ..options() });
        let begin = now();
        fixture.store.next(Verb::Enqueue, [Fault::Refuse]);
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        let error = fixture.mutex().acquire().await.unwrap_err();
        assert!(error.is_unavailable() && about(since(begin), timeout), "{:?}: {error}", since(begin));
        // What the store said is told, rather than that it said nothing more.
        assert!(error.to_string().contains("as told"), "{error}");
    });
}

#[test]
fn silence_is_told_with_how_long_it_was() {
    in_virtual_time(async {
        let fixture = Fixture::with(Options { store_timeout: Some(SECOND * 7), ..options() });
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        let error = fixture.mutex().acquire().await.unwrap_err();
        assert!(error.is_unavailable() && error.to_string().contains("no answer within 7.0s"), "{error}");
    });
}

#[test]
fn an_answer_ends_the_silence() {
    in_virtual_time(async {
        let timeout = SECOND * 10;
        let fixture = Fixture::with(Options { store_timeout: Some(timeout), ..options() });
        fixture.store.always(Verb::Enqueue, Fault::Late(timeout - SECOND));
        let (held, waits) = fixture.waiting(fixture.mutex()).await;
        // The store fails for a while three times, each within the patience that it used up by a half before.
        for _ in 0..3 {
            sleep(SECOND * 20).await;
            fixture.store.next(Verb::Enqueue, [Fault::Late(timeout * 2 / 3)]);
            fixture.store.next(Verb::Renew, [Fault::Say(ClaimStatus::Gone)]);
        }
        assert!(!waits.is_finished());
        held.release().await.unwrap();
        assert!(waits.await.unwrap().unwrap().is_held());
    });
}

#[test]
fn after_an_answer_the_store_is_asked_again_as_soon_as_at_first() {
    in_virtual_time(async {
        let fixture = Fixture::with(Options { store_timeout: Some(SECOND * 30), ..options() });
        let _held = fixture.other().mutex("a").unwrap().acquire().await.unwrap();
        fixture.store.next(Verb::Enqueue, [Fault::Refuse; 8]);
        let lock = fixture.mutex();
        let _waits = tokio::spawn(async move { lock.acquire().await });
        sleep(SECOND * 10).await;
        let before = fixture.store.asked(Verb::Enqueue).len();
        assert_eq!(before, 9);
        // The next failure is the first again.
        fixture.store.next(Verb::Enqueue, [Fault::Refuse, Fault::Refuse]);
        fixture.store.always(Verb::Renew, Fault::Say(ClaimStatus::Gone));
        sleep(LEASE / 2).await;
        let asked = fixture.store.asked(Verb::Enqueue);
        assert!(
            about(asked[before + 1].duration_since(asked[before]), MILLISECOND * 20),
            "{:?}",
            pauses(&asked)
        );
    });
}

#[test]
fn a_wait_ends_at_its_limit() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex().with_options(Options { wait: Some(SECOND * 3), ..options() }).unwrap();
        let begin = now();
        let (_held, waits) = fixture.waiting(lock).await;
        let Err(Error::TimedOut { waited, .. }) = waits.await.unwrap() else { panic!("it is taken") };
        assert!(about(waited, SECOND * 3) && about(since(begin), SECOND * 3), "{waited:?}");
    });
}

#[test]
fn a_wait_of_zero_asks_once_however_slow_the_answer() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 5));
        let lock =
            fixture.mutex().with_options(Options { wait: Some(Default::default()), ..options() }).unwrap();
        let guard = lock.acquire().await.unwrap();
        assert!(guard.is_held());
        let begin = now();
        let Err(Error::TimedOut { .. }) = lock.acquire().await else { panic!("it is taken") };
        assert!(about(since(begin), SECOND * 5));
        assert_eq!(fixture.store.asked(Verb::Enqueue).len(), 2);
    });
}

#[test]
fn a_waiting_limit_is_none_for_who_does_not_wait() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND * 5));
        let lock = fixture.mutex().with_options(Options { wait: Some(SECOND), ..options() }).unwrap();
        assert!(lock.try_acquire().await.unwrap().is_some());
    });
}

#[test]
fn a_limit_that_ends_in_silence_is_the_limit_for_who_was_seen_to_wait() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex().with_options(Options { wait: Some(SECOND * 30), ..options() }).unwrap();
        let begin = now();
        let (_held, waits) = fixture.waiting(lock).await;
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        fixture.store.always(Verb::Renew, Fault::Refuse);
        let ended = waits.await.unwrap();
        assert!(matches!(ended, Err(Error::TimedOut { .. })), "{ended:?}");
        assert!(about(since(begin), SECOND * 30), "{:?}", since(begin));
    });
}

#[test]
fn a_limit_that_ends_in_silence_is_the_silence_for_who_was_never_answered() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        // What the store said before is no answer to this.
        assert!(fixture.mutex().try_acquire().await.unwrap().is_some());
        sleep(SECOND).await;
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        let lock = fixture.mutex().with_options(Options { wait: Some(SECOND * 3), ..options() }).unwrap();
        let begin = now();
        let ended = lock.acquire().await;
        assert!(ended.is_err_and(|error| error.is_unavailable()));
        assert!(about(since(begin), SECOND * 3), "{:?}", since(begin));
    });
}

#[test]
fn patience_that_ends_before_the_limit_is_silence_for_who_was_seen_to_wait() {
    in_virtual_time(async {
        let timeout = SECOND * 5;
        let fixture = Fixture::with(Options { store_timeout: Some(timeout), ..options() });
        let lock = fixture
            .mutex()
            .with_options(Options { wait: Some(SECOND * 300), ..fixture.mutex().options().clone() });
        let (_held, waits) = fixture.waiting(lock.unwrap()).await;
        fixture.store.always(Verb::Enqueue, Fault::Silence);
        fixture.store.always(Verb::Renew, Fault::Refuse);
        let ended = waits.await.unwrap();
        assert!(ended.is_err_and(|error| error.is_unavailable()));
    });
}

#[test]
fn a_grant_that_took_longer_than_its_lease_is_asked_for_again() {
    in_virtual_time(async {
        let fixture = Fixture::with(Options {
            lease: SECOND * 2,
            store_timeout: Some(SECOND * 60),
            ..Options::default()
        });
        let stale = Grant { fencing_token: 1, expires: Some(now()), hold_ends: None };
        fixture
            .store
            .next(Verb::Enqueue, [Fault::Say(ClaimStatus::Held(stale)), Fault::Say(ClaimStatus::Gone)]);
        let guard = fixture.mutex().acquire().await.unwrap();
        assert!(guard.is_held());
        let asked = fixture.store.asked(Verb::Enqueue);
        assert!(
            asked.len() == 3 && pauses(&asked).iter().all(|pause| *pause >= MILLISECOND * 20),
            "{asked:?}"
        );
    });
}

#[test]
fn a_store_whose_answers_are_no_use_is_asked_again_until_the_limit_and_never_without_pause() {
    in_virtual_time(async {
        for wait in [None, Some(SECOND * 20)] {
            for timeout in [SECOND / 10, SECOND, SECOND * 60] {
                let fixture = Fixture::new();
                fixture.store.always(Verb::Enqueue, Fault::Say(ClaimStatus::Gone));
                let options = Options { wait, store_timeout: Some(timeout), ..options() };
                let lock = fixture.mutex().with_options(options).unwrap();
                let begin = now();
                let ended = tokio::time::timeout(SECOND * 30, lock.acquire()).await;
                if let Some(wait) = wait {
                    assert!(matches!(ended, Ok(Err(Error::TimedOut { .. }))), "{ended:?}");
                    assert!(since(begin) <= wait && since(begin) >= wait - SECOND, "{:?}", since(begin));
                }
                let asked = fixture.store.asked(Verb::Enqueue).len();
                assert!(asked < 100, "asked {asked} times in {:?}", since(begin));
            }
        }
    });
}

#[test]
fn a_watch_that_fails_is_begun_again_at_a_bounded_rate_and_loses_no_grant() {
    in_virtual_time(async {
        let fixture = Fixture::with(Options { store_timeout: Some(SECOND * 100), ..options() });
        fixture.store.next(Verb::WaitForChange, [Fault::Refuse; 5]);
        let (held, waits) = fixture.waiting(fixture.mutex()).await;
        sleep(SECOND * 5).await;
        assert!(
            fixture.store.asked(Verb::WaitForChange).len() == 6,
            "{:?}",
            fixture.store.asked(Verb::WaitForChange)
        );
        let begin = now();
        held.release().await.unwrap();
        assert!(waits.await.unwrap().unwrap().is_held());
        assert!(since(begin) <= MILLISECOND);
    });
}

#[test]
fn what_asking_again_cannot_mend_is_told_at_once() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.next(Verb::Enqueue, [Fault::Deny]);
        let begin = now();
        assert!(matches!(fixture.mutex().acquire().await, Err(Error::PermissionDenied { .. })));
        let _held = fixture.other().mutex("a").unwrap().acquire().await.unwrap();
        fixture.store.next(Verb::WaitForChange, [Fault::Deny]);
        assert!(matches!(fixture.mutex().acquire().await, Err(Error::PermissionDenied { .. })));
        assert!(since(begin) <= MILLISECOND * 2, "{:?}", since(begin));
    });
}

#[test]
fn a_waiter_that_is_told_that_it_waits_goes_on_to_wait() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.next(Verb::WaitForChange, [Fault::Say(ClaimStatus::Waiting)]);
        let (held, waits) = fixture.waiting(fixture.mutex()).await;
        assert_eq!(fixture.store.asked(Verb::Enqueue).len(), 1);
        held.release().await.unwrap();
        assert!(waits.await.unwrap().unwrap().is_held());
        assert_eq!(fixture.store.asked(Verb::Enqueue).len(), 1, "the push says it all");
    });
}

#[test]
fn a_push_of_a_grant_that_is_over_is_no_grant() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let stale = Grant { fencing_token: 1, expires: Some(now()), hold_ends: None };
        fixture.store.next(Verb::WaitForChange, [Fault::Say(ClaimStatus::Held(stale))]);
        let (held, waits) = fixture.waiting(fixture.mutex()).await;
        sleep(SECOND).await;
        assert!(!waits.is_finished());
        held.release().await.unwrap();
        assert!(waits.await.unwrap().unwrap().is_held());
    });
}
