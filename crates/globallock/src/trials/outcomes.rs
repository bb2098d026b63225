//! Each lock that is asked for is told to end once: granted, or given up and why.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::observing::{Heard, observed};
use super::store::{Fault, Verb};
use super::{Fixture, LEASE, MILLISECOND, SECOND, in_virtual_time, options, sleep};
use crate::backend::{ClaimId, ClaimStatus, Eviction};
use crate::locks::Lock;
use crate::manager::LockManager;
use crate::observe::{Event, NotGranted, Observer};
use crate::options::ManagerOptions;
use crate::owner::Owner;

/// What came of each claim, which is checked to be one way through its life.
#[derive(Debug, Default)]
struct Ledger(Mutex<HashMap<ClaimId, Vec<&'static str>>>);

/// Every way through the life of a claim.
const LIVES: &[&[&str]] = &[
    &["asked", "granted", "released"],
    &["asked", "granted", "lost"],
    &["asked", "waiting", "granted", "released"],
    &["asked", "waiting", "granted", "lost"],
    &["asked", "given up"],
    &["asked", "waiting", "given up"],
];

impl Observer for Ledger {
    fn event(&self, event: &Event<'_>) {
        let (claim, told, was_waiting) = match event {
            Event::Asked { claim } => (claim, "asked", None),
            Event::Waiting { claim, .. } => (claim, "waiting", None),
            Event::Granted { claim, was_waiting, .. } => (claim, "granted", Some(*was_waiting)),
            Event::GivenUp { claim, was_waiting, .. } => (claim, "given up", Some(*was_waiting)),
            Event::Released { claim, .. } => (claim, "released", None),
            Event::Lost { claim, .. } => (claim, "lost", None),
            _ => return,
        };
        let mut lives = self.0.lock().unwrap();
        let life = lives.entry(claim.id).or_default();
        if let Some(was_waiting) = was_waiting {
            assert_eq!(was_waiting, life.contains(&"waiting"), "{told}");
        }
        life.push(told);
        assert!(LIVES.iter().any(|whole| whole.starts_with(life)), "{life:?}");
    }
}

impl Ledger {
    /// Which lives the claims had, which have all ended.
    fn ended(&self) -> Vec<usize> {
        let lives = self.0.lock().unwrap();
        let which = |life: &Vec<_>| LIVES.iter().position(|whole| whole == life);
        lives.values().map(|life| which(life).unwrap_or_else(|| panic!("{life:?} goes on"))).collect()
    }
}

/// A small generator of numbers below `limit`, so that what fails fails again.
fn random(seed: &mut u64, limit: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % limit
}

/// Acquires a lock in some way, and ends it in some way.
async fn live(lock: Lock, mut seed: u64) {
    let lock = lock.wait(SECOND * u32::try_from(random(&mut seed, 40)).unwrap());
    let lock = if random(&mut seed, 4) == 0 { lock.max_hold(SECOND * 3) } else { lock };
    let lock = if random(&mut seed, 4) == 0 { lock.hold_at_least(SECOND * 2) } else { lock };
    let patience = SECOND * u32::try_from(random(&mut seed, 60)).unwrap();
    // A call that is dropped is the fourth way to end.
    let acquired = tokio::time::timeout(patience, lock.acquire()).await;
    let Ok(Ok(guard)) = acquired else { return };
    sleep(MILLISECOND * u32::try_from(random(&mut seed, 9_000)).unwrap()).await;
    match random(&mut seed, 2) {
        0 => drop(guard),
        _ => drop(guard.release().await),
    }
}

#[test]
fn every_claim_has_one_life_whatever_happens_to_it() {
    let seen = Mutex::new(HashSet::new());
    for seed in 0..40 {
        in_virtual_time(async {
            let mut seed = seed;
            let fixture = Fixture::new();
            let ledger = Arc::new(Ledger::default());
            let options = ManagerOptions::new().locks(options()).observer(ledger.clone());
            let owner = LockManager::with_backend(fixture.store.clone(), options).unwrap();
            let mut lives = Vec::new();
            for _ in 0..30 {
                let lock = match random(&mut seed, 3) {
                    0 => owner.mutex("a"),
                    1 => owner.rwlock("a").read(),
                    _ => owner.semaphore("b", 2).permits(1),
                };
                lives.push(tokio::spawn(live(lock, seed)));
                let verbs = [Verb::Enqueue, Verb::Renew, Verb::Release, Verb::KeepFor, Verb::WaitForChange];
                let verb = verbs[usize::try_from(random(&mut seed, 5)).unwrap()];
                let fault = match random(&mut seed, 8) {
                    0 => Fault::Refuse,
                    1 => Fault::Deny,
                    // A store bounds the time of all others.
                    2 if verb == Verb::Enqueue => Fault::Silence,
                    3 => Fault::Late(SECOND * 8),
                    4 => Fault::Answer(ClaimStatus::Gone),
                    _ => Fault::None,
                };
                fixture.store.next(verb, [fault]);
                if random(&mut seed, 9) == 0 {
                    fixture.memory.revoke("a");
                }
                sleep(MILLISECOND * u32::try_from(random(&mut seed, 4_000)).unwrap()).await;
            }
            // Some are still under way.
            owner.close().await;
            for life in lives {
                life.await.unwrap();
            }
            sleep(LEASE * 2).await;
            let ended = ledger.ended();
            assert_eq!(ended.len(), 30);
            seen.lock().unwrap().extend(ended);
        });
    }
    assert_eq!(seen.into_inner().unwrap().len(), LIVES.len(), "each life was had");
}

/// Why the only claim was not granted.
fn why(heard: &Heard) -> String {
    let told = heard.take();
    let given_up: Vec<&String> = told.iter().filter(|told| told.starts_with("given up")).collect();
    let [given_up] = given_up[..] else { panic!("{told:?}") };
    given_up.split_once(": ").unwrap().1.to_owned()
}

#[test]
fn a_call_that_fails_is_told_once_and_why() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = observed(&fixture);
        let store = &fixture.store;
        for (verb, fault, expected) in [
            (Verb::Enqueue, Fault::Deny, "denied"),
            (Verb::Enqueue, Fault::Refuse, "unavailable"),
            (Verb::Enqueue, Fault::Silence, "no answer within"),
        ] {
            store.always(verb, fault);
            owner.mutex("b").store_timeout(SECOND).acquire().await.unwrap_err();
            sleep(LEASE * 2).await;
            store.always(verb, Fault::None);
            let why = why(&heard);
            assert!(why.contains(expected), "{why}");
        }
        // A claim that waits, whose store is then refused.
        let _held = fixture.other().mutex("a").acquire().await.unwrap();
        store.next(Verb::WaitForChange, [Fault::Deny]);
        owner.mutex("a").acquire().await.unwrap_err();
        assert!(why(&heard).contains("denied"));
        let eviction = Eviction::new(Owner::default().with_label("operator"), "it hangs");
        store.next(Verb::WaitForChange, [Fault::Answer(ClaimStatus::Evicted(eviction.into()))]);
        owner.mutex("a").acquire().await.unwrap_err();
        assert_eq!(why(&heard), "it was evicted by operator: it hangs");
        // A wait that ended while the store answered others.
        owner.mutex("a").wait(SECOND).acquire().await.unwrap_err();
        assert_eq!(why(&heard), "its wait ended");
        assert!(owner.mutex("a").wait(Duration::ZERO).acquire().await.is_err());
        assert_eq!(why(&heard), "it is taken");
    });
}

