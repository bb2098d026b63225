//! Observers hear of every transition of a claim once, and of a store that does not answer.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use futures_util::FutureExt;
use futures_util::stream::BoxStream;

use super::store::{Fault, Verb};
use super::{Fixture, LEASE, SECOND, in_virtual_time, options, sleep};
use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, EntryKey, Eviction, Release,
    StoreNoticeKind, Summary,
};
use crate::error::Result;
use crate::loss::Loss;
use crate::manager::LockManager;
use crate::name::Name;
use crate::observe::{Event, Observer};
use crate::options::ManagerOptions;
use crate::queue::Permits;
use crate::stores::memory::Memory;
use crate::waits::Wait;

/// What was heard, a word each with the seconds or the reason that belong to it.
#[derive(Debug, Default)]
pub(super) struct Heard(Mutex<Vec<String>>);

impl Heard {
    /// What was heard since this was asked last.
    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

impl Observer for Heard {
    fn event(&self, event: &Event<'_>) {
        let heard = match event {
            Event::Asked { .. } => return,
            Event::Waiting { place, .. } => format!("waiting behind {}", place.unwrap()),
            Event::WaitsForItself { held_by, .. } => format!("waits for itself: {}", held_by.name),
            Event::Deadlock { cycle, .. } => {
                format!("deadlock: {}", cycle.iter().map(Wait::to_string).collect::<Vec<_>>().join("; "))
            }
            Event::Granted { waited, fencing_token, .. } => {
                format!("granted {fencing_token} after {}", waited.as_secs())
            }
            Event::GivenUp { waited, why, .. } => format!("given up after {}: {why}", waited.as_secs()),
            Event::Renewed { margin, .. } => format!("renewed {}", margin.unwrap().as_secs()),
            Event::RenewalFailed { claims, .. } => format!("renewal of {} failed", claims.len()),
            Event::Lost { loss, held, .. } => format!("lost after {}: {loss:?}", held.as_secs()),
            Event::Released { held, .. } => format!("released after {}", held.as_secs()),
            Event::LostBeforeRelease { fencing_token, .. } => format!("{fencing_token} was lost before"),
            Event::ReleaseFailed { .. } => "release failed".to_owned(),
            Event::ReleaseUnanswered { .. } => "release unanswered".to_owned(),
            Event::StoreLost { .. } => "store lost".to_owned(),
            Event::StoreBack { away, .. } => format!("store back after {}", away.as_secs()),
            Event::StoreLeft { away, .. } => format!("store left after {}", away.as_secs()),
            Event::Request { .. } => unreachable!("it does not hear of requests"),
            Event::Kept { left, .. } => format!("kept for {}", left.as_secs()),
            Event::CutShort { left, .. } => format!("cut short by {}", left.as_secs()),
            Event::StoreNotice { store, notice } => format!("{store} says {:?}", notice.reason),
        };
        self.0.lock().unwrap().push(heard);
    }
}

/// An owner whose claims are observed, over the store of a fixture that does as told.
pub(super) fn observed(fixture: &Fixture) -> (LockManager, Arc<Heard>) {
    let heard = Arc::new(Heard::default());
    let options = ManagerOptions::new().locks(options()).observer(heard.clone());
    (LockManager::with_backend(fixture.store.clone(), options).unwrap(), heard)
}

#[test]
fn a_claim_that_is_granted_at_once_is_granted_renewed_and_released() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = observed(&fixture);
        let guard = owner.mutex("a").acquire().await.unwrap();
        assert_eq!(heard.take(), ["granted 1 after 0"]);
        sleep(LEASE / 2).await;
        assert_eq!(
            heard.take(),
            ["renewed 39"],
            "a third of the lease has passed, and the margin is taken off"
        );
        guard.release().await.unwrap();
        assert_eq!(heard.take(), ["released after 30"]);
        sleep(LEASE).await;
        assert_eq!(heard.take(), [""; 0]);
    });
}

