//! What the owner of a claim may believe about it, from the first request to the end.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Claim, ClaimStatus, Grant, Value};
use crate::deadline::deadline;
use crate::loss::Loss;
use crate::observe::{Event, Holder, NotGranted, Observers, Waiter};
use crate::sync::{Asker, Instant, Mutex, MutexGuard, Notify, now, sleep_until};

/// Where a claim is in its life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Asked for, and not granted yet.
    Waiting,
    /// Granted.
    Held,
    /// Granted, and no longer held against its owner's will.
    Lost(Loss),
    /// Given up or released by its owner.
    Released,
}

/// What the answer to a renewal says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The answer has been taken into account.
    Noted,
    /// Nothing, because the claim was granted after the request was sent: the store must be asked again.
    Old,
    /// The claim was held, and the store has it no longer.
    Lost,
}

/// A claim of this manager, and what is known of it.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) claim: Arc<Claim>,
    observers: Observers,
    /// When the lock was asked for.
    pub(crate) asked: Instant,
    /// By whom, if anybody wants to know.
    pub(crate) asker: Option<Asker>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    fencing_token: u64,
    /// When the grant was taken into account.
    granted: Option<Instant>,
    /// When the lease counts as expired, with the margin taken off.
    lease_ends: Option<Instant>,
    /// When the max hold time has passed, with the margin taken off.
    hold_ends: Option<Instant>,
    /// Until when others are kept out, whether the owner holds the claim that long or not.
    kept_until: Option<Instant>,
    /// The name's value at the grant, or what this owner has written since.
    value: Option<Value>,
    /// Set when a waiting claim should ask the store for its status.
    ask_again: bool,
    /// Whether the observers were told that the claim waits.
    was_waiting: bool,
}

impl State {
    fn ends(&self) -> Option<Instant> {
        match (self.lease_ends, self.hold_ends) {
            (Some(lease), Some(hold)) => Some(lease.min(hold)),
            (lease, hold) => lease.or(hold),
        }
    }

    fn held_for(&self, now: Instant) -> Duration {
        self.granted.map_or(Duration::ZERO, |granted| now.saturating_duration_since(granted))
    }

    /// For how long others are kept out still. A claim that the store has no longer keeps nobody out.
    fn kept_for(&self, now: Instant) -> Option<Duration> {
        let may_be_there = match self.phase {
            Phase::Held | Phase::Released | Phase::Lost(Loss::Expired | Loss::MaxHold) => true,
            Phase::Waiting | Phase::Lost(Loss::Revoked | Loss::Evicted(_)) => false,
        };
        let left = self.kept_until.filter(|_| may_be_there)?.saturating_duration_since(now);
        (!left.is_zero()).then_some(left)
    }
}

