//! The properties of locks, guards and managers.

use std::collections::HashSet;

use futures_util::StreamExt;

use super::{Fixture, LEASE, SECOND, Verb, in_virtual_time, options, owner_with_backend};
use crate::backend::Release;
use crate::error::Error;
use crate::kind::LockKind;
use crate::manager::LockManager;
use crate::options::{ManagerOptions, Options};
use crate::queue::{MAX_CAPACITY, Permits};
use crate::stores::memory::Memory;

#[test]
fn each_kind_of_lock_takes_its_permits() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let owner = &fixture.owner;
        let kinds = [
            (owner.mutex("a"), 1, 1),
            (owner.rwlock("a").read(), 1, MAX_CAPACITY),
            (owner.rwlock("a").write(), MAX_CAPACITY, MAX_CAPACITY),
            (owner.semaphore("a", 5).permits(3), 3, 5),
            (owner.semaphore("a", MAX_CAPACITY).permits(MAX_CAPACITY), MAX_CAPACITY, MAX_CAPACITY),
            (owner.semaphore("a", 1).permits(1), 1, 1),
        ];
        for (lock, count, capacity) in kinds {
            assert_eq!(lock.kind().permits().unwrap(), Permits::new(count, capacity));
            assert_eq!(lock.name(), "a");
            let guard = lock.acquire().await.unwrap();
            assert_eq!(guard.name().as_str(), "a");
            assert_eq!(fixture.claims().await[0].permits, Permits::new(count, capacity));
            guard.release().await.unwrap();
        }
        assert_eq!(owner.semaphore("a", 5).capacity(), 5);
    });
}

#[test]
fn permits_are_from_one_to_the_capacity_and_the_capacity_is_limited() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        for capacity in [0, MAX_CAPACITY + 1, u32::MAX] {
            let refused = fixture.owner.semaphore("a", capacity).acquire().await;
            assert!(matches!(refused, Err(Error::InvalidOption { .. })), "{capacity}");
        }
        let semaphore = fixture.owner.semaphore("a", 4);
        for count in [0, 5, u32::MAX] {
            let refused = semaphore.acquire_many(count).await;
            assert!(matches!(refused, Err(Error::InvalidOption { .. })), "{count}");
        }
        for count in 1..=4 {
            assert_eq!(semaphore.permits(count).kind(), LockKind::Permits { count, capacity: 4 });
        }
    });
}

#[test]
fn a_semaphore_gives_one_permit_at_a_time() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let semaphore = fixture.owner.semaphore("a", 2);
        let one = semaphore.acquire().await.unwrap();
        let other = semaphore.try_acquire().await.unwrap().unwrap();
        assert!(semaphore.try_acquire().await.unwrap().is_none());
        assert_ne!(one.fencing_token(), other.fencing_token());
        one.release().await.unwrap();
        assert!(semaphore.try_acquire().await.unwrap().is_some());
    });
}

#[test]
fn a_lock_has_the_options_that_it_was_given() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lock = fixture.mutex();
        assert_eq!(*lock.options(), options());
        let other = Options { lease: SECOND, wait: Some(SECOND * 2), ..options() };
        let lock = lock.with_options(other.clone());
        assert_eq!(*lock.options(), other);
        let refused = lock.with_options(other.lease(LEASE * 9_999_999));
        assert!(matches!(refused.acquire().await, Err(Error::InvalidOption { .. })));
        assert!(matches!(refused.try_acquire().await, Err(Error::InvalidOption { .. })));
        assert!(fixture.store.requests(Verb::Enqueue).is_empty(), "nothing is asked for with a wrong option");
    });
}

#[test]
fn a_claim_shows_the_label_of_its_manager() {
    in_virtual_time(async {
        let memory = Memory::new();
        let labelled = ManagerOptions { label: Some("nightly".to_owned()), ..ManagerOptions::default() };
        let owner = LockManager::with_backend(memory.clone(), labelled).unwrap();
        let _guard = owner.mutex("a").acquire().await.unwrap();
        let entries = owner.inspect("a").await.unwrap();
        assert_eq!(entries[0].owner.label.as_deref(), Some("nightly"));
        assert_eq!(entries[0].owner.pid, Some(std::process::id()));
        assert!(entries[0].held);
    });
}

#[test]
fn names_and_claims_are_listed_as_the_store_has_them() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let _guards = fixture.owner.lock_all(["a/x", "a/y", "b"]).await.unwrap();
        let names: HashSet<String> =
            fixture.owner.list("a/").map(|listed| listed.unwrap().name.as_str().to_owned()).collect().await;
        assert_eq!(names, HashSet::from(["a/x".to_owned(), "a/y".to_owned()]));
        assert_eq!(fixture.owner.inspect("b").await.unwrap().len(), 1);
        assert!(fixture.owner.inspect("c").await.unwrap().is_empty());
    });
}

#[test]
fn every_claim_has_its_own_id_and_every_manager_its_own_part_of_it() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let mut ids = HashSet::new();
        for _ in 0..100 {
            let owner = owner_with_backend(fixture.memory.clone(), options());
            for _ in 0..2 {
                let guard = owner.mutex("a").acquire().await.unwrap();
                assert!(ids.insert(fixture.claims().await[0].id.unwrap()));
                guard.release().await.unwrap();
            }
        }
        let managers: HashSet<String> = ids.iter().map(|id| id.manager()).collect();
        assert_eq!(managers.len(), 100);
    });
}

#[test]
fn a_set_of_guards_holds_while_all_guards_hold() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guards = fixture.owner.lock_all(["b", "a", "b"]).await.unwrap();
        assert_eq!(guards.guards().len(), 2);
        assert!(guards.is_held());
        assert_eq!(guards.release().await.unwrap(), Release::Released);
        assert!(fixture.claims().await.is_empty());
        assert_eq!(fixture.store.requests(Verb::Release).len(), 2);
    });
}

#[test]
fn debug_texts_name_their_subjects() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        let texts = [
            (format!("{guard:?}"), ["Guard", "\"a\"", "is_held: true"]),
            (format!("{:?}", fixture.mutex()), ["Lock", "\"a\"", "lease: 60s"]),
            (format!("{:?}", fixture.owner), ["LockManager", "Renewer", "claims: 1"]),
            (format!("{:?}", fixture.memory), ["Memory", "names: 1", ".."]),
        ];
        for (text, words) in texts {
            assert!(words.iter().all(|word| text.contains(word)), "{text}");
        }
        assert!(format!("{:?}", fixture.owner.backend()).contains("Memory"));
    });
}
