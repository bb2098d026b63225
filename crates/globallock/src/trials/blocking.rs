//! The blocking API: each call does what its asynchronous counterpart does.

use std::sync::mpsc::channel;
use std::time::Duration;

use crate::blocking::{Guard, Lock, LockManager};
use crate::error::Error;
use crate::name::Name;
use crate::options::{ManagerOptions, Options};
use crate::queue::MAX_CAPACITY;
use crate::stores::memory::Memory;
use crate::{Change, Loss, Release};

/// How long a test waits for an event that must come.
const LIMIT: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(100);

#[test]
fn each_kind_of_lock_takes_its_permits() {
    let manager = LockManager::connect("memory:blocking-kinds").unwrap();
    let taken = |lock: Lock| {
        let guard = lock.acquire().unwrap();
        assert!(guard.is_held() && guard.name().as_str() == "a");
        let permits = manager.inspect("a").unwrap()[0].permits;
        assert_eq!(guard.release().unwrap(), Release::Released);
        (permits.count, permits.capacity)
    };
    assert_eq!(taken(manager.mutex("a")), (1, 1));
    assert_eq!(taken(manager.rwlock("a").read()), (1, MAX_CAPACITY));
    assert_eq!(taken(manager.rwlock("a").write()), (MAX_CAPACITY, MAX_CAPACITY));
    assert_eq!(taken(manager.semaphore("a", 3).permits(2)), (2, 3));
}

#[test]
fn a_taken_lock_can_be_waited_for_and_is_listed() {
    let options = ManagerOptions { label: Some("thread".to_owned()), ..ManagerOptions::default() };
    let manager = LockManager::with_backend(async || Ok(Memory::new() as _), options).unwrap();
    let lock = manager.mutex("a");
    let guard = lock.try_acquire().unwrap().expect("it is free");
    assert!(lock.try_acquire().unwrap().is_none());
    assert_eq!(manager.inspect("a").unwrap()[0].owner.label.as_deref(), Some("thread"));
    let listed = manager.list("").unwrap();
    assert_eq!(listed.iter().map(|summary| summary.name.as_str()).collect::<Vec<_>>(), ["a"]);
    assert!(manager.list("b").unwrap().is_empty());
    let waiter = std::thread::spawn({
        let lock = lock.clone();
        move || lock.acquire().unwrap().fencing_token()
    });
    let token = guard.fencing_token();
    assert_eq!(guard.release().unwrap(), Release::Released);
    assert!(waiter.join().unwrap() > token);
    let limited = lock.clone().with_options(Options { wait: Some(SHORT), ..lock.options().clone() });
    assert_eq!(limited.options().wait, Some(SHORT));
    assert_eq!(lock.name(), "a");
    let held = lock.acquire().unwrap();
    assert!(matches!(limited.acquire(), Err(Error::TimedOut { .. })));
    assert!(lock.try_acquire_for(SHORT).unwrap().is_none());
    held.release().unwrap();
    assert!(lock.try_acquire_for(LIMIT).unwrap().is_some());
}

#[test]
fn a_semaphore_has_so_many_permits() {
    let manager = LockManager::connect("memory:blocking-permits").unwrap();
    let semaphore = manager.semaphore("a", 3);
    assert_eq!(semaphore.capacity(), 3);
    let two = semaphore.acquire_many(2).unwrap();
    let one = semaphore.try_acquire().unwrap().expect("one is free");
    assert!(semaphore.try_acquire().unwrap().is_none());
    one.release().unwrap();
    two.release().unwrap();
}

#[test]
fn a_renewal_asks_the_store() {
    let store = Memory::new();
    let given = store.clone();
    let manager = LockManager::with_backend(async move || Ok(given as _), ManagerOptions::new()).unwrap();
    let guard = manager.mutex("a").acquire().unwrap();
    assert!(guard.renew().unwrap());
    store.revoke("a");
    assert!(!guard.renew().unwrap());
}

#[test]
fn names_are_watched() {
    let manager = LockManager::connect("memory:blocking-watched").unwrap();
    let mut changes = manager.watch("", Duration::from_millis(1));
    let guard = manager.mutex("a").acquire().unwrap();
    let change = changes.next().unwrap().unwrap();
    assert!(matches!(&change, Change::Changed(summary) if summary.name.as_str() == "a"), "{change:?}");
    guard.release().unwrap();
    assert_eq!(changes.next().unwrap().unwrap(), Change::Removed(Name::new("a").unwrap()));
}

#[test]
fn a_loss_is_reported_to_a_waiting_call_and_to_a_callback() {
    let manager = LockManager::connect("memory:blocking-loss").unwrap();
    let short = Options { max_hold: Some(SHORT * 3), ..Options::default() };
    let lock = manager.mutex("a").with_options(short);
    let guard = lock.acquire().unwrap();
    assert!(guard.remaining().unwrap() <= SHORT * 3);
    let (sender, losses) = channel();
    guard.on_lost(move |loss| sender.send(loss).unwrap());
    assert_eq!(guard.lost_within(LIMIT), Some(Loss::MaxHold));
    assert_eq!(losses.recv_timeout(LIMIT).unwrap(), Loss::MaxHold);
    assert!(!guard.is_held());
    assert_eq!(guard.remaining(), Some(Duration::ZERO));
    assert_eq!(guard.release().unwrap(), Release::NotHeld);
}

