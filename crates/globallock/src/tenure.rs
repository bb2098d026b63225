//! One claim of ours from the asking to the end: what its owner may believe about it at each moment.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{Claim, Grant};
use crate::deadline::deadline;
use crate::sync::{Mutex, MutexGuard, Notify, now, sleep_until};

/// Why a held lock is not held any more, though its owner did not release it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Loss {
    /// No renewal was confirmed in time: the store may be out of reach, or this process was stopped.
    Expired,
    /// The longest hold was over.
    MaxHold,
    /// The store does not know the claim any more: somebody broke the lock, or the store lost it.
    Revoked,
}

impl std::fmt::Display for Loss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Loss::Expired => "its lease ran out: no renewal was confirmed in time",
            Loss::MaxHold => "its longest hold is over",
            Loss::Revoked => "the store does not hold it for us any more",
        })
    }
}

/// Where a claim of ours is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Asked for, not granted.
    Waiting,
    /// Granted.
    Held,
    /// Granted once, and taken from us.
    Lost(Loss),
    /// Given up or released by its owner.
    Left,
}

/// A claim of ours and what is known of it.
#[derive(Debug)]
pub(crate) struct Tenure {
    pub(crate) claim: Arc<Claim>,
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    fence: u64,
    /// When the lease counts as over, the margin taken off.
    lease_ends: Option<Instant>,
    /// When the longest hold counts as over, the margin taken off.
    hold_ends: Option<Instant>,
    /// Set when a waiting claim should ask the store where it stands.
    ask_again: bool,
}

