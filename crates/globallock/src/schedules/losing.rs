//! Locks that are lost, while time passes at any moment that the search chooses.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shuttle::future::block_on;

use super::store::Store;
use super::{LEASE, mutex, on_thread, owner, search, with_time};
use crate::loss::Loss;
use crate::options::{MAX_DURATION, Options};
use crate::stores::memory::Memory;

fn options() -> Options {
    // The store always answers in the end, so the delays of the search must not cause a store timeout.
    Options { lease: LEASE, store_timeout: Some(MAX_DURATION), ..Options::default() }
}

#[test]
fn a_loss_is_reported_before_another_owner_is_granted_the_lock() {
    search(|| {
        let memory = Memory::new();
        let (silent, other) = (Store::with_memory(&memory), Store::with_memory(&memory));
        silent.fail_renewals.store(true, Ordering::Relaxed);
        let (loses, takes) = (owner(&silent, options()), owner(&other, options()));
        let guard = Arc::new(block_on(mutex(&loses).acquire()).unwrap());
        let fencing_token = guard.fencing_token();
        let lost = Arc::clone(&guard);
        let lost = on_thread(async move { lost.lost().await });
        let taken = on_thread(async move {
            let taken = mutex(&takes).acquire().await.unwrap();
            assert!(!guard.is_held(), "two owners believe that they hold");
            assert!(taken.fencing_token() > fencing_token);
        });
        with_time(|| {
            assert_eq!(lost.join().unwrap(), Loss::Expired);
            taken.join().unwrap();
        });
    });
}

/// The task of the grant may not run before the loss, which another task notices first.
#[test]
fn a_grant_is_returned_even_if_the_lock_is_lost_by_then() {
    search(|| {
        let store = Store::new();
        store.no_pushes.store(true, Ordering::Relaxed);
        let owner = owner(&store, options());
        let threads = [0, 1].map(|_| {
            let lock = mutex(&owner);
            on_thread(async move {
                let guard = lock.acquire().await.unwrap();
                if !guard.is_held() {
                    // Revoked if the store's answer that the claim is gone came first.
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
