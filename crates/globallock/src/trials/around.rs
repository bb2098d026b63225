//! Work that asks for the lock that is held around it is refused at once, and nothing else is.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join;
use futures_util::stream::FuturesUnordered;
use tokio::task::LocalSet;

use super::store::{Fault, Verb};
use super::{Fixture, LEASE, SECOND, about, in_virtual_time, owner_with_backend, since, sleep};
use crate::around::of_thread;
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::locks::Lock;
use crate::manager::LockManager;
use crate::once::Ran;
use crate::sync::now;
use crate::{Loss, blocking};

fn is_refused<T>(acquired: &Result<T>) -> bool {
    matches!(acquired, Err(Error::WouldDeadlock { name, .. }) if name == "\"a\"")
}

/// Checks that a lock is refused at once within the work of another, and leaves nothing in the store.
async fn is_refused_within(around: &Lock, asked: &Lock, fixture: &Fixture) -> bool {
    let begin = now();
    let within = around.run(async |_guard| {
        let acquired = asked.acquire().await;
        assert!(about(since(begin), Duration::ZERO), "{acquired:?} after {:?}", since(begin));
        is_refused(&acquired)
    });
    let refused = within.await.unwrap();
    sleep(SECOND).await;
    assert!(fixture.claims().await.is_empty());
    refused
}

#[test]
fn work_that_asks_for_the_lock_that_is_held_around_it_is_refused_at_once_with_a_sentence() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex();
        let refused = lock.run(async |_guard| lock.acquire().await.expect_err("it is held")).await.unwrap();
        let sentence = "\"a\" is held around this very work, which would wait for itself for ever: acquire \
                        it once, around all of the work, or set a limit to the wait";
        assert_eq!(refused.to_string(), sentence);
        assert_eq!(fixture.store.requests(Verb::Enqueue).len(), 1, "the store is not asked");
        assert!(is_refused_within(&lock, &lock, &fixture).await);
    });
}

#[test]
fn every_kind_of_work_under_a_lock_is_known() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (lock, owner) = (fixture.mutex(), &fixture.owner);
        let refused = async |_: &Guard| is_refused(&lock.acquire().await);
        assert!(lock.end_after(LEASE, LEASE).run(refused).await.unwrap());
        assert!(lock.clone().max_hold(LEASE).run(refused).await.unwrap(), "the work is dropped at its end");
        let once = owner.once("a").every(SECOND);
        let ran =
            once.run(async |_guard| Err::<(), _>(is_refused(&once.run(async |_| Ok::<_, ()>(())).await)));
        assert_eq!(ran.await.unwrap(), Ran::Failed(true));
        let all = async |_: &Guard| is_refused(&owner.lock_all(["0", "a"]).await);
        let other = fixture.other().mutex("0").acquire().await.unwrap();
        let begin = now();
        assert!(lock.run(all).await.unwrap());
        assert!(about(since(begin), Duration::ZERO), "it waits for no other lock first");
        drop(other);
        let further_in = async |_: &Guard| owner.mutex("b").run(refused).await.unwrap();
        assert!(Box::pin(lock.run(further_in)).await.unwrap());
        let beside =
            async |_: &Guard| join(lock.acquire(), sleep(SECOND)).map(|(got, ())| is_refused(&got)).await;
        assert!(lock.run(beside).await.unwrap());
        assert!(fixture.claims().await.is_empty());
    });
}

#[test]
fn what_fits_beside_the_lock_around_the_work_is_granted_and_what_does_not_is_refused() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (both, permits) = (fixture.owner.rwlock("a"), fixture.owner.semaphore("a", 3));
        for (around, asked, refused) in [
            (both.write(), both.read(), true),
            (both.read(), both.write(), true),
            (both.read(), both.read(), false),
            (fixture.mutex(), both.read(), true),
            (permits.permits(2), permits.permits(1), false),
            (permits.permits(2), permits.permits(2), true),
        ] {
            assert_eq!(is_refused_within(&around, &asked, &fixture).await, refused, "{around:?} {asked:?}");
        }
        // Each of the two around fits beside it, and both together do not.
        let (one, two) = (permits.permits(1), permits.permits(2));
        let refused = one.run(async |_| one.run(async |_| is_refused(&two.acquire().await)).await.unwrap());
        assert!(Box::pin(refused).await.unwrap());
    });
}

