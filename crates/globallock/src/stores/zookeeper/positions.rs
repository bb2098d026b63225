//! The positions of this store's claims in their queues: what is known of the claims ahead of each.

use std::sync::Arc;

use super::naming::ListedClaim;
use super::reading::Snapshot;
use super::session::Session;
use crate::backend::{Claim, ClaimId, ClaimStatus, Eviction};
use crate::name::Name;
use crate::queue::Permits;
use crate::stores::evictions::{Evictions, KEPT};
use crate::stores::watched::ahead::{Ahead, Entry, SHORT};
use crate::stores::watched::records::{Record, Records, held};
use crate::stores::watched::releases::Task;
use crate::sync::Instant;

/// The number of claims in the order of their queue whose nodes are not known yet.
const PENDING: i64 = i64::MAX;

/// All claims of one store.
#[derive(Debug, Default)]
pub(super) struct Positions {
    records: Records<Position>,
    /// How many claims were found gone that this store had not released. Their session may have expired, and
    /// then the nodes of other claims have gone with it.
    unexplained: u64,
    /// The claims whose notices of their eviction were found.
    evicted: Evictions,
}

/// A claim of this store that has been requested, and its position in the queue as far as it is known.
#[derive(Clone, Debug)]
pub(super) struct Position {
    pub(super) session: Arc<Session>,
    /// The session's count of reconnects when the claim was requested first.
    pub(super) reconnects: u64,
    /// Its node; `None` until an answer names it.
    pub(super) node: Option<Node>,
    /// A moment no later than the grant; `None` while the claim waits.
    pub(super) granted: Option<Instant>,
    pub(super) ahead: Ahead<ListedClaim>,
    /// The store's count of unexplained ends when `ahead` was learned.
    unexplained: u64,
    /// Whether its owner has begun to release it.
    pub(super) releasing: bool,
    /// The task that repeats the release until it is answered.
    pub(super) background_release: Option<Task>,
    name: Name,
}

/// The node of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) path: String,
    /// The transaction that created it, which is the fencing token.
    pub(super) czxid: i64,
    /// What its name says.
    pub(super) listed: ListedClaim,
}

/// The last claim of the same session in the queue that a new claim joins.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Predecessor {
    Absent,
    /// Its node is not known yet.
    Pending,
    /// The path of its node.
    Known(String),
}

impl Entry for ListedClaim {
    fn permits(&self) -> Permits {
        self.permits
    }
}

impl Record for Position {
    /// The session's id and the lock's name.
    type Queue = (i64, Name);
    type Entry = ListedClaim;

    fn place(&self) -> Option<((i64, Name), i64)> {
        let number = self.node.as_ref().map_or(PENDING, |node| node.czxid);
        Some(((self.session.id(), self.name.clone()), number))
    }

    fn is_being_released(&self) -> bool {
        self.releasing
    }

    fn ahead(&mut self) -> Option<&mut Ahead<ListedClaim>> {
        Some(&mut self.ahead)
    }
}

impl Node {
    /// Whether no claim can be between the two: no sequence number lies between theirs.
    fn is_next_to(&self, behind: &Node) -> bool {
        self.listed.sequence.wrapping_add(1) == behind.listed.sequence
    }
}

impl Positions {
    pub(super) fn get(&self, id: ClaimId) -> Option<&Position> {
        self.records.get(id)
    }

    pub(super) fn get_mut(&mut self, id: ClaimId) -> Option<&mut Position> {
        self.records.get_mut(id)
    }

