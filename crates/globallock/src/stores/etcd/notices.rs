//! Notices of evictions, by which the owner of a claim learns that an onlooker took it out.
//!
//! An eviction puts a notice in the transaction that deletes the claim's key. The owner finds it so:
//!
//! | who | what makes it look |
//! |---|---|
//! | a waiter | the watch of its own key, which says that the key is gone |
//! | a holder | one watch of all notices, which each store has while any of its leases lives |
//! | who was cut off | the next renewal, which finds the key gone, or the next try to enqueue the claim |
//!
//! A notice is attached to a lease that nobody renews, so that it expires by itself.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::claims::Claims;
use super::connection::Connection;
use super::key_reads::{KEYS_PER_TRANSACTION, value_request};
use super::keys;
use super::lease::Leases;
use super::messages::{Compare, KeyValue, RangeRequest, TxnRequest};
use super::reading::ranges;
use super::watch::Watches;
use crate::backend::{Claim, ClaimId, ClaimStatus, Eviction};
use crate::error::{Error, Result};
use crate::stores::evictions::{Evictions, KEPT};
use crate::sync::{Mutex, Notify};

/// How long an eviction is remembered whose claim has not been asked for yet, so that its lease is not known.
const UNASKED: Duration = Duration::from_secs(3600);

/// What one store knows of the evictions of its claims.
pub(super) struct Notices {
    pub(super) connection: Arc<Connection>,
    pub(super) watches: Arc<Watches>,
    pub(super) leases: Arc<Leases>,
    pub(super) claims: Arc<Claims>,
    /// Notified when a claim that holds is found to be evicted.
    pub(super) lost: Arc<Notify>,
    pub(super) state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    evicted: Evictions,
    /// Whether a task watches the notices.
    is_watched: bool,
}

impl Notices {
    fn prefix(&self) -> &str {
        &self.connection.config().prefix
    }

    /// The status of a claim that is known to be evicted.
    pub(super) fn status(&self, claim: &Claim) -> Option<ClaimStatus> {
        let mut state = self.state.lock();
        let eviction = state.evicted.get(&claim.id)?;
        state.evicted.prolong(&claim.id, claim.lease.saturating_add(KEPT));
        Some(ClaimStatus::Evicted(eviction))
    }

    /// Lets the transaction that enqueues a claim once more find the claim's notice instead.
    ///
    /// A first request does not look, because nobody can have evicted what never was in a queue. What is
    /// carried out twice of a request, or late, is stopped by the tombstone that the eviction puts.
    pub(super) fn unless_evicted(&self, claim: &Claim, request: &mut TxnRequest) {
        let notice = keys::notice(self.prefix(), &claim.name, claim.id);
        request.compare.push(Compare::created(notice.clone(), 0));
        request.failure.push(value_request(notice));
    }

