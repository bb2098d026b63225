//! What an owner believes, and what it makes of what it is told.

use std::time::{Duration, Instant};

use globallock::internals::{deadline, margin};
use globallock::queue::admit;

use super::state::{Ahead, Asked, FORGOTTEN, Held, Message, NOWHERE, Phase, State};
use super::{BEGIN, Flaw, LEASE, Protocol, Shape, TICK};

impl Protocol {
    /// Until when an owner believes by a request of that tick, on the store's clock.
    fn believes_until(&self, claim: u8, sent: u8) -> Option<Instant> {
        let end = *BEGIN + TICK * u32::from(sent + LEASE);
        let lease = TICK * u32::from(LEASE);
        let end = match self.flaw {
            Flaw::NoDeadline => return None,
            Flaw::NoMargin => end,
            _ => deadline(end, lease).unwrap_or(end),
        };
        // The first owner's clock is slow, by all that the margin is for.
        let is_slow = self.wanted(claim).owner == 0;
        Some(if is_slow { end + margin(lease) - Duration::from_millis(1) } else { end })
    }

    /// Whether an owner believes that it holds.
    pub(super) fn believes(&self, state: &State, claim: u8) -> bool {
        let Phase::Held(held) = state.phases[usize::from(claim)] else { return false };
        let now = *BEGIN + TICK * u32::from(state.now);
        self.believes_until(claim, held.sent).is_none_or(|until| now < until)
    }

    /// What an owner asks now for a claim: to join, or that its place be renewed.
    pub(super) fn asks(&self, state: &State, claim: u8) -> Asked {
        let (place, held) = match state.phases[usize::from(claim)] {
            Phase::Waiting(known, _) => (known.fencing_token, false),
            Phase::Held(_) if state.forgotten.contains(&claim) => (FORGOTTEN, true),
            Phase::Held(known) => (known.fencing_token, true),
            _ => (NOWHERE, false),
        };
        Asked { sent: state.now, place, held }
    }

    /// An owner learns that a claim is held, by what was confirmed then.
    fn hold(&self, state: &mut State, claim: u8, held: Held) {
        state.phases[usize::from(claim)] = Phase::Held(held);
        // What took so long that it has expired is no grant: the claim joins again.
        if !self.believes(state, claim) {
            state.phases[usize::from(claim)] = Phase::Asking;
        }
    }

    /// What confirms one claim of an owner confirms those that are attached to the same lease.
    fn confirm(&self, state: &mut State, claim: u8, confirmed: Held) {
        let owner = self.wanted(claim).owner;
        for (other, phase) in (0..).zip(&mut state.phases) {
            let shared = self.shape == Shape::LeaseOfOwner && self.wanted(other).owner == owner;
            let (Phase::Held(held) | Phase::Waiting(held, _)) = phase else { continue };
            if other == claim
                || shared && (held.lease == confirmed.lease || self.flaw == Flaw::OneLeaseForEver)
            {
                // A late answer takes nothing back.
                held.sent = held.sent.max(confirmed.sent);
            }
        }
    }

    /// An owner is told that it holds no more, and takes out what may be left of the claim.
    fn lose(&self, state: &mut State, claim: u8, known: Held) {
        state.unprovoked |= self.believes(state, claim) && self.keeps(state, claim, known.fencing_token);
        state.phases[usize::from(claim)] = Phase::Leaving;
        state.network.push(Message::Leave(claim));
    }

    /// An answer says that the claim holds.
    pub(super) fn told_held(&self, state: &mut State, claim: u8, held: Held) {
        let since = if self.flaw == Flaw::CountsFromAnswer { state.now } else { held.sent };
        let held = Held { sent: since, ..held };
        match state.phases[usize::from(claim)] {
            Phase::Asking | Phase::Waiting(..) => self.hold(state, claim, held),
            Phase::Leaving if self.flaw == Flaw::AsksWhileLeaving => self.hold(state, claim, held),
            Phase::Held(known) if known.fencing_token == held.fencing_token => {
                self.confirm(state, claim, held)
            }
            Phase::Held(known) if self.flaw == Flaw::TakesAnyToken => {
                let sent = known.sent.max(held.sent);
                state.phases[usize::from(claim)] = Phase::Held(Held { sent, ..held });
            }
            // Tokens rise: the store has had to queue the claim once more.
            Phase::Held(known) if known.fencing_token < held.fencing_token => self.lose(state, claim, known),
            _ => {}
        }
    }

    /// An answer says that the claim waits; `held` is whether its owner had been told of a grant when it asked.
    pub(super) fn told_waits(&self, state: &mut State, claim: u8, waits: Held, ahead: Ahead, held: bool) {
        match state.phases[usize::from(claim)] {
            Phase::Asking => state.phases[usize::from(claim)] = Phase::Waiting(waits, ahead),
            Phase::Waiting(known, _) if known.fencing_token == waits.fencing_token => {
                self.confirm(state, claim, waits)
            }
            Phase::Waiting(known, _) if known.fencing_token < waits.fencing_token => {
                state.phases[usize::from(claim)] = Phase::Waiting(waits, ahead);
            }
            Phase::Held(known) if held || self.flaw == Flaw::BelievesOldAnswers => {
                self.lose(state, claim, known);
            }
            // From before the grant: it says nothing of it.
            _ => {}
        }
    }

    /// An answer says that the claim is not where the request looked for it.
    pub(super) fn told_nowhere(&self, state: &mut State, claim: u8, asked: Asked) {
        match state.phases[usize::from(claim)] {
            Phase::Waiting(known, _) if asked.place == known.fencing_token => {
                state.phases[usize::from(claim)] = Phase::Asking;
            }
            Phase::Held(known) if asked.held || self.flaw == Flaw::BelievesOldAnswers => {
                self.lose(state, claim, known);
            }
            Phase::Held(known)
                if self.flaw == Flaw::ForgetsNewerPlace
                    && ![NOWHERE, known.fencing_token].contains(&asked.place) =>
            {
                state.forgotten = vec![claim];
            }
            // It looked for an earlier place.
            _ => {}
        }
    }

    /// A push says that the entry with this token holds.
    pub(super) fn told_granted(&self, state: &mut State, claim: u8, fencing_token: u8) {
        if let Phase::Waiting(known, _) = state.phases[usize::from(claim)]
            && (known.fencing_token == fencing_token || self.flaw == Flaw::TakesOldPushes)
        {
            self.hold(state, claim, known);
        }
    }

    /// A push says that another claim is gone which the entry with this token watched; it holds if that was all.
    pub(super) fn told_gone(&self, state: &mut State, claim: u8, fencing_token: u8, gone: u8) {
        let Phase::Waiting(known, ahead) = state.phases[usize::from(claim)] else { return };
        if known.fencing_token != fencing_token && self.flaw != Flaw::TakesOldPushes {
            return;
        }
        let ahead = ahead.without(gone);
        state.phases[usize::from(claim)] = Phase::Waiting(known, ahead);
        let rest = ahead.list();
        let fits = admit(self.shares(&rest).into_iter().chain([self.permits(claim)])) > rest.len();
        if fits || self.flaw == Flaw::TrustsTheNext {
            self.hold(state, claim, known);
        }
    }
}
