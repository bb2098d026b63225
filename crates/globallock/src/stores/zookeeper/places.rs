//! The claims of one store, and what is known of those in front of them.
//!
//! Whoever was in front of a claim when it was made only ever leaves, since numbers only grow. So what is remembered may
//! be too much, but never too little; and few are remembered, however long the queue is: those that keep the claim
//! waiting, or all if these are few.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use super::naming::Listed;
use super::reading::Snapshot;
use super::session::Session;
use crate::backend::{Claim, ClaimId, ClaimStatus, Grant};
use crate::name::Name;
use crate::queue::{Permits, blockers, nearest};

/// How many in front of a claim are all remembered, so that it can be granted by their departure alone.
const FEW: usize = 16;

/// All claims of one store.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_id: HashMap<ClaimId, Place>,
    lines: HashMap<(i64, Name), Line>,
    /// How often a claim was found gone that nobody here had taken out: with it others may have ended.
    unexplained: u64,
}

/// The claims of one session in one queue, in their order.
#[derive(Debug, Default)]
struct Line {
    /// Those whose nodes are known, by the transactions that made them.
    nodes: BTreeMap<i64, ClaimId>,
    /// How many there are, with those whose nodes are not known.
    claims: usize,
}

/// A claim of this store: asked for, or in its queue as last known.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) session: Arc<Session>,
    /// How many connections the session had lost when the claim was asked for.
    pub(super) losses: u64,
    /// Its node; `None` as long as no answer has told it.
    pub(super) node: Option<Node>,
    /// No later than the grant; `None` while the claim waits.
    pub(super) granted: Option<Instant>,
    front: Front,
    /// Whether its owner is taking it out.
    pub(super) leaves: bool,
    /// Whether a task of its own goes on with that.
    pub(super) leaves_later: bool,
    name: Name,
    permits: Permits,
}

/// The node of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) path: String,
    /// The transaction that made it, which is the fencing token.
    pub(super) created: i64,
    /// What its name tells.
    pub(super) listed: Listed,
}

/// What is known of those in front of a claim.
#[derive(Clone, Debug, Default)]
struct Front {
    /// In their order; some of them may have left.
    ahead: Arc<Vec<Listed>>,
    /// Whether nobody else can be in front.
    whole: bool,
    /// How many ends were unexplained then.
    unexplained: u64,
}

/// Whom a claim that is to be made finds in its queue, of the same session.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Company {
    Nobody,
    /// A claim whose node is not known yet.
    UnderWay,
    /// The node of the last.
    Known(String),
}

impl Front {
    fn blocks(&self, permits: Permits) -> bool {
        nearest(self.ahead.iter().rev().map(|listed| listed.permits), permits).is_some()
    }
}

impl Places {
    pub(super) fn get(&self, id: ClaimId) -> Option<&Place> {
        self.by_id.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: ClaimId) -> Option<&mut Place> {
        self.by_id.get_mut(&id)
    }

    /// Takes note that a claim is asked for, and says who of ours is there.
    pub(super) fn begin(&mut self, claim: &Claim, session: &Arc<Session>) -> Company {
        self.remove(claim.id);
        let line = self.lines.entry((session.id(), claim.name.clone())).or_default();
        let stays = |id: &&ClaimId| self.by_id.get(id).is_some_and(|place| !place.leaves);
        // Whoever leaves need not be waited for.
        let last = line.nodes.values().rev().take(FEW).find(stays);
        let last = last.and_then(|id| self.by_id.get(id)?.node.as_ref());
        let company = match last {
            Some(node) => Company::Known(node.path.clone()),
            None if line.claims > line.nodes.len() => Company::UnderWay,
            None => Company::Nobody,
        };
        line.claims += 1;
        session.add_claim();
        let place = Place {
            session: Arc::clone(session),
            losses: session.losses(),
            node: None,
            granted: None,
            front: Front::default(),
            leaves: false,
            leaves_later: false,
            name: claim.name.clone(),
            permits: claim.permits,
        };
        self.by_id.insert(claim.id, place);
        company
    }

