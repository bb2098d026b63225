//! Mutants of the store in memory: stores with one bug each, for the checker to find.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use globallock::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, Entry, EntryKey, Eviction, Grant, Instant, Release,
    StoreNotice, Summary, Value, ValueWrite, WaitMode,
};
use globallock::{Error, Memory, Name, Result};

/// The bug of a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// No bug.
    None,
    /// Every claim is granted at once.
    GrantsToAll,
    /// All grants have the same token.
    RepeatsTokens,
    /// Tokens count down.
    TokensFall,
    /// Tokens start again from a low number after a while, as if the counter had been lost.
    TokensRestart,
    /// A shared claim gets the token of a claim that already holds.
    SharesTokens,
    /// Grants promise a longer lease than the store keeps.
    PromisesTooLong,
    /// Renewals are confirmed but do not extend the lease.
    ForgetsRenewals,
    /// Claims that only try are granted past the queue.
    TriesPassTheQueue,
    /// The newest waiter is granted first.
    GrantsNewestFirst,
    /// Waiters are not notified of changes.
    LosesWakeUps,
    /// Waiters vanish from the queue.
    DropsWaiters,
    /// A writer counts as a reader.
    CountsWritersAsReaders,
    /// Each claim of a semaphore counts as one permit.
    CountsClaimsAsPermits,
    /// A release also takes the next claim out of the queue.
    ReleasesOthers,
    /// Now and then a renewal is answered "gone" although the claim is held.
    RevokesAtWill,
    /// Renewals fail.
    RefusesRenewals,
    /// Where the evicted claim is gone, an eviction takes out whoever holds.
    EvictsTheNextHolder,
    /// An eviction takes out all claims of the name.
    EvictsAll,
    /// An eviction takes out nothing, and is answered as if it had.
    EvictsNothing,
    /// Every eviction is answered as if it had taken out the claim.
    ConfirmsEveryEviction,
    /// Whoever asks writes the value, and now and then a write arrives a second time, after the next one.
    LetsAllWriteValues,
}

/// A store in memory with a bug.
#[derive(Debug)]
pub struct Mutant {
    inner: Arc<Memory>,
    bug: Bug,
    calls: AtomicU64,
    /// Claims that are no longer notified of anything.
    unnotified: Mutex<HashSet<ClaimId>>,
    /// The values that are written by all who ask, and for each the write that arrives again later.
    values: Mutex<HashMap<Name, (Value, Option<Value>)>>,
}

impl Mutant {
    /// Makes an empty store of its own.
    #[must_use]
    pub fn new(bug: Bug) -> Arc<Self> {
        let (calls, unnotified, values) = (AtomicU64::new(1), Mutex::default(), Mutex::default());
        Arc::new(Mutant { inner: Memory::new(), bug, calls, unnotified, values })
    }

