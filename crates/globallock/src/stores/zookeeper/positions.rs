//! The positions of this store's claims in their queues: what is known of the claims ahead of each.
//!
//! Sequence numbers only rise, so nothing joins ahead of a claim once its node exists: the claims ahead only
//! leave. What is remembered of them can therefore be wrong in one way alone: it may name claims that have
//! left already.
//!
//! Memory stays small however long the queue is. All claims ahead are remembered if they are few, otherwise
//! only those that keep the claim waiting.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::naming::ListedClaim;
use super::reading::Snapshot;
use super::session::Session;
use crate::backend::{Claim, ClaimId, ClaimStatus, Eviction, Grant};
use crate::name::Name;
use crate::queue::{Permits, blockers, nearest};
use crate::stores::evictions::{Evictions, KEPT};

/// Up to how many claims ahead are all remembered. A claim that knows all claims ahead is granted as they
/// leave, without a read of the queue.
const MAX_REMEMBERED: usize = 16;

/// All claims of one store.
#[derive(Debug, Default)]
pub(super) struct Positions {
    by_id: HashMap<ClaimId, Position>,
    /// By the session's id and the lock's name.
    queues: HashMap<(i64, Name), SessionQueue>,
    /// How many claims were found gone that this store had not released. Their session may have expired, and
    /// then the nodes of other claims have gone with it.
    unexplained: u64,
    /// The claims whose notices of their eviction were found.
    evicted: Evictions,
}

/// The claims of one session in one queue.
#[derive(Debug, Default)]
struct SessionQueue {
    /// The claims whose nodes are known, by the czxid of the node, which is the order of the queue.
    nodes: BTreeMap<i64, ClaimId>,
    /// The number of all claims, with those whose nodes are not known yet.
    claims: usize,
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
    ahead: Ahead,
    /// Whether its owner has begun to release it.
    pub(super) releasing: bool,
    /// Whether a background task repeats the release until it is answered.
    pub(super) releasing_in_background: bool,
    name: Name,
    permits: Permits,
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

/// What is known of the claims ahead of a claim.
#[derive(Clone, Debug, Default)]
struct Ahead {
    /// In the order of the queue. Some of them may have left.
    claims: Arc<Vec<ListedClaim>>,
    /// Whether no other claim can be ahead.
    complete: bool,
    /// The store's count of unexplained ends when this was learned.
    unexplained: u64,
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

impl Ahead {
    fn blocks(&self, permits: Permits) -> bool {
        nearest(self.claims.iter().rev().map(|listed| listed.permits), permits).is_some()
    }
}

impl Positions {
    pub(super) fn get(&self, id: ClaimId) -> Option<&Position> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ClaimId) -> Option<&mut Position> {
        self.by_id.get_mut(&id)
    }

    /// Records that a claim is about to be requested, and returns its predecessor.
    pub(super) fn begin(&mut self, claim: &Claim, session: &Arc<Session>) -> Predecessor {
        // An earlier creation that got no answer may still be carried out: it counts from before that one.
        let before = self.by_id.get(&claim.id).filter(|before| before.session.id() == session.id());
        let reconnects = before.map_or_else(|| session.reconnects(), |before| before.reconnects);
        self.remove(claim.id);
        let queue = self.queues.entry((session.id(), claim.name.clone())).or_default();
        // A claim that is being released is no predecessor, because nobody has to wait for it.
        let stays = |id: &&ClaimId| self.by_id.get(id).is_some_and(|position| !position.releasing);
        let last = queue.nodes.values().rev().take(MAX_REMEMBERED).find(stays);
        let last = last.and_then(|id| self.by_id.get(id)?.node.as_ref());
        let predecessor = match last {
            Some(node) => Predecessor::Known(node.path.clone()),
            None if queue.claims > queue.nodes.len() => Predecessor::Pending,
            None => Predecessor::Absent,
        };
        queue.claims += 1;
        session.add_claim();
        let position = Position {
            session: Arc::clone(session),
            reconnects,
            node: None,
            granted: None,
            ahead: Ahead::default(),
            releasing: false,
            releasing_in_background: false,
            name: claim.name.clone(),
            permits: claim.permits,
        };
        self.by_id.insert(claim.id, position);
        predecessor
    }

