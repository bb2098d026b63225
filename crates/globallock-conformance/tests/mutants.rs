//! Tests of the suite itself: mutants, which are stores that break one promise each, are caught by its cases.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use globallock::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, Entry, EntryKey, Eviction, Grant, Instant, Release,
    Summary, Value, ValueWrite, WaitMode,
};
use globallock::{Memory, Name, Result};
use globallock_conformance::cases::trials;
use globallock_conformance::store_under_test::StoreUnderTest;

/// The bug of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Every claim is granted.
    GrantsToAll,
    /// All grants have the same fencing token.
    RepeatsTokens,
    /// A renewal of a claim that is gone is confirmed.
    Revives,
    /// The max hold time is ignored.
    ForgetsMaxHold,
    /// A renewal restarts the max hold time.
    RestartsMaxHold,
    /// The max hold time is reported shorter than it is.
    ShortensMaxHold,
    /// A refused try stays in the queue.
    KeepsRefusedTries,
    /// The lease is reported longer than it is.
    PromisesTooLong,
    /// A release is confirmed but not done.
    ForgetsReleases,
    /// Enqueueing a claim twice makes two claims.
    EnqueuesTwice,
    /// The last character of names is cut off.
    CutsNames,
    /// The queue is listed backwards.
    ListsBackwards,
    /// Readers are treated as writers.
    NeverShares,
    /// The second release of a claim releases all others.
    ReleasesOthers,
    /// A claim that is not held writes the value.
    WritesWithoutHolding,
    /// A lower token overwrites the value of a higher one.
    WritesBehindOthers,
    /// A value never ends.
    KeepsValues,
    /// Every claim gets the value.
    TellsEverybody,
    /// A claim that is to be kept for a time lasts no longer than its lease.
    KeepsNothing,
    /// A claim that its owner has left ends too early.
    LeavesTooEarly,
    /// A claim that its owner has left does not end.
    LeavesTooLate,
}

#[derive(Debug)]
struct Mutant {
    inner: Arc<Memory>,
    fault: Fault,
    enqueued: std::sync::atomic::AtomicU64,
    /// What was written though it should have been refused.
    written: Written,
}

type Written = Arc<Mutex<HashMap<Name, Value>>>;

impl Mutant {
    fn altered_claim(&self, claim: &Claim) -> Claim {
        let mut claim = claim.clone();
        match self.fault {
            Fault::ForgetsMaxHold => claim.max_hold = None,
            Fault::KeepsRefusedTries => claim.wait_mode = WaitMode::Wait,
            Fault::CutsNames => {
                let name = claim.name.as_str();
                let end = name.char_indices().last().map_or(0, |(end, _)| end.max(1));
                claim.name = Name::new(&name[..end]).unwrap();
            }
            Fault::TellsEverybody => claim.wants_value = true,
            Fault::NeverShares => claim.permits.count = claim.permits.capacity,
            Fault::EnqueuesTwice => {
                let number = self.enqueued.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                claim.id = ClaimId::new(number.into(), number);
            }
            _ => {}
        }
        claim
    }

    fn altered_status(&self, claim: &Claim, status: ClaimStatus) -> ClaimStatus {
        match (self.fault, status) {
            (Fault::RepeatsTokens, ClaimStatus::Held(grant)) => {
                ClaimStatus::Held(grant.with_fencing_token(7))
            }
            (Fault::PromisesTooLong, ClaimStatus::Held(grant)) => {
                let expires = grant.expires.map(|expires| expires + claim.lease);
                ClaimStatus::Held(grant.with_expires(expires))
            }
            (Fault::ShortensMaxHold, ClaimStatus::Held(grant)) => {
                let cut = claim.max_hold.unwrap_or_default() / 4;
                let hold_ends = grant.hold_ends.map(|end| end - cut);
                ClaimStatus::Held(grant.with_hold_ends(hold_ends))
            }
            (Fault::KeepsRefusedTries, ClaimStatus::Waiting) if claim.wait_mode == WaitMode::Try => {
                ClaimStatus::Gone
            }
            (_, ClaimStatus::Held(grant)) if claim.wants_value => {
                let written = self.written.lock().unwrap().get(&claim.name).cloned();
                let value = written.or_else(|| grant.value.clone());
                ClaimStatus::Held(grant.with_value(value))
            }
            (_, status) => status,
        }
    }
}