    /// Records that a claim is about to be requested, and returns its predecessor.
    pub(super) fn begin(&mut self, claim: &Claim, session: &Arc<Session>) -> Predecessor {
        // An earlier creation that got no answer may still be carried out: it counts from before that one.
        let before = self.get(claim.id).filter(|before| before.session.id() == session.id());
        let reconnects = before.map_or_else(|| session.reconnects(), |before| before.reconnects);
        self.remove(claim.id);
        let queue = (session.id(), claim.name.clone());
        let created = self.records.in_order(&queue, i64::MIN..=PENDING - 1).rev().take(SHORT);
        // A claim that is being released is no predecessor, because nobody has to wait for it.
        let last = { created }.find(|(_, position)| !position.releasing);
        let predecessor = match last.and_then(|(_, position)| Some(position.node.as_ref()?.path.clone())) {
            Some(path) => Predecessor::Known(path),
            None if self.records.in_order(&queue, PENDING..=PENDING).next().is_some() => Predecessor::Pending,
            None => Predecessor::Absent,
        };
        session.add_claim();
        let position = Position {
            session: Arc::clone(session),
            reconnects,
            node: None,
            granted: None,
            ahead: Ahead::unknown(claim.permits),
            unexplained: 0,
            releasing: false,
            background_release: None,
            name: claim.name.clone(),
        };
        self.records.insert(claim.id, position);
        predecessor
    }

    /// Records the node that a session has created for a claim.
    ///
    /// The claim starts with what the claim before it in the same session knows of the queue, so that it may
    /// not have to read the queue.
    pub(super) fn created(&mut self, id: ClaimId, session: &Session, node: Node) {
        let Some(position) = self.get(id) else { return };
        if position.session.id() != session.id() || position.node.is_some() {
            return;
        }
        let queue = (session.id(), position.name.clone());
        let before = self.records.in_order(&queue, i64::MIN..=node.czxid.saturating_sub(1)).next_back();
        let ahead = before.and_then(|(_, before)| {
            let its = before.node.as_ref()?;
            Some(Ahead::behind(&its.listed, &before.ahead, its.is_next_to(&node), node.listed.permits))
        });
        let unexplained = self.unexplained;
        self.records.change(id, |position| {
            position.ahead = ahead.unwrap_or_else(|| Ahead::unknown(node.listed.permits));
            (position.node, position.unexplained) = (Some(node), unexplained);
        });
    }

    /// Decides a claim's status from what is known of the claims ahead; `None` if the queue has to be read.
    ///
    /// A claim that is found to hold is granted as of `at`.
    pub(super) fn decide(&mut self, claim: &Claim, at: Instant) -> Option<ClaimStatus> {
        let unexplained = self.unexplained;
        let position = self.get_mut(claim.id)?;
        position.node.as_ref()?;
        if position.granted.is_none() {
            if position.unexplained != unexplained || !position.ahead.is_known() {
                return None;
            }
            position.granted = position.ahead.surely_holds().then_some(at);
        }
        Some(position.status(claim))
    }

    /// Records the queue as it was read, and returns the claim's status in it. A claim that is not in it is
    /// `Gone`, and stays recorded until it is known whether it was evicted.
    ///
    /// `node` is the node that the claim had when the read began. If it has another one by now, the read is
    /// too old to say anything about it.
    pub(super) fn apply(&mut self, claim: &Claim, node: &Node, snapshot: &Snapshot) -> ClaimStatus {
        let unexplained = self.unexplained;
        let Some(position) = self.get_mut(claim.id) else {
            return ClaimStatus::Gone;
        };
        if position.node.as_ref() != Some(node) {
            return position.status(claim);
        }
        let Some(ahead) = snapshot.ahead(node) else { return ClaimStatus::Gone };
        if position.granted.is_none() {
            position.ahead = Ahead::of(ahead, true, claim.permits);
            position.unexplained = unexplained;
            position.granted = position.ahead.surely_holds().then_some(snapshot.requested_at);
        }
        position.status(claim)
    }

