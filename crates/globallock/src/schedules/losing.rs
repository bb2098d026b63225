//! Locks that are lost, while time passes whenever the search likes.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shuttle::future::block_on;

use super::store::Store;
use super::{LEASE, mutex, on_thread, owner, search, with_time};
use crate::loss::Loss;
use crate::options::{MAX_DURATION, Options};
use crate::stores::memory::Memory;

fn options() -> Options {
    // The store answers, however long the search has a request wait.
    Options { lease: LEASE, store_timeout: Some(MAX_DURATION), ..Options::default() }
}

#[test]
fn a_loss_is_told_before_another_is_granted_the_lock() {
    search(|| {
        let memory = Memory::new();
        let (silent, other) = (Store::beside(&memory), Store::beside(&memory));
        silent.deaf.store(true, Ordering::Relaxed);
        let (loses, takes) = (owner(&silent, options()), owner(&other, options()));
        let guard = Arc::new(block_on(mutex(&loses).acquire()).unwrap());
        let fencing_token = guard.fencing_token();
        let told = Arc::clone(&guard);
        let told = on_thread(async move { told.lost().await });
        let taken = on_thread(async move {
            let taken = mutex(&takes).acquire().await.unwrap();
            assert!(!guard.is_held(), "two believe that they hold");
            assert!(taken.fencing_token() > fencing_token);
        });
        with_time(|| {
            assert_eq!(told.join().unwrap(), Loss::Expired);
            taken.join().unwrap();
        });
    });
}

/// Even if a task is not run between its grant and its loss, which another task has noted.
#[test]
fn whoever_is_granted_a_lock_is_told_of_it_though_it_is_lost_by_then() {
    search(|| {
        let store = Store::new();
        store.mute.store(true, Ordering::Relaxed);
        let owner = owner(&store, options());
        let threads = [0, 1].map(|_| {
            let lock = mutex(&owner);
            on_thread(async move {
                let guard = lock.acquire().await.unwrap();
                if !guard.is_held() {
                    // Revoked where the store's word that it is over came first.
                    assert!(matches!(guard.lost().await, Loss::Expired | Loss::Revoked));
                }
            })
        });
        with_time(|| {
            for thread in threads {
                thread.join().unwrap();
            }
            block_on(owner.close());
        });
        assert_eq!(block_on(store.claims()), 0);
    });
}
