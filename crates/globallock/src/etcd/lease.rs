//! The leases of one store: one for each length that its claims ask for, which is one as a rule.

use std::collections::HashMap;
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
    ttl: Duration,
    /// When the request was sent whose answer confirmed it last.
    confirmed: Instant,
}

impl Lease {
    /// Until when the cluster surely keeps it.
    pub(super) fn expires(&self) -> Instant {
        self.confirmed + self.ttl
    }

    fn is_alive(&self) -> bool {
        Instant::now() < self.expires()
    }

    /// Whether so much of it has gone by that a new claim must not rely on it.
    fn is_stale(&self) -> bool {
        self.confirmed.elapsed() * 3 > self.ttl
    }
}

/// The leases by their length in seconds.
#[derive(Default)]
pub(super) struct Leases {
    by_length: Mutex<HashMap<i64, Lease>>,
    /// One asks for a lease, the others wait for it.
    granting: tokio::sync::Mutex<()>,
}

impl Leases {
    fn by_length(&self) -> MutexGuard<'_, HashMap<i64, Lease>> {
        // No code panics while it holds the lock, so a poisoned map is still whole.
        self.by_length.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease for claims of this length, fresh enough to begin with.
    pub(super) async fn get(&self, link: &Arc<Link>, length: Duration) -> Result<Lease> {
        let seconds = seconds(length);
        let known = |leases: &Self| leases.by_length().get(&seconds).copied().filter(Lease::is_alive);
        if let Some(lease) = known(self).filter(|lease| !lease.is_stale()) {
            return Ok(lease);
        }
        let _one = self.granting.lock().await;
        match known(self) {
            Some(lease) if !lease.is_stale() => return Ok(lease),
            Some(lease) => {
                if let Some(lease) = self.keep_alive(link, lease.id).await? {
                    return Ok(lease);
                }
            }
            None => {}
        }
        let sent = Instant::now();
        let request = LeaseGrantRequest { ttl: seconds };
        let granted: LeaseGrantResponse = link.unary("/etcdserverpb.Lease/LeaseGrant", request).await?;
        let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
        let lease = Lease { id: granted.id, ttl, confirmed: sent };
        self.by_length().insert(seconds, lease);
        Ok(lease)
    }

    /// The lease with this id, as far as it is known to live.
    pub(super) fn find(&self, id: i64) -> Option<Lease> {
        self.by_length().values().find(|lease| lease.id == id).copied().filter(Lease::is_alive)
    }

    /// Gives the lease its whole length from now; `None` if it is gone.
    pub(super) async fn keep_alive(&self, link: &Arc<Link>, id: i64) -> Result<Option<Lease>> {
        let sent = Instant::now();
        let asked = async {
            let request = stream::once(std::future::ready(LeaseRequest { id }));
            let mut answers = link.stream("/etcdserverpb.Lease/LeaseKeepAlive", request).await?;
            let answer: Option<LeaseResponse> = answers.message().await?;
            answer.ok_or_else(|| tonic::Status::unavailable("it ended the keep-alive without an answer"))
        };
        let answer = tokio::time::timeout(link.config().timeout, asked).await;
        let answer = answer
            .unwrap_or_else(|_| {
                Err(tonic::Status::deadline_exceeded("it did not answer a keep-alive in time"))
            })
            .map_err(|status| link.error(status))?;
        let mut leases = self.by_length();
        if answer.ttl <= 0 {
            leases.retain(|_, lease| lease.id != id);
            return Ok(None);
        }
        let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
        let lease = leases.values_mut().find(|lease| lease.id == id);
        Ok(lease.map(|lease| {
            // An answer that comes late must not take back what a later request has confirmed.
            if sent + ttl > lease.expires() {
                *lease = Lease { id, ttl, confirmed: sent };
            }
            *lease
        }))
    }

    /// Gives up all leases, and with them all claims.
    pub(super) fn take_all(&self) -> Vec<i64> {
        self.by_length().drain().map(|(_, lease)| lease.id).collect()
    }
}

/// Whole seconds, which is how the cluster counts.
fn seconds(length: Duration) -> i64 {
    let whole = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    i64::try_from(whole).unwrap_or(i64::MAX).max(1)
}
