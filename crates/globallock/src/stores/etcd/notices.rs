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

use super::messages::{Compare, KeyValue, RangeRequest, RangeResponse, Request, RequestOp, TxnRequest};
use super::reading::{KEYS_PER_TRANSACTION, RANGE, ranges};
use super::{Shared, keys, operation};
use crate::backend::{Claim, ClaimId, ClaimStatus, Eviction};
use crate::error::{Error, Result};
use crate::stores::evictions::{Evictions, KEPT};
use crate::sync::Mutex;

/// How long an eviction is remembered whose claim has not been asked for yet, so that its lease is not known.
const UNASKED: Duration = Duration::from_secs(3600);

/// What one store knows of the evictions of its claims.
#[derive(Default)]
pub(super) struct Notices {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    evicted: Evictions,
    /// Whether a task watches the notices.
    is_watched: bool,
}

impl Notices {
    /// The status of a claim that is known to be evicted.
    fn status(&self, claim: &Claim) -> Option<ClaimStatus> {
        let mut state = self.state.lock();
        let eviction = state.evicted.get(&claim.id)?;
        state.evicted.prolong(&claim.id, claim.lease.saturating_add(KEPT));
        Some(ClaimStatus::Evicted(eviction))
    }

    /// Remembers the eviction of a claim; returns whether it is new.
    fn add(&self, id: ClaimId, text: &[u8]) -> bool {
        let eviction = Arc::new(Eviction::from_text(&String::from_utf8_lossy(text)));
        self.state.lock().evicted.note(id, eviction, UNASKED)
    }

    /// Takes the right to watch the notices; false if somebody has it.
    fn begin(&self) -> bool {
        !std::mem::replace(&mut self.state.lock().is_watched, true)
    }
}

impl Shared {
    /// Enqueues a claim, unless it was evicted.
    pub(super) async fn enqueue_unless_evicted(self: &Arc<Self>, claim: &Claim) -> Result<ClaimStatus> {
        if let Some(evicted) = self.notices.status(claim) {
            return Ok(evicted);
        }
        let status = self.enqueue_or_release(claim).await?;
        match &status {
            ClaimStatus::Held(_) | ClaimStatus::Waiting => self.watch_notices(claim),
            // A try that was released has no key any more. What else is gone was not found in the queue,
            // though it was not released.
            ClaimStatus::Gone if self.key_numbers.key(claim.id).is_some() => {
                if self.notices.status(claim).is_none() {
                    self.read_notices(&[claim]).await?;
                }
            }
            ClaimStatus::Gone | ClaimStatus::Evicted(_) => {}
        }
        Ok(self.notices.status(claim).unwrap_or(status))
    }

    /// Lets the transaction that enqueues a claim once more find the claim's notice instead.
    ///
    /// A first request does not look, because nobody can have evicted what never was in a queue. What is
    /// carried out twice of a request, or late, is stopped by the tombstone that the eviction puts.
    pub(super) fn unless_evicted(&self, claim: &Claim, request: &mut TxnRequest) {
        let notice = keys::notice(self.prefix(), &claim.name, claim.id);
        request.compare.push(Compare::created(notice.clone(), 0));
        request.failure.push(read(notice));
    }

    /// As `wait_for_change`, for claims that may be evicted.
    pub(super) async fn wait_for_change_or_eviction(
        self: &Arc<Self>,
        claim: &Claim,
    ) -> Result<Option<ClaimStatus>> {
        if let Some(evicted) = self.notices.status(claim) {
            return Ok(Some(evicted));
        }
        let was_known = self.positions().get(claim.id).is_some();
        let status = self.wait_for_change(claim).await?;
        if was_known && status == Some(ClaimStatus::Gone) && self.notices.status(claim).is_none() {
            // Without an answer the claim is gone: the core enqueues it again, which looks for the notice
            // too.
            let _ = self.read_notices(&[claim]).await;
        }
        Ok(self.notices.status(claim).or(status))
    }

    /// As `renew`, for claims that may be evicted.
    pub(super) async fn renew_or_find_evicted(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let again = |error: &Error| Error::unavailable(&self.connection.config().shown, error.to_string());
        let mut statuses: Vec<Result<ClaimStatus>> = match self.renew(claims).await {
            Ok(statuses) => statuses.into_iter().map(Ok).collect(),
            Err(error) => claims.iter().map(|_| Err(again(&error))).collect(),
        };
        let is_gone = |status: &Result<ClaimStatus>| matches!(status, Ok(ClaimStatus::Gone));
        let gone = claims.iter().zip(&statuses).filter(|(_, status)| is_gone(status));
        let gone = gone.filter(|(claim, _)| self.notices.status(claim).is_none());
        let gone: Vec<&Claim> = gone.map(|(claim, _)| claim.as_ref()).collect();
        // A holder that is gone asks no more. So it is told only when it is known why.
        if let Err(error) = self.read_notices(&gone).await {
            statuses.iter_mut().filter(|status| is_gone(status)).for_each(|gone| *gone = Err(again(&error)));
        }
        let told = |(claim, status): (&Arc<Claim>, _)| self.notices.status(claim).map_or(status, Ok);
        claims.iter().zip(statuses).map(told).collect()
    }