    fn unnotified(&self) -> MutexGuard<'_, HashSet<ClaimId>> {
        self.unnotified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::SeqCst)
    }

    /// The claim as the store enqueues it.
    fn alter_claim(&self, claim: &Claim) -> Claim {
        let mut claim = claim.clone();
        match self.bug {
            Bug::CountsWritersAsReaders if claim.permits.capacity > 3 => claim.permits.count = 1,
            Bug::CountsClaimsAsPermits => claim.permits.count = claim.permits.count.min(1),
            _ => {}
        }
        claim
    }

    /// The status as the store answers it.
    fn alter_status(&self, claim: &Claim, status: ClaimStatus) -> ClaimStatus {
        let ClaimStatus::Held(grant) = status else { return status };
        let fencing_token = match self.bug {
            Bug::RepeatsTokens => 7,
            Bug::TokensFall => u64::MAX / 2 - grant.fencing_token,
            Bug::TokensRestart => grant.fencing_token % 200,
            Bug::SharesTokens if claim.permits.count < claim.permits.capacity => grant.fencing_token & !1,
            _ => grant.fencing_token,
        };
        let expires = match self.bug {
            Bug::PromisesTooLong => grant.expires.map(|expires| expires + claim.lease * 4),
            Bug::ForgetsRenewals => Some(Instant::now() + claim.lease),
            _ => grant.expires,
        };
        let grant = match self.bug {
            Bug::LetsAllWriteValues => {
                let value = self.values().get(&claim.name).map(|(value, _)| value.clone());
                grant.with_value(value)
            }
            _ => grant,
        };
        ClaimStatus::Held(grant.with_fencing_token(fencing_token).with_expires(expires))
    }

    /// Writes a value without a look at who holds. What a writer writes begins with its token.
    fn write_as_asked(&self, claim: &Claim, bytes: &[u8]) -> Option<ValueWrite> {
        let fencing_token = str::from_utf8(bytes).ok()?.split(' ').next()?.parse().ok()?;
        let value = Value::new(bytes, fencing_token, Duration::ZERO);
        let is_again = self.count_call().is_multiple_of(10);
        let mut values = self.values();
        let late = values.remove(&claim.name).and_then(|(_, late)| late);
        let written = late.unwrap_or_else(|| value.clone());
        values.insert(claim.name.clone(), (written, is_again.then_some(value)));
        Some(ValueWrite::Written)
    }

    fn values(&self) -> MutexGuard<'_, HashMap<Name, (Value, Option<Value>)>> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grant(&self, claim: &Claim) -> ClaimStatus {
        let fencing_token = u64::MAX / 4 + self.count_call();
        ClaimStatus::Held(Grant::new(fencing_token).with_expires(Instant::now() + claim.lease))
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
        if self.bug == Bug::GrantsToAll
            || self.bug == Bug::TriesPassTheQueue && claim.wait_mode == WaitMode::Try
        {
            return Ok(self.grant(claim));
        }
        let claim = self.alter_claim(claim);
        let others = self.inner.inspect(&claim.name).await?;
        let status = self.inner.enqueue(&claim).await?;
        if status == ClaimStatus::Waiting && self.bug == Bug::GrantsNewestFirst {
            for other in others.into_iter().filter(|other| !other.held && other.id != Some(claim.id)) {
                let (Some(id), permits) = (other.id, other.permits) else { continue };
                let other = claim.clone().with_id(id).with_permits(permits);
                self.inner.release(&other).await?;
                self.inner.enqueue(&other).await?;
            }
        }
        if status == ClaimStatus::Waiting
            && self.bug == Bug::DropsWaiters
            && self.count_call().is_multiple_of(50)
        {
            self.unnotified().insert(claim.id);
            self.inner.release(&claim).await?;
        }
        Ok(self.alter_status(&claim, status))
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        match self.bug {
            Bug::LosesWakeUps if self.count_call().is_multiple_of(50) => {
                self.unnotified().insert(claim.id);
                std::future::pending().await
            }
            Bug::DropsWaiters if self.unnotified().contains(&claim.id) => std::future::pending().await,
            _ => Ok(self.inner.wait_for_change(claim).await?.map(|status| self.alter_status(claim, status))),
        }
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        match self.bug {
            Bug::GrantsToAll | Bug::TriesPassTheQueue => {
                claims.iter().map(|claim| Ok(self.grant(claim))).collect()
            }
            Bug::ForgetsRenewals => {
                let mut answers = Vec::new();
                for claim in claims {
                    let entries = self.inner.inspect(&claim.name).await.unwrap_or_default();
                    let mine = entries.into_iter().find(|entry| entry.id == Some(claim.id));
                    let fencing_token = mine.map_or(1, |entry| entry.fencing_token);
                    let held = ClaimStatus::Held(Grant::new(fencing_token));
                    answers.push(Ok(self.alter_status(claim, held)));
                }
                answers
            }
            Bug::LosesWakeUps | Bug::DropsWaiters => {
                // A renewal must not reveal the change either.
                let answers = claims.iter().zip(self.inner.renew(claims).await);
                let hides = |claim: &Claim| self.unnotified().contains(&claim.id);
                answers
                    .map(|(claim, answer)| if hides(claim) { Ok(ClaimStatus::Waiting) } else { answer })
                    .collect()
            }
            Bug::RefusesRenewals => claims
                .iter()
                .map(|_| Err(Error::unavailable("a mutant store", "it renews nothing")))
                .collect(),
            Bug::RevokesAtWill => {
                let answers = self.inner.renew(claims).await.into_iter();
                let is_revoked = |answer: &Result<ClaimStatus>| {
                    matches!(answer, Ok(ClaimStatus::Held(_))) && self.count_call().is_multiple_of(2)
                };
                answers
                    .map(|answer| if is_revoked(&answer) { Ok(ClaimStatus::Gone) } else { answer })
                    .collect()
            }
            _ => {
                let altered: Vec<_> = claims.iter().map(|claim| Arc::new(self.alter_claim(claim))).collect();
                let answers = claims.iter().zip(self.inner.renew(&altered).await);
                answers.map(|(claim, answer)| Ok(self.alter_status(claim, answer?))).collect()
            }
        }
    }

    fn is_ready(&self) -> bool {
        self.inner.is_ready()
    }

    async fn ready(&self) -> Result<()> {
        self.inner.ready().await
    }

    async fn session_lost_hint(&self) {
        self.inner.session_lost_hint().await;
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.inner.notices()
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        let claim = self.alter_claim(claim);
        Ok(self.alter_status(&claim, self.inner.keep_for(&claim, rest).await?))
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        self.inner.release_after(&self.alter_claim(claim), rest).await
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let released = self.inner.release(&self.alter_claim(claim)).await?;
        if self.bug == Bug::ReleasesOthers
            && let Some(next) = self.inner.inspect(&claim.name).await?.into_iter().next()
            && let Some(id) = next.id
        {
            self.inner.release(&claim.clone().with_id(id).with_permits(next.permits)).await?;
        }
        match self.bug {
            Bug::GrantsToAll | Bug::TriesPassTheQueue => Ok(Release::Released),
            _ => Ok(released),
        }
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        match self.bug {
            Bug::LetsAllWriteValues => Ok(self.write_as_asked(claim, bytes).unwrap_or(ValueWrite::NotHeld)),
            _ => self.inner.set_value(&self.alter_claim(claim), bytes, keep).await,
        }
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.inner.inspect(name).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.inner.list(prefix)
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        let evicted = match self.bug {
            Bug::EvictsNothing => Release::Released,
            _ => self.inner.evict(name, entry, eviction).await?,
        };
        let others = match (self.bug, evicted) {
            (Bug::EvictsTheNextHolder, Release::NotHeld) => {
                self.inner.inspect(name).await?.into_iter().take(1)
            }
            (Bug::EvictsAll, Release::Released) => {
                self.inner.inspect(name).await?.into_iter().take(usize::MAX)
            }
            _ => Vec::new().into_iter().take(0),
        };
        for other in others {
            self.inner.evict(name, &other.key, eviction).await?;
        }
        Ok(if self.bug == Bug::ConfirmsEveryEviction { Release::Released } else { evicted })
    }
}
