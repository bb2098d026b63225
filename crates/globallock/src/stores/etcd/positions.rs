//! Where the claims of a store stand in their queues, as it has read and been told.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::Shared;
use super::ahead::Ahead;
use super::keys::QueueEntry;
use super::reading::QueueView;
use crate::backend::{Claim, ClaimId, ClaimStatus, Grant};
use crate::name::Name;
use crate::sync::now;

/// A claim of this store in its queue, as last read.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// Its key.
    pub(super) mine: QueueEntry,
    /// No later than the grant; `None` while the claim waits.
    pub(super) granted: Option<Instant>,
    /// Those in front of it.
    pub(super) ahead: Ahead,
    /// The revision at which that was so.
    pub(super) read_at: i64,
    /// Whether its owner is taking it out.
    pub(super) releasing: bool,
    /// Whether it has all that it needs besides its place in the queue.
    pub(super) is_complete: bool,
}

/// The places of one store's claims.
#[derive(Debug, Default)]
pub(super) struct Positions {
    by_id: HashMap<ClaimId, (Name, Position)>,
    /// The claims of each name, in the order of joining.
    by_name: BTreeMap<(Name, i64), ClaimId>,
}

impl Positions {
    pub(super) fn get(&self, id: ClaimId) -> Option<&Position> {
        self.by_id.get(&id).map(|(_, position)| position)
    }

    pub(super) fn get_mut(&mut self, id: ClaimId) -> Option<&mut Position> {
        self.by_id.get_mut(&id).map(|(_, position)| position)
    }

    pub(super) fn insert(&mut self, claim: &Claim, position: Position) {
        self.remove(claim.id);
        self.by_name.insert((claim.name.clone(), position.mine.revision), claim.id);
        self.by_id.insert(claim.id, (claim.name.clone(), position));
    }

    pub(super) fn remove(&mut self, id: ClaimId) {
        if let Some((name, position)) = self.by_id.remove(&id) {
            self.by_name.remove(&(name, position.mine.revision));
        }
    }

    /// Forgets a claim whose key was not there when it was looked for as of revision `read_at`, unless its key is newer.
    pub(super) fn remove_if_gone(&mut self, id: ClaimId, read_at: i64) {
        if self.get(id).is_some_and(|position| position.mine.revision <= read_at) {
            self.remove(id);
        }
    }

    /// The last claim of this store in the queue of `name`.
    fn last(&self, name: &Name) -> Option<(ClaimId, &Position)> {
        let of_name = (name.clone(), i64::MIN)..=(name.clone(), i64::MAX);
        let (_, id) = self.by_name.range(of_name).next_back()?;
        Some((*id, self.get(*id)?))
    }
}

/// A claim of this store that one which joins now stands behind, and what keeps that one waiting then.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) last: QueueEntry,
    pub(super) ahead: Ahead,
    /// The revision as of which those in front are there; `None`: as of when the last one is seen to be there.
    pub(super) read_at: Option<i64>,
}

impl Shared {
    /// What a claim that joins stands behind, as far as this store knows by itself.
    pub(super) fn behind(&self, claim: &Claim) -> Option<Behind> {
        if self.connection.config().python_etcd3 {
            return None;
        }
        let positions = self.positions();
        let (id, position) = positions.last(&claim.name)?;
        if id == claim.id || position.releasing || self.leases.find(position.mine.lease).is_none() {
            return None;
        }
        let its = position.granted.is_none().then_some(&position.ahead);
        let ahead = Ahead::behind(&position.mine, its, claim.permits)?;
        let read_at = (!ahead.is_blocked_only_by(&position.mine)).then_some(position.read_at);
        Some(Behind { last: position.mine.clone(), ahead, read_at })
    }

    /// Takes note of what a claim has read of its queue, and says where it stands.
    pub(super) fn note_view(
        &self,
        claim: &Claim,
        view: &QueueView,
        is_complete: bool,
        sent: Instant,
    ) -> ClaimStatus {
        match &view.mine {
            Some(mine) => {
                let ahead = if view.is_whole {
                    Ahead::of_queue(view.ahead(), claim.permits)
                } else {
                    // What takes all there is waits behind anybody.
                    Ahead::of_some(view.ahead(), claim.permits).unwrap_or_default()
                };
                self.note_position(claim, mine, ahead, view.read_at, is_complete, sent)
            }
            None => self.note_gone(claim, view.read_at),
        }
    }

    /// Takes note that a claim was not in its queue as of revision `read_at`, and says where it stands.
    pub(super) fn note_gone(&self, claim: &Claim, read_at: i64) -> ClaimStatus {
        let mut positions = self.positions();
        positions.remove_if_gone(claim.id, read_at);
        positions.get(claim.id).map_or(ClaimStatus::Gone, |position| self.status(claim, position))
    }

