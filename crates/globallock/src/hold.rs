//! One claim of ours from the asking to the end: what its owner may believe about it at each moment.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{Claim, ClaimStatus, Grant};
use crate::deadline::deadline;
use crate::loss::Loss;
use crate::sync::{Mutex, MutexGuard, Notify, now, sleep_until};

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

/// What the answer to a renewal says of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// What there was to note has been noted.
    Noted,
    /// Nothing, because the claim was granted after the question: the store must be asked again.
    Old,
    /// The claim was held, and the store does not hold it for us any more.
    Lost,
}

/// A claim of ours and what is known of it.
#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) claim: Arc<Claim>,
    state: Mutex<State>,
    told: Notify,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    fencing_token: u64,
    /// When the lease counts as over, the margin taken off.
    lease_ends: Option<Instant>,
    /// When the longest hold counts as over, the margin taken off.
    hold_ends: Option<Instant>,
    /// Set when a waiting claim should ask the store where it stands.
    ask_again: bool,
}

impl Hold {
    pub(crate) fn new(claim: Claim) -> Arc<Self> {
        let state = State {
            phase: Phase::Waiting,
            fencing_token: 0,
            lease_ends: None,
            hold_ends: None,
            ask_again: false,
        };
        Arc::new(Hold { claim: Arc::new(claim), state: Mutex::new(state), told: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a grant or of its renewal, and says whether the claim holds by it now.
    ///
    /// A late answer never shortens what a later request has confirmed, and never revives a claim that ended: not one
    /// whose deadline has passed before anybody took note of it, either. Of a claim that is held, only an answer about this
    /// very grant is taken.
    pub(crate) fn confirm(&self, grant: Grant, now: Instant) -> bool {
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
        state.fencing_token = grant.fencing_token;
        state.lease_ends = if first { lease_ends } else { state.lease_ends.max(lease_ends) };
        state.hold_ends = hold_ends;
        drop(state);
        if first {
            self.told.notify_one();
        }
        true
    }

    /// Takes note of the answer to a renewal that was sent while the claim was held (`was_held`) or waited.
    ///
    /// | answer | held when asked | held now | it says |
    /// |---|---|---|---|
    /// | held, same token | – | yes | confirmed |
    /// | held, lower token | – | yes | nothing: it is about an earlier grant |
    /// | held, higher token | – | yes | lost, and granted again since |
    /// | held | – | no | granted; too late to be one: the owner asks again |
    /// | waiting, gone | no | yes | nothing: the grant came after it |
    /// | waiting, gone | yes | yes | lost |
    /// | gone | – | no | dropped: the owner asks again |
    /// | waiting | – | no | as known |
    pub(crate) fn hear(&self, answer: ClaimStatus, was_held: bool, now: Instant) -> Heard {
        let (phase, fencing_token) = {
            let state = self.state();
            (state.phase, state.fencing_token)
        };
        let is_held = phase == Phase::Held;
        match answer {
            ClaimStatus::Held(grant) if is_held && grant.fencing_token > fencing_token => self.is_lost(now),
            ClaimStatus::Held(grant) if is_held && grant.fencing_token < fencing_token => Heard::Old,
            ClaimStatus::Held(grant) => {
                // An answer that took longer than the lease confirms nothing; the next one will.
                if !self.confirm(grant, now) {
                    self.recheck();
                }
                Heard::Noted
            }
            ClaimStatus::Waiting | ClaimStatus::Gone if is_held && !was_held => Heard::Old,
            // The store has given the claim away, or (a store that lost its data) queued it again: not ours.
            ClaimStatus::Waiting | ClaimStatus::Gone if is_held => self.is_lost(now),
            ClaimStatus::Gone => {
                self.recheck();
                Heard::Noted
            }
            ClaimStatus::Waiting => Heard::Noted,
        }
    }

    /// Ends a held claim that the store does not hold any more: at the end of its time for that reason.
    fn is_lost(&self, now: Instant) -> Heard {
        let is_lost = self.overdue(now).is_some() || self.lose(Loss::Revoked);
        if is_lost { Heard::Lost } else { Heard::Noted }
    }

    /// Tells the waiting owner to ask the store where it stands.
    pub(crate) fn recheck(&self) {
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

    pub(crate) fn fencing_token(&self) -> u64 {
        self.state().fencing_token
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
    /// Keeps its own timer at the deadline, so that it does not depend on the renewer.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{ClaimId, WaitMode};
    use crate::name::Name;
    use crate::queue::Permits;

    const LEASE: Duration = Duration::from_secs(10);

    fn waiting() -> Arc<Hold> {
        waiting_for(None)
    }

    fn waiting_for(max_hold: Option<Duration>) -> Arc<Hold> {
        Hold::new(Claim {
            id: ClaimId::new(1, 1),
            name: Name::new("a").unwrap(),
            permits: Permits { count: 1, capacity: 1 },
            wait_mode: WaitMode::Wait,
            lease: LEASE,
            max_hold,
            owner: "".into(),
        })
    }

    fn held(fencing_token: u64) -> ClaimStatus {
        ClaimStatus::Held(Grant { fencing_token, expires: Some(now() + LEASE), hold_ends: None })
    }

    fn holding(fencing_token: u64) -> Arc<Hold> {
        let hold = waiting();
        assert_eq!(hold.hear(held(fencing_token), false, now()), Heard::Noted);
        assert_eq!(hold.phase(), Phase::Held);
        hold
    }

    #[test]
    fn an_answer_to_a_question_from_before_the_grant_says_nothing_of_it() {
        for answer in [ClaimStatus::Waiting, ClaimStatus::Gone] {
            let hold = holding(7);
            assert_eq!(hold.hear(answer, false, now()), Heard::Old);
            assert!(hold.is_held());
            assert_eq!(hold.hear(answer, true, now()), Heard::Lost);
            assert_eq!(hold.phase(), Phase::Lost(Loss::Revoked));
            assert_eq!(hold.hear(answer, true, now()), Heard::Noted, "a loss is told once");
        }
    }

    #[test]
    fn a_claim_that_is_gone_at_the_end_of_its_time_was_lost_for_that_reason() {
        let ends = now() + LEASE / 2;
        for (hold_ends, loss) in [(Some(ends), Loss::MaxHold), (None, Loss::Expired)] {
            let hold = waiting_for(hold_ends.map(|_| LEASE / 2));
            let grant = Grant { fencing_token: 7, expires: Some(ends), hold_ends };
            assert_eq!(hold.hear(ClaimStatus::Held(grant), false, now()), Heard::Noted);
            assert_eq!(hold.hear(ClaimStatus::Gone, true, ends), Heard::Lost);
            assert_eq!(hold.phase(), Phase::Lost(loss));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_is_not_held_at_the_very_end_of_its_time() {
        for (longest, ends) in [(None, LEASE), (Some(LEASE / 2), LEASE / 2)] {
            let hold = waiting_for(longest);
            let hold_ends = longest.map(|longest| now() + longest);
            let grant = Grant { fencing_token: 7, expires: Some(now() + LEASE), hold_ends };
            assert_eq!(hold.hear(ClaimStatus::Held(grant), false, now()), Heard::Noted);
            let end = {
                let state = hold.state();
                state.lease_ends.into_iter().chain(state.hold_ends).min().unwrap()
            };
            assert!(end <= now() + ends);
            tokio::time::advance(end - now() - Duration::from_nanos(1)).await;
            assert!(hold.is_held());
            tokio::time::advance(Duration::from_nanos(1)).await;
            assert_eq!(now(), end);
            assert!(!hold.is_held(), "somebody else may hold it from now on");
        }
    }

    #[test]
    fn the_answer_about_an_earlier_grant_changes_nothing() {
        let hold = holding(7);
        let ends = hold.ends();
        assert_eq!(hold.hear(held(6), true, now() + Duration::from_secs(1)), Heard::Old);
        assert_eq!((hold.fencing_token(), hold.ends()), (7, ends));
        assert!(!hold.confirm(Grant { fencing_token: 6, expires: None, hold_ends: None }, now()));
        assert_eq!((hold.fencing_token(), hold.ends()), (7, ends));
    }

    #[test]
    fn a_claim_that_was_granted_again_behind_its_owners_back_was_lost_in_between() {
        let hold = holding(7);
        assert_eq!(hold.hear(held(8), true, now()), Heard::Lost);
        assert_eq!((hold.fencing_token(), hold.phase()), (7, Phase::Lost(Loss::Revoked)));
    }

    #[test]
    fn a_renewal_is_confirmed_by_an_answer_about_the_same_grant() {
        let hold = holding(7);
        let later = Grant { fencing_token: 7, expires: Some(now() + LEASE * 2), hold_ends: None };
        let ends = hold.ends();
        assert_eq!(hold.hear(ClaimStatus::Held(later), true, now()), Heard::Noted);
        assert!(hold.ends() > ends);
    }

    #[tokio::test]
    async fn a_waiting_claim_that_is_gone_has_its_owner_ask_again() {
        for answer in [ClaimStatus::Gone, held(7)] {
            let hold = waiting();
            // The grant is so old that nothing is left of it.
            assert_eq!(hold.hear(answer, false, now() + LEASE), Heard::Noted);
            assert_eq!(hold.phase(), Phase::Waiting);
            assert!(!hold.granted().await);
        }
        let hold = waiting();
        assert_eq!(hold.hear(ClaimStatus::Waiting, false, now()), Heard::Noted);
        assert!(futures_util::FutureExt::now_or_never(hold.granted()).is_none());
    }
}