    /// Takes note of the node that a session has made for a claim, and of what that tells of those in front of it: the
    /// claim of ours next in front is there, and with it whoever keeps that one waiting.
    pub(super) fn made(&mut self, id: ClaimId, session: &Session, node: Node) {
        let Some(place) = self.by_id.get(&id) else { return };
        if place.session.id() != session.id() || place.node.is_some() {
            return;
        }
        let line = self.lines.entry((session.id(), place.name.clone())).or_default();
        let before = line.nodes.range(..node.created).next_back().and_then(|(_, id)| self.by_id.get(id));
        let front = before.map(|before| before.front_of_next(&node, self.unexplained)).unwrap_or_default();
        line.nodes.insert(node.created, id);
        if let Some(place) = self.by_id.get_mut(&id) {
            place.node = Some(node);
            place.front = front;
        }
    }

    /// Where a claim stands by what is known of those in front of it; `None` if they have to be read.
    pub(super) fn settle(&mut self, claim: &Claim, at: Instant) -> Option<ClaimStatus> {
        let unexplained = self.unexplained;
        let place = self.by_id.get_mut(&claim.id)?;
        place.node.as_ref()?;
        if place.granted.is_none() {
            let blocked = place.front.blocks(place.permits);
            if place.front.unexplained != unexplained || !(blocked || place.front.whole) {
                return None;
            }
            if !blocked {
                place.granted = Some(at);
            }
        }
        Some(place.status(claim))
    }

    /// Takes note of the queue as it was read, and says where the claim, whose node was this when the reading began,
    /// stands in it.
    pub(super) fn note(&mut self, claim: &Claim, node: &Node, snapshot: &Snapshot) -> ClaimStatus {
        let unexplained = self.unexplained;
        let Some(place) = self.by_id.get_mut(&claim.id) else {
            return ClaimStatus::Gone;
        };
        if place.node.as_ref() != Some(node) {
            return place.status(claim);
        }
        let Some(ahead) = snapshot.ahead(node) else {
            let session = Arc::clone(&place.session);
            self.found_gone(claim.id, &session, Some(node));
            return ClaimStatus::Gone;
        };
        if place.granted.is_none() {
            let near = nearest(ahead.clone().rev().map(|listed| listed.permits), claim.permits);
            if near.is_none() {
                place.granted = Some(snapshot.asked_at);
            }
            let few: Vec<Listed> = ahead.clone().take(FEW + 1).cloned().collect();
            let (ahead, whole) = if few.len() <= FEW {
                (few, true)
            } else {
                let mut near: Vec<&Listed> = ahead.rev().take(near.unwrap_or(0)).collect();
                near.reverse();
                let shares: Vec<Permits> = near.iter().map(|listed| listed.permits).collect();
                let blockers = blockers(&shares, claim.permits).into_iter();
                (blockers.map(|blocker| near[blocker].clone()).collect(), false)
            };
            place.front = Front { ahead: Arc::new(ahead), whole, unexplained };
        }
        place.status(claim)
    }

    /// Takes note that nodes in front of a waiting claim are gone, and says where it stands by that; `None` if that has
    /// to be asked.
    ///
    /// The end of another claim of this store that nobody took out may be the end of the session of both.
    pub(super) fn advance(&mut self, claim: &Claim, gone: &[Vec<u8>]) -> Option<ClaimStatus> {
        let place = self.by_id.get(&claim.id)?;
        let is_gone = |listed: &Listed| {
            let names =
                |path: &Vec<u8>| path.rsplit(|byte| *byte == b'/').next() == Some(listed.node.as_bytes());
            gone.iter().any(names)
        };
        let (left, ahead): (Vec<_>, Vec<_>) = place.front.ahead.iter().cloned().partition(is_gone);
        let taken = |id| self.by_id.get(&id).is_none_or(|place| place.leaves);
        if !left.iter().filter_map(|listed| listed.id).all(taken) {
            return None;
        }
        let place = self.by_id.get_mut(&claim.id)?;
        place.front.ahead = Arc::new(ahead);
        self.settle(claim, Instant::now())
    }

