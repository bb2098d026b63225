//! The claims of one store: a record for each, from its first request until its release is answered.
//!
//! A claim's status is decided here, out of three facts: its key, the claims ahead of it, and its lease.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::key_numbers::{KeyNumbers, OwnKey};
use super::keys::QueueEntry;
use super::lease::Leases;
use super::reading::QueueView;
use crate::backend::{Claim, ClaimId, ClaimStatus};
use crate::name::Name;
use crate::stores::watched::ahead::Ahead;
use crate::stores::watched::records::{self, Record, Records};
use crate::stores::watched::releases::Task;
use crate::sync::{Instant, Mutex, now};

/// The claims of one store.
pub(super) struct Claims {
    leases: Arc<Leases>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: Records<ClaimState>,
    key_numbers: KeyNumbers,
}

/// What is known of one claim.
#[derive(Default)]
struct ClaimState {
    /// Serializes the requests that change its queue. A release waits until the enqueue before it has been
    /// answered.
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The key that it has from its first request on.
    own: Option<OwnKey>,
    /// Whether a request may have put it into its queue.
    may_have_joined: bool,
    /// The leases under which a request without an answer may still put it into its queue.
    unanswered: BTreeSet<i64>,
    /// How many requests that delete its key have had no answer. Each of them may still arrive.
    late_deletes: u32,
    position: Option<Position>,
    /// The task that releases it, because a release was not answered.
    background_release: Option<Task>,
}

/// The position of a claim in its queue.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// The claim's own key.
    pub(super) mine: QueueEntry,
    /// The start of the max hold time; `None` while the claim waits.
    ///
    /// It is when the request was sent whose answer showed the grant, or when the watch notified the grant.
    pub(super) granted: Option<Instant>,
    /// The claims ahead of it.
    pub(super) ahead: Ahead<QueueEntry>,
    /// The revision as of which `ahead` was read.
    pub(super) read_at: i64,
    /// Whether its owner has begun to release it.
    pub(super) releasing: bool,
    /// Whether it has everything else that a grant needs: the python-etcd3 key, where one is wanted.
    pub(super) is_complete: bool,
    /// The revision at which its key was written last, as far as is known.
    pub(super) written_at: i64,
    /// The leases under which its key may be instead, because a request that puts it there had no answer.
    pub(super) moving_to: BTreeSet<i64>,
}

impl Record for ClaimState {
    type Queue = Name;
    type Entry = QueueEntry;

    fn place(&self) -> Option<(Name, i64)> {
        Some((self.own.as_ref()?.name.clone(), self.position.as_ref()?.mine.revision))
    }

    fn is_being_released(&self) -> bool {
        self.position.as_ref().is_none_or(|position| position.releasing)
    }

    fn ahead(&mut self) -> Option<&mut Ahead<QueueEntry>> {
        Some(&mut self.position.as_mut()?.ahead)
    }
}

impl Position {
    /// The leases under which its key may be.
    pub(super) fn leases(&self) -> impl Iterator<Item = i64> {
        [self.mine.lease].into_iter().chain(self.moving_to.iter().copied())
    }
}

impl ClaimState {
    fn has_key(&self, key: &[u8]) -> bool {
        self.own.as_ref().is_some_and(|own| own.key == key)
    }
}

/// The exclusive right to enqueue or release a claim, until it is dropped.
pub(super) struct Turn {
    claims: Arc<Claims>,
    id: ClaimId,
    taken: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.claims.state.lock();
        self.taken = None;
        state.clean_up(self.id);
    }
}

/// What this store knows about the queue ahead of a claim that is about to join: its own last claim there.
#[derive(Debug)]
pub(super) struct Behind {
    /// The last claim of this store in the queue.
    pub(super) last: QueueEntry,
    /// The blockers of the new claim if `last` is still there.
    pub(super) ahead: Ahead<QueueEntry>,
    /// The revision as of which the blockers exist.
    ///
    /// `None` if `last` is the only blocker: the transaction that joins checks `last` itself, so its own
    /// revision counts.
    pub(super) read_at: Option<i64>,
}

