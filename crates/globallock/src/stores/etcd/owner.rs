//! What the owners of claims do: a claim's life, from its first request until it is released.
//!
//! - To enqueue takes one transaction, which puts the key and reads what the claim must know of its queue.
//! - A waiter watches the keys of its blockers, and its own. A deletion that the watch notified can grant it
//!   without another request. Where a notification may have been missed, the keys or the queue are read.
//! - A renewal keeps the few leases alive, and reads whether the keys still exist.
//! - A release deletes the key: see `release.rs`.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::{Notify, Semaphore};

use super::claims::{Claims, Position};
use super::connection::{Connection, is_lease_expired};
use super::enqueue::{Found, put_or_find};
use super::key_reads::{KeyReads, read_keys};
use super::keys::QueueEntry;
use super::lease::{Lease, Leases};
use super::messages::KeyValue;
use super::notices::Notices;
use super::python_etcd3::{Attempt, PythonEtcd3};
use super::reading::{QueueView, Queues};
use super::release::{Releaser, delete_if_same};
use super::sentinel::watch_lease;
use super::values::{also_read, value};
use super::watch::Watches;
use crate::backend::{Claim, ClaimStatus, Release, Value, WaitMode};
use crate::error::{Error, Result};
use crate::stores::watched::ahead::Ahead;
use crate::stores::watched::releases;
use crate::sync::{Mutex, now};

/// How many claims of one store are enqueued at the same time, and how many waiting claims are released.
///
/// A leader that is more than a second behind in applying what the cluster agreed on refuses to renew leases.
/// Thousands of requests at once could cause that, and holders would lose their locks.
pub(super) const MAX_CONCURRENT: usize = 32;

/// How often a renewal is tried at once. A leader that has been elected meanwhile fails one.
const RENEWALS: usize = 3;

/// The parts of the store; tasks that outlive a call share them.
pub(super) struct Shared {
    pub(super) connection: Arc<Connection>,
    pub(super) leases: Arc<Leases>,
    pub(super) watches: Arc<Watches>,
    pub(super) key_reads: Arc<KeyReads>,
    pub(super) queues: Queues,
    pub(super) claims: Arc<Claims>,
    pub(super) python_etcd3: Arc<PythonEtcd3>,
    pub(super) notices: Arc<Notices>,
    pub(super) releaser: Arc<Releaser>,
    /// Limits how many claims are enqueued at the same time.
    pub(super) enqueue_limit: Arc<Semaphore>,
    /// Notified when a lease is found to have ended, or a claim to be evicted, before a renewal says so.
    pub(super) session_lost: Arc<Notify>,
}

/// The deletions of watched keys that a claim has learned of.
struct Deletions {
    /// The deleted keys.
    keys: Vec<Vec<u8>>,
    /// The revision as of which they are known.
    as_of: i64,
    /// Whether every deletion until then was notified, in the order in which they happened.
    none_missed: bool,
}

impl Shared {
    pub(super) fn new(connection: Connection) -> Self {
        let connection = Arc::new(connection);
        let session_lost = Arc::new(Notify::new());
        let watches = Arc::<Watches>::default();
        let leases = Arc::new(Leases::new(Arc::clone(&connection), Arc::clone(&session_lost)));
        let claims = Arc::new(Claims::new(Arc::clone(&leases)));
        let python_etcd3 = Arc::new(PythonEtcd3::new(Arc::clone(&connection)));
        Shared {
            notices: Arc::new(Notices {
                connection: Arc::clone(&connection),
                watches: Arc::clone(&watches),
                leases: Arc::clone(&leases),
                claims: Arc::clone(&claims),
                lost: Arc::clone(&session_lost),
                state: Mutex::default(),
            }),
            releaser: Arc::new(Releaser {
                connection: Arc::clone(&connection),
                claims: Arc::clone(&claims),
                python_etcd3: Arc::clone(&python_etcd3),
                limit: Semaphore::new(MAX_CONCURRENT),
            }),
            key_reads: Arc::new(KeyReads::new(Arc::clone(&connection))),
            queues: Queues::new(Arc::clone(&connection)),
            enqueue_limit: Arc::new(Semaphore::new(MAX_CONCURRENT)),
            connection,
            leases,
            watches,
            claims,
            python_etcd3,
            session_lost,
        }
    }

