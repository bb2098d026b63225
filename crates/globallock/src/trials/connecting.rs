//! Acquires that find the store not connected, or are refused: what must be released, and how insistently.

use std::time::Duration;

use super::{DAY, Fault, Fixture, LEASE, MILLISECOND, SECOND, Verb, in_virtual_time, options, since, sleep};
use crate::error::Error;
use crate::options::Options;
use crate::sync::now;

#[test]
fn an_acquire_connects_first_and_is_sent_once() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.goes_away();
        fixture.store.next(Verb::Ready, [Fault::Refuse, Fault::Refuse]);
        let guard = fixture.mutex().acquire().await.unwrap();
        assert_eq!(fixture.store.requests(Verb::Ready).len(), 3);
        assert_eq!(fixture.store.requests(Verb::Enqueue).len(), 1);
        assert!(guard.is_held());
        drop(fixture.owner.mutex("b").acquire().await.unwrap());
        assert_eq!(fixture.store.requests(Verb::Ready).len(), 3, "it is connected");
    });
}

#[test]
fn what_was_never_sent_is_not_released() {
    in_virtual_time(async {
        let none = Duration::ZERO;
        for (fault, options, shortest, longest) in [
            (Fault::Deny, options(), none, none),
            (Fault::Refuse, options().wait(SECOND), none, SECOND),
            (Fault::Silence, options().wait(SECOND), SECOND, SECOND),
            (Fault::Refuse, options(), LEASE - SECOND * 2, LEASE),
            (Fault::Refuse, options().wait(SECOND * 90), SECOND * 88, SECOND * 90),
        ] {
            let fixture = Fixture::with_options(options);
            fixture.store.goes_away();
            fixture.store.always(Verb::Ready, fault.clone());
            let begin = now();
            let failed = fixture.mutex().acquire().await.unwrap_err();
            let took = since(begin);
            assert!(shortest <= took && took <= longest + MILLISECOND * 2, "{fault:?}: {took:?}");
            assert_eq!(failed.is_unavailable(), !matches!(fault, Fault::Deny), "{failed:?}");
            // Dropped while it connects.
            let lock = fixture.mutex();
            let dropped = tokio::spawn(async move { lock.acquire().await });
            tokio::task::yield_now().await;
            dropped.abort();
            sleep(DAY / 100).await;
            for verb in [Verb::Enqueue, Verb::Release] {
                assert!(fixture.store.requests(verb).is_empty(), "{verb:?}");
            }
        }
    });
}

#[test]
fn what_the_store_has_refused_is_released_once_and_what_it_may_have_until_it_answers() {
    in_virtual_time(async {
        for (before, insists) in
            [(vec![], false), (vec![Fault::Refuse], true), (vec![Fault::Late(SECOND)], true)]
        {
            let fixture = Fixture::with_options(Options { store_timeout: Some(SECOND / 2), ..options() });
            fixture.store.next(Verb::Enqueue, before.clone());
            fixture.store.always(Verb::Enqueue, Fault::Deny);
            fixture.store.always(Verb::Release, Fault::Refuse);
            let failed = fixture.mutex().acquire().await.unwrap_err();
            let is_denied = matches!(failed, Error::PermissionDenied { .. });
            assert_eq!(is_denied, !matches!(before[..], [Fault::Late(_)]), "{failed:?}");
            fixture.owner.close().await;
            let releases = fixture.store.requests(Verb::Release).len();
            assert_eq!(releases > 1, insists, "{before:?}: {releases}");
            assert!(releases >= 1);
        }
    });
}
