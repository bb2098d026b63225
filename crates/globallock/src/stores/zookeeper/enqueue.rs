//! How claims come into their queues and wait there, also claims whose creation got no answer.

use std::sync::Arc;

use super::Shared;
use super::config::Config;
use super::failure::Failure;
use super::notice::eviction;
use super::positions::{Node, Position, Positions, Predecessor};
use super::reading::Snapshot;
use super::session::Session;
use super::values::{Clock, ReadValue};
use super::watch::Watched;
use super::wire::ErrorCode;
use crate::backend::{Claim, ClaimStatus, Eviction, WaitMode};
use crate::error::Result as Answer;
use crate::stores::watched::releases::release;
use crate::sync::{Instant, MutexGuard};

/// How many times a claim is requested again because the lock's node or the session is gone.
const ATTEMPTS: usize = 5;

/// The claim's status; `None` if it has to be requested again.
type Enqueued = Result<Option<ClaimStatus>, Failure>;

/// A claim of this store, on its way through its queue.
#[derive(Clone, Copy)]
pub(super) struct Queued<'a> {
    pub(super) store: &'a Arc<Shared>,
    pub(super) claim: &'a Claim,
}

impl Queued<'_> {
    fn positions(&self) -> MutexGuard<'_, Positions> {
        self.store.positions.lock()
    }

    fn position(&self) -> Option<Position> {
        self.positions().get(self.claim.id).cloned()
    }

    /// The path of the lock's node.
    fn lock(&self) -> String {
        self.store.config.layout.lock(&self.claim.name)
    }

    /// Puts the claim into its queue, unless it is there. `value` gets the value, if it was read after what
    /// has decided the status.
    pub(super) async fn enqueue(&self, value: &mut Option<ReadValue>) -> Answer<ClaimStatus> {
        let Queued { store, claim } = self;
        let mut lost_once = false;
        for _ in 0..ATTEMPTS {
            *value = None;
            let enqueued = match self.position() {
                Some(position) if position.session.is_expired() => {
                    let session = store.sessions.get(claim.lease).await?;
                    self.enqueue_after_expiry(&position, &session, value).await
                }
                Some(Position { session, node: Some(node), granted, .. }) => {
                    session.keep_alive_for(claim.lease);
                    self.ask_again(&node, &session, granted.is_some()).await.map(Some)
                }
                Some(Position { session, node: None, .. }) => self.enqueue_again(&session, value).await,
                None => self.create(&store.sessions.get(claim.lease).await?, false, value).await,
            };
            match enqueued {
                Ok(Some(status)) => return Ok(status),
                // The lock's node was deleted in the meantime, or the session has expired.
                Ok(None) | Err(Failure::Expired) => {}
                // Often a lost connection is the first sign of an expired session.
                Err(Failure::Lost(_)) if !lost_once => lost_once = true,
                Err(failure) => return Err(store.config.error(failure)),
            }
        }
        let reason = "the session or the lock's node was lost in every attempt";
        Err(store.config.error(Failure::Lost(reason.to_owned())))
    }

    /// Waits until the claim holds or is gone; `None` if it has to be enqueued first.
    pub(super) async fn wait_for_change(&self) -> Answer<Option<ClaimStatus>> {
        loop {
            let Some(position) = self.position().filter(|position| !position.session.is_expired()) else {
                // Whether a claim of an expired session was evicted, `enqueue` finds out.
                return Ok(Some(self.positions().absent(self.claim.id)));
            };
            if position.granted.is_some() {
                return self.with_time_left(&position.session, position.status(self.claim)).await;
            }
            let watched = Watched::new(&self.lock(), &position, self.claim);
            let gone = watched.gone().await.map_err(|failure| self.store.config.error(failure))?;
            let gone = gone.filter(|gone| !watched.own_is_among(gone));
            match gone.and_then(|gone| self.positions().advance(self.claim, &gone)) {
                Some(ClaimStatus::Waiting) => continue,
                Some(status) => return self.with_time_left(&position.session, status).await,
                None => {}
            }
            let Some(node) = &position.node else { return Ok(None) };
            match self.read_again(node, &position.session).await {
                Ok(ClaimStatus::Waiting) => {}
                Ok(status) => return self.with_time_left(&position.session, status).await,
                Err(Failure::Expired) => return Ok(Some(ClaimStatus::Gone)),
                Err(failure) => return Err(self.store.config.error(failure)),
            }
        }
    }

    /// The status of a claim whose wait has ended. A grant that could be relied on for a moment only, because
    /// the session was confirmed long ago, is confirmed first.
    async fn with_time_left(&self, session: &Session, status: ClaimStatus) -> Answer<Option<ClaimStatus>> {
        let is_short = session.expires() < Instant::now() + session.timeout() / 8;
        if !matches!(status, ClaimStatus::Held(_)) || !is_short {
            return Ok(Some(status));
        }
        match session.confirm().answer().await {
            Ok(()) => Ok(Some(self.positions().status(self.claim))),
            // Whether the claim was evicted, `enqueue` finds out.
            Err(Failure::Expired) => Ok(Some(ClaimStatus::Gone)),
            Err(failure) => Err(self.store.config.error(failure)),
        }
    }

    /// Enqueues a claim in another session than its expired one, unless it was evicted before that expired.
    async fn enqueue_after_expiry(
        &self,
        Position { session: expired, node, .. }: &Position,
        session: &Arc<Session>,
        value: &mut Option<ReadValue>,
    ) -> Enqueued {
        let eviction = self.store.notices.of(session, self.claim.id).await?;
        match self.forget(expired, node.as_ref(), eviction) {
            ClaimStatus::Gone => self.create(session, true, value).await,
            status => Ok(Some(status)),
        }
    }

    /// Enqueues a claim whose creation got no answer: finds the node, or creates it again. The claim may also
    /// have been evicted in the meantime.
    async fn enqueue_again(&self, session: &Arc<Session>, value: &mut Option<ReadValue>) -> Enqueued {
        let found = self.find_own_node(session).await?;
        if let Some(eviction) = self.store.notices.of(session, self.claim.id).await? {
            return Ok(Some(self.withdraw(eviction).await));
        }
        let Some(node) = found else { return self.create(session, true, value).await };
        self.positions().created(self.claim.id, session, node.clone());
        self.read_again(&node, session).await.map(Some)
    }

    /// Creates the claim's node at the end of the queue, and returns the claim's status; `None` if the lock's
    /// node had to be created first, or the sequence had to be restarted.
    ///
    /// It takes one round trip if no other claim of this session is in the queue. A second request travels
    /// along with the creation, by the predecessor and the claim's wait mode:
    ///
    /// | predecessor | wait mode | sent along | because |
    /// |---|---|---|---|
    /// | absent | any | children | the queue says at once whether the claim holds |
    /// | known or pending | `Wait` | nothing | it can wait for it, or with it; others share a read |
    /// | known | `Try`, exclusive claim | exists | the claim cannot hold if its predecessor is there |
    /// | known or pending | `Try`, otherwise | children | as for an absent predecessor |
    ///
    /// If the claim has been requested before, the notice of its eviction is read after the creation too:
    /// an onlooker that looked at the queue before the creation may have evicted what it saw.
    ///
    /// A claim that asks for the value reads it after all that, in the same round trip.
    async fn create(
        &self,
        session: &Arc<Session>,
        is_repeated: bool,
        value: &mut Option<ReadValue>,
    ) -> Enqueued {
        let Queued { store, claim } = self;
        let Config { layout, acl, .. } = &*store.config;
        let lock = self.lock();
        let path = format!("{lock}/{}", layout.claim(claim));
        let predecessor = self.positions().begin(claim, session);
        session.keep_alive_for(claim.lease);
        store.notices.watch(session, claim.id);
        let data = format!("{} {}", session.timeout().as_millis(), claim.owner);
        let requested_at = Instant::now();
        let created = session.create_claim(&path, &data, acl);
        let excludes = claim.permits.is_exclusive();
        let (listed, exists) = match predecessor {
            Predecessor::Pending | Predecessor::Known(_) if claim.wait_mode == WaitMode::Wait => (None, None),
            // What is remembered may be outdated. A claim that does not wait may only give up if somebody is
            // ahead of it now.
            Predecessor::Known(last) if excludes => (None, Some(session.exists(&last))),
            _ => (Some(session.children(&lock)), None),
        };
        let notice = is_repeated.then(|| store.notices.ask(session, claim.id));
        let asked = claim.wants_value.then(|| session.value_of(layout, &claim.name));
        let Some((path, stat)) = created.answer().await? else {
            self.positions().not_created(claim.id, session);
            return self.create_parents(session, &lock).await.map(|()| None);
        };
        if layout.has_last_sequence(&path) {
            return self.restart_sequence(session, &lock, &path).await.map(|()| None);
        }
        let node = self.node(path, stat.czxid)?;
        if asked.is_some() {
            *store.clock.lock() = Some(Clock::of(&stat));
        }
        // Until this is answered the node is not recorded, so that a repetition asks again.
        if let Some(notice) = notice
            && let Some(eviction) = eviction(notice.answer().await?)
        {
            return Ok(Some(self.withdraw(eviction).await));
        }
        self.positions().created(claim.id, session, node.clone());
        if let Some(listed) = listed {
            let snapshot = Snapshot::new(layout, &listed.answer().await?, requested_at);
            if let Some(asked) = asked {
                *value = Some(asked.answer().await?);
            }
            return self.apply(&node, session, &snapshot).await.map(Some);
        }
        let predecessor_exists = match exists {
            None => true,
            Some(exists) => exists.answer().await?,
        };
        if predecessor_exists && let Some(status) = self.positions().decide(claim, requested_at) {
            return Ok(Some(status));
        }
        self.read_again(&node, session).await.map(Some)
    }

    /// The node at a path that this store has asked the server to create.
    fn node(&self, path: String, czxid: i64) -> Result<Node, Failure> {
        let listed = path.rsplit('/').next().and_then(|name| self.store.config.layout.parse(name));
        let listed =
            listed.ok_or_else(|| Failure::Lost(format!("it created {path}, which was not requested")))?;
        Ok(Node { path, czxid, listed })
    }

    /// Deletes a claim that got the last sequence number, and the lock's node, so that numbers restart at 0.
    ///
    /// A claim must not keep the last number, because servers stay at it (seen with 3.8): a second claim
    /// would get the same number, and neither would be ahead of the other.
    async fn restart_sequence(&self, session: &Session, lock: &str, claim: &str) -> Result<(), Failure> {
        session.delete(claim).await?;
        if session.delete_if_empty(lock).await? {
            return Ok(());
        }
        Err(Failure::Lost(format!(
            "the sequence numbers below {lock} are used up: they restart once nothing is below it"
        )))
    }

    /// Creates the lock's node and those above it, as containers: the servers delete them once empty.
    async fn create_parents(&self, session: &Session, lock: &str) -> Result<(), Failure> {
        let ends = lock.match_indices('/').map(|(at, _)| at).skip(1).chain([lock.len()]);
        let pending: Vec<_> =
            ends.map(|end| session.create_container(&lock[..end], &self.store.config.acl)).collect();
        let (mut created, mut refused) = (Ok(()), None);
        for pending in pending {
            created = pending.answer().await;
            if let Err(failure @ Failure::Refused(_)) = &created {
                refused.get_or_insert(failure.clone());
            }
            // A parent that this user may neither see nor create may exist all the same. So only the server's
            // answer for the lock's own node counts, which is the last.
            if !matches!(created, Ok(()) | Err(Failure::Refused(_))) {
                break;
            }
        }
        match (created, refused) {
            // One of those above does not exist, so why it was not created counts.
            (Err(Failure::Refused(ErrorCode::NO_NODE)), Some(refused)) => Err(refused),
            (created, _) => created,
        }
    }

    /// Finds the node of a claim whose creation got no answer.
    ///
    /// A node of an earlier session is deleted instead, because it would end with that session.
    async fn find_own_node(&self, session: &Arc<Session>) -> Result<Option<Node>, Failure> {
        let Shared { config, reads, .. } = &**self.store;
        let paths = reads.nodes_of(self.claim, session).await?;
        let found = session.each(&paths, Session::data).await?;
        let mut own = None;
        for (path, found) in paths.into_iter().zip(found) {
            let Some(stat) = found.map(|found| found.stat) else { continue };
            let is_own = stat.ephemeral_owner == session.id();
            if is_own && own.is_none() && !config.layout.has_last_sequence(&path) {
                own = Some(self.node(path, stat.czxid)?);
            } else {
                session.delete(&path).await?;
            }
        }
        Ok(own)
    }

    /// Asks for the status of a claim whose node is known.
    ///
    /// If it is granted, its owner has not taken the grant, because the session was confirmed too long ago.
    /// So it is confirmed first.
    async fn ask_again(
        &self,
        node: &Node,
        session: &Arc<Session>,
        is_granted: bool,
    ) -> Result<ClaimStatus, Failure> {
        if is_granted {
            session.confirm().answer().await?;
        }
        self.read_again(node, session).await
    }

    /// Reads the queue of a claim whose node is known, and returns the claim's status in it.
    async fn read_again(&self, node: &Node, session: &Arc<Session>) -> Result<ClaimStatus, Failure> {
        let snapshot = self.store.reads.read(session, &self.lock()).await?;
        self.apply(node, session, &snapshot).await
    }

    /// Records the queue as it was read, and returns the claim's status in it. If the claim is gone, looks
    /// whether it was evicted.
    async fn apply(
        &self,
        node: &Node,
        session: &Arc<Session>,
        snapshot: &Snapshot,
    ) -> Result<ClaimStatus, Failure> {
        let status = self.positions().apply(self.claim, node, snapshot);
        if status != ClaimStatus::Gone {
            return Ok(status);
        }
        let eviction = self.store.notices.of(session, self.claim.id).await?;
        Ok(self.forget(session, Some(node), eviction))
    }

    /// Forgets a claim whose node was found gone, unless it was requested again since, and returns its
    /// status.
    ///
    /// A claim with a notice is remembered as evicted. A node that a creation without an answer may still
    /// make is deleted, because the claim never joins again.
    pub(super) fn forget(
        &self,
        session: &Arc<Session>,
        node: Option<&Node>,
        eviction: Option<Arc<Eviction>>,
    ) -> ClaimStatus {
        let is_evicted = eviction.is_some();
        let (forgotten, status) = {
            let mut positions = self.positions();
            if let Some(eviction) = eviction {
                positions.found_evicted(self.claim, eviction);
            }
            (positions.found_gone(self.claim.id, session, node), positions.status(self.claim))
        };
        let reconnected = |reconnects| reconnects != session.reconnects() && !session.is_expired();
        if is_evicted && forgotten.is_some_and(|position| reconnected(position.reconnects)) {
            self.store.delete_late_nodes(self.claim, session);
        }
        status
    }

    /// Takes an evicted claim out of the queue again that a creation has put there since, and returns its
    /// status.
    async fn withdraw(&self, eviction: Arc<Eviction>) -> ClaimStatus {
        self.positions().found_evicted(self.claim, eviction);
        // If it fails, it is repeated in the background.
        let _ = release(self.store, self.claim).await;
        self.positions().absent(self.claim.id)
    }
}