#[test]
fn a_reader_within_a_reader_waits_behind_a_writer_that_may_give_up() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.owner.rwlock("a");
        let (reader, writer) = (lock.read(), lock.write());
        let read = reader.run(async |_| {
            let writer = writer.clone().wait(SECOND * 30);
            let writing = tokio::spawn(async move { writer.acquire().await.unwrap_err() });
            sleep(SECOND).await;
            let begin = now();
            let inner = reader.acquire().await.unwrap();
            assert!(about(since(begin), SECOND * 29), "{:?}", since(begin));
            assert!(matches!(writing.await.unwrap(), Error::TimedOut { .. }));
            inner.release().await.unwrap();
        });
        read.await.unwrap();
    });
}

#[test]
fn tries_and_limited_waits_are_not_refused() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex();
        let work = lock.run(async |_| {
            assert!(lock.try_acquire().await.unwrap().is_none());
            assert!(lock.try_acquire_for(SECOND).await.unwrap().is_none());
            let limited = lock.clone().wait(SECOND).acquire().await;
            assert!(matches!(limited, Err(Error::TimedOut { .. })), "{limited:?}");
            assert!(fixture.owner.try_lock_all(["a"]).await.unwrap().is_none());
        });
        work.await.unwrap();
    });
}

#[test]
fn other_names_other_stores_and_other_tasks_are_not_refused() {
    in_virtual_time(async {
        let (fixture, elsewhere) = (Fixture::new(), Fixture::new());
        let lock = fixture.mutex();
        let waiting = lock.run(async |_| {
            fixture.owner.mutex("b").acquire().await.unwrap().release().await.unwrap();
            elsewhere.mutex().acquire().await.unwrap().release().await.unwrap();
            let (waiter, mut set) = (lock.clone(), LocalSet::new());
            set.spawn_local(async move { waiter.acquire().await.unwrap() });
            // A local set runs its tasks within this work.
            let local = tokio::time::timeout(SECOND, &mut set).await;
            assert!(local.is_err(), "the task of the set waits");
            let waiter = lock.clone();
            (set, tokio::spawn(async move { waiter.acquire().await.unwrap().release().await.unwrap() }))
        });
        let (set, spawned) = waiting.await.unwrap();
        set.await;
        spawned.await.unwrap();
        // Behind the work, nothing is held around the task any more.
        lock.acquire().await.unwrap().release().await.unwrap();
    });
}

#[test]
fn a_guard_that_this_task_holds_proves_nothing() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex();
        let mut each: FuturesUnordered<_> = (0..3)
            .map(|_| async {
                let guard = lock.acquire().await.unwrap();
                sleep(SECOND).await;
                guard.release().await.unwrap();
            })
            .collect();
        while futures_util::StreamExt::next(&mut each).await.is_some() {}
    });
}

#[test]
fn the_same_lock_of_another_manager_is_refused_once_the_queue_shows_it() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let other = fixture.other().mutex("a");
        assert!(is_refused_within(&other, &fixture.mutex(), &fixture).await);
        assert!(is_refused_within(&fixture.mutex(), &other, &fixture).await);
        let fork = fixture.other();
        let lock = fixture.mutex();
        let waiting = lock.run(async |_| is_refused(&fork.lock_all(["0", "a"]).await));
        assert!(waiting.await.unwrap());
        let readers = [fixture.other(), fixture.other()].map(|manager| manager.rwlock("a").read());
        let within = readers[0].run(async |_| readers[1].acquire().await.unwrap().release().await.unwrap());
        within.await.unwrap();
    });
}

#[test]
fn what_is_lost_around_a_task_stops_no_wait_of_others() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex();
        // The work does not pause between its loss and its next request, whose claim is given up with it.
        fixture.store.always(Verb::Renew, Fault::Refuse);
        let ended = lock
            .run(async |guard| {
                tokio::time::advance(LEASE * 2).await;
                assert!(!guard.is_held());
                lock.acquire().await.map(|_| ())
            })
            .await;
        assert!(matches!(ended, Err(Error::Lost { loss: Loss::Expired, .. })), "{ended:?}");
        assert_eq!(fixture.claims().await.len(), 0);
    });
}