    /// Looks for the notices of these claims of this store, and remembers them.
    pub(super) async fn look_for(&self, claims: &[&Claim]) -> Result<()> {
        let key = |claim: &&Claim| keys::notice(self.prefix(), &claim.name, claim.id);
        match self.find(claims.iter().map(key).collect()).await {
            Ok(found) => drop(self.note(&found)),
            // Without the right to read them, it stays unknown why a claim is gone.
            Err(Error::PermissionDenied { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn find(&self, keys: Vec<Vec<u8>>) -> Result<Vec<KeyValue>> {
        let mut found = Vec::new();
        for keys in keys.chunks(KEYS_PER_TRANSACTION) {
            let reads = keys.iter().cloned().map(value_request).collect();
            let answer = self.connection.unary(TxnRequest::of(reads)).await?;
            found.extend(ranges(answer.responses).into_iter().flat_map(|range| range.kvs));
        }
        Ok(found)
    }

    /// Remembers the evictions of claims of this store; returns whether any is new.
    pub(super) fn note(&self, found: &[KeyValue]) -> bool {
        let mut any = false;
        for notice in found {
            if let Some((id, _)) = keys::noticed(self.prefix(), &notice.key) {
                let eviction = Arc::new(Eviction::from_text(&String::from_utf8_lossy(&notice.value)));
                any |= self.state.lock().evicted.note(id, eviction, UNASKED);
            }
        }
        any
    }

    /// Watches the notices in the background, from the revision on at which this claim joined, unless they
    /// are watched already. Signals `lost` for those of this store's holders.
    ///
    /// The watch is for speed only: the next renewal would find the notice too.
    pub(super) fn watch(self: &Arc<Self>, claim: &Claim) {
        let Some(joined) = self.claims.with(claim.id, |position| position.mine.revision) else { return };
        if !std::mem::replace(&mut self.state.lock().is_watched, true) {
            tokio::spawn(follow(Arc::downgrade(self), joined));
        }
    }

    /// Tells the core if any of these notices are of claims of this store that hold.
    ///
    /// A waiter needs no more than its own watch, and the core would renew all claims.
    fn tell(&self, mut found: Vec<KeyValue>) {
        found.retain(|notice| self.of_ours(&notice.key).is_some());
        let holds = |id| self.claims.with(id, |position| position.granted.is_some()).unwrap_or(true);
        let any_held = found.iter().filter_map(|kv| self.of_ours(&kv.key)).any(holds);
        if self.note(&found) && any_held {
            // All managers of this store: those that wait for it now, and one that will.
            self.lost.notify_one();
            self.lost.notify_waiters();
        }
    }

    /// The claim of a notice, if it is this store's.
    fn of_ours(&self, notice: &[u8]) -> Option<ClaimId> {
        let (id, queue) = keys::noticed(self.prefix(), notice)?;
        self.claims.key(id)?.starts_with(queue.as_bytes()).then_some(id)
    }

    /// Looks for notices that were put after a revision, and returns the revision as of which it looked.
    async fn look_for_missed(&self, after: i64) -> Result<i64> {
        let start = keys::notices(self.prefix());
        let request = RangeRequest {
            range_end: keys::end(&start),
            key: start.into(),
            keys_only: true,
            min_create_revision: after + 1,
            ..RangeRequest::default()
        };
        let answer = self.connection.unary(request).await?;
        let found = answer.kvs.into_iter().map(|kv| kv.key);
        let ours = found.filter(|key| self.of_ours(key).is_some()).collect();
        self.tell(self.find(ours).await?);
        Ok(answer.header.as_ref().map_or(after, |header| header.revision))
    }
}

/// Watches the notices as long as the store exists and any of its leases lives.
async fn follow(notices: Weak<Notices>, mut read_at: i64) {
    loop {
        let subscribe = |notices: Arc<Notices>| {
            let range = keys::notices(notices.prefix());
            notices.watches.subscribe_to_puts(&notices.connection, &range, read_at)
        };
        let Some(mut puts) = notices.upgrade().map(subscribe) else { return };
        while let Some(found) = puts.next().await {
            let Some(notices) = notices.upgrade() else { return };
            read_at = found.iter().map(|notice| notice.create_revision).fold(read_at, i64::max);
            notices.tell(found);
        }
        // The stream has ended, or the watch was refused: a notice may have been missed.
        drop(puts);
        let Some(notices) = notices.upgrade() else { return };
        {
            // Under this lock, so that a claim which joins meanwhile either is seen here, or finds that
            // nobody watches.
            let mut state = notices.state.lock();
            if !notices.leases.any_is_alive() {
                state.is_watched = false;
                return;
            }
        }
        match notices.look_for_missed(read_at).await {
            Ok(as_of) => read_at = as_of,
            // It will not be allowed the next time either, and each watch that is refused ends the stream of
            // all.
            Err(Error::PermissionDenied { .. }) => return,
            Err(_) => {
                let pause = notices.connection.config().timeout;
                drop(notices);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
