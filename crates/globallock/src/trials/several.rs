//! Several locks that are acquired within one wait limit.

use super::{Fault, Fixture, SECOND, Verb, about, in_virtual_time, options, since, sleep};
use crate::error::Error;
use crate::options::Options;
use crate::sync::now;

#[test]
fn the_wait_limit_is_for_all_locks_together() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(Options { wait: Some(SECOND * 10), ..options() });
        let other = fixture.other();
        // Each lock becomes free within the limit, if that were counted from each lock's own request.
        let mut held = Vec::new();
        for name in ["a", "b", "c"] {
            held.push(other.mutex(name).acquire().await.unwrap());
        }
        let releases = tokio::spawn(async move {
            for guard in held {
                sleep(SECOND * 6).await;
                guard.release().await.unwrap();
            }
        });
        let begin = now();
        let ended = fixture.owner.lock_all(["c", "a", "b"]).await;
        assert!(matches!(ended, Err(Error::TimedOut { .. })), "{ended:?}");
        assert!(about(since(begin), SECOND * 10), "{:?}", since(begin));
        assert!(fixture.claims().await.is_empty(), "the acquired locks are released");
        releases.await.unwrap();
    });
}

#[test]
fn several_locks_are_acquired_within_the_limit_in_the_order_of_their_names() {
    in_virtual_time(async {
        let fixture = Fixture::with_options(Options { wait: Some(SECOND * 10), ..options() });
        let held = fixture.other().mutex("b").acquire().await.unwrap();
        let releases = tokio::spawn(async move {
            sleep(SECOND * 6).await;
            held.release().await.unwrap();
        });
        fixture.store.always(Verb::Enqueue, Fault::Late(SECOND));
        let guards = fixture.owner.lock_all(["c", "a", "b"]).await.unwrap();
        let names: Vec<&str> = guards.guards().iter().map(|guard| guard.name().as_str()).collect();
        assert_eq!(names, ["a", "b", "c"]);
        assert!(guards.is_held());
        releases.await.unwrap();
    });
}

#[test]
fn an_error_of_one_lock_releases_the_others() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.next(Verb::Enqueue, [Fault::None, Fault::Deny]);
        assert!(matches!(fixture.owner.lock_all(["a", "b"]).await, Err(Error::PermissionDenied { .. })));
        assert!(fixture.claims().await.is_empty());
        fixture.store.next(Verb::Enqueue, [Fault::None, Fault::Deny]);
        assert!(matches!(fixture.owner.try_lock_all(["a", "b"]).await, Err(Error::PermissionDenied { .. })));
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn the_loss_of_one_lock_names_it() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guards = fixture.owner.lock_all(["a", "b"]).await.unwrap();
        fixture.store.next(Verb::Renew, [Fault::Answer(crate::backend::ClaimStatus::Gone)]);
        let (guard, loss) = guards.lost().await;
        assert_eq!((guard.name().as_str(), loss), ("a", crate::loss::Loss::Revoked));
        assert!(!guards.is_held());
        assert_eq!(guards.release().await.unwrap(), crate::backend::Release::NotHeld);
    });
}

#[test]
fn an_empty_set_of_locks_is_never_lost() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guards = fixture.owner.lock_all::<_, &str>([]).await.unwrap();
        assert!(tokio::time::timeout(SECOND * 1000, guards.lost()).await.is_err());
    });
}
