//! Stores with one bug each, for the checker to find.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use globallock::backend::{Backend, Claim, ClaimId, Departure, Entry, Grant, Patience, Profile, Standing};
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
            Bug::WritersRead if claim.share.capacity > 3 => claim.share.weight = 1,
            Bug::CountsClaims => claim.share.weight = claim.share.weight.min(1),
            _ => {}
        }
        claim
    }

    fn told(&self, claim: &Claim, standing: Standing) -> Standing {
        let Standing::Held(grant) = standing else { return standing };
        let fence = match self.bug {
            Bug::RepeatsTokens => 7,
            Bug::TokensFall => u64::MAX / 2 - grant.fence,
            Bug::TokensRestart => grant.fence % 200,
            Bug::SharesTokens if claim.share.weight < claim.share.capacity => grant.fence & !1,
            _ => grant.fence,
        };
        let expires = match self.bug {
            Bug::PromisesTooLong => grant.expires.map(|expires| expires + claim.lease * 4),
            Bug::ForgetsRenewals => Some(Instant::now() + claim.lease),
            _ => grant.expires,
        };
        Standing::Held(Grant { fence, expires, ..grant })
    }

    fn grant(&self, claim: &Claim) -> Standing {
        let fence = u64::MAX / 4 + self.counted();
        Standing::Held(Grant { fence, expires: Some(Instant::now() + claim.lease), hold_ends: None })
    }
}

#[async_trait]
impl Backend for Broken {
    fn profile(&self) -> Profile {
        self.inner.profile()
    }

    async fn join(&self, claim: &Claim) -> Result<Standing> {
        if self.bug == Bug::GrantsToAll
            || self.bug == Bug::LetsInTheImpatient && claim.patience == Patience::Once
        {
            return Ok(self.grant(claim));
        }
        let claim = self.taken(claim);
        let others = self.inner.inspect(&claim.name).await?;
        let standing = self.inner.join(&claim).await?;
        if standing == Standing::Waiting && self.bug == Bug::NewestFirst {
            for other in others.into_iter().filter(|other| !other.held && other.id != Some(claim.id)) {
                let (Some(id), share) = (other.id, other.share) else { continue };
                let other = Claim { id, share, ..claim.clone() };
                self.inner.leave(&other).await?;
                self.inner.join(&other).await?;
            }
        }
        if standing == Standing::Waiting && self.bug == Bug::DropsWaiters && self.counted().is_multiple_of(50)
        {
            self.deaf().insert(claim.id);
            self.inner.leave(&claim).await?;
        }
        Ok(self.told(&claim, standing))
    }

    async fn changed(&self, claim: &Claim) -> Result<Option<Standing>> {
        match self.bug {
            Bug::LosesWakeUps if self.counted().is_multiple_of(50) => {
                self.deaf().insert(claim.id);
                std::future::pending().await
            }
            Bug::DropsWaiters if self.deaf().contains(&claim.id) => std::future::pending().await,
            _ => Ok(self.inner.changed(claim).await?.map(|standing| self.told(claim, standing))),
        }
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<Standing>> {
        match self.bug {
            Bug::GrantsToAll | Bug::LetsInTheImpatient => {
                claims.iter().map(|claim| Ok(self.grant(claim))).collect()
            }
            Bug::ForgetsRenewals => {
                let mut answers = Vec::new();
                for claim in claims {
                    let entries = self.inner.inspect(&claim.name).await.unwrap_or_default();
                    let mine = entries.into_iter().find(|entry| entry.id == Some(claim.id));
                    let fence = mine.map_or(1, |entry| entry.fence);
                    let held = Standing::Held(Grant { fence, expires: None, hold_ends: None });
                    answers.push(Ok(self.told(claim, held)));
                }
                answers
            }
            Bug::LosesWakeUps | Bug::DropsWaiters => {
                // Nor does a renewal tell.
                let told = claims.iter().zip(self.inner.renew(claims).await);
                let deaf = |claim: &Claim| self.deaf().contains(&claim.id);
                told.map(|(claim, answer)| if deaf(claim) { Ok(Standing::Waiting) } else { answer }).collect()
            }
            Bug::RefusesRenewals => claims
                .iter()
                .map(|_| Err(Error::unavailable("a broken store", "it renews nothing")))
                .collect(),
            Bug::RevokesAtWill => {
                let told = claims.iter().zip(self.inner.renew(claims).await);
                let revoked = |answer: &Result<Standing>| {
                    matches!(answer, Ok(Standing::Held(_))) && self.counted().is_multiple_of(2)
                };
                told.map(|(_, answer)| if revoked(&answer) { Ok(Standing::Gone) } else { answer }).collect()
            }
            _ => {
                let taken: Vec<_> = claims.iter().map(|claim| Arc::new(self.taken(claim))).collect();
                let answers = self.inner.renew(&taken).await;
                let told = claims.iter().zip(answers);
                told.map(|(claim, answer)| Ok(self.told(claim, answer?))).collect()
            }
        }
    }

    async fn disturbed(&self) {
        self.inner.disturbed().await;
    }

    async fn leave(&self, claim: &Claim) -> Result<Departure> {
        let left = self.inner.leave(&self.taken(claim)).await?;
        if self.bug == Bug::LeavesForOthers
            && let Some(next) = self.inner.inspect(&claim.name).await?.into_iter().next()
            && let Some(id) = next.id
        {
            self.inner.leave(&Claim { id, share: next.share, ..claim.clone() }).await?;
        }
        match self.bug {
            Bug::GrantsToAll | Bug::LetsInTheImpatient => Ok(Departure::Left),
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