/// What must be known of a claim to release it.
pub(super) struct ToRelease {
    pub(super) key: Vec<u8>,
    pub(super) holds: bool,
    /// The revision that created the key, if it is certain.
    pub(super) revision: Option<i64>,
    /// The leases under which it may still be put into its queue.
    pub(super) unanswered: BTreeSet<i64>,
}

impl State {
    /// Drops the record of a claim without a key, once nobody has a turn.
    fn clean_up(&mut self, id: ClaimId) {
        let is_unused = |record: &&ClaimState| record.own.is_none() && Arc::strong_count(&record.turn) == 1;
        if self.records.get(id).filter(is_unused).is_some() {
            self.records.remove(id);
        }
    }

    fn position(&self, id: ClaimId) -> Option<&Position> {
        self.records.get(id)?.position.as_ref()
    }
}

impl Claims {
    pub(super) fn new(leases: Arc<Leases>) -> Self {
        Claims { leases, state: Mutex::default() }
    }

    /// Waits for the exclusive right to enqueue or release a claim.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn turn(self: &Arc<Self>, id: ClaimId) -> Turn {
        let turn = Arc::clone(&self.state.lock().records.get_or_default(id).turn);
        // Made before the wait, so that a wait that is given up removes its record too.
        let mut taking = Turn { claims: Arc::clone(self), id, taken: None };
        taking.taken = Some(turn.lock_owned().await);
        taking
    }

    /// Takes that right if nobody has it.
    pub(super) fn try_turn(self: &Arc<Self>, id: ClaimId) -> Option<Turn> {
        let turn = Arc::clone(&self.state.lock().records.get(id)?.turn);
        Some(Turn { claims: Arc::clone(self), id, taken: Some(turn.try_lock_owned().ok()?) })
    }

    /// Returns the key of a claim. The claim keeps it until it is `forgotten`.
    pub(super) fn take_key(&self, prefix: &str, claim: &Claim) -> Vec<u8> {
        let mut state = self.state.lock();
        let State { records, key_numbers } = &mut *state;
        let own = &mut records.get_or_default(claim.id).own;
        own.get_or_insert_with(|| key_numbers.take(prefix, claim)).key.clone()
    }

    /// The key of a claim, if it has been requested and not been released since.
    pub(super) fn key(&self, id: ClaimId) -> Option<Vec<u8>> {
        Some(self.state.lock().records.get(id)?.own.as_ref()?.key.clone())
    }

    /// Whether an earlier request may have put a claim into its queue.
    pub(super) fn may_have_joined(&self, id: ClaimId) -> bool {
        self.state.lock().records.get(id).is_some_and(|record| record.may_have_joined)
    }

    /// Records that a request may have put a claim into its queue, or, without an answer, may do so later.
    pub(super) fn requested(&self, id: ClaimId, lease: i64, is_answered: bool) {
        if let Some(record) = self.state.lock().records.get_mut(id) {
            record.may_have_joined = true;
            record.unanswered.extend((!is_answered).then_some(lease));
        }
    }

    pub(super) fn position(&self, id: ClaimId) -> Option<Position> {
        self.state.lock().position(id).cloned()
    }

    /// Reads a claim's position, or changes anything in it but the key.
    pub(super) fn with<T>(&self, id: ClaimId, does: impl FnOnce(&mut Position) -> T) -> Option<T> {
        Some(does(self.state.lock().records.get_mut(id)?.position.as_mut()?))
    }

    /// The status of a claim as far as it is known.
    pub(super) fn status(&self, claim: &Claim) -> ClaimStatus {
        self.status_in(&self.state.lock(), claim)
    }

    /// `Gone` as soon as its lease may have expired, even if the cluster still has its key: the cluster may
    /// delete the key at any moment.
    fn status_in(&self, state: &State, claim: &Claim) -> ClaimStatus {
        let position = state.position(claim.id);
        let lease = position.and_then(|position| self.leases.first_to_end(position.leases()));
        let (Some(position), Some(lease)) = (position, lease) else { return ClaimStatus::Gone };
        position.granted.map_or(ClaimStatus::Waiting, |granted| {
            let own_length = lease.is_own().then(|| lease.ttl());
            records::held(claim, position.mine.revision, lease.expires(), own_length, granted)
        })
    }

    /// Finds what this store knows of the queue ahead of a new claim, without a request.
    ///
    /// `None` if nothing reliable is known. That includes a last claim that is being released or whose lease
    /// may have expired: its key may be gone soon, and then the queue would have to be read anyway.
    pub(super) fn behind(&self, claim: &Claim) -> Option<Behind> {
        let state = self.state.lock();
        let (id, last) = state.records.in_order(&claim.name, i64::MIN..=i64::MAX).next_back()?;
        let last = last.position.as_ref()?;
        if id == claim.id || last.releasing || self.leases.find(last.mine.lease).is_none() {
            return None;
        }
        // Other programs may have joined between the two.
        let ahead = Ahead::behind(&last.mine, &last.ahead, false, claim.permits);
        let read_at = (!ahead.is_blocked_only_by(&last.mine)).then_some(last.read_at);
        ahead.is_known().then(|| Behind { last: last.mine.clone(), ahead, read_at })
    }

    /// Records what a claim has read of its queue, and returns the claim's status.
    pub(super) fn record_view(
        &self,
        claim: &Claim,
        view: &QueueView,
        is_complete: bool,
        sent: Instant,
    ) -> ClaimStatus {
        match &view.mine {
            Some(mine) => {
                let ahead = view.known(claim.permits);
                self.record_position(claim, mine, ahead, view.read_at, is_complete, sent)
            }
            None => self.record_gone(claim, view.read_at),
        }
    }

    /// Records a claim's position as of revision `read_at`, and returns the claim's status.
    ///
    /// It is recorded even if the lease has expired by now, because the release must know which lease the key
    /// had.
    pub(super) fn record_position(
        &self,
        claim: &Claim,
        mine: &QueueEntry,
        ahead: Ahead<QueueEntry>,
        read_at: i64,
        is_complete: bool,
        sent: Instant,
    ) -> ClaimStatus {
        let mut state = self.state.lock();
        state.records.change(claim.id, |record| {
            // A position with another revision is that of an earlier key, whose lease has expired. It says
            // nothing about the new key.
            let before = record.position.take().filter(|position| position.mine.revision == mine.revision);
            let position = record.position.insert(before.unwrap_or_else(|| Position {
                mine: mine.clone(),
                granted: None,
                ahead: Ahead::unknown(claim.permits),
                read_at,
                releasing: false,
                is_complete: false,
                written_at: mine.revision,
                moving_to: BTreeSet::new(),
            }));
            position.is_complete |= is_complete;
            if ahead.surely_holds() && position.is_complete {
                position.granted.get_or_insert(sent);
            }
            // A late answer must not overwrite what a later read has shown.
            if position.read_at <= read_at {
                (position.ahead, position.read_at) = (ahead, read_at);
            }
        });
        self.status_in(&state, claim)
    }

    /// Records that a claim's key did not exist as of revision `read_at`, and returns the claim's status.
    ///
    /// A key that is newer than that revision stays, because the read cannot have seen it.
    pub(super) fn record_gone(&self, claim: &Claim, read_at: i64) -> ClaimStatus {
        let mut state = self.state.lock();
        if state.position(claim.id).is_some_and(|position| position.mine.revision <= read_at) {
            state.records.change(claim.id, |record| record.position = None);
        }
        self.status_in(&state, claim)
    }

    /// Records that a claim's key does not exist any more.
    pub(super) fn record_deleted(&self, id: ClaimId) {
        self.state.lock().records.change(id, |record| record.position = None);
    }

    /// Records that a request which releases a claim, by deleting this key, is about to be sent.
    ///
    /// Until it is answered it counts as late, because a future that is dropped hears of no answer.
    pub(super) fn deleting(&self, id: ClaimId, key: &[u8]) {
        self.with_key(id, key, |record| {
            record.late_deletes += 1;
            record.position.iter_mut().for_each(|position| position.releasing = true);
        });
    }

    /// Records that such a request was answered.
    pub(super) fn delete_answered(&self, id: ClaimId, key: &[u8]) {
        self.with_key(id, key, |record| record.late_deletes -= 1);
    }

    /// Changes anything but the place in a claim's record, unless the claim has joined again with another
    /// key.
    fn with_key(&self, id: ClaimId, key: &[u8], change: impl FnOnce(&mut ClaimState)) {
        if let Some(record) = self.state.lock().records.get_mut(id).filter(|record| record.has_key(key)) {
            change(record);
        }
    }

    /// Removes deleted keys from the claims ahead of a waiter; returns its status if that grants it for
    /// certain. `None`: the queue must be read.
    ///
    /// The queue must be read too where the waiter has other blockers now: those were not watched, and a
    /// watch that begins at an old revision is served late.
    pub(super) fn advance(&self, claim: &Claim, deleted: &[Vec<u8>]) -> Option<ClaimStatus> {
        let mut state = self.state.lock();
        let State { records, key_numbers } = &mut *state;
        let owner = |entry: &QueueEntry| key_numbers.owner(&entry.key);
        if !records.advance(claim.id, owner, |entry| deleted.contains(&entry.key)) {
            return None;
        }
        let position = records.get_mut(claim.id)?.position.as_mut()?;
        if !position.is_complete || !position.ahead.surely_holds() {
            return None;
        }
        position.granted.get_or_insert_with(now);
        Some(self.status_in(&state, claim))
    }

    /// What a release needs; `None` if the claim has no key.
    pub(super) fn to_release(&self, id: ClaimId) -> Option<ToRelease> {
        let state = self.state.lock();
        let record = state.records.get(id)?;
        let key = record.own.as_ref()?.key.clone();
        let (position, unanswered) = (record.position.as_ref(), record.unanswered.clone());
        let holds = position.is_some_and(|position| position.granted.is_some());
        let revision = position.filter(|_| unanswered.is_empty()).map(|position| position.mine.revision);
        Some(ToRelease { key, holds, revision, unanswered })
    }

    /// Whether a claim's key may still exist under a lease that is alive, or that a late answer may prove
    /// alive.
    ///
    /// As long as it may, the key must not be used again: the next claim would take the old key for its own.
    /// A key of a lease that has ended is no danger: the next claim sees that it has another lease, and
    /// deletes it.
    pub(super) fn key_may_exist(&self, id: ClaimId) -> bool {
        let state = self.state.lock();
        let Some(record) = state.records.get(id) else { return false };
        let known = record.position.iter().flat_map(Position::leases);
        record.unanswered.iter().copied().chain(known).any(|lease| self.leases.may_be_alive(lease))
    }

    /// Forgets a claim whose owner has left it, and whose key stays until its lease ends.
    pub(super) fn leave(&self, id: ClaimId, key: &[u8]) {
        self.with_key(id, key, |record| record.late_deletes += 1);
        self.forget(id, key);
    }

    /// Forgets a claim whose key has been released, and frees the key unless a late request may still delete
    /// it.
    ///
    /// Nothing is done if the claim has joined again meanwhile, with another key.
    pub(super) fn forget(&self, id: ClaimId, key: &[u8]) {
        let mut state = self.state.lock();
        if !state.records.get(id).is_some_and(|record| record.has_key(key)) {
            return;
        }
        let Some(ClaimState { own: Some(own), late_deletes, turn, .. }) = state.records.remove(id) else {
            return;
        };
        if late_deletes > 0 {
            state.key_numbers.retire(&own);
        } else {
            state.key_numbers.give_back(&own);
        }
        if Arc::strong_count(&turn) > 1 {
            state.records.insert(id, ClaimState { turn, ..ClaimState::default() });
        }
    }

    /// Calls `change` with the place for the task that releases a claim, if the claim has a key.
    pub(super) fn with_background_release<T>(
        &self,
        id: ClaimId,
        change: impl FnOnce(&mut Option<Task>) -> T,
    ) -> Option<T> {
        let mut state = self.state.lock();
        let record = state.records.get_mut(id).filter(|record| record.own.is_some())?;
        Some(change(&mut record.background_release))
    }
}

#[cfg(test)]
pub(super) mod tests;