#[async_trait]
impl Backend for Mutant {
    fn address(&self) -> &str {
        self.inner.address()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        let status = self.inner.enqueue(&self.altered_claim(claim)).await?;
        if self.fault == Fault::GrantsToAll {
            let fencing_token = self.enqueued.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
            return Ok(ClaimStatus::Held(Grant::new(fencing_token)));
        }
        Ok(self.altered_status(claim, status))
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        Ok(self
            .inner
            .wait_for_change(&self.altered_claim(claim))
            .await?
            .map(|status| self.altered_status(claim, status)))
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let seen: Vec<_> = claims.iter().map(|claim| Arc::new(self.altered_claim(claim))).collect();
        let answers = self.inner.renew(&seen).await;
        let altered = claims.iter().zip(answers).map(|(claim, answer)| match (self.fault, answer?) {
            (Fault::Revives, ClaimStatus::Gone) => Ok(ClaimStatus::Held(Grant::new(1))),
            (Fault::RestartsMaxHold, ClaimStatus::Held(grant)) => {
                let hold_ends = claim.max_hold.map(|hold| Instant::now() + hold);
                Ok(ClaimStatus::Held(grant.with_hold_ends(hold_ends)))
            }
            (_, status) => Ok(self.altered_status(claim, status)),
        });
        altered.collect()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        if self.fault == Fault::ForgetsReleases {
            return Ok(Release::Released);
        }
        let release = self.inner.release(&self.altered_claim(claim)).await?;
        if self.fault == Fault::ReleasesOthers && release == Release::NotHeld {
            for entry in self.inner.inspect(&claim.name).await? {
                self.inner.release(&claim.clone().with_id(entry.id.unwrap())).await?;
            }
        }
        Ok(release)
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        let rest = if self.fault == Fault::KeepsNothing { Duration::ZERO } else { rest };
        self.inner.keep_for(&self.altered_claim(claim), rest).await
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        let rest = match self.fault {
            Fault::LeavesTooEarly => rest / 4,
            Fault::LeavesTooLate => rest * 10_000,
            _ => rest,
        };
        self.inner.release_after(&self.altered_claim(claim), rest).await
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        let keep = if self.fault == Fault::KeepsValues { keep * 1000 } else { keep };
        let answer = self.inner.set_value(claim, bytes, keep).await?;
        let is_written = match answer {
            ValueWrite::NotHeld => self.fault == Fault::WritesWithoutHolding,
            ValueWrite::Outranked => self.fault == Fault::WritesBehindOthers,
            ValueWrite::Written => false,
        };
        if is_written {
            let value = Value::new(bytes, 1, Duration::ZERO);
            self.written.lock().unwrap().insert(claim.name.clone(), value);
        }
        Ok(answer)
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        let mut queue = self.inner.inspect(name).await?;
        if self.fault == Fault::ListsBackwards {
            queue.reverse();
        }
        Ok(queue)
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.inner.list(prefix)
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.inner.evict(name, entry, eviction).await
    }
}

/// Checks that the named case passes on a sound store and fails on a mutant with this fault.
fn is_caught(fault: Fault, sentence: &str) {
    let store = |mutant: bool| {
        let (inner, written) = (Memory::new(), Written::default());
        let store = StoreUnderTest::new("mutant", move || {
            let (inner, written) = (Arc::clone(&inner), Arc::clone(&written));
            let store: Arc<dyn Backend> =
                if mutant { Arc::new(Mutant { inner, fault, enqueued: 0.into(), written }) } else { inner };
            async move { Ok(store) }
        });
        StoreUnderTest { lease: Duration::from_millis(500), ..store }
    };
    let run = |mutant: bool| {
        let trials = trials(&store(mutant));
        let trial = trials.iter().find(|trial| trial.name().contains(sentence)).expect("the case exists");
        catch_unwind(AssertUnwindSafe(|| trial.run()))
    };
    assert!(run(false).is_ok(), "{sentence} is not true of a sound store");
    assert!(run(true).is_err(), "{fault:?} is not caught by {sentence}");
}

#[test]
fn a_store_that_grants_to_all_is_caught() {
    is_caught(Fault::GrantsToAll, "one_owner_holds_at_a_time");
    is_caught(Fault::GrantsToAll, "a_writer_excludes_readers");
}

