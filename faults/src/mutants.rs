//! Stores with one bug each, for the checker to find.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use globallock::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, Entry, Grant, Release, WaitMode,
};
use globallock::{Error, Memory, Name, Result};

/// What is wrong with a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Nothing.
    None,
    /// Everybody holds who asks.
    GrantsToAll,
    /// All grants have one number.
    RepeatsTokens,
    /// Tokens count down.
    TokensFall,
    /// Tokens begin anew after a while, as a counter does that is lost.
    TokensRestart,
    /// Whoever shares gets the number of the one that holds already.
    SharesTokens,
    /// The lease is said to be longer than it is.
    PromisesTooLong,
    /// Renewals are confirmed, and come to nothing.
    ForgetsRenewals,
    /// Whoever does not wait is let in past the queue.
    LetsInTheImpatient,
    /// Whoever comes last is granted first.
    NewestFirst,
    /// Waiters are not told of changes.
    LosesWakeUps,
    /// Waiters vanish from the queue.
    DropsWaiters,
    /// A writer is taken for a reader.
    WritersRead,
    /// All claims of a semaphore count as one permit.
    CountsClaims,
    /// Whoever leaves takes the next out as well.
    LeavesForOthers,
    /// A renewal is told now and then that the claim is gone, which it is not.
    RevokesAtWill,
    /// Renewals fail.
    RefusesRenewals,
}

/// A store in memory with a bug.
#[derive(Debug)]
pub struct Broken {
    inner: Arc<Memory>,
    bug: Bug,
    count: AtomicU64,
    /// Claims that are not told of anything any more.
    deaf: Mutex<HashSet<ClaimId>>,
}

impl Broken {
    /// A store of its own.
    #[must_use]
    pub fn new(bug: Bug) -> Arc<Self> {
        Arc::new(Broken { inner: Memory::new(), bug, count: AtomicU64::new(1), deaf: Mutex::default() })
    }

    fn deaf(&self) -> MutexGuard<'_, HashSet<ClaimId>> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self) -> u64 {
        self.count.fetch_add(1, Ordering::SeqCst)
    }

    /// The claim as the store takes it.
    fn taken(&self, claim: &Claim) -> Claim {
        let mut claim = claim.clone();
        match self.bug {
            Bug::WritersRead if claim.permits.capacity > 3 => claim.permits.count = 1,
            Bug::CountsClaims => claim.permits.count = claim.permits.count.min(1),
            _ => {}
        }
        claim
    }

    fn told(&self, claim: &Claim, status: ClaimStatus) -> ClaimStatus {
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
        ClaimStatus::Held(Grant { fencing_token, expires, ..grant })
    }

    fn grant(&self, claim: &Claim) -> ClaimStatus {
        let fencing_token = u64::MAX / 4 + self.counted();
        ClaimStatus::Held(Grant {
            fencing_token,
            expires: Some(Instant::now() + claim.lease),
            hold_ends: None,
        })
    }
}

#[async_trait]
impl Backend for Broken {
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        if self.bug == Bug::GrantsToAll
            || self.bug == Bug::LetsInTheImpatient && claim.wait_mode == WaitMode::Try
        {
            return Ok(self.grant(claim));
        }
        let claim = self.taken(claim);
        let others = self.inner.inspect(&claim.name).await?;
        let status = self.inner.enqueue(&claim).await?;
        if status == ClaimStatus::Waiting && self.bug == Bug::NewestFirst {
            for other in others.into_iter().filter(|other| !other.held && other.id != Some(claim.id)) {
                let (Some(id), permits) = (other.id, other.permits) else { continue };
                let other = Claim { id, permits, ..claim.clone() };
                self.inner.release(&other).await?;
                self.inner.enqueue(&other).await?;
            }
        }
        if status == ClaimStatus::Waiting
            && self.bug == Bug::DropsWaiters
            && self.counted().is_multiple_of(50)
        {
            self.deaf().insert(claim.id);
            self.inner.release(&claim).await?;
        }
        Ok(self.told(&claim, status))
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        match self.bug {
            Bug::LosesWakeUps if self.counted().is_multiple_of(50) => {
                self.deaf().insert(claim.id);
                std::future::pending().await
            }
            Bug::DropsWaiters if self.deaf().contains(&claim.id) => std::future::pending().await,
            _ => Ok(self.inner.wait_for_change(claim).await?.map(|status| self.told(claim, status))),
        }
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        match self.bug {
            Bug::GrantsToAll | Bug::LetsInTheImpatient => {
                claims.iter().map(|claim| Ok(self.grant(claim))).collect()
            }
            Bug::ForgetsRenewals => {
                let mut answers = Vec::new();
                for claim in claims {
                    let entries = self.inner.inspect(&claim.name).await.unwrap_or_default();
                    let mine = entries.into_iter().find(|entry| entry.id == Some(claim.id));
                    let fencing_token = mine.map_or(1, |entry| entry.fencing_token);
                    let held = ClaimStatus::Held(Grant { fencing_token, expires: None, hold_ends: None });
                    answers.push(Ok(self.told(claim, held)));
                }
                answers
            }
            Bug::LosesWakeUps | Bug::DropsWaiters => {
                // Nor does a renewal tell.
                let told = claims.iter().zip(self.inner.renew(claims).await);
                let deaf = |claim: &Claim| self.deaf().contains(&claim.id);
                told.map(|(claim, answer)| if deaf(claim) { Ok(ClaimStatus::Waiting) } else { answer })
                    .collect()
            }
            Bug::RefusesRenewals => claims
                .iter()
                .map(|_| Err(Error::unavailable("a broken store", "it renews nothing")))
                .collect(),
            Bug::RevokesAtWill => {
                let told = claims.iter().zip(self.inner.renew(claims).await);
                let revoked = |answer: &Result<ClaimStatus>| {
                    matches!(answer, Ok(ClaimStatus::Held(_))) && self.counted().is_multiple_of(2)
                };
                told.map(|(_, answer)| if revoked(&answer) { Ok(ClaimStatus::Gone) } else { answer })
                    .collect()
            }
            _ => {
                let taken: Vec<_> = claims.iter().map(|claim| Arc::new(self.taken(claim))).collect();
                let answers = self.inner.renew(&taken).await;
                let told = claims.iter().zip(answers);
                told.map(|(claim, answer)| Ok(self.told(claim, answer?))).collect()
            }
        }
    }

    async fn session_lost_hint(&self) {
        self.inner.session_lost_hint().await;
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let left = self.inner.release(&self.taken(claim)).await?;
        if self.bug == Bug::LeavesForOthers
            && let Some(next) = self.inner.inspect(&claim.name).await?.into_iter().next()
            && let Some(id) = next.id
        {
            self.inner.release(&Claim { id, permits: next.permits, ..claim.clone() }).await?;
        }
        match self.bug {
            Bug::GrantsToAll | Bug::LetsInTheImpatient => Ok(Release::Released),
            _ => Ok(left),
        }
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.inner.inspect(name).await
    }

    fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>> {
        self.inner.names(prefix)
    }
}
