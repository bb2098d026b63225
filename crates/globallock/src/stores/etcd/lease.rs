//! The leases of one store: one for each lease length that its claims ask for. Usually there is only one.

use std::sync::Arc;
use std::time::Duration;

use super::connection::Connection;
use super::messages::{Header, LeaseGrantRequest, LeaseRequest};
use super::terms::{Terms, term};
use crate::deadline::margin;
use crate::error::Result;
use crate::stores::watched::by_length::at_hand_or_made;
use crate::sync::{Instant, Mutex, MutexGuard, Notify, now};

/// A lease that the cluster granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) id: i64,
    /// The length that was asked for, in seconds.
    length: i64,
    /// Whether new claims must be attached to another lease, so that this one ends with its present claims.
    draining: bool,
    /// Whether it is the lease of a single claim that is kept beyond its owner.
    is_own: bool,
    /// Whether the renewals of its claims keep it alive.
    is_renewed: bool,
    /// The length that the cluster granted.
    ttl: Duration,
    /// When the request was sent that confirmed the lease last.
    confirmed: Instant,
    /// The last keep-alive that was answered and is not confirmed.
    unconfirmed: Option<KeepAlive>,
}

/// A keep-alive that a member has answered.
///
/// Whether that member led the cluster, so that the lease lives on, is only known later: see `terms.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct KeepAlive {
    sent: Instant,
    ttl: Duration,
    term: u64,
}

impl Lease {
    /// A lease that the cluster granted by a request that was sent then.
    fn new(id: i64, length: i64, ttl: Duration, sent: Instant) -> Self {
        let (draining, is_own, is_renewed) = (false, false, true);
        Lease { id, length, draining, is_own, is_renewed, ttl, confirmed: sent, unconfirmed: None }
    }

    /// Whether it is the lease of a single claim that is kept beyond its owner.
    pub(super) fn is_own(&self) -> bool {
        self.is_own
    }

    /// Until when the cluster keeps it, also if the clocks on both sides run at different rates.
    pub(super) fn surely_lasts_until(&self) -> Instant {
        self.expires().checked_sub(margin(self.ttl)).unwrap_or(self.confirmed)
    }

    /// Until when the cluster certainly keeps it.
    ///
    /// Counted from before the request, because the cluster may have handled it at any time since.
    pub(super) fn expires(&self) -> Instant {
        self.confirmed + self.ttl
    }

    /// How long it lives after its last renewal.
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    fn is_alive(&self) -> bool {
        now() < self.expires()
    }

    /// Whether more than a third has passed since the last keep-alive, so that another is needed before a new
    /// claim is attached to it. One that is not confirmed yet will be by the request that enqueues the claim.
    fn is_stale(&self) -> bool {
        let last = self.unconfirmed.map_or(self.confirmed, |keep_alive| keep_alive.sent.max(self.confirmed));
        (now() - last) * 3 > self.ttl
    }
}

/// The leases that are alive, and those that expired by our clock since the last lease was added.
pub(super) struct Leases {
    pub(super) connection: Arc<Connection>,
    known: Mutex<Vec<Lease>>,
    terms: Terms,
    /// Held by the caller that asks the cluster; the others wait and use its lease.
    granting: tokio::sync::Mutex<()>,
    /// Notified when a lease is found to have ended.
    lost: Arc<Notify>,
}

impl Leases {
    pub(super) fn new(connection: Arc<Connection>, lost: Arc<Notify>) -> Self {
        let (known, terms, granting) = Default::default();
        Leases { connection, known, terms, granting, lost }
    }