    /// Takes note of where a claim stands as of revision `read_at`.
    pub(super) fn note_position(
        &self,
        claim: &Claim,
        mine: &QueueEntry,
        ahead: Ahead,
        read_at: i64,
        is_complete: bool,
        sent: Instant,
    ) -> ClaimStatus {
        let mut positions = self.positions();
        // What was known of an earlier key of the claim, whose lease has ended, says nothing of this one.
        let before = positions.get(claim.id).filter(|position| position.mine.revision == mine.revision);
        let is_complete = is_complete || before.is_some_and(|position| position.is_complete);
        let holds = ahead.surely_holds(claim.permits) && is_complete;
        let granted = before.and_then(|position| position.granted).or(holds.then_some(sent));
        // An answer that a later one has overtaken takes back nothing of what that has told.
        let (ahead, read_at) = match before.filter(|position| position.read_at > read_at) {
            Some(later) => (later.ahead.clone(), later.read_at),
            None => (ahead, read_at),
        };
        let position =
            Position { mine: mine.clone(), granted, ahead, read_at, releasing: false, is_complete };
        let status = self.status(claim, &position);
        // Kept even if its lease is over by now: that is what its departure has to know.
        positions.insert(claim, position);
        status
    }

    /// Where a claim stands: nowhere once its lease may be over, whatever the cluster still has.
    pub(super) fn status(&self, claim: &Claim, position: &Position) -> ClaimStatus {
        let Some(lease) = self.leases.find(position.mine.lease) else {
            return ClaimStatus::Gone;
        };
        match position.granted {
            None => ClaimStatus::Waiting,
            Some(granted) => ClaimStatus::Held(Grant {
                fencing_token: position.mine.revision.unsigned_abs(),
                expires: Some(lease.expires()),
                hold_ends: claim.max_hold.map(|hold| granted + hold),
            }),
        }
    }

