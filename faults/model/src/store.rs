//! How the store serves requests, and which waiters it notifies.

use globallock::queue::{admit, blockers};

use super::state::{AHEAD, Entry, Held, Message, NO_ENTRY, Phase, Request, State};
use super::{Flaw, LEASE, Protocol, Shape};

impl Protocol {
    /// Whether the store remembers released claims. It must where a claim that is enqueued after its release
    /// would live on, because its owner's other claims keep their common lease alive.
    fn has_tombstones(&self) -> bool {
        self.shape == Shape::LeasePerOwner && self.flaw != Flaw::NoTombstone
    }

    /// The claims in the queue of a name, oldest first.
    pub(super) fn queue(&self, state: &State, name: u8) -> Vec<u8> {
        let of_name = state.queue.iter().filter(|entry| self.wanted(entry.claim).name == name);
        of_name.map(|entry| entry.claim).collect()
    }

    /// The holders of a name, by the store's queue.
    pub(super) fn holding(&self, state: &State, name: u8) -> Vec<u8> {
        let mut queue = self.queue(state, name);
        queue.truncate(admit(self.permits_of(&queue)));
        queue
    }

    /// Whether the store still has the grant of this claim with this token.
    pub(super) fn keeps(&self, state: &State, claim: u8, fencing_token: u8) -> bool {
        self.holding(state, self.wanted(claim).name).contains(&claim)
            && state.queue.iter().any(|entry| entry.claim == claim && entry.fencing_token == fencing_token)
    }

    /// Takes the claims out of the queue whose leases have expired.
    pub(super) fn expire(&self, state: &mut State) {
        if self.flaw != Flaw::KeepsExpiredClaims {
            let now = state.now;
            state.queue.retain(|entry| entry.deadline > now);
        }
    }

    /// Renews the lease of a claim, and returns its number. Where claims share their owner's lease, an
    /// expired lease is replaced by a new one.
    fn renew(&self, state: &mut State, claim: u8) -> u8 {
        let owner = self.wanted(claim).owner;
        let shared = |entry: &Entry| self.wanted(entry.claim).owner == owner;
        let (now, is_shared) = (state.now, self.shape == Shape::LeasePerOwner);
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

    /// Serves a request: enqueues the claim unless it is in the queue already, or only renews it.
    pub(super) fn enqueue(&self, state: &mut State, claim: u8, request: Request) {
        let enqueues = request.entry == NO_ENTRY;
        // Where owners share one lease among their claims, a renewal names the entry, and another entry of
        // the same claim does not count.
        let has_entry = state.queue.iter().any(|entry| {
            entry.claim == claim
                && (self.shape == Shape::LeasePerClaim || entry.fencing_token == request.entry)
        });
        // The owner's lease may have expired since the request was sent, so the claim would be attached to
        // nothing.
        let dead_lease = enqueues && self.shape == Shape::LeasePerOwner && request.sent + LEASE <= state.now;
        if state.tombstones.contains(&claim) && self.has_tombstones() || dead_lease || !enqueues && !has_entry
        {
            state.network.push(Message::NotFound(claim, request));
            return;
        }
        let name = self.wanted(claim).name;
        let lease = self.renew(state, claim);
        if !state.queue.iter().any(|entry| entry.claim == claim) {
            let newest = state.newest_tokens[usize::from(name)];
            let restarts = self.flaw == Flaw::TokensRestart && self.queue(state, name).is_empty();
            let fencing_token = if restarts { 1 } else { newest + 1 };
            state.fell |= fencing_token <= newest;
            state.newest_tokens[usize::from(name)] = newest.max(fencing_token);
            state.queue.push(Entry { claim, fencing_token, deadline: state.now + LEASE, lease });
        }
        let queue = self.queue(state, name);
        let position = queue.iter().position(|other| *other == claim).unwrap_or(0);
        let fencing_token =
            state.queue.iter().find(|entry| entry.claim == claim).map_or(0, |entry| entry.fencing_token);
        let held = Held { fencing_token, sent: request.sent, lease };
        let holds = self.holding(state, name).contains(&claim) || self.flaw == Flaw::GrantsToAll;
        state.network.push(if holds {
            Message::Held(claim, held)
        } else {
            let ahead = if self.shape == Shape::LeasePerOwner { &queue[..position] } else { &[] };
            Message::Waiting(claim, held, AHEAD.with(ahead), request.held)
        });
    }

    /// The notifications that the store may send to a waiter.
    pub(super) fn pushes(&self, state: &State, claim: u8) -> Vec<Message> {
        let Phase::Waiting(known, ahead) = state.phases[usize::from(claim)] else { return Vec::new() };
        let mut pushes = Vec::new();
        if self.shape == Shape::LeasePerClaim {
            let entry = state.queue.iter().find(|entry| entry.claim == claim);
            let holds = self.holding(state, self.wanted(claim).name).contains(&claim);
            pushes.extend(entry.filter(|_| holds).map(|entry| Message::Granted(claim, entry.fencing_token)));
        } else {
            // The waiter watches its blockers, by the queue as it last saw it: one push for each that is
            // gone.
            let ahead = ahead.list();
            let watched = blockers(&self.permits_of(&ahead), self.permits(claim)).into_iter();
            let gone = watched
                .map(|position| ahead[position])
                .filter(|other| !state.queue.iter().any(|entry| entry.claim == *other));
            pushes.extend(gone.map(|other| Message::Gone(claim, known.fencing_token, other)));
        }
        pushes.retain(|push| !state.network.contains(push));
        pushes
    }
}