    /// Forgets a claim that its owner has taken out, and tells the claim of ours behind it what it knew.
    pub(super) fn taken_out(&mut self, id: ClaimId, session: &Session, node: Option<&Node>) {
        if self.by_id.get(&id).is_none_or(|place| place.session.id() != session.id()) {
            return;
        }
        if let Some((next, front)) = node.and_then(|node| self.bequest(id, node))
            && let Some(next) = self.by_id.get_mut(&next)
        {
            next.front = Front { unexplained: next.front.unexplained, ..front };
        }
        self.remove(id);
    }

    /// What a claim leaves to the claim of ours behind it, if that knows of nobody else in front of it.
    fn bequest(&self, id: ClaimId, node: &Node) -> Option<(ClaimId, Front)> {
        let place = self.by_id.get(&id)?;
        let line = self.lines.get(&(place.session.id(), place.name.clone()))?;
        let next = *line.nodes.range(node.created + 1..).next()?.1;
        let behind = self.by_id.get(&next).filter(|behind| behind.stands_on(node))?;
        let mut front = place.front_of_next(behind.node.as_ref()?, self.unexplained);
        if !front.whole {
            // Whoever kept the one waiting keeps the other waiting too; one of them is enough to watch.
            let ahead = place.front.ahead.iter().take(1).chain([&node.listed]).cloned().collect();
            front.ahead = Arc::new(ahead);
        }
        Some((next, front))
    }

    /// Forgets a claim that was found gone, if it is still the one of this session and node that was asked about.
    pub(super) fn found_gone(&mut self, id: ClaimId, session: &Session, node: Option<&Node>) {
        if self.is_at(id, session, node) {
            self.unexplained += 1;
            self.remove(id);
        }
    }

    /// Forgets a claim that was never made.
    pub(super) fn never_made(&mut self, id: ClaimId, session: &Session) {
        if self.is_at(id, session, None) {
            self.remove(id);
        }
    }

    fn is_at(&self, id: ClaimId, session: &Session, node: Option<&Node>) -> bool {
        let place = self.by_id.get(&id);
        place.is_some_and(|place| place.session.id() == session.id() && place.node.as_ref() == node)
    }

    fn remove(&mut self, id: ClaimId) {
        let Some(place) = self.by_id.remove(&id) else { return };
        place.session.remove_claim();
        let of = (place.session.id(), place.name);
        if let Some(line) = self.lines.get_mut(&of) {
            if let Some(node) = &place.node {
                line.nodes.remove(&node.created);
            }
            line.claims -= 1;
            if line.claims == 0 {
                self.lines.remove(&of);
            }
        }
    }
}

impl Place {
    /// Whether this waits for a node, and for no other.
    fn stands_on(&self, node: &Node) -> bool {
        let front = &self.front;
        self.granted.is_none() && !front.whole && front.ahead.len() == 1 && front.ahead[0] == node.listed
    }

    /// What this tells of those in front of the claim of ours behind it: itself, and all whom it knows if nobody can be
    /// between their numbers.
    fn front_of_next(&self, next: &Node, unexplained: u64) -> Front {
        let Some(node) = &self.node else { return Front::default() };
        let adjacent = node.listed.sequence.wrapping_add(1) == next.listed.sequence;
        let whole = adjacent && self.front.whole && self.front.ahead.len() < FEW;
        let known = self.front.ahead.iter().filter(|_| whole);
        let ahead = known.chain([&node.listed]).cloned().collect();
        Front { ahead: Arc::new(ahead), whole, unexplained }
    }

    /// The nodes' names of those that keep this waiting, as far as they are known.
    pub(super) fn blockers(&self) -> Vec<&str> {
        let shares: Vec<Permits> = self.front.ahead.iter().map(|listed| listed.permits).collect();
        let blockers = blockers(&shares, self.permits).into_iter();
        blockers.map(|blocker| self.front.ahead[blocker].node.as_str()).collect()
    }

    pub(super) fn status(&self, claim: &Claim) -> ClaimStatus {
        match (self.granted, &self.node) {
            (Some(granted), Some(node)) => ClaimStatus::Held(Grant {
                fencing_token: node.created.unsigned_abs(),
                expires: Some(self.session.expires()),
                hold_ends: claim.max_hold.map(|hold| granted + hold),
            }),
            _ => ClaimStatus::Waiting,
        }
    }
}

#[cfg(test)]
mod tests;