    /// Takes note that keys in front of a waiting claim are gone, and says whether it surely holds by that.
    ///
    /// The end of another claim of this store that nobody took out may be the end of the lease of both: that has to be
    /// asked.
    pub(super) fn advance(&self, claim: &Claim, deleted: &[Vec<u8>]) -> Option<ClaimStatus> {
        let mut positions = self.positions();
        let taken_out = |id: ClaimId| positions.get(id).is_none_or(|position| position.releasing);
        let is_told = deleted.iter().filter_map(|key| self.key_numbers.owner(key)).all(taken_out);
        let position = positions.get_mut(claim.id)?;
        position.ahead.remove(deleted);
        if !is_told || !position.is_complete || !position.ahead.surely_holds(claim.permits) {
            return None;
        }
        position.granted.get_or_insert_with(now);
        let position = position.clone();
        drop(positions);
        Some(self.status(claim, &position))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::backend::WaitMode;
    use crate::queue::{MAX_CAPACITY, Permits};
    use crate::stores::address::Address;
    use crate::stores::etcd::config::Config;
    use crate::stores::etcd::connection::Connection;
    use crate::stores::etcd::messages::KeyValue;
    use crate::stores::etcd::reading::KeyState;
    use crate::stores::etcd::scripted::Cluster;

    pub(in crate::stores::etcd) const OTHER: &str = "/locks/_glocks/a/0123456789abcdef.0.1.1";
    pub(in crate::stores::etcd) const MUTEX: Permits = Permits { count: 1, capacity: 1 };
    pub(in crate::stores::etcd) const READ: Permits = Permits { count: 1, capacity: MAX_CAPACITY };

    pub(in crate::stores::etcd) fn claim(number: u64, permits: Permits) -> Claim {
        Claim {
            id: ClaimId::new(1, number),
            name: Name::new("a").unwrap(),
            permits,
            wait_mode: WaitMode::Wait,
            lease: Duration::from_secs(1),
            max_hold: None,
            owner: Arc::from(""),
        }
    }

    /// A store that has asked for nothing, and a claim of its own with its key.
    pub(in crate::stores::etcd) fn store() -> (Shared, Claim, Vec<u8>) {
        let address = Address::parse("etcd://127.0.0.1:1").unwrap();
        let shared = Shared::new(Connection::new(Config::new(address).unwrap()));
        let claim = claim(1, MUTEX);
        let key = shared.key_numbers.take(shared.prefix(), &claim);
        (shared, claim, key)
    }

    pub(in crate::stores::etcd) fn found(key: &[u8], create_revision: i64, lease: i64) -> KeyValue {
        KeyValue { key: key.to_vec(), create_revision, lease, ..KeyValue::default() }
    }

    /// Has the claim read this whole queue, as of a revision.
    pub(in crate::stores::etcd) fn read(
        shared: &Shared,
        claim: &Claim,
        queue: &[KeyValue],
        read_at: i64,
    ) -> ClaimStatus {
        let queue = shared.claims(queue);
        let key = shared.key_numbers.key(claim.id).unwrap();
        let mine = queue.iter().find(|entry| entry.key == key).cloned();
        shared.note_view(claim, &QueueView::new(mine, queue, true, read_at), true, now())
    }

    /// A claim that holds, under lease 1 and as of revision 4, in a store with a cluster.
    pub(in crate::stores::etcd) fn held() -> (Cluster, Arc<Shared>, Claim, Vec<u8>) {
        let (cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        shared.leases.pretend(1);
        let claim = claim(1, MUTEX);
        let key = shared.key_numbers.take(shared.prefix(), &claim);
        let status = read(&shared, &claim, &[found(&key, 4, 1)], 4);
        assert!(matches!(status, ClaimStatus::Held(_)), "{status:?}");
        (cluster, shared, claim, key)
    }

    pub(in crate::stores::etcd) fn fencing_token(status: ClaimStatus) -> Option<u64> {
        match status {
            ClaimStatus::Held(grant) => Some(grant.fencing_token),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_grant_that_is_heard_of_after_its_lease_is_not_that_of_the_next_key() {
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let queue = [found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)];
        assert_eq!(read(&shared, &claim, &queue, 4), ClaimStatus::Waiting);
        shared.leases.forget(1);
        assert_eq!(shared.advance(&claim, &[OTHER.into()]), Some(ClaimStatus::Gone));
        // It joins again, behind somebody.
        shared.leases.pretend(2);
        let queue = [found(OTHER.as_bytes(), 5, 9), found(&key, 6, 2)];
        assert_eq!(read(&shared, &claim, &queue, 6), ClaimStatus::Waiting);
        assert_eq!(shared.advance(&claim, &[OTHER.into()]).and_then(fencing_token), Some(6));
    }

    #[tokio::test]
    async fn a_look_from_before_a_claim_joined_again_does_not_make_it_forgotten() {
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let held = read(&shared, &claim, &[found(&key, 6, 1)], 6);
        assert_eq!(fencing_token(held), Some(6));
        // Its earlier key was gone when this was asked, and the answer took its time.
        assert_eq!(fencing_token(shared.note_gone(&claim, 5)), Some(6));
        assert_eq!(fencing_token(read(&shared, &claim, &[], 5)), Some(6));
        assert_eq!(read(&shared, &claim, &[], 6), ClaimStatus::Gone);
        assert!(shared.positions().get(claim.id).is_none());
    }

    #[tokio::test]
    async fn a_reading_that_a_later_one_has_overtaken_takes_nothing_back() {
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let queue = [found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)];
        assert_eq!(read(&shared, &claim, &queue, 4), ClaimStatus::Waiting);
        assert_eq!(fencing_token(read(&shared, &claim, &queue[1..], 8)), Some(4));
        assert_eq!(fencing_token(read(&shared, &claim, &queue, 7)), Some(4));
        let position = shared.positions().get(claim.id).cloned().unwrap();
        assert_eq!((position.read_at, position.ahead.surely_holds(MUTEX)), (8, true));
    }

    #[tokio::test]
    async fn of_two_readings_as_of_one_revision_the_last_one_counts() {
        let (shared, ..) = store();
        shared.leases.pretend(1);
        let reader = claim(2, READ);
        let key = shared.key_numbers.take(shared.prefix(), &reader);
        let queue = shared.claims(&[found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)]);
        let mine = || Some(queue[1].clone());
        // Some of those in front do not keep it waiting, which tells nothing of the others.
        let some = QueueView::new(mine(), queue[1..].to_vec(), false, 6);
        assert_eq!(shared.note_view(&reader, &some, true, now()), ClaimStatus::Waiting);
        assert!(!shared.positions().get(reader.id).unwrap().ahead.is_known());
        let whole = QueueView::new(mine(), queue.clone(), true, 6);
        assert_eq!(shared.note_view(&reader, &whole, true, now()), ClaimStatus::Waiting);
        let blockers = |position: &Position| {
            position.ahead.blockers(READ).iter().map(|b| b.revision).collect::<Vec<_>>()
        };
        assert_eq!(blockers(shared.positions().get(reader.id).unwrap()), [3]);
    }

    #[tokio::test]
    async fn a_claim_holds_with_all_that_it_needs_and_what_it_once_had_it_keeps() {
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let reads = |queue: &[KeyValue], read_at, is_complete| {
            let queue = shared.claims(queue);
            let mine = queue.iter().find(|entry| entry.key == key).cloned();
            shared.note_view(&claim, &QueueView::new(mine, queue, true, read_at), is_complete, now())
        };
        let [other, mine, again] = [found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1), found(&key, 9, 1)];
        // It lacks the key that it needs besides, then its turn, then nothing.
        assert_eq!(reads(std::slice::from_ref(&mine), 5, false), ClaimStatus::Waiting);
        assert_eq!(reads(&[other.clone(), mine.clone()], 6, true), ClaimStatus::Waiting);
        assert_eq!(fencing_token(reads(&[mine], 7, false)), Some(4));
        // A key that was written again has no grant yet.
        assert_eq!(reads(std::slice::from_ref(&again), 9, false), ClaimStatus::Waiting);
        assert_eq!(reads(&[other, again], 10, false), ClaimStatus::Waiting);
        assert_eq!(shared.advance(&claim, &[OTHER.into()]), None);
        assert!(shared.positions().get(claim.id).unwrap().granted.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_longest_hold_is_counted_from_the_request_by_whose_answer_the_claim_held() {
        let (shared, mut claim, key) = store();
        shared.leases.pretend(1);
        claim.max_hold = Some(Duration::from_secs(30));
        let sent = now();
        for (read_at, passed) in [(4, 0), (14, 10)] {
            tokio::time::advance(Duration::from_secs(passed)).await;
            let ClaimStatus::Held(grant) = read(&shared, &claim, &[found(&key, 4, 1)], read_at) else {
                unreachable!("nobody is in front")
            };
            assert_eq!(grant.hold_ends.map(|ends| ends - sent), claim.max_hold);
        }
        claim.max_hold = None;
        let status = shared.status(&claim, shared.positions().get(claim.id).unwrap());
        assert!(matches!(status, ClaimStatus::Held(grant) if grant.hold_ends.is_none()));
    }

    #[test]
    fn a_key_is_missed_where_it_was_there_before_the_look_and_is_not_found_or_is_another() {
        for (created, read_at, proves_gone) in
            [(7, 9, false), (0, 9, true), (8, 9, true), (0, 6, false), (0, 7, true)]
        {
            assert_eq!(
                KeyState { created, read_at }.proves_gone(7),
                proves_gone,
                "created {created}, read at {read_at}"
            );
        }
    }

    #[tokio::test]
    async fn a_claim_joins_behind_the_last_of_its_store_that_is_there_and_stays() {
        let (shared, first, key) = store();
        let second = claim(2, MUTEX);
        assert!(shared.behind(&second).is_none());
        shared.leases.pretend(1);
        read(&shared, &first, &[found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)], 4);
        let behind = shared.behind(&second).unwrap();
        assert_eq!((behind.last.revision, behind.read_at), (4, None));
        assert!(behind.ahead.is_blocked_only_by(&behind.last));
        // One that shares waits for what keeps the last one waiting, as of when that was seen.
        let shared_key = shared.key_numbers.take(shared.prefix(), &claim(3, READ));
        read(&shared, &claim(3, READ), &[found(&key, 4, 1), found(&shared_key, 5, 1)], 6);
        let behind = shared.behind(&claim(4, READ)).unwrap();
        assert_eq!((behind.last.revision, behind.read_at), (5, Some(6)));
        assert_eq!(behind.ahead.blockers(READ)[0].revision, 4);
        // Not itself, not what leaves, not what is attached to a lease that may have ended.
        assert!(shared.behind(&claim(3, READ)).is_none());
        shared.positions().get_mut(ClaimId::new(1, 3)).unwrap().releasing = true;
        assert!(shared.behind(&second).is_none());
        shared.positions().remove(ClaimId::new(1, 3));
        assert!(shared.behind(&second).is_some());
        shared.leases.pretend_expired(1);
        assert!(shared.behind(&second).is_none());
    }

    #[tokio::test]
    async fn the_end_of_another_claim_of_the_store_is_a_grant_only_where_it_was_taken_out() {
        let (shared, first, key) = store();
        let second = claim(2, MUTEX);
        let second_key = shared.key_numbers.take(shared.prefix(), &second);
        shared.leases.pretend(1);
        let queue = [found(&key, 4, 1), found(&second_key, 5, 1)];
        read(&shared, &first, &queue, 5);
        assert_eq!(read(&shared, &second, &queue, 5), ClaimStatus::Waiting);
        let deleted = std::slice::from_ref(&key);
        assert_eq!(shared.advance(&second, deleted), None, "their lease may have ended");
        read(&shared, &second, &queue, 6);
        shared.positions().get_mut(first.id).unwrap().releasing = true;
        assert_eq!(shared.advance(&second, deleted).and_then(fencing_token), Some(5));
    }
}