impl Hold {
    pub(crate) fn new(claim: Claim, observers: Observers, asked: Instant) -> Arc<Self> {
        let state = State {
            phase: Phase::Waiting,
            fencing_token: 0,
            granted: None,
            lease_ends: None,
            hold_ends: None,
            kept_until: None,
            value: None,
            ask_again: false,
            was_waiting: false,
        };
        Arc::new(Hold {
            claim: Arc::new(claim),
            asker: observers.are_curious().then(Asker::current),
            observers,
            asked,
            state: Mutex::new(state),
            changed: Notify::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes a grant, or its renewal, into account, and says whether the claim is held by it now.
    ///
    /// A late answer never shortens what a later request has confirmed. It never revives a claim that ended,
    /// not even one whose deadline has passed without anybody noticing yet. For a held claim, only answers
    /// about the same grant count.
    ///
    /// | claim | answer | then |
    /// |---|---|---|
    /// | waiting | a grant that has not expired | held; its deadlines are those of the grant |
    /// | waiting | a grant that expired on its way | still waiting: the owner must ask again |
    /// | held | the same grant, before the deadline | held; the lease never ends earlier than before |
    /// | held | the same grant, after the deadline | not held: the loss is about to be noticed |
    /// | held | another grant | not taken |
    /// | lost, released | any | not taken |
    pub(crate) fn confirm(&self, grant: &Grant, now: Instant) -> bool {
        let mut state = self.state();
        let first = match state.phase {
            Phase::Waiting => true,
            Phase::Held if grant.fencing_token == state.fencing_token => false,
            _ => return false,
        };
        let hold_ends = match state.hold_ends {
            Some(known) if !first => Some(known),
            _ => grant.hold_ends.and_then(|end| deadline(end, self.claim.max_hold?)),
        };
        let lease_ends = match grant.expires {
            // A store may cut the lease to the max hold time. The claim then ends because of its max hold.
            Some(expires) if grant.hold_ends.is_some_and(|hold| hold <= expires) => hold_ends,
            expires => expires.and_then(|end| deadline(end, grant.lease.unwrap_or(self.claim.lease))),
        };
        // A first grant that expired on its way is none: its owner must ask again.
        let ends = if first { [lease_ends, hold_ends] } else { [state.lease_ends, state.hold_ends] };
        if ends.into_iter().flatten().any(|end| end <= now) {
            return false;
        }
        let ended = state.ends();
        state.phase = Phase::Held;
        state.fencing_token = grant.fencing_token;
        state.lease_ends = if first { lease_ends } else { state.lease_ends.max(lease_ends) };
        state.hold_ends = hold_ends;
        state.granted.get_or_insert(now);
        if first {
            state.value.clone_from(&grant.value);
        }
        let was_waiting = state.was_waiting;
        drop(state);
        if first {
            self.changed.notify_one();
            self.observers.granted(&self.waiter(was_waiting), grant.fencing_token, now);
        } else {
            let claim = &*self.claim;
            let margin = ended.map(|end| end.saturating_duration_since(now));
            self.observers.tell(&Event::Renewed { claim, margin });
        }
        true
    }

    /// Takes the answer to a renewal into account that was sent while the claim was held (`was_held`) or
    /// waiting.
    ///
    /// | answer | held when sent | held now | it means |
    /// |---|---|---|---|
    /// | held, same token | – | yes | confirmed |
    /// | held, lower token | – | yes | nothing: it is about an earlier grant |
    /// | held, higher token | – | yes | lost, and granted again later |
    /// | held | – | no | granted; if that has expired, or comes without the value, the owner asks again |
    /// | waiting, gone | no | yes | nothing: the grant came later |
    /// | waiting, gone | yes | yes | lost |
    /// | evicted | – | yes | lost |
    /// | gone, evicted | – | no | dropped: the owner asks again |
    /// | waiting | – | no | as known |
    pub(crate) fn hear(&self, answer: ClaimStatus, was_held: bool, now: Instant) -> Heard {
        let (phase, fencing_token) = {
            let state = self.state();
            (state.phase.clone(), state.fencing_token)
        };
        let is_held = phase == Phase::Held;
        match answer {
            ClaimStatus::Held(grant) if is_held && grant.fencing_token > fencing_token => {
                self.is_lost(Loss::Revoked, now)
            }
            ClaimStatus::Held(grant) if is_held && grant.fencing_token < fencing_token => Heard::Old,
            // A renewal does not read the value that the grant must come with.
            ClaimStatus::Held(_) if self.claim.wants_value && phase == Phase::Waiting => {
                self.recheck();
                Heard::Noted
            }
            ClaimStatus::Held(grant) => {
                // An answer that took longer than the lease confirms nothing. The next one will.
                if !self.confirm(&grant, now) {
                    self.recheck();
                }
                Heard::Noted
            }
            ClaimStatus::Waiting | ClaimStatus::Gone if is_held && !was_held => Heard::Old,
            // The store has dropped the claim, or has lost its data and queued the claim again. Either way it
            // is lost.
            ClaimStatus::Waiting | ClaimStatus::Gone if is_held => self.is_lost(Loss::Revoked, now),
            // No grant can follow an eviction, so this answer is never about the time before the grant.
            ClaimStatus::Evicted(eviction) if is_held => self.is_lost(Loss::Evicted(eviction), now),
            ClaimStatus::Gone | ClaimStatus::Evicted(_) => {
                self.recheck();
                Heard::Noted
            }
            ClaimStatus::Waiting => Heard::Noted,
        }
    }

    /// Ends a held claim that the store has no longer. If its time has passed too, then that is the reason.
    fn is_lost(&self, loss: Loss, now: Instant) -> Heard {
        let is_lost = self.overdue(now).is_some() || self.lose(loss, now);
        if is_lost { Heard::Lost } else { Heard::Noted }
    }

    /// Tells the waiting owner to ask the store for the claim's status.
    pub(crate) fn recheck(&self) {
        let mut state = self.state();
        if state.phase == Phase::Waiting {
            state.ask_again = true;
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Ends a held claim because of `loss`; false if it was not held.
    pub(crate) fn lose(&self, loss: Loss, now: Instant) -> bool {
        let mut state = self.state();
        let was_held = state.phase == Phase::Held;
        if was_held {
            state.phase = Phase::Lost(loss.clone());
            let holder = self.holder(&state, now);
            drop(state);
            self.changed.notify_waiters();
            self.observers.lost(&holder, loss);
        }
        was_held
    }

    /// Ends a waiting claim; false if it does not wait any more.
    pub(crate) fn give_up(&self, why: NotGranted<'_>, now: Instant) -> bool {
        let mut state = self.state();
        let waits = state.phase == Phase::Waiting;
        if waits {
            state.phase = Phase::Released;
            let was_waiting = state.was_waiting;
            drop(state);
            self.observers.given_up(&self.waiter(was_waiting), why, now);
        }
        waits
    }

    /// Tells that the lock is asked for.
    pub(crate) fn tell_asked(&self) {
        self.observers.tell(&Event::Asked { claim: &self.claim });
    }

    /// Tells that the claim waits in its queue, behind so many.
    pub(crate) fn tell_waiting(&self, place: Option<usize>) {
        self.state().was_waiting = true;
        self.observers.waits(&self.claim, place);
    }

    fn waiter(&self, was_waiting: bool) -> Waiter<'_> {
        Waiter { claim: &self.claim, asked: self.asked, was_waiting }
    }

    fn holder(&self, state: &State, now: Instant) -> Holder<'_> {
        Holder { claim: &self.claim, fencing_token: state.fencing_token, held: state.held_for(now) }
    }

    /// Ends the claim because its owner wants so, and returns the phase that it was in.
    pub(crate) fn finish(&self, now: Instant) -> Phase {
        self.finish_because(NotGranted::Cancelled, now)
    }

    /// The same for a claim that, if it was not granted, is given up for this reason.
    pub(crate) fn finish_because(&self, why: NotGranted<'_>, now: Instant) -> Phase {
        self.overdue(now);
        let mut state = self.state();
        let phase = state.phase.clone();
        if matches!(phase, Phase::Waiting | Phase::Held) {
            state.phase = Phase::Released;
            let (holder, kept) = (self.holder(&state, now), state.kept_for(now));
            let was_waiting = state.was_waiting;
            drop(state);
            self.changed.notify_waiters();
            if phase == Phase::Held {
                self.observers.released(&holder, kept, now);
            } else {
                self.observers.given_up(&self.waiter(was_waiting), why, now);
            }
        }
        phase
    }

    /// Ends a held claim whose lease has expired or whose max hold time has passed, and says which.
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
        self.lose(loss.clone(), now).then_some(loss)
    }

    pub(crate) fn phase(&self) -> Phase {
        self.state().phase.clone()
    }

    pub(crate) fn fencing_token(&self) -> u64 {
        self.state().fencing_token
    }

    /// When the grant was taken into account.
    pub(crate) fn granted_at(&self) -> Option<Instant> {
        self.state().granted
    }

    /// Keeps others out until then, also if the claim is released earlier.
    pub(crate) fn keep_until(&self, until: impl Into<Option<Instant>>) {
        self.state().kept_until = until.into();
    }

    /// For how long others are to be kept out still, and would be if the claim were released now; `None` if
    /// they need not be.
    pub(crate) fn kept_for(&self, now: Instant) -> Option<Duration> {
        self.state().kept_for(now)
    }

    pub(crate) fn value(&self) -> Option<Value> {
        self.state().value.clone()
    }

    /// Notes what the owner has written.
    pub(crate) fn note_value(&self, value: Value) {
        self.state().value = Some(value);
    }

    /// When a held claim counts as lost unless it is renewed, if ever.
    pub(crate) fn ends(&self) -> Option<Instant> {
        self.state().ends()
    }

    /// How long from `now` the next renewal may wait, with `times` renewals in what is left of the lease.
    pub(crate) fn renewal_pause(&self, now: Instant, times: u32) -> Duration {
        let state = self.state();
        let left = match (state.lease_ends, state.hold_ends) {
            // The store keeps the claim to the end of its max hold already: a renewal can only notice a loss.
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

    /// Waits until a waiting claim is granted (true) or should ask again (false). A claim that was granted
    /// and lost before this call counts as granted.
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
            self.changed.notified().await;
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
    /// Keeps its own timer at the deadline, so that it does not depend on the renewer.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn ended(&self) -> Option<Loss> {
        loop {
            // The future must exist before the phase is read, or a change in between would be missed.
            let changed = self.changed.notified();
            self.overdue(now());
            match (self.phase(), self.ends()) {
                (Phase::Lost(loss), _) => return Some(loss),
                (Phase::Released, _) => return None,
                (Phase::Held, Some(end)) => tokio::select! {
                    () = changed => {}
                    () = sleep_until(end) => {}
                },
                (Phase::Held | Phase::Waiting, _) => changed.await,
            }
        }
    }
}

#[cfg(test)]
impl Hold {
    /// A claim that nobody observes.
    pub(crate) fn unobserved(claim: Claim) -> Arc<Self> {
        Hold::new(claim, Observers::default(), now())
    }
}

#[cfg(test)]
mod tests;
