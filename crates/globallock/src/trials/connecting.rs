//! Acquires that find the store not connected, or are refused: what must be released, and how insistently.

use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};

use super::{DAY, Fault, Fixture, LEASE, MILLISECOND, SECOND, Verb, in_virtual_time, options, since, sleep};
use crate::backend::{EntryKey, Release};
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

/// What onlookers ask, by name.
const LOOKS: [&str; 4] = ["inspect", "list", "watch", "evict"];

/// Asks one of [`LOOKS`], where nobody has a lock but of `b`.
async fn look(fixture: &Fixture, what: &str) -> Result<(), Error> {
    let owner = &fixture.owner;
    match what {
        "inspect" => assert_eq!(owner.inspect("b").await?.len(), 1),
        "list" => assert_eq!(owner.list("").try_collect::<Vec<_>>().await?.len(), 1),
        "watch" => drop(owner.watch("", SECOND).next().await.expect("it goes on")?),
        _ => assert_eq!(owner.evict("b", &EntryKey::new("none"), "").await?, Release::NotHeld),
    }
    Ok(())
}

#[test]
fn onlookers_wait_for_the_store_until_the_store_timeout() {
    in_virtual_time(async {
        for what in LOOKS {
            let fixture = Fixture::with_options(options().store_timeout(SECOND * 30).wait(SECOND));
            let _held = fixture.other().mutex("b").acquire().await.unwrap();
            fixture.store.goes_away();
            fixture.store.next(Verb::Ready, [Fault::Refuse, Fault::Refuse]);
            look(&fixture, what).await.unwrap();
            assert_eq!(fixture.store.requests(Verb::Ready).len(), 3, "{what}");
            fixture.store.goes_away();
            fixture.store.always(Verb::Ready, Fault::Refuse);
            let begin = now();
            let failed = look(&fixture, what).await.unwrap_err();
            assert!(failed.is_unavailable(), "{what}: {failed:?}");
            let took = since(begin);
            assert!(SECOND * 29 < took && took <= SECOND * 30, "{what}: {took:?}");
            // A request after the first is cut at the store timeout, and the failure before it is told.
            fixture.store.next(Verb::Ready, [Fault::Refuse, Fault::Silence]);
            let begin = now();
            let failed = look(&fixture, what).await.unwrap_err();
            assert!(failed.is_unavailable(), "{what}: {failed:?}");
            assert_eq!(since(begin).as_secs(), 30, "{what}");
        }
    });
}

#[test]
fn onlookers_of_a_closed_manager_and_of_one_that_is_refused_ask_once() {
    in_virtual_time(async {
        for what in LOOKS {
            let fixture = Fixture::new();
            fixture.store.goes_away();
            fixture.store.next(Verb::Ready, [Fault::Deny]);
            let begin = now();
            let failed = look(&fixture, what).await.unwrap_err();
            assert!(matches!(failed, Error::PermissionDenied { .. }), "{what}: {failed:?}");
            fixture.owner.close().await;
            fixture.store.always(Verb::Ready, Fault::Refuse);
            assert!(look(&fixture, what).await.unwrap_err().is_unavailable(), "{what}");
            assert!(since(begin) < MILLISECOND, "{what}: {:?}", since(begin));
        }
    });
}

#[test]
fn a_list_that_has_begun_is_not_begun_again() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let _held = fixture.other().mutex("b").acquire().await.unwrap();
        fixture.store.next(Verb::List, [Fault::Refuse, Fault::Refuse]);
        assert_eq!(fixture.owner.list("").try_collect::<Vec<_>>().await.unwrap().len(), 1);
        assert_eq!(fixture.store.requests(Verb::List).len(), 3);
        fixture.store.next(Verb::List, [Fault::CutShort]);
        let listed: Vec<_> = fixture.owner.list("").collect().await;
        assert!(matches!(&listed[..], [Ok(_), Err(error)] if error.is_unavailable()), "{listed:?}");
        assert_eq!(fixture.store.requests(Verb::List).len(), 4);
    });
}
