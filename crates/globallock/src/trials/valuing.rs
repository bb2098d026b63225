//! The value of a name, as the core asks for it and writes it.

use std::time::Duration;

use super::observing::Forgetful;
use super::store::{Fault, Verb};
use super::{Fixture, LEASE, SECOND, in_virtual_time, options, owner_with_backend, sleep};
use crate::backend::{Capabilities, CrashRelease, MAX_VALUE_BYTES, ValueWrite};
use crate::error::Error;
use crate::loss::Loss;
use crate::manager::LockManager;
use crate::stores::memory::Memory;

async fn leave(owner: &LockManager, bytes: &[u8]) {
    let guard = owner.mutex("a").acquire().await.unwrap();
    assert_eq!(guard.set_value(bytes, LEASE * 100).await.unwrap(), ValueWrite::Written);
    guard.release().await.unwrap();
}

#[test]
fn a_grant_that_only_a_renewal_tells_is_asked_for_again_with_its_value() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        leave(&fixture.other(), b"done").await;
        // The push of the grant is lost.
        fixture.store.always(Verb::WaitForChange, Fault::Silence);
        let (held, waiter) = fixture.waiting(fixture.mutex().with_value()).await;
        held.release().await.unwrap();
        sleep(LEASE).await;
        let guard = waiter.await.unwrap().unwrap();
        assert_eq!(guard.value().unwrap().bytes(), b"done");
        assert_eq!(fixture.store.requests(Verb::Enqueue).len(), 2);
    });
}

#[test]
fn a_guard_that_the_store_does_not_let_write_is_lost() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let lost = |error: Error| match error {
            Error::Lost { loss, .. } => loss,
            other => panic!("{other}"),
        };
        for (fault, expected) in [(Fault::None, "evicted"), (Fault::Refuse, "revoked")] {
            let guard = fixture.mutex().acquire().await.unwrap();
            let entry = fixture.claims().await.remove(0);
            fixture.other().evict("a", &entry.key, "").await.unwrap();
            fixture.store.next(Verb::Renew, [fault]);
            let loss = lost(guard.set_value(b"a", LEASE).await.unwrap_err());
            assert_eq!(matches!(loss, Loss::Evicted(_)), expected == "evicted", "{loss:?}");
            assert!(!guard.is_held());
            let writes = fixture.store.requests(Verb::SetValue).len();
            lost(guard.set_value(b"a", LEASE).await.unwrap_err());
            assert_eq!(fixture.store.requests(Verb::SetValue).len(), writes, "the store is not asked");
        }
    });
}

#[test]
fn a_guard_that_is_past_its_deadline_cannot_write() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().max_hold(SECOND).acquire().await.unwrap();
        tokio::time::advance(SECOND).await;
        let error = guard.set_value(b"a", LEASE).await.unwrap_err();
        assert!(matches!(error, Error::Lost { loss: Loss::MaxHold, .. }), "{error}");
        assert!(fixture.store.requests(Verb::SetValue).is_empty());
    });
}

#[test]
fn a_write_that_fails_changes_nothing_here() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().with_value().acquire().await.unwrap();
        fixture.store.next(Verb::SetValue, [Fault::Refuse]);
        assert!(guard.set_value(b"a", LEASE).await.unwrap_err().is_unavailable());
        for (bytes, keep) in [(&[0; MAX_VALUE_BYTES + 1][..], LEASE), (b"a", Duration::ZERO)] {
            let refused = guard.set_value(bytes, keep).await.unwrap_err();
            assert!(matches!(refused, Error::InvalidOption { .. }), "{refused}");
        }
        assert_eq!(fixture.store.requests(Verb::SetValue).len(), 1, "what is refused is not sent");
        assert!(guard.is_held() && guard.value().is_none());
        guard.set_value(b"a", LEASE).await.unwrap();
        sleep(SECOND).await;
        let value = guard.value().unwrap();
        assert_eq!((value.bytes(), value.age()), (&b"a"[..], SECOND));
    });
}

#[test]
fn a_store_that_keeps_no_values_says_so_before_anything_is_asked() {
    in_virtual_time(async {
        let capabilities = Capabilities::new("forgetful", CrashRelease::Never);
        assert!(!capabilities.keeps_values && capabilities.with_values().keeps_values);
        let memory = Memory::new();
        let owner = owner_with_backend(std::sync::Arc::new(Forgetful(memory)), options());
        let refused = owner.mutex("a").with_value().acquire().await.unwrap_err().to_string();
        assert!(refused.contains("with_value") && refused.contains("forgetful"), "{refused}");
        let guard = owner.mutex("a").acquire().await.unwrap();
        let refused = guard.set_value(b"a", LEASE).await.unwrap_err();
        assert!(matches!(refused, Error::FailedPrecondition { .. }), "{refused}");
        assert!(guard.is_held());
    });
}

#[test]
fn a_fork_of_the_owner_cannot_write() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let guard = fixture.mutex().acquire().await.unwrap();
        let fork = Fixture::new();
        let child = guard.in_fork(&fork.owner.in_fork());
        let refused = child.set_value(b"a", LEASE).await.unwrap_err();
        assert!(matches!(refused, Error::Forked { .. }), "{refused}");
        assert!(guard.is_held());
    });
}