#[test]
fn a_claim_that_waits_is_told_so_once() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = observed(&fixture);
        let held = fixture.other().mutex("a").acquire().await.unwrap();
        let waits = tokio::spawn(async move { owner.mutex("a").acquire().await.unwrap() });
        sleep(LEASE * 2).await;
        assert_eq!(heard.take(), ["waiting behind 1"]);
        held.release().await.unwrap();
        drop(waits.await.unwrap());
        assert_eq!(heard.take(), ["granted 2 after 120", "released after 0"]);
    });
}

#[test]
fn what_is_not_granted_is_given_up_once() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = observed(&fixture);
        let _held = fixture.other().mutex("a").acquire().await.unwrap();
        assert!(owner.mutex("a").try_acquire().await.unwrap().is_none());
        assert_eq!(heard.take(), ["given up after 0: it is taken"]);
        assert!(owner.mutex("a").try_acquire_for(SECOND * 7).await.unwrap().is_none());
        assert_eq!(heard.take(), ["waiting behind 1", "given up after 7: its wait ended"]);
        let waits = owner.clone();
        let waits = tokio::spawn(async move { waits.mutex("a").acquire().await.map(drop) });
        sleep(SECOND * 3).await;
        owner.close().await;
        waits.await.unwrap().unwrap_err();
        assert_eq!(heard.take(), ["waiting behind 1", "given up after 3: it was given up by its caller"]);
    });
}

#[test]
fn a_loss_is_told_with_its_reason_and_nothing_after_it() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = observed(&fixture);
        let guard = owner.mutex("a").max_hold(SECOND * 5).acquire().await.unwrap();
        assert_eq!(guard.lost().await, Loss::MaxHold);
        drop(guard);
        sleep(LEASE).await;
        assert_eq!(heard.take(), ["granted 1 after 0", "lost after 4: MaxHold"]);

        let guard = owner.mutex("a").acquire().await.unwrap();
        fixture.memory.revoke("a");
        sleep(LEASE).await;
        drop(guard);
        assert_eq!(heard.take(), ["granted 2 after 0", "lost after 19: Revoked"]);
    });
}

#[test]
fn a_store_that_does_not_answer_is_told_once_and_so_is_its_return() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = observed(&fixture);
        let guard = owner.mutex("a").acquire().await.unwrap();
        heard.take();
        fixture.store.always(Verb::Renew, Fault::Refuse);
        sleep(SECOND * 41 / 2).await;
        let failed = heard.take();
        assert_eq!(failed[..2], ["store lost", "renewal of 1 failed"], "{failed:?}");
        assert_eq!(failed.iter().filter(|told| *told == "store lost").count(), 1, "{failed:?}");
        fixture.store.always(Verb::Renew, Fault::None);
        sleep(SECOND * 5).await;
        let told = heard.take();
        assert!(told.contains(&"store back after 1".to_owned()), "{told:?}");
        assert!(guard.is_held());
    });
}

#[test]
fn what_the_store_says_of_a_release_is_told() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = observed(&fixture);
        let guard = owner.mutex("a").acquire().await.unwrap();
        fixture.memory.revoke("a");
        assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
        assert_eq!(heard.take(), ["granted 1 after 0", "released after 0", "1 was lost before"]);

        let work = owner.mutex("a");
        fixture.store.next(Verb::Release, [Fault::Refuse]);
        work.run(async |_| ()).await.unwrap();
        let told = ["granted 2 after 0", "released after 0", "store lost", "release failed"];
        assert_eq!(heard.take(), told);
    });
}

#[test]
fn a_release_that_is_never_answered_is_told() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = observed(&fixture);
        let guard = owner.mutex("a").acquire().await.unwrap();
        fixture.store.always(Verb::Release, Fault::Refuse);
        drop(guard);
        sleep(LEASE * 2).await;
        let told = heard.take();
        assert_eq!(told[..2], ["granted 1 after 0", "released after 0"]);
        assert_eq!(told.last().unwrap(), "release unanswered");
    });
}

