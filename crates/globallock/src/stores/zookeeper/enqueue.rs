//! How claims are enqueued, also claims whose creation got no answer.

use std::sync::Arc;
use std::time::Instant;

use super::Shared;
use super::failure::Failure;
use super::notice::eviction;
use super::positions::{Node, Position, Predecessor};
use super::reading::Snapshot;
use super::session::Session;
use crate::backend::{Claim, ClaimStatus, WaitMode};
use crate::error::Result;

/// How many times a claim is requested again because the lock's node or the session is gone.
const ATTEMPTS: usize = 5;

impl Shared {
    pub(super) async fn enqueue(self: &Arc<Self>, claim: &Claim) -> Result<ClaimStatus> {
        let mut lost_once = false;
        for _ in 0..ATTEMPTS {
            let enqueued = match self.position(claim.id) {
                Some(position) if position.session.is_expired() => {
                    let session = self.sessions.get(claim.lease).await?;
                    self.enqueue_after_expiry(claim, &position, &session).await
                }
                Some(Position { session, node: Some(node), .. }) => {
                    session.keep_alive_for(claim.lease);
                    self.read_again(claim, &node, &session).await.map(Some)
                }
                Some(Position { session, node: None, .. }) => self.enqueue_again(claim, &session).await,
                None => {
                    let session = self.sessions.get(claim.lease).await?;
                    self.create(claim, &session, false).await
                }
            };
            match enqueued {
                Ok(Some(status)) => return Ok(status),
                // The lock's node was deleted in the meantime, or the session has expired.
                Ok(None) | Err(Failure::Expired) => {}
                // Often a lost connection is the first sign of an expired session.
                Err(Failure::Lost(_)) if !lost_once => lost_once = true,
                Err(failure) => return Err(self.error(failure)),
            }
        }
        Err(self.error(Failure::Lost("the session or the lock's node was lost in every attempt".to_owned())))
    }

    /// Enqueues a claim in another session than its expired one, unless it was evicted before that expired.
    async fn enqueue_after_expiry(
        self: &Arc<Self>,
        claim: &Claim,
        Position { session: expired, node, .. }: &Position,
        session: &Arc<Session>,
    ) -> Result<Option<ClaimStatus>, Failure> {
        let eviction = self.notice(session, claim.id).await?;
        match self.forget(claim, expired, node.as_ref(), eviction) {
            ClaimStatus::Gone => self.create(claim, session, true).await,
            status => Ok(Some(status)),
        }
    }