    /// Looks for the notices of these claims of this store, and remembers them.
    async fn read_notices(&self, claims: &[&Claim]) -> Result<()> {
        let key = |claim: &&Claim| keys::notice(self.prefix(), &claim.name, claim.id);
        match self.find_notices(claims.iter().map(key).collect()).await {
            Ok(found) => drop(self.note_evictions(&found)),
            // Without the right to read them, it stays unknown why a claim is gone.
            Err(Error::PermissionDenied { .. }) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn find_notices(&self, keys: Vec<Vec<u8>>) -> Result<Vec<KeyValue>> {
        let mut found = Vec::new();
        for keys in keys.chunks(KEYS_PER_TRANSACTION) {
            let success = keys.iter().cloned().map(read).collect();
            let answer = self.transaction(TxnRequest { success, ..TxnRequest::default() }).await?;
            found.extend(ranges(answer.responses).into_iter().flat_map(|range| range.kvs));
        }
        Ok(found)
    }

    /// Remembers the evictions of claims of this store; returns whether any is new.
    pub(super) fn note_evictions(&self, found: &[KeyValue]) -> bool {
        let mut any = false;
        for notice in found {
            if let Some((id, _)) = keys::noticed(self.prefix(), &notice.key) {
                any |= self.notices.add(id, &notice.value);
            }
        }
        any
    }

    /// Watches the notices in the background, from the revision on at which this claim joined, unless they
    /// are watched already. Signals `session_lost` for those of this store's holders.
    ///
    /// The watch is for speed only: the next renewal would find the notice too.
    fn watch_notices(self: &Arc<Self>, claim: &Claim) {
        let Some(joined) = self.positions().get(claim.id).map(|position| position.mine.revision) else {
            return;
        };
        if self.notices.begin() {
            tokio::spawn(follow_notices(Arc::downgrade(self), joined));
        }
    }

    /// Tells the core if any of these notices are of claims of this store that hold.
    ///
    /// A waiter needs no more than its own watch, and the core would renew all claims.
    fn tell(&self, mut found: Vec<KeyValue>) {
        found.retain(|notice| self.noticed_of_ours(&notice.key).is_some());
        let waits = |id| self.positions().get(id).is_some_and(|position| position.granted.is_none());
        let any_held = found.iter().filter_map(|kv| self.noticed_of_ours(&kv.key)).any(|id| !waits(id));
        if self.note_evictions(&found) && any_held {
            // All managers of this store: those that wait for it now, and one that will.
            self.session_lost.notify_one();
            self.session_lost.notify_waiters();
        }
    }

    /// The claim of a notice, if it is this store's.
    fn noticed_of_ours(&self, notice: &[u8]) -> Option<ClaimId> {
        let (id, queue) = keys::noticed(self.prefix(), notice)?;
        self.key_numbers.key(id)?.starts_with(queue.as_bytes()).then_some(id)
    }

    /// Looks for notices that were put after a revision, and returns the revision as of which it looked.
    async fn look_for_notices(&self, after: i64) -> Result<i64> {
        let start = keys::notices(self.prefix());
        let request = RangeRequest {
            range_end: keys::end(&start),
            key: start.into(),
            keys_only: true,
            min_create_revision: after + 1,
            ..RangeRequest::default()
        };
        let answer: RangeResponse = self.connection.unary(RANGE, request).await?;
        let found = answer.kvs.into_iter().map(|kv| kv.key);
        let ours = found.filter(|key| self.noticed_of_ours(key).is_some()).collect();
        self.tell(self.find_notices(ours).await?);
        Ok(answer.header.map_or(after, |header| header.revision))
    }
}

fn read(key: Vec<u8>) -> RequestOp {
    operation(Request::Range(RangeRequest { key, ..RangeRequest::default() }))
}

/// Watches the notices as long as the store exists and any of its leases lives.
async fn follow_notices(shared: Weak<Shared>, mut read_at: i64) {
    loop {
        let subscribe = |shared: Arc<Shared>| {
            let range = keys::notices(shared.prefix());
            shared.watches.subscribe_to_puts(&shared.connection, &range, read_at)
        };
        let Some(mut puts) = shared.upgrade().map(subscribe) else { return };
        while let Some(found) = puts.next().await {
            let Some(shared) = shared.upgrade() else { return };
            read_at = found.iter().map(|notice| notice.create_revision).fold(read_at, i64::max);
            shared.tell(found);
        }
        // The stream has ended, or the watch was refused: a notice may have been missed.
        drop(puts);
        let Some(shared) = shared.upgrade() else { return };
        {
            // Under this lock, so that a claim which joins meanwhile either is seen here, or finds that
            // nobody watches.
            let mut state = shared.notices.state.lock();
            if !shared.leases.any_is_alive() {
                state.is_watched = false;
                return;
            }
        }
        match shared.look_for_notices(read_at).await {
            Ok(as_of) => read_at = as_of,
            // It will not be allowed the next time either, and each watch that is refused ends the stream of
            // all.
            Err(Error::PermissionDenied { .. }) => return,
            Err(_) => {
                let pause = shared.connection.config().timeout;
                drop(shared);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