    /// Records the node that a session has created for a claim.
    ///
    /// The claim starts with what the claim before it in the same session knows of the queue, so that it may
    /// not have to read the queue.
    pub(super) fn created(&mut self, id: ClaimId, session: &Session, node: Node) {
        let Some(position) = self.by_id.get(&id) else { return };
        if position.session.id() != session.id() || position.node.is_some() {
            return;
        }
        let queue = self.queues.entry((session.id(), position.name.clone())).or_default();
        let before = queue.nodes.range(..node.czxid).next_back().and_then(|(_, id)| self.by_id.get(id));
        let ahead = before.map(|before| before.ahead_of_next(&node, self.unexplained)).unwrap_or_default();
        queue.nodes.insert(node.czxid, id);
        if let Some(position) = self.by_id.get_mut(&id) {
            position.node = Some(node);
            position.ahead = ahead;
        }
    }

    /// Decides a claim's status from what is known of the claims ahead; `None` if the queue has to be read.
    ///
    /// A claim that is found to hold is granted as of `at`.
    pub(super) fn decide(&mut self, claim: &Claim, at: Instant) -> Option<ClaimStatus> {
        let unexplained = self.unexplained;
        let position = self.by_id.get_mut(&claim.id)?;
        position.node.as_ref()?;
        if position.granted.is_none() {
            let blocked = position.ahead.blocks(position.permits);
            if position.ahead.unexplained != unexplained || !(blocked || position.ahead.complete) {
                return None;
            }
            if !blocked {
                position.granted = Some(at);
            }
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
        let Some(position) = self.by_id.get_mut(&claim.id) else {
            return ClaimStatus::Gone;
        };
        if position.node.as_ref() != Some(node) {
            return position.status(claim);
        }
        let Some(ahead) = snapshot.ahead(node) else { return ClaimStatus::Gone };
        if position.granted.is_none() {
            let near = nearest(ahead.clone().rev().map(|listed| listed.permits), claim.permits);
            if near.is_none() {
                position.granted = Some(snapshot.requested_at);
            }
            let first: Vec<ListedClaim> = ahead.clone().take(MAX_REMEMBERED + 1).cloned().collect();
            let (claims, complete) = if first.len() <= MAX_REMEMBERED {
                (first, true)
            } else {
                let mut near: Vec<&ListedClaim> = ahead.rev().take(near.unwrap_or(0)).collect();
                near.reverse();
                let permits: Vec<Permits> = near.iter().map(|listed| listed.permits).collect();
                let blockers = blockers(&permits, claim.permits).into_iter();
                (blockers.map(|blocker| near[blocker].clone()).collect(), false)
            };
            position.ahead = Ahead { claims: Arc::new(claims), complete, unexplained };
        }
        position.status(claim)
    }

    /// Records that nodes ahead of a waiting claim were deleted, and returns the claim's status by that;
    /// `None` if the queue has to be read.
    ///
    /// The queue has to be read if a deleted node belonged to a claim of this store that was not released
    /// here. The session that the two claims share may have expired. Then this claim's node is gone too, so
    /// the deletion must not grant it.
    pub(super) fn advance(&mut self, claim: &Claim, gone: &[Vec<u8>]) -> Option<ClaimStatus> {
        let position = self.by_id.get(&claim.id)?;
        let is_gone = |listed: &ListedClaim| {
            let names =
                |path: &Vec<u8>| path.rsplit(|byte| *byte == b'/').next() == Some(listed.node.as_bytes());
            gone.iter().any(names)
        };
        let (deleted, remaining): (Vec<_>, Vec<_>) = position.ahead.claims.iter().cloned().partition(is_gone);
        let released = |id| self.by_id.get(&id).is_none_or(|position| position.releasing);
        if !deleted.iter().filter_map(|listed| listed.id).all(released) {
            return None;
        }
        let position = self.by_id.get_mut(&claim.id)?;
        position.ahead.claims = Arc::new(remaining);
        self.decide(claim, Instant::now())
    }

    /// Forgets a claim that its owner has released, and hands what it knew to the next claim of its session.
    pub(super) fn released(&mut self, id: ClaimId, session: &Session, node: Option<&Node>) {
        if self.by_id.get(&id).is_none_or(|position| position.session.id() != session.id()) {
            return;
        }
        if let Some((next, ahead)) = node.and_then(|node| self.handover(id, node))
            && let Some(next) = self.by_id.get_mut(&next)
        {
            next.ahead = Ahead { unexplained: next.ahead.unexplained, ..ahead };
        }
        self.remove(id);
    }

    /// What a released claim hands to the next claim of its session, if that knows no other claim ahead.
    fn handover(&self, id: ClaimId, node: &Node) -> Option<(ClaimId, Ahead)> {
        let position = self.by_id.get(&id)?;
        let queue = self.queues.get(&(position.session.id(), position.name.clone()))?;
        let next = *queue.nodes.range(node.czxid + 1..).next()?.1;
        let behind = self.by_id.get(&next).filter(|behind| behind.waits_only_for(node))?;
        let mut ahead = position.ahead_of_next(behind.node.as_ref()?, self.unexplained);
        if !ahead.complete {
            // What kept the released claim waiting keeps the next one waiting too. To watch one is enough.
            let claims = position.ahead.claims.iter().take(1).chain([&node.listed]).cloned().collect();
            ahead.claims = Arc::new(claims);
        }
        Some((next, ahead))
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
        let position = self.by_id.get(&id);
        position
            .is_some_and(|position| position.session.id() == session.id() && position.node.as_ref() == node)
    }

    fn remove(&mut self, id: ClaimId) {
        let Some(position) = self.by_id.remove(&id) else { return };
        position.session.remove_claim();
        let of = (position.session.id(), position.name);
        if let Some(queue) = self.queues.get_mut(&of) {
            if let Some(node) = &position.node {
                queue.nodes.remove(&node.czxid);
            }
            queue.claims -= 1;
            if queue.claims == 0 {
                self.queues.remove(&of);
            }
        }
    }
}

impl Position {
    /// Whether this claim waits, and knows of this node ahead and of no other.
    fn waits_only_for(&self, node: &Node) -> bool {
        let ahead = &self.ahead;
        self.granted.is_none() && !ahead.complete && ahead.claims.len() == 1 && ahead.claims[0] == node.listed
    }