    /// Enqueues a claim whose creation got no answer: finds the node, or creates it again. The claim may also
    /// have been evicted in the meantime.
    async fn enqueue_again(
        self: &Arc<Self>,
        claim: &Claim,
        session: &Arc<Session>,
    ) -> Result<Option<ClaimStatus>, Failure> {
        let found = self.find_own_node(claim, session).await?;
        if let Some(eviction) = self.notice(session, claim.id).await? {
            return Ok(Some(self.withdraw(claim, eviction).await));
        }
        match found {
            Some(node) => {
                self.positions().created(claim.id, session, node.clone());
                self.read_again(claim, &node, session).await.map(Some)
            }
            None => self.create(claim, session, true).await,
        }
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
    /// | known or pending | `Wait` | nothing | an exclusive claim can wait for it; others share a read |
    /// | known | `Try`, exclusive claim | exists | the claim cannot hold if its predecessor is there |
    /// | known or pending | `Try`, otherwise | children | as for an absent predecessor |
    ///
    /// If the claim has been requested before, the notice of its eviction is read after the creation too:
    /// an onlooker that looked at the queue before the creation may have evicted what it saw.
    async fn create(
        self: &Arc<Self>,
        claim: &Claim,
        session: &Arc<Session>,
        is_repeated: bool,
    ) -> Result<Option<ClaimStatus>, Failure> {
        let lock = self.config.layout.lock(&claim.name);
        let path = format!("{lock}/{}", self.config.layout.claim(claim));
        let predecessor = self.positions().begin(claim, session);
        session.keep_alive_for(claim.lease);
        self.notices.watch(session, claim.id);
        let data = format!("{} {}", session.timeout().as_millis(), claim.owner);
        let requested_at = Instant::now();
        let created = session.create_claim(&path, &data, &self.config.acl);
        let excludes = claim.permits.is_exclusive();
        let (listed, exists) = match predecessor {
            Predecessor::Pending | Predecessor::Known(_) if claim.wait_mode == WaitMode::Wait => (None, None),
            // What is remembered may be outdated. A claim that does not wait may only give up if somebody is
            // ahead of it now.
            Predecessor::Known(last) if excludes => (None, Some(session.exists(&last))),
            _ => (Some(session.children(&lock)), None),
        };
        let notice = is_repeated.then(|| self.ask_for_notice(session, claim.id));
        let Some((path, stat)) = created.answer().await? else {
            self.positions().not_created(claim.id, session);
            return self.create_parents(session, &lock).await.map(|()| None);
        };
        if self.config.layout.has_last_sequence(&path) {
            return self.restart_sequence(session, &lock, &path).await.map(|()| None);
        }
        let node = self.node(path, stat.czxid)?;
        // Until this is answered the node is not recorded, so that a repetition asks again.
        if let Some(notice) = notice
            && let Some(eviction) = eviction(notice.answer().await?)
        {
            return Ok(Some(self.withdraw(claim, eviction).await));
        }
        self.positions().created(claim.id, session, node.clone());
        if let Some(listed) = listed {
            let snapshot = Snapshot::new(&self.config.layout, &listed.answer().await?, requested_at);
            return self.apply(claim, &node, session, &snapshot).await.map(Some);
        }
        let predecessor_exists = match exists {
            None => true,
            Some(exists) => exists.answer().await?,
        };
        let known = if predecessor_exists { self.positions().decide(claim, requested_at) } else { None };
        match known {
            Some(status) => Ok(Some(status)),
            None => self.read_again(claim, &node, session).await.map(Some),
        }
    }

    /// The node at a path that this store has asked the server to create.
    fn node(&self, path: String, czxid: i64) -> Result<Node, Failure> {
        let listed = path.rsplit('/').next().and_then(|name| self.config.layout.parse(name));
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
            ends.map(|end| session.create_container(&lock[..end], &self.config.acl)).collect();
        let mut created = Ok(());
        for pending in pending {
            created = pending.answer().await;
            // A parent that this user may neither see nor create may exist all the same. So only the server's
            // answer for the lock's own node counts, which is the last.
            if !matches!(created, Ok(()) | Err(Failure::Refused(_))) {
                break;
            }
        }
        created
    }

    /// Finds the node of a claim whose creation got no answer.
    ///
    /// A node of an earlier session is deleted instead, because it would end with that session.
    async fn find_own_node(
        self: &Arc<Self>,
        claim: &Claim,
        session: &Arc<Session>,
    ) -> Result<Option<Node>, Failure> {
        let paths = self.nodes_of(claim, session).await?;
        let found = session.each(&paths, Session::data).await?;
        let mut own = None;
        for (path, found) in paths.into_iter().zip(found) {
            let Some(stat) = found.map(|found| found.stat) else { continue };
            if stat.ephemeral_owner == session.id()
                && own.is_none()
                && !self.config.layout.has_last_sequence(&path)
            {
                own = Some(self.node(path, stat.czxid)?);
            } else {
                session.delete(&path).await?;
            }
        }
        Ok(own)
    }

    /// The paths of the nodes with the claim's id, as the leader knows them.
    pub(super) async fn nodes_of(
        self: &Arc<Self>,
        claim: &Claim,
        session: &Arc<Session>,
    ) -> Result<Vec<String>, Failure> {
        let lock = self.config.layout.lock(&claim.name);
        let snapshot = self.read(session, &lock).await?;
        Ok(snapshot.of(claim.id).map(|listed| listed.path(&lock)).collect())
    }

    /// Reads the queue of a claim whose node is known, and returns the claim's status in it.
    pub(super) async fn read_again(
        self: &Arc<Self>,
        claim: &Claim,
        node: &Node,
        session: &Arc<Session>,
    ) -> Result<ClaimStatus, Failure> {
        let snapshot = self.read(session, &self.config.layout.lock(&claim.name)).await?;
        self.apply(claim, node, session, &snapshot).await
    }

    /// Records the queue as it was read, and returns the claim's status in it. If the claim is gone, looks
    /// whether it was evicted.
    async fn apply(
        self: &Arc<Self>,
        claim: &Claim,
        node: &Node,
        session: &Arc<Session>,
        snapshot: &Snapshot,
    ) -> Result<ClaimStatus, Failure> {
        let status = self.positions().apply(claim, node, snapshot);
        if status != ClaimStatus::Gone {
            return Ok(status);
        }
        let eviction = self.notice(session, claim.id).await?;
        Ok(self.forget(claim, session, Some(node), eviction))
    }
}