    /// Records that nodes ahead of a waiting claim were deleted, and returns the claim's status by that;
    /// `None` if the queue has to be read.
    pub(super) fn advance(&mut self, claim: &Claim, gone: &[Vec<u8>]) -> Option<ClaimStatus> {
        let is_gone = |listed: &ListedClaim| {
            let names =
                |path: &Vec<u8>| path.rsplit(|byte| *byte == b'/').next() == Some(listed.node.as_bytes());
            gone.iter().any(names)
        };
        let is_explained = self.records.advance(claim.id, |listed| listed.id, is_gone);
        if is_explained { self.decide(claim, Instant::now()) } else { None }
    }

    /// Forgets a claim that its owner has released, and hands what it knew to the next claim of its session;
    /// unless the claim has been requested again since.
    ///
    /// Without a node, the release has deleted all nodes that the claim had.
    pub(super) fn released(&mut self, id: ClaimId, session: &Session, node: Option<&Node>) {
        let is_released = |position: &&Position| {
            position.session.id() == session.id() && (node.is_none() || position.node.as_ref() == node)
        };
        let Some(position) = self.get(id).filter(is_released) else { return };
        let (queue, its) = ((session.id(), position.name.clone()), position.ahead.clone());
        self.remove(id);
        let Some(node) = node.filter(|node| node.czxid < PENDING - 1) else { return };
        let next = self.records.in_order(&queue, node.czxid + 1..=PENDING - 1).next().map(|(next, _)| next);
        if let Some(behind) = next.and_then(|next| self.get_mut(next)) {
            let is_next = behind.node.as_ref().is_some_and(|behind| node.is_next_to(behind));
            behind.ahead.take_over(&node.listed, &its, is_next);
        }
    }

    /// Forgets a claim whose node was found gone, and returns what was known of it, unless the claim has been
    /// requested again since: then it has another session or another node.
    pub(super) fn found_gone(
        &mut self,
        id: ClaimId,
        session: &Session,
        node: Option<&Node>,
    ) -> Option<Position> {
        let position = self.get(id).filter(|_| self.is_current(id, session, node)).cloned()?;
        self.unexplained += 1;
        self.remove(id);
        Some(position)
    }

    /// Records that the notice of a claim's eviction was found.
    pub(super) fn found_evicted(&mut self, claim: &Claim, eviction: Arc<Eviction>) {
        self.evicted.note(claim.id, eviction, claim.lease.saturating_add(KEPT));
    }

    /// The status of a claim as far as it is known.
    pub(super) fn status(&self, claim: &Claim) -> ClaimStatus {
        match (self.absent(claim.id), self.get(claim.id)) {
            (ClaimStatus::Gone, Some(position)) => position.status(claim),
            (absent, _) => absent,
        }
    }

    /// The status of a claim that has no node: evicted, if that is known, or gone.
    pub(super) fn absent(&self, id: ClaimId) -> ClaimStatus {
        self.evicted.get(&id).map_or(ClaimStatus::Gone, ClaimStatus::Evicted)
    }

    /// Forgets a claim whose node the server has refused to create.
    pub(super) fn not_created(&mut self, id: ClaimId, session: &Session) {
        if self.is_current(id, session, None) {
            self.remove(id);
        }
    }

    pub(super) fn is_current(&self, id: ClaimId, session: &Session, node: Option<&Node>) -> bool {
        let position = self.get(id);
        position
            .is_some_and(|position| position.session.id() == session.id() && position.node.as_ref() == node)
    }

    fn remove(&mut self, id: ClaimId) {
        if let Some(position) = self.records.remove(id) {
            position.session.remove_claim();
        }
    }
}

impl Position {
    /// The names of the nodes that keep this claim waiting, as far as they are known.
    pub(super) fn blockers(&self) -> Vec<&str> {
        self.ahead.blockers().into_iter().map(|listed| listed.node.as_str()).collect()
    }

    pub(super) fn status(&self, claim: &Claim) -> ClaimStatus {
        match (self.granted, &self.node) {
            (Some(granted), Some(node)) => held(claim, node.czxid, self.session.expires(), None, granted),
            _ => ClaimStatus::Waiting,
        }
    }
}

#[cfg(test)]
mod tests;