impl Tenure {
    pub(crate) fn new(claim: Claim) -> Arc<Self> {
        let state =
            State { phase: Phase::Waiting, fence: 0, lease_ends: None, hold_ends: None, ask_again: false };
        Arc::new(Tenure { claim: Arc::new(claim), state: Mutex::new(state), told: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a grant or of its renewal, and says whether the claim holds by it now.
    ///
    /// A late answer never shortens what a later request has confirmed, and never revives a claim that ended: not one
    /// whose deadline has passed before anybody took note of it, either.
    pub(crate) fn confirm(&self, grant: Grant, now: Instant) -> bool {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Waiting | Phase::Held) {
            return false;
        }
        let first = state.phase == Phase::Waiting;
        let hold_ends = match state.hold_ends {
            Some(known) if !first => Some(known),
            _ => grant.hold_ends.and_then(|end| deadline(end, self.claim.max_hold?)),
        };
        let lease_ends = match grant.expires {
            // A lease that a store cuts to the longest hold ends with that, and for that reason.
            Some(expires) if grant.hold_ends.is_some_and(|hold| hold <= expires) => hold_ends,
            expires => expires.and_then(|end| deadline(end, self.claim.lease)),
        };
        // A first grant that took so long to arrive that it is over is no grant: the asker must ask again.
        let ends = if first { [lease_ends, hold_ends] } else { [state.lease_ends, state.hold_ends] };
        if ends.into_iter().flatten().any(|end| end <= now) {
            return false;
        }
        state.phase = Phase::Held;
        state.fence = grant.fence;
        state.lease_ends = if first { lease_ends } else { state.lease_ends.max(lease_ends) };
        state.hold_ends = hold_ends;
        drop(state);
        if first {
            self.told.notify_one();
        }
        true
    }

    /// Tells the waiting owner to ask the store where it stands.
    pub(crate) fn nudge(&self) {
        let mut state = self.state();
        if state.phase == Phase::Waiting {
            state.ask_again = true;
            drop(state);
            self.told.notify_one();
        }
    }

    /// Ends a held claim for `loss`; false if it was not held.
    pub(crate) fn lose(&self, loss: Loss) -> bool {
        let mut state = self.state();
        let held = state.phase == Phase::Held;
        if held {
            state.phase = Phase::Lost(loss);
            drop(state);
            self.told.notify_waiters();
        }
        held
    }

    /// Ends a claim that still waits; false if it does not.
    pub(crate) fn give_up(&self) -> bool {
        let mut state = self.state();
        let waits = state.phase == Phase::Waiting;
        if waits {
            state.phase = Phase::Left;
        }
        waits
    }

    /// Ends the claim by its owner's wish and says in which phase that was.
    pub(crate) fn finish(&self, now: Instant) -> Phase {
        self.overdue(now);
        let mut state = self.state();
        let phase = state.phase;
        if matches!(phase, Phase::Waiting | Phase::Held) {
            state.phase = Phase::Left;
            drop(state);
            self.told.notify_waiters();
        }
        phase
    }

    /// Ends a held claim whose time is over and says why.
    pub(crate) fn overdue(&self, now: Instant) -> Option<Loss> {
        let (lease_ends, hold_ends) = {
            let state = self.state();
            (state.lease_ends, state.hold_ends)
        };
        let loss = if hold_ends.is_some_and(|end| end <= now) {
            Loss::MaxHold
        } else if lease_ends.is_some_and(|end| end <= now) {
            Loss::Expired
        } else {
            return None;
        };
        self.lose(loss).then_some(loss)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state().phase
    }

    pub(crate) fn fence(&self) -> u64 {
        self.state().fence
    }

    /// When a held claim counts as lost unless it is renewed, if ever.
    pub(crate) fn ends(&self) -> Option<Instant> {
        let state = self.state();
        match (state.lease_ends, state.hold_ends) {
            (Some(lease), Some(hold)) => Some(lease.min(hold)),
            (lease, hold) => lease.or(hold),
        }
    }

    /// How long from `now` the next renewal may wait, with `times` renewals in what is left of the lease.
    pub(crate) fn renewal_pause(&self, now: Instant, times: u32) -> Duration {
        let state = self.state();
        let left = match (state.lease_ends, state.hold_ends) {
            // The store already keeps the claim to the end of its longest hold: only a loss is left to be noticed.
            (Some(lease), Some(hold)) if hold <= lease => self.claim.lease,
            (Some(lease), _) => lease.saturating_duration_since(now),
            (None, _) => self.claim.lease,
        };
        left.min(self.claim.lease) / times.max(1)
    }

    pub(crate) fn is_held(&self) -> bool {
        let state = self.state();
        state.phase == Phase::Held
            && [state.lease_ends, state.hold_ends].into_iter().flatten().all(|end| now() < end)
    }

    /// Waits until a waiting claim is granted (true) or should ask again (false). Granted is also what has been lost again
    /// before its owner looked.
    ///
    /// # Cancel safety
    /// Nothing is lost: both stay set until they are seen.
    pub(crate) async fn granted(&self) -> bool {
        loop {
            {
                let mut state = self.state();
                if matches!(state.phase, Phase::Held | Phase::Lost(_)) {
                    return true;
                }
                if std::mem::take(&mut state.ask_again) {
                    return false;
                }
            }
            self.told.notified().await;
        }
    }

    /// Waits until a held claim is lost; never returns if it is released.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn lost(&self) -> Loss {
        match self.ended().await {
            Some(loss) => loss,
            None => std::future::pending().await,
        }
    }

    /// Waits until a held claim is lost, or released (`None`).
    ///
    /// Keeps its own timer at the deadline, so that it does not depend on the keeper.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn ended(&self) -> Option<Loss> {
        loop {
            // The future must exist before the phase is read, or a change in between would be missed.
            let told = self.told.notified();
            self.overdue(now());
            match (self.phase(), self.ends()) {
                (Phase::Lost(loss), _) => return Some(loss),
                (Phase::Left, _) => return None,
                (Phase::Held, Some(end)) => tokio::select! {
                    () = told => {}
                    () = sleep_until(end.into()) => {}
                },
                (Phase::Held | Phase::Waiting, _) => told.await,
            }
        }
    }
}