fn failed(ran: Ran<(), bool>) -> Result<(), bool> {
    match ran {
        Ran::Failed(error) => Err(error),
        _ => Ok(()),
    }
}

/// A closure that blocks is known by its thread.
#[test]
fn a_thread_that_asks_within_its_own_work_is_refused_unless_a_max_hold_ends_it() {
    let manager = blocking::LockManager::connect("memory:around-blocking").unwrap();
    let (lock, once) = (manager.mutex("a"), manager.once("a").every(SECOND));
    let fails = || Err::<(), _>(is_refused(&lock.acquire()));
    assert_eq!(once.run(|_guard| fails()).unwrap(), Ran::Failed(true));
    let further_in =
        once.run(|_| manager.once("b").every(SECOND).run(|_| fails()).map_or(Err(false), failed));
    assert_eq!(further_in.unwrap(), Ran::Failed(true));
    let again = once.run(|_| Err::<(), _>(is_refused(&once.run(|_| Ok::<_, ()>(())))));
    assert_eq!(again.unwrap(), Ran::Failed(true));
    let all = once.run(|_| Err::<(), _>(is_refused(&manager.lock_all(["a"]))));
    assert_eq!(all.unwrap(), Ran::Failed(true));
    // Another thread waits until the work has ended, and so does this one behind it.
    let other = once.run(|_| {
        let lock = lock.clone();
        Err::<(), _>(std::thread::spawn(move || lock.acquire().unwrap().release().unwrap()))
    });
    let Ran::Failed(thread) = other.unwrap() else { panic!("it was done") };
    thread.join().unwrap();
    // Nothing stops a thread at the end of its max hold time, and then it gets the lock.
    let planned = lock.end_after(Duration::from_millis(100), Duration::from_millis(50));
    let ended = planned.run(|_| lock.acquire().unwrap().release().unwrap());
    assert!(matches!(ended, Err(Error::Lost { loss: Loss::MaxHold, .. })), "{ended:?}");
    // So it does when its lock was lost otherwise.
    let evicted = once.run(|guard| {
        let seen = manager.inspect("a").unwrap().swap_remove(0).key;
        manager.evict("a", &seen, "").unwrap();
        guard.lost_within(LEASE).expect("it was evicted");
        lock.acquire().unwrap().release().map(|_| ())
    });
    assert!(matches!(evicted, Err(Error::Lost { .. })), "{evicted:?}");
    // A panic ends the work too.
    let panics = std::panic::AssertUnwindSafe(|| once.run(|_| -> Result<(), ()> { panic!("on purpose") }));
    std::panic::catch_unwind(panics).unwrap_err();
    assert!(of_thread().is_none(), "nothing is kept of what has ended");
    lock.acquire().unwrap().release().unwrap();
}

#[test]
fn a_thread_that_blocks_within_the_work_of_a_task_is_refused() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let manager = blocking::LockManager::connect("memory:around-both").unwrap();
    let refused = runtime.block_on(async {
        let lock = LockManager::connect("memory:around-both").await.unwrap().mutex("a");
        let work = async move {
            lock.run(async |_| tokio::task::block_in_place(|| is_refused(&manager.mutex("a").acquire())))
                .await
        };
        tokio::spawn(work).await.unwrap().unwrap()
    });
    assert!(refused);
}

#[test]
fn without_an_answer_of_the_queue_the_claim_waits() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let other = owner_with_backend(fixture.memory.clone(), super::options()).mutex("a");
        fixture.store.always(Verb::Inspect, Fault::Refuse);
        let work = other.run(async |_| {
            let lock = fixture.mutex();
            assert!(tokio::time::timeout(SECOND * 5, lock.acquire()).await.is_err());
        });
        work.await.unwrap();
        sleep(SECOND).await;
        assert!(fixture.claims().await.is_empty());
    });
}
