//! Work under a lock: `Lock::run`, and acquires with a wait of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::store::{Fault, Verb};
use super::{Fixture, LEASE, MILLISECOND, SECOND, about, in_virtual_time, now, since, sleep};
use crate::error::Error;
use crate::loss::Loss;

/// Says when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn work_is_done_while_the_lock_is_held_and_the_lock_is_released_after_it() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex();
        let done = lock.run(async |guard| {
            sleep(LEASE * 3).await;
            assert!(guard.is_held());
            assert_eq!(fixture.claims().await.len(), 1);
            guard.fencing_token()
        });
        assert_eq!(done.await.unwrap(), 1);
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn work_is_dropped_when_the_lock_is_lost() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (dropped, begin) = (Arc::new(AtomicBool::new(false)), now());
        let lock = fixture.mutex().max_hold(SECOND * 5);
        let work = lock.run(async |_guard| {
            let _dropped = Dropped(dropped.clone());
            sleep(LEASE).await;
        });
        let Err(Error::Lost { name, loss }) = work.await else { panic!("it is lost") };
        assert_eq!((name.as_str(), loss), ("\"a\"", Loss::MaxHold));
        assert!(dropped.load(Ordering::SeqCst) && since(begin) < SECOND * 5, "{:?}", since(begin));
        sleep(SECOND).await;
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn work_that_did_not_pause_while_the_lock_was_lost_has_failed_too() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex().max_hold(SECOND * 5);
        let work = lock.run(async |_guard| tokio::time::advance(SECOND * 6).await);
        assert!(matches!(work.await, Err(Error::Lost { loss: Loss::MaxHold, .. })));
    });
}

#[test]
fn work_that_ends_in_the_grace_gives_its_value_and_others_wait_for_its_end() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let begin = now();
        let lock = fixture.mutex().end_after(SECOND * 100, SECOND * 30);
        let other = fixture.other();
        let work = lock.run(async |guard| {
            guard.asked_to_end().await;
            assert!(about(since(begin), SECOND * 100), "{:?}", since(begin));
            guard.asked_to_end().await;
            sleep(SECOND * 20).await;
            assert!(guard.is_held(), "it is kept meanwhile");
            7
        });
        let next = async {
            let guard = other.mutex("a").acquire().await.unwrap();
            (since(begin), guard)
        };
        let (done, (let_in, _guard)) = tokio::join!(work, next);
        assert_eq!(done.unwrap(), 7);
        assert!(about(let_in, SECOND * 120), "{let_in:?}");
    });
}

#[test]
fn work_is_dropped_after_the_grace_and_others_are_let_in_then() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let begin = now();
        let lock = fixture.mutex().end_after(SECOND * 100, SECOND * 30);
        let (dropped, other) = (Arc::new(AtomicBool::new(false)), fixture.other());
        let work = lock.run(async |guard| {
            let _dropped = Dropped(dropped.clone());
            assert_eq!(guard.lost().await, Loss::Revoked, "it is not lost");
        });
        let next = async {
            let guard = other.mutex("a").acquire().await.unwrap();
            (since(begin), dropped.load(Ordering::SeqCst), guard)
        };
        let (done, (let_in, was_dropped, _guard)) = tokio::join!(work, next);
        assert!(matches!(done, Err(Error::Lost { loss: Loss::MaxHold, .. })), "{done:?}");
        assert!(was_dropped && about(let_in, SECOND * 130), "{let_in:?}");
    });
}

#[test]
fn the_store_ends_the_lock_of_work_that_cannot_be_dropped() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex().end_after(SECOND * 10, SECOND * 2);
        let work = lock.run(async |guard| {
            tokio::time::advance(SECOND * 16).await;
            assert!(guard.is_held());
            tokio::time::advance(SECOND).await;
            assert!(!guard.is_held());
        });
        assert!(matches!(work.await, Err(Error::Lost { loss: Loss::MaxHold, .. })));
    });
}

#[test]
fn a_lock_without_a_planned_end_asks_nobody_to_end_and_one_with_it_is_lost_as_any_lock() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().max_hold(LEASE * 3).acquire().await.unwrap();
        tokio::select! {
            () = guard.asked_to_end() => panic!("it is not asked to"),
            loss = guard.lost() => assert_eq!(loss, Loss::MaxHold),
        }
        drop(guard);
        let lock = fixture.mutex().end_after(LEASE * 3, SECOND);
        let work = lock.run(async |_guard| {
            fixture.memory.revoke("a");
            sleep(LEASE).await;
        });
        assert!(matches!(work.await, Err(Error::Lost { loss: Loss::Revoked, .. })));
        let too_long = LEASE * 9_999_999;
        for (max_hold, grace, option) in
            [(MILLISECOND, SECOND, "max_hold"), (too_long, SECOND, "max_hold"), (SECOND, too_long, "grace")]
        {
            let refused =
                fixture.mutex().end_after(max_hold, grace).run(async |_guard| ()).await.unwrap_err();
            assert!(refused.to_string().contains(option), "{refused}");
        }
        let lock = fixture.mutex().hold_at_least(SECOND * 2).end_after(SECOND, SECOND * 9);
        let refused = lock.run(async |_guard| ()).await.unwrap_err();
        assert!(refused.to_string().contains("hold_at_least"), "{refused}");
    });
}

#[test]
fn a_release_that_is_not_answered_does_not_undo_the_work() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        fixture.store.next(Verb::Release, [Fault::Refuse]);
        assert_eq!(fixture.mutex().run(async |_guard| 7).await.unwrap(), 7);
        sleep(SECOND).await;
        assert!(fixture.claims().await.is_empty(), "the release goes on in the background");
    });
}

#[test]
fn dropping_a_run_releases_the_lock() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex();
        let work = lock.run(async |_guard| sleep(LEASE).await);
        tokio::time::timeout(SECOND, work).await.unwrap_err();
        sleep(MILLISECOND).await;
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn an_acquire_with_a_wait_of_its_own_ends_without_an_error() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let held = fixture.other().mutex("a").acquire().await.unwrap();
        let (begin, lock) = (now(), fixture.mutex().wait(SECOND * 50));
        assert!(lock.try_acquire_for(SECOND * 7).await.unwrap().is_none());
        assert!(about(since(begin), SECOND * 7), "{:?}", since(begin));
        let begin = now();
        assert!(lock.try_acquire_for(Duration::ZERO).await.unwrap().is_none());
        assert!(about(since(begin), Duration::ZERO), "{:?}", since(begin));
        assert_eq!(lock.options().wait, Some(SECOND * 50), "the lock keeps its own");
        held.release().await.unwrap();
        assert!(lock.try_acquire_for(SECOND * 7).await.unwrap().is_some());
        let refused = lock.try_acquire_for(LEASE * 9_999_999).await;
        assert!(matches!(refused, Err(Error::InvalidOption { .. })));
    });
}