#[test]
fn what_a_store_notices_is_told_once_to_each_of_its_managers_and_in_order() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let notice = |reason: &str| fixture.store.notices.say(StoreNoticeKind::Other, reason);
        let [(_first, heard_first), (second, heard_second)] = [observed(&fixture), observed(&fixture)];
        notice("a");
        notice("b");
        sleep(SECOND).await;
        let told = ["memory: says \"a\"", "memory: says \"b\""];
        assert_eq!([heard_first.take(), heard_second.take()], [told, told]);
        // It is told among what happens to claims, and when the manager has none any more.
        let guard = second.mutex("a").acquire().await.unwrap();
        notice("c");
        sleep(SECOND).await;
        guard.release().await.unwrap();
        notice("d");
        sleep(SECOND).await;
        let told = ["granted 1 after 0", "memory: says \"c\"", "released after 1", "memory: says \"d\""];
        assert_eq!(heard_second.take(), told);
    });
}

#[test]
fn what_a_store_notices_before_its_first_manager_is_told_as_well() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let store = super::store::Store::with_memory(&fixture.memory);
        store.notices.say(StoreNoticeKind::MayLoseClaims, "it is set up so");
        let heard = Arc::new(Heard::default());
        let options = ManagerOptions::new().locks(options()).observer(heard.clone());
        let _owner = LockManager::with_backend(store, options).unwrap();
        sleep(SECOND).await;
        assert_eq!(heard.take(), ["memory: says \"it is set up so\""]);
    });
}

#[test]
fn the_last_notices_are_told_at_the_close_and_at_the_end_of_a_manager() {
    let mut outlives = None;
    in_virtual_time(async {
        let fixture = Fixture::new();
        let notice = |reason: &str| fixture.store.notices.say(StoreNoticeKind::NotDeleted, reason);
        let (owner, heard) = observed(&fixture);
        sleep(SECOND).await;
        notice("a");
        owner.close().now_or_never().expect("it waits for nothing");
        assert_eq!(heard.take(), ["memory: says \"a\""]);
        notice("b");
        sleep(SECOND).await;
        assert_eq!(heard.take(), ["memory: says \"b\""], "the renewer still waits for notices");
        notice("c");
        drop(owner);
        sleep(SECOND).await;
        assert_eq!(heard.take(), ["memory: says \"c\""]);
        outlives = Some(observed(&fixture));
        notice("d");
    });
    let (owner, heard) = outlives.unwrap();
    assert_eq!(heard.take(), [""; 0], "the runtime has ended before its task has run");
    drop(owner);
    assert_eq!(heard.take(), ["memory: says \"d\""]);
}

/// A store that forgets to answer the last claim of each renewal, and keeps no values.
#[derive(Debug)]
pub(super) struct Forgetful(pub(super) Arc<Memory>);

#[async_trait]
impl Backend for Forgetful {
    fn address(&self) -> &str {
        self.0.address()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("forgetful", CrashRelease::Never)
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.0.enqueue(claim).await
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        self.0.wait_for_change(claim).await
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let mut answers = self.0.renew(claims).await;
        answers.pop();
        answers
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        self.0.release(claim).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.0.inspect(name).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.0.list(prefix)
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.0.evict(name, entry, eviction).await
    }
}

#[test]
fn a_store_that_does_not_say_so_knows_no_places() {
    let claim = Claim::new(ClaimId::new(1, 1), Name::new("a").unwrap(), Permits::MUTEX);
    assert_eq!(Forgetful(Memory::new()).place(&claim), None);
}

#[test]
fn a_store_that_answers_fewer_renewals_than_it_was_asked_for_is_told_and_its_claims_are_lost_in_time() {
    in_virtual_time(async {
        let heard = Arc::new(Heard::default());
        let options = ManagerOptions::new().locks(options()).observer(heard.clone());
        let owner = LockManager::with_backend(Arc::new(Forgetful(Memory::new())), options).unwrap();
        let guards = owner.lock_all(["a", "b"]).await.unwrap();
        let error = guards.guards()[0].renew().await.unwrap_err();
        assert!(error.to_string().contains("0 of 1 renewals"), "{error}");
        let (_, loss) = guards.lost().await;
        assert_eq!(loss, Loss::Expired);
        let told = heard.take();
        assert!(told.contains(&"renewal of 2 failed".to_owned()), "{told:?}");
    });
}
