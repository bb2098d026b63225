//! What the store does with a request, and whom it tells of a change.

use globallock::queue::{admit, blockers};

use super::state::{AHEAD, Asked, Entry, Held, Message, NOWHERE, Phase, State};
use super::{Flaw, LEASE, Protocol, Shape};

impl Protocol {
    /// Whether a departure is remembered: where the claim's own lease does not see to its end.
    fn bars(&self) -> bool {
        self.shape == Shape::LeaseOfOwner && self.flaw != Flaw::NoBar
    }

    /// The claims in the queue of a name, in their order.
    pub(super) fn queue(&self, state: &State, name: u8) -> Vec<u8> {
        let of_name = state.queue.iter().filter(|entry| self.wanted(entry.claim).name == name);
        of_name.map(|entry| entry.claim).collect()
    }

    /// The claims in the store that hold a name.
    pub(super) fn holding(&self, state: &State, name: u8) -> Vec<u8> {
        let mut queue = self.queue(state, name);
        queue.truncate(admit(self.shares(&queue)));
        queue
    }

    /// Whether the store keeps what the owner of this claim was granted.
    pub(super) fn keeps(&self, state: &State, claim: u8, fencing_token: u8) -> bool {
        self.holding(state, self.wanted(claim).name).contains(&claim)
            && state.queue.iter().any(|entry| entry.claim == claim && entry.fencing_token == fencing_token)
    }

    /// The store forgets the claims whose leases have expired.
    pub(super) fn expire(&self, state: &mut State) {
        if self.flaw != Flaw::KeepsTheDead {
            let now = state.now;
            state.queue.retain(|entry| entry.deadline > now);
        }
    }

    /// The lease that a claim is attached to: its own, or one that all of its owner are, which is another once it has
    /// expired.
    fn renew(&self, state: &mut State, claim: u8) -> u8 {
        let owner = self.wanted(claim).owner;
        let shared = |entry: &Entry| self.wanted(entry.claim).owner == owner;
        let (now, is_shared) = (state.now, self.shape == Shape::LeaseOfOwner);
        let current = state.queue.iter().find(|entry| is_shared && shared(entry)).map(|entry| entry.lease);
        for entry in &mut state.queue {
            if entry.claim == claim || is_shared && shared(entry) {
                entry.deadline = now + LEASE;
            }
        }
        let leases = &mut state.leases[usize::from(owner)];
        *leases += u8::from(is_shared && current.is_none());
        current.unwrap_or(*leases)
    }

    /// Joins a claim, or finds it; a renewal only finds it.
    pub(super) fn join(&self, state: &mut State, claim: u8, asked: Asked) {
        let joins = asked.place == NOWHERE;
        // Where places are remembered, a renewal looks at that place alone.
        let is_there = state.queue.iter().any(|entry| {
            entry.claim == claim && (self.shape == Shape::LeaseOfClaim || entry.fencing_token == asked.place)
        });
        let dead_lease = joins && self.shape == Shape::LeaseOfOwner && asked.sent + LEASE <= state.now;
        if state.barred.contains(&claim) && self.bars() || dead_lease || !joins && !is_there {
            state.network.push(Message::Nowhere(claim, asked));
            return;
        }
        let name = self.wanted(claim).name;
        let lease = self.renew(state, claim);
        if !state.queue.iter().any(|entry| entry.claim == claim) {
            let newest = state.fences[usize::from(name)];
            let restarts = self.flaw == Flaw::TokensRestart && self.queue(state, name).is_empty();
            let fencing_token = if restarts { 1 } else { newest + 1 };
            state.fell |= fencing_token <= newest;
            state.fences[usize::from(name)] = newest.max(fencing_token);
            state.queue.push(Entry { claim, fencing_token, deadline: state.now + LEASE, lease });
        }
        let queue = self.queue(state, name);
        let position = queue.iter().position(|other| *other == claim).unwrap_or(0);
        let fencing_token =
            state.queue.iter().find(|entry| entry.claim == claim).map_or(0, |entry| entry.fencing_token);
        let held = Held { fencing_token, sent: asked.sent, lease };
        let holds = self.holding(state, name).contains(&claim) || self.flaw == Flaw::GrantsToAll;
        state.network.push(if holds {
            Message::Held(claim, held)
        } else {
            let ahead = if self.shape == Shape::LeaseOfOwner { &queue[..position] } else { &[] };
            Message::Waits(claim, held, AHEAD.with(ahead), asked.held)
        });
    }

    /// What the store may tell a claim that waits, unasked.
    pub(super) fn pushes(&self, state: &State, claim: u8) -> Vec<Message> {
        let Phase::Waiting(known, ahead) = state.phases[usize::from(claim)] else { return Vec::new() };
        let mut pushes = Vec::new();
        if self.shape == Shape::LeaseOfClaim {
            let entry = state.queue.iter().find(|entry| entry.claim == claim);
            let holds = self.holding(state, self.wanted(claim).name).contains(&claim);
            pushes.extend(entry.filter(|_| holds).map(|entry| Message::Granted(claim, entry.fencing_token)));
        } else {
            // Of the claims that it watches, as it last saw the queue, those that are gone.
            let ahead = ahead.list();
            let watched = blockers(&self.shares(&ahead), self.permits(claim)).into_iter();
            let gone = watched
                .map(|position| ahead[position])
                .filter(|other| !state.queue.iter().any(|entry| entry.claim == *other));
            pushes.extend(gone.map(|other| Message::Gone(claim, known.fencing_token, other)));
        }
        pushes.retain(|push| !state.network.contains(push));
        pushes
    }
}
