//! The leases of one store: one for each length that its claims ask for, which is one as a rule.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream;

use super::link::Link;
use super::messages::{LeaseGrantRequest, LeaseGrantResponse, LeaseRequest, LeaseResponse};
use crate::error::Result;

/// A lease that the cluster granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) id: i64,
    /// What was asked for, in seconds.
    length: i64,
    /// Whether new claims shall hang on another.
    retired: bool,
    ttl: Duration,
    /// When the request was sent whose answer confirmed it last.
    confirmed: Instant,
}

impl Lease {
    /// Until when the cluster surely keeps it.
    pub(super) fn expires(&self) -> Instant {
        self.confirmed + self.ttl
    }

    /// How long it lives without a sign of life.
    pub(super) fn length(&self) -> Duration {
        self.ttl
    }

    fn is_alive(&self) -> bool {
        Instant::now() < self.expires()
    }

    /// Whether so much of it has gone by that a new claim must not rely on it.
    fn is_stale(&self) -> bool {
        self.confirmed.elapsed() * 3 > self.ttl
    }
}

/// The leases that are known to live, and those that have died since somebody last looked.
#[derive(Default)]
pub(super) struct Leases {
    known: Mutex<Vec<Lease>>,
    /// One asks for a lease, the others wait for it.
    granting: tokio::sync::Mutex<()>,
}

impl Leases {
    fn known(&self) -> MutexGuard<'_, Vec<Lease>> {
        // No code panics while it holds the lock, so a poisoned list is still whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease for claims of this length, fresh enough to begin with, and whether it is a new one.
    pub(super) async fn get(&self, link: &Arc<Link>, length: Duration) -> Result<(Lease, bool)> {
        let length = seconds(length);
        let usable = |lease: &&Lease| lease.length == length && !lease.retired && lease.is_alive();
        let current = || self.known().iter().find(usable).copied();
        if let Some(lease) = current().filter(|lease| !lease.is_stale()) {
            return Ok((lease, false));
        }
        let _one = self.granting.lock().await;
        match current() {
            Some(lease) if !lease.is_stale() => return Ok((lease, false)),
            Some(lease) => {
                if let Some(lease) = self.keep_alive(link, lease.id).await? {
                    return Ok((lease, false));
                }
            }
            None => {}
        }
        let sent = Instant::now();
        let request = LeaseGrantRequest { ttl: length };
        let granted: LeaseGrantResponse = link.unary("/etcdserverpb.Lease/LeaseGrant", request).await?;
        let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
        let lease = Lease { id: granted.id, length, retired: false, ttl, confirmed: sent };
        self.add(lease);
        Ok((lease, true))
    }

    fn add(&self, lease: Lease) {
        let mut known = self.known();
        known.retain(Lease::is_alive);
        known.push(lease);
    }

    /// Has a lease that nobody asked for.
    #[cfg(test)]
    pub(super) fn pretend(&self, id: i64) {
        let ttl = Duration::from_secs(60);
        self.add(Lease { id, length: 60, retired: false, ttl, confirmed: Instant::now() });
    }

    /// Has it last no longer, as far as is known.
    #[cfg(test)]
    pub(super) fn pretend_over(&self, id: i64) {
        self.known().iter_mut().filter(|lease| lease.id == id).for_each(|lease| lease.ttl = Duration::ZERO);
    }

    /// Forgets a lease that the cluster has ended.
    pub(super) fn forget(&self, id: i64) {
        self.known().retain(|lease| lease.id != id);
    }

    /// Has new claims hang on another lease, so that this one ends with the claims that hang on it now.
    pub(super) fn retire(&self, id: i64) {
        if let Some(lease) = self.known().iter_mut().find(|lease| lease.id == id) {
            lease.retired = true;
        }
    }

    /// The lease with this id, as far as it is known to live.
    pub(super) fn find(&self, id: i64) -> Option<Lease> {
        self.known().iter().find(|lease| lease.id == id).copied().filter(Lease::is_alive)
    }

    /// Whether an answer may yet confirm this lease, though it may be over by now.
    pub(super) fn may_live_on(&self, id: i64) -> bool {
        self.known().iter().any(|lease| lease.id == id)
    }

    /// Gives the lease its whole length from now; `None` if it is gone.
    pub(super) async fn keep_alive(&self, link: &Arc<Link>, id: i64) -> Result<Option<Lease>> {
        let ask = async || {
            let sent = Instant::now();
            let request = stream::once(std::future::ready(LeaseRequest { id }));
            let mut answers = link.stream("/etcdserverpb.Lease/LeaseKeepAlive", request).await?;
            let answer: Option<LeaseResponse> = answers.message().await?;
            let ended = || tonic::Status::unavailable("it ended the keep-alive without an answer");
            Ok::<_, tonic::Status>((sent, answer.ok_or_else(ended)?))
        };
        let asked = async {
            let token = link.token();
            match ask().await {
                Err(status) if link.has_new_token(&status, token).await? => ask().await,
                answer => answer,
            }
        };
        let answer = tokio::time::timeout(link.config().timeout, asked).await;
        let (sent, answer) = answer
            .unwrap_or_else(|_| {
                Err(tonic::Status::deadline_exceeded("it did not answer a keep-alive in time"))
            })
            .map_err(|status| link.error(status))?;
        let mut known = self.known();
        if answer.ttl <= 0 {
            drop(known);
            self.forget(id);
            return Ok(None);
        }
        let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
        let lease = known.iter_mut().find(|lease| lease.id == id);
        Ok(lease.map(|lease| {
            // An answer that comes late must not take back what a later request has confirmed.
            if sent + ttl > lease.expires() {
                *lease = Lease { ttl, confirmed: sent, ..*lease };
            }
            *lease
        }))
    }

    /// Gives up all leases, and with them all claims.
    pub(super) fn take_all(&self) -> Vec<i64> {
        self.known().drain(..).map(|lease| lease.id).collect()
    }
}

/// Whole seconds, which is how the cluster counts.
fn seconds(length: Duration) -> i64 {
    let whole = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    i64::try_from(whole).unwrap_or(i64::MAX).max(1)
}
