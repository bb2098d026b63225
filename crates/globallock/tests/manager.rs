//! What the core promises over any store, shown on the store in memory; the conformance suite shows it on all.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock::{Departure, Error, LockManager, Loss, ManagerOptions, Memory, Options};

fn manager() -> LockManager {
    LockManager::over(Memory::new(), ManagerOptions::default()).unwrap()
}

#[tokio::test]
async fn a_taken_mutex_is_refused_then_handed_over_in_order() {
    let manager = manager();
    let lock = manager.mutex("a").unwrap();
    let first = lock.acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none());
    let second = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await.unwrap() }
    });
    while manager.inspect("a").await.unwrap().len() < 2 {
        tokio::task::yield_now().await;
    }
    let fence = first.fencing_token();
    assert_eq!(first.release().await.unwrap(), Departure::Left);
    let second = second.await.unwrap();
    assert!(second.fencing_token() > fence);
    assert!(second.is_held());
    drop(second);
    manager.close().await;
    assert!(manager.inspect("a").await.unwrap().is_empty());
    assert!(matches!(lock.acquire().await, Err(Error::Closed)));
}

#[tokio::test]
async fn the_longest_hold_ends_a_hold_and_says_so() {
    let manager = manager();
    let options = Options { max_hold: Some(Duration::from_millis(150)), ..Options::default() };
    let started = Instant::now();
    let guard = manager.mutex("a").unwrap().with(options).unwrap().acquire().await.unwrap();
    assert_eq!(guard.lost().await, Loss::MaxHold);
    assert!(!guard.is_held());
    assert!(started.elapsed() >= Duration::from_millis(140));
    assert_eq!(guard.release().await.unwrap(), Departure::Gone);
    manager.close().await;
    assert!(manager.mutex("a").unwrap().acquire().await.is_err());
}

#[tokio::test]
async fn a_claim_is_renewed_beyond_its_lease() {
    let manager = manager();
    let options = Options { lease: Duration::from_millis(200), ..Options::default() };
    let guard = manager.mutex("a").unwrap().with(options).unwrap().acquire().await.unwrap();
    tokio::select! {
        loss = guard.lost() => panic!("lost: {loss}"),
        () = tokio::time::sleep(Duration::from_millis(700)) => {}
    }
    assert!(guard.is_held());
}

#[tokio::test]
async fn the_waiting_limit_ends_a_wait_and_leaves_nothing() {
    let manager = manager();
    let _guard = manager.mutex("a").unwrap().acquire().await.unwrap();
    let options = Options { wait: Some(Duration::from_millis(50)), ..Options::default() };
    let error = manager.mutex("a").unwrap().with(options).unwrap().acquire().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    manager.close().await;
    assert_eq!(manager.inspect("a").await.unwrap().len(), 1);
}

#[tokio::test]
async fn all_or_none_of_several_locks_are_taken() {
    let manager = manager();
    let b = manager.mutex("b").unwrap().acquire().await.unwrap();
    assert!(manager.try_lock_all(["c", "b", "a"]).await.unwrap().is_none());
    assert!(manager.inspect("a").await.unwrap().is_empty());
    b.release().await.unwrap();
    let all = manager.lock_all(["c", "b", "a", "b"]).await.unwrap();
    let names: Vec<_> = all.guards().iter().map(|guard| guard.name().as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(all.release().await.unwrap(), Departure::Left);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_waiters_all_get_through() {
    let manager = manager();
    let lock = manager.mutex("a").unwrap();
    let inside = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let tasks: Vec<_> = (0..500)
        .map(|_| {
            let (lock, inside) = (lock.clone(), Arc::clone(&inside));
            tokio::spawn(async move {
                let guard = lock.acquire().await.unwrap();
                assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                guard.release().await.unwrap();
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[test]
fn threads_use_the_same_locks() {
    let manager = globallock::blocking::LockManager::connect("memory:threads").unwrap();
    let guard = manager.mutex("a").unwrap().acquire().unwrap();
    assert!(manager.mutex("a").unwrap().try_acquire().unwrap().is_none());
    let waiter = std::thread::spawn({
        let manager = manager.clone();
        move || manager.mutex("a").unwrap().acquire().unwrap().fencing_token()
    });
    let fence = guard.fencing_token();
    guard.release().unwrap();
    assert!(waiter.join().unwrap() > fence);
}
