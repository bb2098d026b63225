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