#[test]
fn a_store_that_keeps_claims_for_the_wrong_time_is_caught() {
    is_caught(Fault::KeepsNothing, "a_claim_is_kept_without_its_owner_and_no_renewal_shortens_that");
    is_caught(Fault::LeavesTooEarly, "a_released_lock_keeps_others_out_for_its_time");
    is_caught(Fault::LeavesTooLate, "a_left_claim_ends_though_its_lease_is_longer");
}

#[test]
fn a_store_that_repeats_tokens_is_caught() {
    is_caught(Fault::RepeatsTokens, "tokens_rise_with_every_grant");
    is_caught(Fault::RepeatsTokens, "tokens_rise_from_owner_to_owner");
}

#[test]
fn a_store_that_revives_is_caught() {
    is_caught(Fault::Revives, "a_renewal_never_revives_a_claim");
}

#[test]
fn a_store_that_forgets_the_max_hold_is_caught() {
    is_caught(Fault::ForgetsMaxHold, "a_grant_says_when_its_max_hold_ends");
}

#[test]
fn a_store_whose_renewals_change_the_max_hold_is_caught() {
    is_caught(Fault::RestartsMaxHold, "a_renewal_does_not_change_the_max_hold");
    is_caught(Fault::ShortensMaxHold, "a_renewal_does_not_change_the_max_hold");
}

#[test]
fn a_store_that_shortens_the_max_hold_is_caught() {
    is_caught(Fault::ShortensMaxHold, "the_max_hold_counts_from_the_grant");
    is_caught(Fault::ShortensMaxHold, "a_grant_says_when_its_max_hold_ends");
}

#[test]
fn a_store_that_keeps_refused_tries_is_caught() {
    is_caught(Fault::KeepsRefusedTries, "a_try_of_a_taken_lock_is_refused");
    is_caught(Fault::KeepsRefusedTries, "a_refused_try_is_not_in_the_queue");
}

#[test]
fn a_store_that_promises_too_long_is_caught() {
    is_caught(Fault::PromisesTooLong, "failing_renewals_end_a_hold_before_the_next_grant");
}

#[test]
fn a_store_that_forgets_releases_is_caught() {
    is_caught(Fault::ForgetsReleases, "a_release_says_that_the_lock_was_held");
    is_caught(Fault::ForgetsReleases, "releasing_a_claim_that_never_joined_is_no_error");
}

#[test]
fn a_store_that_enqueues_twice_is_caught() {
    is_caught(Fault::EnqueuesTwice, "enqueueing_twice_has_the_effect_of_once");
}

#[test]
fn a_store_that_cuts_names_is_caught() {
    is_caught(Fault::CutsNames, "hostile_names_are_locks_of_their_own");
}

#[test]
fn a_store_that_lists_backwards_is_caught() {
    is_caught(Fault::ListsBackwards, "holders_come_before_waiters_in_their_order");
}

#[test]
fn a_store_that_never_shares_is_caught() {
    is_caught(Fault::NeverShares, "the_permits_and_token_of_a_holder_are_shown");
}

#[test]
fn a_store_whose_repeated_releases_release_others_is_caught() {
    is_caught(Fault::ReleasesOthers, "releasing_twice_has_the_effect_of_once");
}

#[test]
fn a_store_in_which_anybody_writes_values_is_caught() {
    for sentence in [
        "a_waiter_and_a_stranger_cannot_write",
        "a_released_holder_cannot_write",
        "an_evicted_holder_cannot_write",
        "a_holder_past_its_max_hold_cannot_write",
        "a_holder_that_was_paused_cannot_write_after_the_next_grant",
    ] {
        is_caught(Fault::WritesWithoutHolding, sentence);
    }
}

#[test]
fn a_store_in_which_lower_tokens_overwrite_values_is_caught() {
    is_caught(Fault::WritesBehindOthers, "a_lower_token_cannot_overwrite");
}

#[test]
fn a_store_that_keeps_values_for_ever_is_caught() {
    is_caught(Fault::KeepsValues, "a_value_ends_after_its_time_and_not_before");
}

#[test]
fn a_store_that_tells_everybody_the_value_is_caught() {
    is_caught(Fault::TellsEverybody, "a_claim_that_does_not_ask_gets_no_value");
}