    /// What the next claim of the same session knows of the claims ahead of it, by what this claim knows.
    ///
    /// It always knows this claim. It knows all claims ahead if this claim does and if no sequence number
    /// lies between their nodes.
    fn ahead_of_next(&self, next: &Node, unexplained: u64) -> Ahead {
        let Some(node) = &self.node else { return Ahead::default() };
        let adjacent = node.listed.sequence.wrapping_add(1) == next.listed.sequence;
        let complete = adjacent && self.ahead.complete && self.ahead.claims.len() < MAX_REMEMBERED;
        let known = self.ahead.claims.iter().filter(|_| complete);
        let claims = known.chain([&node.listed]).cloned().collect();
        Ahead { claims: Arc::new(claims), complete, unexplained }
    }

    /// The names of the nodes that keep this claim waiting, as far as they are known.
    pub(super) fn blockers(&self) -> Vec<&str> {
        let permits: Vec<Permits> = self.ahead.claims.iter().map(|listed| listed.permits).collect();
        let blockers = blockers(&permits, self.permits).into_iter();
        blockers.map(|blocker| self.ahead.claims[blocker].node.as_str()).collect()
    }

    pub(super) fn status(&self, claim: &Claim) -> ClaimStatus {
        match (self.granted, &self.node) {
            (Some(granted), Some(node)) => ClaimStatus::Held(Grant {
                fencing_token: node.czxid.unsigned_abs(),
                expires: Some(self.session.expires()),
                hold_ends: claim.max_hold.map(|hold| granted + hold),
            }),
            _ => ClaimStatus::Waiting,
        }
    }
}

#[cfg(test)]
mod tests;