    fn known(&self) -> MutexGuard<'_, Vec<Lease>> {
        self.known.lock()
    }

    /// Returns a lease of this length that is fresh enough for a new claim, and whether it is new.
    pub(super) async fn get(&self, length: Duration) -> Result<(Lease, bool)> {
        let length = seconds(length);
        let usable = |lease: &&Lease| lease.length == length && !lease.draining && lease.is_alive();
        let current = || self.known().iter().find(usable).copied();
        let fresh = || Some((current().filter(|lease| !lease.is_stale())?, false));
        let make = async {
            if let Some(stale) = current()
                && let Some(lease) = self.keep_alive(stale.id).await?
            {
                return Ok((lease, false));
            }
            let sent = now();
            let granted = self.connection.unary(LeaseGrantRequest { ttl: length }).await?;
            let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
            self.terms.note(granted.header.as_ref(), sent);
            let lease = Lease::new(granted.id, length, ttl, sent);
            self.add(lease);
            Ok((lease, true))
        };
        at_hand_or_made(&self.granting, fresh, make).await
    }

    /// Makes a lease that surely lasts until then, for a single claim. It is not kept alive, because each
    /// keep-alive would give it its whole length again.
    pub(super) async fn own(&self, until: Instant) -> Result<Lease> {
        let sent = now();
        let rest = until.saturating_duration_since(sent);
        // With the margin of the whole, which `surely_lasts_until` takes off.
        let length = seconds(rest + rest / 255 + Duration::from_millis(3));
        let granted = self.connection.unary(LeaseGrantRequest { ttl: length }).await?;
        let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
        self.terms.note(granted.header.as_ref(), sent);
        let lease = Lease::new(granted.id, length, ttl, sent);
        let lease = Lease { draining: true, is_own: true, is_renewed: false, ..lease };
        self.add(lease);
        Ok(lease)
    }

    /// Has a claim's own lease kept alive by the renewals of the claim, from now on.
    pub(super) fn renew_own(&self, id: i64) {
        self.known().iter_mut().filter(|lease| lease.id == id).for_each(|lease| lease.is_renewed = true);
    }

    /// Whether the renewals of a lease's claims keep it alive. One that is not known is asked for, which
    /// tells whether it has ended.
    pub(super) fn is_renewed(&self, id: i64) -> bool {
        self.known().iter().find(|lease| lease.id == id).is_none_or(|lease| lease.is_renewed)
    }

    fn add(&self, lease: Lease) {
        let mut known = self.known();
        known.retain(Lease::is_alive);
        known.push(lease);
    }

    /// Adds a lease without a request.
    #[cfg(test)]
    pub(super) fn pretend(&self, id: i64) {
        let ttl = Duration::from_secs(60);
        self.terms.note(None, now());
        self.add(Lease::new(id, 60, ttl, now()));
    }

    /// Lets a lease expire by our clock.
    #[cfg(test)]
    pub(super) fn pretend_expired(&self, id: i64) {
        self.known().iter_mut().filter(|lease| lease.id == id).for_each(|lease| lease.ttl = Duration::ZERO);
    }

    /// Removes a lease that the cluster has ended.
    pub(super) fn forget(&self, id: i64) {
        self.known().retain(|lease| lease.id != id);
    }

    /// Removes a lease that the cluster has ended, and has its claims checked.
    pub(super) fn ended(&self, id: i64) {
        self.forget(id);
        self.lost.notify_one();
    }

    /// Keeps new claims from this lease, so that it ends with the claims that are attached to it now.
    pub(super) fn drain(&self, id: i64) {
        if let Some(lease) = self.known().iter_mut().find(|lease| lease.id == id) {
            lease.draining = true;
        }
    }

    /// The lease with this id, if it is certainly alive.
    pub(super) fn find(&self, id: i64) -> Option<Lease> {
        self.known().iter().find(|lease| lease.id == id).copied().filter(Lease::is_alive)
    }

    /// Of those of these leases that are certainly alive, the first to end.
    pub(super) fn first_to_end(&self, ids: impl Iterator<Item = i64>) -> Option<Lease> {
        ids.filter_map(|id| self.find(id)).min_by_key(Lease::expires)
    }

    /// Whether any lease is certainly alive.
    pub(super) fn any_is_alive(&self) -> bool {
        self.known().iter().any(Lease::is_alive)
    }

    /// Whether this lease may be alive.
    ///
    /// A lease that has expired by our clock counts too: an answer that comes late may still confirm it.
    pub(super) fn may_be_alive(&self, id: i64) -> bool {
        self.known().iter().any(|lease| lease.id == id)
    }

    /// Renews a lease for its whole length. `None` if the cluster has ended it.
    ///
    /// The answer counts only once it is [confirmed](Self::confirm).
    pub(super) async fn keep_alive(&self, id: i64) -> Result<Option<Lease>> {
        let mut unconfirmed = None;
        for _ in 0..2 {
            let sent = now();
            let answer = self.connection.first_answer(LeaseRequest { id }).await?;
            if answer.ttl <= 0 {
                self.forget(id);
                return Ok(None);
            }
            let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
            // In a term that is new to us, it may have been elected or deposed meanwhile: it is asked again.
            if self.terms.note(answer.header.as_ref(), sent) {
                unconfirmed = Some(KeepAlive { sent, ttl, term: term(answer.header.as_ref()) });
                break;
            }
        }
        let mut known = self.known();
        Ok(known.iter_mut().find(|lease| lease.id == id).map(|lease| {
            // A late answer does not take the place of that to a later request.
            let latest = lease.unconfirmed.into_iter().chain(unconfirmed);
            lease.unconfirmed = latest.max_by_key(|keep_alive| keep_alive.sent);
            Lease { unconfirmed, ..*lease }
        }))
    }

    /// Takes into account what the cluster answered, in this header, to a request that was sent after the
    /// keep-alive of `kept` had been answered; returns whether that confirms the keep-alive.
    ///
    /// It must be a request that the cluster agreed on: a write or a linearizable read.
    pub(super) fn confirm(&self, kept: &Lease, header: Option<&Header>) -> bool {
        self.terms.note(header, now());
        let Some(KeepAlive { sent, ttl, term: kept_in }) = kept.unconfirmed else { return false };
        let counts = kept_in == term(header);
        if let Some(lease) = self.known().iter_mut().find(|lease| lease.id == kept.id) {
            // A late answer must not shorten what a later request has confirmed.
            if counts && sent + ttl > lease.expires() {
                (lease.confirmed, lease.ttl) = (sent, ttl);
            }
            lease.unconfirmed = lease.unconfirmed.filter(|other| other.sent > sent);
        }
        counts
    }

    /// Removes and returns all leases, to be revoked; not those of claims that are kept beyond their owners.
    pub(super) fn take_all(&self) -> Vec<i64> {
        self.known().drain(..).filter(|lease| !lease.is_own).map(|lease| lease.id).collect()
    }
}

/// Rounds up to whole seconds, because the cluster counts in those.
fn seconds(length: Duration) -> i64 {
    let whole = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    i64::try_from(whole).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests;
