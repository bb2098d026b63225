//! A claim that an onlooker takes out is ended once, and its owner is told who did it and why.

use std::time::Duration;

use futures_util::StreamExt;

use super::store::{Fault, Verb};
use super::{Fixture, LEASE, SECOND, about, in_virtual_time, since, sleep};
use crate::backend::{Backend, Change, ClaimStatus, Eviction, Release};
use crate::error::Error;
use crate::loss::Loss;
use crate::manager::LockManager;
use crate::name::Name;
use crate::owner::Owner;
use crate::sync::now;

async fn evict(fixture: &Fixture, nth: usize, reason: &str) -> Release {
    let key = fixture.claims().await.swap_remove(nth).key;
    let eviction = Eviction::new(Owner::default().with_label("operator"), reason);
    fixture.memory.evict(&Name::new("a").unwrap(), &key, &eviction).await.unwrap()
}

fn reason(loss: &Loss) -> &str {
    match loss {
        Loss::Evicted(eviction) => &eviction.reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_holder_that_no_push_reaches_learns_of_its_eviction_by_its_next_renewal() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        let begin = now();
        assert_eq!(evict(&fixture, 0, "old").await, Release::Released);
        let loss = guard.lost().await;
        assert_eq!(loss.to_string(), "it was broken by operator: old");
        assert!(since(begin) <= LEASE / 3, "{:?}", since(begin));
        assert_eq!(fixture.store.requests(Verb::Renew).len(), 1);
        assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
    });
}

#[test]
fn a_holder_is_told_of_its_eviction_at_once_when_the_store_hints_at_it() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        evict(&fixture, 0, "now").await;
        let begin = now();
        fixture.store.session_lost.notify_one();
        assert_eq!(reason(&guard.lost().await), "now");
        assert!(about(since(begin), Duration::ZERO));
    });
}

#[test]
fn a_waiter_that_is_evicted_ends_with_that_error_and_asks_no_more() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (held, waiter) = fixture.waiting(fixture.mutex()).await;
        evict(&fixture, 1, "no").await;
        let error = waiter.await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Evicted { eviction, .. } if eviction.reason == "no"), "{error:?}");
        assert!(!error.is_retryable());
        let asked = fixture.store.requests(Verb::Enqueue).len();
        sleep(LEASE).await;
        assert_eq!(fixture.store.requests(Verb::Enqueue).len(), asked);
        assert_eq!(fixture.claims().await.len(), 1);
        drop(held);
    });
}

#[test]
fn an_eviction_that_a_waiter_hears_of_by_a_renewal_or_a_repeated_question_ends_its_wait() {
    let evicted = || {
        let eviction = Eviction::new(Owner::default(), "scripted");
        Fault::Answer(ClaimStatus::Evicted(eviction.into()))
    };
    for verb in [Verb::Enqueue, Verb::WaitForChange, Verb::Renew] {
        in_virtual_time(async {
            let fixture = Fixture::new();
            let held = fixture.other().mutex("a").acquire().await.unwrap();
            // The store says it to every question from now on, as the contract asks of it.
            fixture.store.always(verb, evicted());
            if verb == Verb::Renew {
                fixture.store.next(Verb::Enqueue, [Fault::None]);
                fixture.store.always(Verb::Enqueue, evicted());
            }
            let error = fixture.mutex().acquire().await.unwrap_err();
            assert!(matches!(error, Error::Evicted { .. }), "{verb:?}: {error:?}");
            drop(held);
        });
    }
}

#[test]
fn an_eviction_after_the_grant_is_a_loss_though_the_question_was_asked_before_it() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (held, waiter) = fixture.waiting(fixture.mutex()).await;
        // The renewal of the waiter is answered only after it was granted, and evicted then.
        fixture.store.next(Verb::Renew, [Fault::Late(SECOND * 5)]);
        let eviction = Eviction::new(Owner::default(), "late");
        fixture.store.next(Verb::Renew, [Fault::Answer(ClaimStatus::Evicted(eviction.into()))]);
        sleep(LEASE / 3 + SECOND).await;
        held.release().await.unwrap();
        let guard = waiter.await.unwrap().unwrap();
        fixture.store.session_lost.notify_one();
        assert_eq!(reason(&guard.lost().await), "late");
    });
}

#[test]
fn a_change_is_told_when_it_is_seen_and_a_failure_hides_none() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let other = fixture.other();
        let mut changes = fixture.owner.watch("a", SECOND);
        let first = other.mutex("a1").acquire().await.unwrap();
        let second = other.mutex("a2").acquire().await.unwrap();
        let unseen = other.mutex("b").acquire().await.unwrap();
        let mut next = async || match changes.next().await.expect("it goes on") {
            Ok(Change::Changed(summary)) => format!("{} {}", summary.name.as_str(), summary.holders),
            Ok(Change::Removed(name)) => format!("{} removed", name.as_str()),
            Err(error) => error.to_string(),
        };
        assert_eq!([next().await, next().await], ["a1 1", "a2 1"]);
        // The next list fails for some name: that hides no other name, and says of none that it is free.
        fixture.store.next(Verb::List, [Fault::Refuse]);
        first.release().await.unwrap();
        let third = other.mutex("a3").acquire().await.unwrap();
        assert_eq!(next().await, "a3 1");
        assert!(next().await.contains("scripted fault"));
        let begin = now();
        assert_eq!(next().await, "a1 removed");
        assert!(about(since(begin), SECOND), "{:?}", since(begin));
        // Ages pass, and are no change.
        let more = tokio::time::timeout(SECOND * 10, next()).await;
        assert!(more.is_err(), "{more:?}");
        drop((second, third, unseen));
    });
}

#[test]
fn a_failure_that_cannot_heal_ends_the_changes() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.next(Verb::List, [Fault::Deny]);
        let told: Vec<_> = fixture.owner.watch("", SECOND).collect().await;
        assert!(matches!(told.as_slice(), [Err(Error::PermissionDenied { .. })]), "{told:?}");
    });
}

#[test]
fn who_looks_once_a_lifetime_is_told_what_there_is_at_once() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let _held = fixture.other().mutex("a").acquire().await.unwrap();
        let mut changes = fixture.owner.watch("", Duration::MAX);
        assert!(matches!(changes.next().await, Some(Ok(Change::Changed(_)))));
        assert!(tokio::time::timeout(SECOND * 1000, changes.next()).await.is_err());
    });
}

#[test]
fn a_hint_before_the_managers_task_runs_is_not_missed() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        // Nothing has let the task run yet.
        fixture.memory.revoke("a");
        let owner = super::owner_with_backend(fixture.memory.clone(), super::options());
        let guard = owner.mutex("a").acquire().await.unwrap();
        let begin = now();
        fixture.memory.revoke("a");
        assert_eq!(guard.lost().await, Loss::Revoked);
        assert!(about(since(begin), Duration::ZERO), "{:?}", since(begin));
    });
}

#[test]
fn an_eviction_is_in_the_name_of_the_manager() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        let options = crate::options::ManagerOptions::new().label("alice");
        let other = LockManager::with_backend(fixture.memory.clone(), options).unwrap();
        let key = fixture.claims().await.swap_remove(0).key;
        assert_eq!(other.evict("a", &key, "why").await.unwrap(), Release::Released);
        let Loss::Evicted(eviction) = guard.lost().await else { panic!("another loss") };
        assert_eq!(eviction.by, Owner::current().with_label("alice"));
    });
}
