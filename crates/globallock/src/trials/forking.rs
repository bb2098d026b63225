//! A forked process has copies of managers and guards, which must not affect the claims of its parent.

use std::time::Duration;

use super::{Fixture, LEASE, SECOND, Verb, in_virtual_time, sleep};
use crate::backend::Release;
use crate::error::Error;

#[test]
fn a_guards_copy_in_a_fork_holds_nothing_and_sends_nothing() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        let fork = Fixture::new();
        let owner = fork.owner.in_fork();
        for dropped in [false, true] {
            let copy = guard.in_fork(&owner);
            assert!(!copy.is_held());
            assert_eq!(copy.remaining(), Some(Duration::ZERO));
            assert!(!copy.renew().await.unwrap());
            if dropped {
                drop(copy);
            } else {
                assert_eq!(copy.release().await.unwrap(), Release::NotHeld);
            }
            sleep(SECOND).await;
            for verb in [Verb::Enqueue, Verb::Renew, Verb::Release] {
                assert!(fork.store.requests(verb).is_empty(), "{verb:?}");
            }
        }
        assert!(guard.is_held());
        sleep(LEASE * 2).await;
        assert!(guard.is_held());
        assert_eq!(guard.release().await.unwrap(), Release::Released);
    });
}

#[test]
fn a_manager_in_a_fork_refuses_and_names_its_process() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let owner = fixture.owner.in_fork();
        let lock = owner.mutex("a");
        for refused in [lock.acquire().await.err(), lock.try_acquire().await.err()] {
            let Some(Error::Forked { pid }) = refused else { panic!("{refused:?}") };
            assert_ne!(pid, std::process::id());
        }
        assert!(fixture.store.requests(Verb::Enqueue).is_empty());
    });
}