    fn prefix(&self) -> &str {
        &self.connection.config().prefix
    }

    /// Enqueues a claim, unless it was evicted.
    pub(super) async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        if let Some(evicted) = self.notices.status(claim) {
            return Ok(evicted);
        }
        let mut value = None;
        let status = self.enqueue_or_release(claim, &mut value).await?;
        match &status {
            ClaimStatus::Held(_) | ClaimStatus::Waiting => self.notices.watch(claim),
            // A try that was released has no key any more. What else is gone was not found in the queue,
            // though it was not released.
            ClaimStatus::Gone if self.claims.key(claim.id).is_some() => {
                if self.notices.status(claim).is_none() {
                    self.notices.look_for(&[claim]).await?;
                }
                if self.notices.status(claim).is_none() && claim.wait_mode == WaitMode::Try {
                    // Nobody else releases a try that is gone.
                    self.release(claim).await?;
                }
            }
            ClaimStatus::Gone | ClaimStatus::Evicted(_) => {}
        }
        let status = self.notices.status(claim).unwrap_or(status);
        self.with_value(claim, status, value).await
    }

    /// Enqueues a claim, and releases it again if it would have to wait and is only a try. `value` gets what
    /// the transaction that granted it has read.
    pub(super) async fn enqueue_or_release(
        &self,
        claim: &Claim,
        value: &mut Option<Option<Value>>,
    ) -> Result<ClaimStatus> {
        // An earlier try had to wait and its release was not answered. That release may still arrive and
        // delete the key, so the claim must not be reported as held, even if it holds by now.
        let is_being_released = self.claims.with_background_release(claim.id, |task| task.is_some());
        if is_being_released != Some(true) {
            let status = self.join(claim, value).await?;
            if status != ClaimStatus::Waiting || claim.wait_mode != WaitMode::Try {
                return Ok(status);
            }
        }
        self.release(claim).await?;
        Ok(ClaimStatus::Gone)
    }

    #[cfg(test)]
    pub(super) async fn enqueue_once(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.enqueue_or_release(claim, &mut None).await
    }

    async fn join(&self, claim: &Claim, value: &mut Option<Option<Value>>) -> Result<ClaimStatus> {
        let key = self.claims.take_key(self.prefix(), claim);
        loop {
            let (lease, is_new) = self.leases.get(claim.lease).await?;
            if is_new {
                watch_lease(&self.leases, &self.watches, lease);
            }
            match self.join_under(claim, &key, &lease, value).await {
                // The lease has expired, and nothing has notified us of it yet.
                Err(error) if is_lease_expired(&error) => {
                    self.leases.ended(lease.id);
                    if is_new {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    async fn join_under(
        &self,
        claim: &Claim,
        key: &[u8],
        under: &Lease,
        granted_with: &mut Option<Option<Value>>,
    ) -> Result<ClaimStatus> {
        let lease = under.id;
        let with_interop = self.connection.config().python_etcd3;
        let behind = if with_interop { None } else { self.claims.behind(claim) };
        let again = self.claims.may_have_joined(claim.id);
        let sent = now();
        let mut request = put_or_find(self.prefix(), claim, key, lease, behind.as_ref());
        self.python_etcd3.also_take(claim, lease, &mut request);
        if again {
            self.notices.unless_evicted(claim, &mut request);
        }
        if claim.wants_value {
            also_read(self.prefix(), claim, &mut request);
        }
        let (answer, unanswered) = self.connection.ask(request).await;
        if unanswered {
            self.leases.drain(lease);
        }
        if unanswered || answer.is_ok() {
            self.claims.requested(claim.id, lease, !unanswered);
        }
        let answer = answer?;
        self.leases.confirm(under, answer.header.as_ref());
        let found = Found::new(answer, again, claim.wants_value);
        if !found.notice.is_empty() {
            // If a request that came late has put the key again, the release that follows deletes it.
            self.notices.note(&found.notice);
            return Ok(self.claims.record_gone(claim, found.read_at));
        }
        let is_complete = self.python_etcd3.is_complete(claim, &found.python_etcd3);
        let created = found.mine.as_ref().map(|mine| mine.revision);
        let status = match (found.mine, found.queue) {
            (None, _) => self.claims.record_gone(claim, found.read_at),
            // The last claim of this store was still in front, so the queue was not read: its blockers are
            // known.
            (Some(mine), None) => {
                let unknown = || (Ahead::unknown(claim.permits), None);
                let (ahead, as_of) = behind.map_or_else(unknown, |behind| (behind.ahead, behind.read_at));
                let as_of = as_of.unwrap_or(found.read_at);
                self.claims.record_position(claim, &mine, ahead, as_of, is_complete, sent)
            }
            (Some(mine), Some(queue)) => {
                let claims = self.connection.config().claims(&queue.kvs);
                let view = QueueView::new(Some(mine.clone()), claims, !queue.more, found.read_at);
                let is_enough = view.is_whole || view.known(claim.permits).is_known();
                // What was read later, or is decided later, may come after another writing.
                if is_enough {
                    *granted_with = found.value.as_ref().map(value);
                }
                let view =
                    if is_enough { view } else { self.queues.view(claim, &mine, found.read_at).await? };
                self.claims.record_view(claim, &view, is_complete, sent)
            }
        };
        if status == ClaimStatus::Gone
            && let Some(revision) = created
        {
            // The key that was found is attached to an earlier lease, which has expired. It is deleted now,
            // so the next try joins at the end of the queue.
            let deletion = self.connection.unary(delete_if_same(key, revision)).await?;
            self.claims.record_deleted(claim.id);
            if deletion.succeeded {
                return Err(self
                    .connection
                    .error(tonic::Status::unavailable("the claim's lease had expired")));
            }
        }
        if status == ClaimStatus::Waiting && self.python_etcd3.key(claim).is_some() {
            *granted_with = None;
            return self.take_python_etcd3_key_now(claim, &found.python_etcd3).await;
        }
        Ok(status)
    }

    /// Takes the python-etcd3 key for a claim that has just joined at the head of the queue, if the
    /// transaction did not.
    ///
    /// This is needed for nested names. To join `a`, the transaction compares that no key exists below `a/`.
    /// The python-etcd3 key of `a/b` is such a key, though it is no claim of `a`.
    async fn take_python_etcd3_key_now(&self, claim: &Claim, found: &[KeyValue]) -> Result<ClaimStatus> {
        let Some(position) = self.claims.position(claim.id) else { return Ok(ClaimStatus::Gone) };
        let is_taken = found.iter().any(|kv| Some(&kv.key) == self.python_etcd3.key(claim).as_ref());
        if !is_taken && position.ahead.surely_holds() {
            self.try_python_etcd3_key(claim, &position).await?;
        }
        Ok(self.claims.status(claim))
    }

    /// Tries once to take the python-etcd3 key for a claim, and records the outcome.
    async fn try_python_etcd3_key(&self, claim: &Claim, position: &Position) -> Result<Attempt> {
        let attempt = self.python_etcd3.try_take(claim, position).await?;
        match &attempt {
            Attempt::Ours(sent) => {
                self.claims.with(claim.id, |position| {
                    position.is_complete = true;
                    position.granted.get_or_insert(*sent);
                });
            }
            Attempt::LeaseExpired => {
                self.leases.ended(position.mine.lease);
                self.claims.record_deleted(claim.id);
            }
            Attempt::Gone => self.claims.record_deleted(claim.id),
            Attempt::Taken(..) | Attempt::Free => {}
        }
        Ok(attempt)
    }

    /// Waits until the status of a waiter has changed, or it is found to be evicted.
    pub(super) async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        if let Some(evicted) = self.notices.status(claim) {
            return Ok(Some(evicted));
        }
        let was_known = self.claims.position(claim.id).is_some();
        let status = self.wait(claim).await?;
        if was_known && status == ClaimStatus::Gone && self.notices.status(claim).is_none() {
            // Without an answer the claim is gone: the core enqueues it again, which looks for the notice
            // too.
            let _ = self.notices.look_for(&[claim]).await;
        }
        let status = self.notices.status(claim).unwrap_or(status);
        Ok(Some(self.with_value(claim, status, None).await?))
    }

    pub(super) async fn wait(&self, claim: &Claim) -> Result<ClaimStatus> {
        loop {
            let Some(position) = self.claims.position(claim.id) else { return Ok(ClaimStatus::Gone) };
            if position.granted.is_some() {
                return Ok(self.claims.status(claim));
            }
            if position.ahead.surely_holds() {
                match self.try_python_etcd3_key(claim, &position).await? {
                    // Until the key may be free, or the claim's own is gone.
                    Attempt::Taken(key, read_at) => {
                        let watched = [key, position.mine.key].map(|key| (key, None));
                        let watched = self.watches.subscribe(&self.connection, watched, read_at);
                        watched.changes_within(claim.lease).await;
                    }
                    Attempt::Free => {}
                    Attempt::Ours(_) | Attempt::Gone | Attempt::LeaseExpired => {
                        return Ok(self.claims.status(claim));
                    }
                }
                continue;
            }
            let since = if position.ahead.is_known() {
                let Some(deletions) = self.wait_for_deletion(claim, &position).await? else { continue };
                if deletions.none_missed
                    && !deletions.keys.contains(&position.mine.key)
                    && let Some(status) = self.claims.advance(claim, &deletions.keys)
                {
                    return Ok(status);
                }
                deletions.as_of
            } else {
                position.read_at
            };
            // A snapshot that is not newer than what the claim has read would tell it nothing new.
            let since = since.max(position.read_at + 1);
            match self.read_again(claim, since).await? {
                ClaimStatus::Waiting => {}
                status => return Ok(status),
            }
        }
    }

    /// Waits until one of a claim's blockers, or the claim's own key, is deleted.
    ///
    /// `None` if all still exist but the watches have ended: they must be watched again.
    async fn wait_for_deletion(&self, claim: &Claim, position: &Position) -> Result<Option<Deletions>> {
        // The claim's own key is watched too, because a claim whose key was deleted must not be granted by
        // the next deletion in front of it. And it is watched first, because events arrive in order: its
        // deletion, or the notice that its watch began too late to see one, arrives before any later deletion
        // of a blocker.
        let watched: Vec<&QueueEntry> =
            [&position.mine].into_iter().chain(position.ahead.blockers()).collect();
        let keys = watched.iter().map(|entry| (entry.key.clone(), Some(entry.revision)));
        let subscription = self.watches.subscribe(&self.connection, keys, position.read_at);
        let mut is_late = false;
        loop {
            let changes = subscription.changes().await;
            is_late |= changes.read_again;
            // The watch began late or has ended, so a deletion may have been missed. A short queue is read at
            // once, because that may show a grant. For a long one it is cheaper to read the watched keys
            // first.
            if !changes.deleted.is_empty() || position.ahead.is_whole() {
                let (keys, as_of) = (changes.deleted, changes.as_of);
                return Ok(Some(Deletions { keys, as_of, none_missed: !is_late }));
            }
            let keys = watched.iter().map(|entry| entry.key.clone()).collect();
            let states = self.key_reads.read(keys).await?;
            let as_of = states.iter().map(|state| state.read_at).min().unwrap_or(0);
            let missing =
                watched.iter().zip(states).filter(|(entry, state)| state.proves_gone(entry.revision));
            let keys: Vec<Vec<u8>> = missing.map(|(entry, _)| entry.key.clone()).collect();
            if !keys.is_empty() {
                return Ok(Some(Deletions { keys, as_of, none_missed: false }));
            }
            self.claims.with(claim.id, |position| position.read_at = position.read_at.max(as_of));
            if subscription.has_ended() {
                return Ok(None);
            }
        }
    }

    /// Reads the queue of a waiter and returns its status.
    async fn read_again(&self, claim: &Claim, since: i64) -> Result<ClaimStatus> {
        let Some(position) = self.claims.position(claim.id) else { return Ok(ClaimStatus::Gone) };
        let sent = now();
        let view = self.queues.view(claim, &position.mine, since).await?;
        Ok(self.claims.record_view(claim, &view, self.python_etcd3.key(claim).is_none(), sent))
    }

    /// Renews claims, and looks for the notices of those that are gone.
    pub(super) async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        if let Some(lease) = claims.iter().map(|claim| claim.lease).min() {
            self.watches.poll(&self.connection, lease);
        }
        let again = |error: &Error| self.connection.again(error);
        let settled = self.settle(claims).await;
        let mut statuses: Vec<Result<ClaimStatus>> = match self.keep_alive(claims).await {
            Ok(statuses) => statuses.into_iter().map(Ok).collect(),
            Err(error) => claims.iter().map(|_| Err(again(&error))).collect(),
        };
        let is_gone = |status: &Result<ClaimStatus>| matches!(status, Ok(ClaimStatus::Gone));
        let gone = claims.iter().zip(&statuses).filter(|(_, status)| is_gone(status));
        let gone = gone.filter(|(claim, _)| self.notices.status(claim).is_none());
        let gone: Vec<&Claim> = gone.map(|(claim, _)| claim.as_ref()).collect();
        // A holder that is gone asks no more. So it is told only when it is known why.
        if let Err(error) = self.notices.look_for(&gone).await {
            statuses.iter_mut().filter(|status| is_gone(status)).for_each(|gone| *gone = Err(again(&error)));
        }
        let told = |(claim, status): (&Arc<Claim>, _)| self.notices.status(claim).map_or(status, Ok);
        let statuses = statuses.into_iter().zip(settled).map(|(status, settled)| settled.and(status));
        claims.iter().zip(statuses).map(told).collect()
    }

    /// Keeps the leases of these claims alive, and reads whether the claims' keys still exist.
    ///
    /// The read is linearizable, because it also confirms the keep-alives. It waits for the writes that the
    /// cluster agreed on before it, of which a crowd has few under way: see [`MAX_CONCURRENT`].
    pub(super) async fn keep_alive(&self, claims: &[Arc<Claim>]) -> Result<Vec<ClaimStatus>> {
        let known: Vec<Option<QueueEntry>> = {
            let own = |claim: &Arc<Claim>| self.claims.with(claim.id, |position| position.mine.clone());
            claims.iter().map(own).collect()
        };
        let leases = known.iter().flatten().map(|mine| mine.lease);
        let leases: BTreeSet<i64> = leases.filter(|lease| self.leases.is_renewed(*lease)).collect();
        let mut kept = Vec::with_capacity(leases.len());
        // A claim without a position has no key to read. The prefix stands for it, so that answers stay in
        // step with claims; its answer is not used.
        let key = |mine: &Option<QueueEntry>| {
            mine.as_ref().map_or_else(|| self.prefix().into(), |mine| mine.key.clone())
        };
        let keys: Vec<Vec<u8>> = known.iter().map(key).collect();
        let mut tries = 0;
        let states = loop {
            kept.clear();
            for lease in &leases {
                kept.extend(self.leases.keep_alive(*lease).await?);
            }
            let mut confirmed = false;
            let states = read_keys(&self.connection, &keys, |header| {
                if !confirmed {
                    let confirm = |lease| usize::from(self.leases.confirm(lease, header));
                    confirmed = kept.iter().map(confirm).sum::<usize>() == kept.len();
                }
            });
            let states = states.await?;
            if confirmed || kept.is_empty() {
                break states;
            }
            tries += 1;
            if tries == RENEWALS {
                let reason = "its leader has changed while a lease was renewed";
                return Err(Error::unavailable(&self.connection.config().shown, reason));
            }
        };
        let statuses = claims.iter().zip(known).zip(states).map(|((claim, mine), state)| match mine {
            Some(mine) if state.proves_gone(mine.revision) => self.claims.record_gone(claim, mine.revision),
            _ => self.claims.status(claim),
        });
        Ok(statuses.collect())
    }

    pub(super) async fn release(&self, claim: &Claim) -> Result<Release> {
        releases::release(&self.releaser, claim).await
    }
}

#[cfg(test)]
mod tests;