#[test]
fn no_loss_is_reported_for_a_held_lock() {
    let manager = LockManager::connect("memory:blocking-held").unwrap();
    let guard = manager.mutex("a").acquire().unwrap();
    assert!(guard.remaining().unwrap() > Duration::from_secs(1));
    assert_eq!(guard.lost_within(Duration::from_millis(10)), None);
    let (sender, losses) = channel::<Loss>();
    guard.on_lost(move |loss| sender.send(loss).unwrap());
    guard.release().unwrap();
    // The callback was dropped and not called.
    losses.recv_timeout(LIMIT).unwrap_err();
}

#[test]
fn several_locks_are_held_together_or_not_at_all() {
    let short = Options { max_hold: Some(SHORT * 3), ..Options::default() };
    let manager = LockManager::connect("memory:blocking-together").unwrap();
    let other = ManagerOptions { locks: short, ..ManagerOptions::default() };
    let other = LockManager::connect_with("memory:blocking-together", other).unwrap();
    let guards = manager.lock_all(["b", "a"]).unwrap();
    assert!(guards.is_held());
    let of = |guard: &Guard| (guard.name().clone(), guard.fencing_token());
    let tokens: Vec<_> = guards.guards().iter().map(of).collect();
    assert_eq!(tokens.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert!(tokens[0].1 < tokens[1].1 && tokens[0].1 > 0);
    assert!(guards.lost_within(Duration::from_millis(10)).is_none());
    assert!(other.try_lock_all(["b", "c"]).unwrap().is_none());
    assert_eq!(guards.release().unwrap(), Release::Released);
    let guards = other.try_lock_all(["b", "c"]).unwrap().expect("they are free");
    assert_eq!(guards.lost_within(LIMIT).unwrap().1, Loss::MaxHold);
    assert!(!guards.is_held());
    assert_eq!(guards.release().unwrap(), Release::NotHeld);
}

#[test]
fn work_is_asked_to_end_and_the_lock_is_kept_until_it_has() {
    let manager = LockManager::connect("memory:blocking-planned").unwrap();
    let lock = manager.mutex("a");
    let done = lock.end_after(SHORT, LIMIT).run(|guard| {
        assert!(guard.asked_to_end_within(LIMIT) && guard.asked_to_end());
        assert!(guard.asked_to_end_within(Duration::ZERO) && guard.is_held());
        assert!(lock.try_acquire().unwrap().is_none(), "nobody is let in");
        7
    });
    assert_eq!(done.unwrap(), 7);
    let guard = lock.try_acquire().unwrap().expect("it is free");
    assert!(
        !guard.asked_to_end() && !guard.asked_to_end_within(Duration::from_millis(10)),
        "no end is planned"
    );
    guard.release().unwrap();
    let planned = lock.end_after(LIMIT, LIMIT);
    let early =
        planned.run(|guard| guard.asked_to_end() || guard.asked_to_end_within(Duration::from_millis(10)));
    assert!(!early.unwrap());
    let refused = lock.end_after(Duration::from_millis(1), LIMIT).run(|_guard| ()).unwrap_err();
    assert!(refused.to_string().contains("max_hold"), "{refused}");
}

#[test]
fn work_that_does_not_end_in_its_grace_loses_the_lock_and_so_does_other_work() {
    let store = Memory::new();
    let given = store.clone();
    let manager = LockManager::with_backend(async move || Ok(given as _), ManagerOptions::new()).unwrap();
    let lock = manager.mutex("a");
    let late = lock.end_after(SHORT, SHORT).run(|guard| {
        assert_eq!(guard.lost_within(LIMIT), Some(Loss::MaxHold));
        // The loss is told before the claim has left the store.
        assert!(guard.asked_to_end() && lock.try_acquire_for(LIMIT).unwrap().is_some(), "others are let in");
    });
    assert!(matches!(late, Err(Error::Lost { loss: Loss::MaxHold, .. })), "{late:?}");
    let lost = lock.end_after(LIMIT, LIMIT).run(|guard| {
        store.revoke("a");
        assert!(guard.asked_to_end_within(LIMIT / 2) && guard.asked_to_end());
    });
    assert!(matches!(lost, Err(Error::Lost { loss: Loss::Revoked, .. })), "{lost:?}");
}

#[test]
fn a_closed_manager_refuses() {
    let manager = LockManager::connect("memory:blocking-closed").unwrap();
    let lock = manager.mutex("a");
    manager.close();
    assert!(matches!(lock.acquire(), Err(Error::Closed)));
}
