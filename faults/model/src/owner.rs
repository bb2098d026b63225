//! What an owner believes, and how it reacts to answers and pushes.

use std::time::Duration;

use globallock::backend::Instant;
use globallock::internals::{deadline, margin};
use globallock::queue::admit;

use super::state::{Ahead, FORGOTTEN, Held, Message, NO_ENTRY, Phase, Request, State};
use super::{BEGIN, Flaw, LEASE, Protocol, Shape, TICK};

impl Protocol {
    /// Until when an owner believes that it holds, by a request sent in that tick; in the store's time.
    fn believes_until(&self, claim: u8, sent: u8) -> Option<Instant> {
        let end = *BEGIN + TICK * u32::from(sent + LEASE);
        let lease = TICK * u32::from(LEASE);
        let end = match self.flaw {
            Flaw::NoDeadline => return None,
            Flaw::NoMargin => end,
            _ => deadline(end, lease).unwrap_or(end),
        };
        // The first owner's clock is as slow as the margin allows for.
        let is_slow = self.wanted(claim).owner == 0;
        Some(if is_slow { end + margin(lease) - Duration::from_millis(1) } else { end })
    }

    /// Whether an owner believes that it holds.
    pub(super) fn believes(&self, state: &State, claim: u8) -> bool {
        let Phase::Held(held) = state.phases[usize::from(claim)] else { return false };
        let now = *BEGIN + TICK * u32::from(state.now);
        self.believes_until(claim, held.sent).is_none_or(|until| now < until)
    }

    /// What an owner requests now for a claim: that it is enqueued, or that its entry is renewed.
    pub(super) fn next_request(&self, state: &State, claim: u8) -> Request {
        let (entry, held) = match state.phases[usize::from(claim)] {
            Phase::Waiting(known, _) => (known.fencing_token, false),
            Phase::Held(_) if state.forgotten.contains(&claim) => (FORGOTTEN, true),
            Phase::Held(known) => (known.fencing_token, true),
            _ => (NO_ENTRY, false),
        };
        Request { sent: state.now, entry, held }
    }

    /// An owner learns that a claim is held, by a request that was sent at `held.sent`.
    fn hold(&self, state: &mut State, claim: u8, held: Held) {
        state.phases[usize::from(claim)] = Phase::Held(held);
        // An answer that comes after its own deadline is no grant: the owner requests the claim again.
        if !self.believes(state, claim) {
            state.phases[usize::from(claim)] = Phase::Asking;
        }
    }

    /// The confirmation of one claim also confirms the owner's other claims that are attached to the same
    /// lease.
    fn confirm(&self, state: &mut State, claim: u8, confirmed: Held) {
        let owner = self.wanted(claim).owner;
        for (other, phase) in (0..).zip(&mut state.phases) {
            let shared = self.shape == Shape::LeasePerOwner && self.wanted(other).owner == owner;
            let (Phase::Held(held) | Phase::Waiting(held, _)) = phase else { continue };
            if other == claim
                || shared && (held.lease == confirmed.lease || self.flaw == Flaw::ConfusesLeases)
            {
                // A late answer shortens nothing.
                held.sent = held.sent.max(confirmed.sent);
            }
        }
    }

    /// An owner reports a claim lost, and releases whatever the store may still have of it.
    fn lose(&self, state: &mut State, claim: u8, known: Held) {
        state.unprovoked |= self.believes(state, claim) && self.keeps(state, claim, known.fencing_token);
        state.phases[usize::from(claim)] = Phase::Releasing;
        state.network.push(Message::Release(claim));
    }

    /// An answer says that the claim holds.
    pub(super) fn on_held(&self, state: &mut State, claim: u8, held: Held) {
        let since = if self.flaw == Flaw::CountsFromAnswer { state.now } else { held.sent };
        let held = Held { sent: since, ..held };
        match state.phases[usize::from(claim)] {
            Phase::Asking | Phase::Waiting(..) => self.hold(state, claim, held),
            Phase::Releasing if self.flaw == Flaw::AsksWhileReleasing => self.hold(state, claim, held),
            Phase::Held(known) if known.fencing_token == held.fencing_token => {
                self.confirm(state, claim, held);
            }
            Phase::Held(known) if self.flaw == Flaw::TakesAnyToken => {
                let sent = known.sent.max(held.sent);
                state.phases[usize::from(claim)] = Phase::Held(Held { sent, ..held });
            }
            // A higher token: the old entry is gone, and the store has enqueued the claim a second time.
            Phase::Held(known) if known.fencing_token < held.fencing_token => self.lose(state, claim, known),
            _ => {}
        }
    }

    /// An answer says that the claim waits; `held` is whether its owner knew of a grant when it sent the
    /// request.
    pub(super) fn on_waiting(&self, state: &mut State, claim: u8, waiting: Held, ahead: Ahead, held: bool) {
        match state.phases[usize::from(claim)] {
            Phase::Asking => state.phases[usize::from(claim)] = Phase::Waiting(waiting, ahead),
            Phase::Waiting(known, _) if known.fencing_token == waiting.fencing_token => {
                self.confirm(state, claim, waiting);
            }
            Phase::Waiting(known, _) if known.fencing_token < waiting.fencing_token => {
                state.phases[usize::from(claim)] = Phase::Waiting(waiting, ahead);
            }
            Phase::Held(known) if held || self.flaw == Flaw::BelievesOldAnswers => {
                self.lose(state, claim, known);
            }
            // The request is from before the grant, so its answer says nothing about the grant.
            _ => {}
        }
    }

    /// An answer says that the entry of the request does not exist.
    pub(super) fn on_not_found(&self, state: &mut State, claim: u8, request: Request) {
        match state.phases[usize::from(claim)] {
            Phase::Waiting(known, _) if request.entry == known.fencing_token => {
                state.phases[usize::from(claim)] = Phase::Asking;
            }
            Phase::Held(known) if request.held || self.flaw == Flaw::BelievesOldAnswers => {
                self.lose(state, claim, known);
            }
            Phase::Held(known)
                if self.flaw == Flaw::ForgetsNewerEntry
                    && ![NO_ENTRY, known.fencing_token].contains(&request.entry) =>
            {
                state.forgotten = vec![claim];
            }
            // The request was about an earlier entry.
            _ => {}
        }
    }

    /// A push says that the entry with this token holds.
    pub(super) fn on_granted(&self, state: &mut State, claim: u8, fencing_token: u8) {
        if let Phase::Waiting(known, _) = state.phases[usize::from(claim)]
            && (known.fencing_token == fencing_token || self.flaw == Flaw::TakesOldPushes)
        {
            self.hold(state, claim, known);
        }
    }

    /// A push says that a claim is gone which the entry with this token watched. The waiter holds if the
    /// claims that are left in front of it leave enough permits.
    pub(super) fn on_gone(&self, state: &mut State, claim: u8, fencing_token: u8, gone: u8) {
        let Phase::Waiting(known, ahead) = state.phases[usize::from(claim)] else { return };
        if known.fencing_token != fencing_token && self.flaw != Flaw::TakesOldPushes {
            return;
        }
        let ahead = ahead.without(gone);
        state.phases[usize::from(claim)] = Phase::Waiting(known, ahead);
        let rest = ahead.list();
        let fits = admit(self.permits_of(&rest).into_iter().chain([self.permits(claim)])) > rest.len();
        if fits || self.flaw == Flaw::TakesGoneForGrant {
            self.hold(state, claim, known);
        }
    }
}
