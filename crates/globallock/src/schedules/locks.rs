//! Locks between owners, while time stands still. A waiter that misses its wake-up sleeps for ever, and the
//! search reports that as a deadlock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::store::Store;
use super::{mutex, on_thread, owner, search};
use crate::error::Error;
use crate::locks::Lock;
use crate::options::Options;
use shuttle::future::{block_on, yield_now};

/// Takes the lock, and asserts that no more permits are held than `most`.
async fn take(lock: Lock, inside: Arc<AtomicU64>, most: u64, last: Arc<AtomicU64>) {
    let count = u64::from(lock.kind().permits().unwrap().count);
    let guard = lock.acquire().await.unwrap();
    assert!(guard.is_held());
    let before = inside.fetch_add(count, Ordering::SeqCst);
    assert!(before + count <= most, "{before} inside, and {count} more");
    if most == 1 {
        assert!(last.swap(guard.fencing_token(), Ordering::SeqCst) < guard.fencing_token());
    }
    yield_now().await;
    inside.fetch_sub(count, Ordering::SeqCst);
    guard.release().await.unwrap();
}

fn take_on_threads(most: u64, locks: impl Fn(usize) -> Lock) {
    let (inside, last) = (Arc::default(), Arc::default());
    let threads =
        (0..3).map(|thread| on_thread(take(locks(thread), Arc::clone(&inside), most, Arc::clone(&last))));
    for thread in threads.collect::<Vec<_>>() {
        thread.join().unwrap();
    }
}

#[test]
fn a_mutex_excludes_the_threads_of_one_owner_and_of_another() {
    search(|| {
        let store = Store::new();
        let owners = [owner(&store, Options::default()), owner(&store, Options::default())];
        take_on_threads(1, |thread| mutex(&owners[thread % 2]));
        assert_eq!(block_on(store.claims()), 0);
    });
}

#[test]
fn permits_are_never_exceeded() {
    search(|| {
        let store = Store::new();
        let owner = owner(&store, Options::default());
        let permits = owner.semaphore("name", 2);
        take_on_threads(2, |thread| permits.permits(if thread == 0 { 2 } else { 1 }));
        assert_eq!(block_on(store.claims()), 0);
    });
}

#[test]
fn an_acquire_dropped_at_any_moment_leaves_no_claim_and_blocks_nobody() {
    search(|| {
        let store = Store::new();
        let owner = owner(&store, Options::default());
        let lock = mutex(&owner);
        let dropped = shuttle::future::spawn(async move { lock.acquire().await.map(drop) });
        let lock = mutex(&owner);
        let waiter = on_thread(async move { lock.acquire().await.map(drop) });
        shuttle::thread::yield_now();
        dropped.abort();
        waiter.join().unwrap().unwrap();
        let _ = block_on(dropped);
        block_on(owner.close());
        assert_eq!(block_on(store.claims()), 0);
        assert_eq!(store.unreleased(), 0);
    });
}

#[test]
fn close_ends_all_waits_and_keeps_only_held_locks() {
    search(|| {
        let store = Store::new();
        let owner = owner(&store, Options::default());
        let held = block_on(mutex(&owner).acquire()).unwrap();
        let lock = mutex(&owner);
        let waiter = on_thread(async move { lock.acquire().await.map(drop) });
        while store.waits.load(Ordering::Relaxed) == 0 {
            shuttle::thread::yield_now();
        }
        block_on(owner.close());
        assert_eq!(block_on(store.claims()), 1);
        assert!(matches!(waiter.join().unwrap(), Err(Error::Closed)));
        block_on(held.release()).unwrap();
        assert_eq!(block_on(store.claims()), 0);
    });
}

#[test]
fn the_renewing_task_ends_with_the_last_use_of_its_manager() {
    search(|| {
        let store = Store::new();
        let owner = owner(&store, Options::default());
        let lock = mutex(&owner);
        drop(owner);
        let dropped = store.dropped();
        drop(store);
        let other = lock.clone();
        let threads = [
            on_thread(async move { drop(other.acquire().await) }),
            on_thread(async move { drop(lock.acquire().await) }),
        ];
        for thread in threads {
            thread.join().unwrap();
        }
        block_on(dropped);
    });
}