#[test]
fn a_call_that_is_dropped_before_or_after_its_claim_waits_is_told_as_given_up_by_its_caller() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = observed(&fixture);
        let _held = fixture.other().mutex("a").acquire().await.unwrap();
        for fault in [Fault::Silence, Fault::None] {
            fixture.store.next(Verb::Enqueue, [fault]);
            tokio::time::timeout(SECOND, owner.mutex("a").acquire()).await.unwrap_err();
            assert_eq!(why(&heard), "it was given up by its caller");
        }
        // What a closed manager refuses has no claim.
        owner.close().await;
        owner.mutex("a").acquire().await.unwrap_err();
        owner.mutex("").acquire().await.unwrap_err();
        assert_eq!(heard.take(), [""; 0]);
    });
}

/// How long the hand-overs took that were known, in milliseconds.
#[derive(Debug, Default)]
struct HandOvers(Mutex<Vec<Option<u128>>>);

impl Observer for HandOvers {
    fn event(&self, event: &Event<'_>) {
        if let Event::Granted { was_waiting, handed_over, .. } = event {
            assert!(*was_waiting || handed_over.is_none());
            if *was_waiting {
                self.0.lock().unwrap().push(handed_over.map(|took| took.as_millis()));
            }
        }
    }
}

#[test]
fn a_hand_over_takes_from_the_release_to_the_grant_where_nobody_else_stood_between() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let heard = Arc::new(HandOvers::default());
        let options = ManagerOptions::new().locks(options()).observer(heard.clone());
        let owner = LockManager::with_backend(fixture.store.clone(), options).unwrap();
        let waiting = |owner: &LockManager| {
            let lock = owner.mutex("a");
            tokio::spawn(async move { lock.acquire().await.unwrap() })
        };
        let took = || std::mem::take(&mut *heard.0.lock().unwrap());

        // The push is late.
        let held = owner.mutex("a").acquire().await.unwrap();
        fixture.store.next(Verb::WaitForChange, [Fault::Late(SECOND * 2)]);
        let next = waiting(&owner);
        sleep(SECOND).await;
        held.release().await.unwrap();
        let held = next.await.unwrap();
        assert_eq!(took(), [Some(2_000)]);

        // Somebody else's claim stands between.
        let (between, next) = (waiting(&fixture.other()), {
            sleep(SECOND).await;
            waiting(&owner)
        });
        sleep(SECOND).await;
        held.release().await.unwrap();
        let between = between.await.unwrap();
        sleep(SECOND * 9).await;
        between.release().await.unwrap();
        let held = next.await.unwrap();
        assert_eq!(took(), [None]);

        // The push is lost, and the waiter's next renewal finds the grant.
        fixture.store.always(Verb::WaitForChange, Fault::Silence);
        let next = waiting(&owner);
        sleep(SECOND).await;
        held.release().await.unwrap();
        let held = next.await.unwrap();
        let found = took();
        assert!(matches!(found[..], [Some(18_000..20_000)]), "{found:?}: a third of the lease");

        // The release lets nobody in yet.
        fixture.store.always(Verb::WaitForChange, Fault::None);
        held.release().await.unwrap();
        let held = owner.mutex("a").hold_at_least(SECOND * 5).acquire().await.unwrap();
        let next = waiting(&owner);
        sleep(SECOND).await;
        held.release().await.unwrap();
        drop(next.await.unwrap());
        assert_eq!(took(), [None]);
    });
}

#[test]
fn an_outage_that_outlasts_its_manager_ends_with_it() {
    in_virtual_time(async {
        let fixture = Fixture::new();
        let (owner, heard) = observed(&fixture);
        fixture.store.always(Verb::Enqueue, Fault::Refuse);
        owner.mutex("a").store_timeout(SECOND).acquire().await.unwrap_err();
        heard.take();
        sleep(SECOND * 5).await;
        drop(owner);
        sleep(SECOND).await;
        assert_eq!(heard.take(), ["store left after 5"]);
    });
}

#[test]
fn an_error_says_why_its_call_was_not_granted() {
    use crate::error::Error;
    let eviction = Arc::new(Eviction::new(Owner::default(), "no"));
    let evicted = Error::Evicted { name: "a".to_owned(), eviction };
    let unavailable = Error::unavailable("a", "b");
    assert!(matches!(NotGranted::by(&Error::timed_out("a", SECOND)), NotGranted::TimedOut));
    assert!(matches!(NotGranted::by(&Error::Closed), NotGranted::Cancelled));
    assert!(matches!(NotGranted::by(&evicted), NotGranted::Evicted(_)));
    assert!(matches!(NotGranted::by(&unavailable), NotGranted::Failed(_)));
}
