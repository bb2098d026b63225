//! Names that are parts of each other are independent locks: what is done to one does not affect the others.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use globallock::{LockManager, Release};
use globallock_conformance::context::lock_of;
use globallock_conformance::fixtures::{manager, queue_is, waits};

use crate::store::Store;

const NAMES: [&str; 3] = ["a", "a/b", "ab"];
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
const KINDS: [&str; 3] = ["mutex", "write", "2/2"];

async fn listed(manager: &LockManager, prefix: &str) -> BTreeSet<String> {
    manager
        .list(prefix)
        .map(|listed| listed.expect("the store answers").name.as_str().to_owned())
        .collect()
        .await
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// Holds one lock, with a waiter behind, while the others are acquired and released.
async fn one_is_held(one: &LockManager, other: &LockManager, name: &str, kind: &str) {
    let guard = lock_of(one, name, kind).unwrap().acquire().await.unwrap();
    let waiter = waits(other, name);
    queue_is(other, name, 1, 1).await;
    for free in NAMES.into_iter().filter(|free| *free != name) {
        assert!(other.inspect(free).await.unwrap().is_empty(), "{free} is free");
        for kind in KINDS {
            let there = lock_of(other, free, kind).unwrap().try_acquire().await.unwrap();
            let there = there.unwrap_or_else(|| panic!("{free} is free while {name} is held"));
            assert_eq!(listed(one, "").await, set([name, free]));
            assert_eq!(there.release().await.unwrap(), Release::Released);
            assert_eq!(listed(one, "").await, set([name]));
        }
        queue_is(other, name, 1, 1).await;
    }
    assert!(guard.is_held() && !waiter.is_finished());
    assert_eq!(guard.release().await.unwrap(), Release::Released);
    let next = waiter.await.unwrap().unwrap();
    assert_eq!(listed(one, "").await, set([name]));
    next.release().await.unwrap();
    assert_eq!(listed(one, "").await, set([]));
}

/// Holds all locks, and releases them one after the other.
async fn all_are_held(one: &LockManager, other: &LockManager, order: [usize; 3], kind: &str) {
    let mut guards = Vec::new();
    for name in NAMES {
        guards.push(Some(lock_of(one, name, kind).unwrap().acquire().await.unwrap()));
    }
    assert_eq!(listed(other, "a/").await, set(["a/b"]));
    for released in order {
        assert_eq!(guards[released].take().unwrap().release().await.unwrap(), Release::Released);
        let rest: Vec<&str> =
            (0..3).filter(|number| guards[*number].is_some()).map(|number| NAMES[number]).collect();
        assert_eq!(listed(other, "").await, set(rest.iter().copied()));
        assert!(guards.iter().flatten().all(globallock::Guard::is_held));
        for name in rest {
            assert!(
                lock_of(other, name, kind).unwrap().try_acquire().await.unwrap().is_none(),
                "{name} is held"
            );
        }
    }
}

/// By each address of the store whose claims look different.
pub(crate) async fn names_that_are_parts_of_each_other_are_independent(store: Store) {
    for subject in store.addresses() {
        are_independent(&subject).await;
    }
}

async fn are_independent(url: &str) {
    let [one, other] = [manager(url).await, manager(url).await];
    for kind in KINDS {
        for name in NAMES {
            one_is_held(&one, &other, name, kind).await;
        }
        for order in ORDERS {
            all_are_held(&one, &other, order, kind).await;
        }
    }
}
