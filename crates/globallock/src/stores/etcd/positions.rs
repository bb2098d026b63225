//! The position of each of this store's claims in its queue, from what was read and what the watches
//! notified.
//!
//! A claim's status is decided here, out of three facts: its key, the claims in front of it, and its lease.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::Shared;
use super::ahead::Ahead;
use super::keys::QueueEntry;
use super::reading::QueueView;
use crate::backend::{Claim, ClaimId, ClaimStatus, Grant};
use crate::name::Name;
use crate::sync::now;

/// The position of one claim of this store in its queue.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// The claim's own key.
    pub(super) mine: QueueEntry,
    /// The start of the max hold time; `None` while the claim waits.
    ///
    /// It is when the request was sent whose answer showed the grant, or when the watch notified the grant.
    pub(super) granted: Option<Instant>,
    /// The claims in front of it.
    pub(super) ahead: Ahead,
    /// The revision as of which `ahead` was read.
    pub(super) read_at: i64,
    /// Whether its owner has begun to release it.
    pub(super) releasing: bool,
    /// Whether it has everything else that a grant needs: the python-etcd3 key, where one is wanted.
    pub(super) is_complete: bool,
}

/// The positions of all claims of one store.
#[derive(Debug, Default)]
pub(super) struct Positions {
    by_id: HashMap<ClaimId, (Name, Position)>,
    /// The claims of each name, by creation revision: in the order of the queue.
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

    /// Removes a claim whose key did not exist as of revision `read_at`.
    ///
    /// A key that is newer than that revision stays, because the read cannot have seen it.
    pub(super) fn remove_if_gone(&mut self, id: ClaimId, read_at: i64) {
        if self.get(id).is_some_and(|position| position.mine.revision <= read_at) {
            self.remove(id);
        }
    }

    /// The last of this store's claims in the queue of `name`.
    fn last(&self, name: &Name) -> Option<(ClaimId, &Position)> {
        let of_name = (name.clone(), i64::MIN)..=(name.clone(), i64::MAX);
        let (_, id) = self.by_name.range(of_name).next_back()?;
        Some((*id, self.get(*id)?))
    }
}

/// What this store knows about the queue in front of a claim that is about to join: its own last claim there.
#[derive(Debug)]
pub(super) struct Behind {
    /// The last claim of this store in the queue.
    pub(super) last: QueueEntry,
    /// The blockers of the new claim if `last` is still there.
    pub(super) ahead: Ahead,
    /// The revision as of which the blockers exist.
    ///
    /// `None` if `last` is the only blocker: the transaction that joins checks `last` itself, so its own
    /// revision counts.
    pub(super) read_at: Option<i64>,
}

impl Shared {
    /// Finds what this store knows of the queue in front of a new claim, without a request.
    ///
    /// `None` if nothing reliable is known. That includes a last claim that is being released or whose lease
    /// may have expired: its key may be gone soon, and then the queue would have to be read anyway.
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
                let ahead = if view.is_whole {
                    Ahead::of_queue(view.ahead(), claim.permits)
                } else {
                    // An exclusive claim is blocked by any claim in front, so a part of the queue is enough
                    // for it.
                    Ahead::of_some(view.ahead(), claim.permits).unwrap_or_default()
                };
                self.record_position(claim, mine, ahead, view.read_at, is_complete, sent)
            }
            None => self.record_gone(claim, view.read_at),
        }
    }

    /// Records that a claim's key did not exist as of revision `read_at`, and returns the claim's status.
    pub(super) fn record_gone(&self, claim: &Claim, read_at: i64) -> ClaimStatus {
        let mut positions = self.positions();
        positions.remove_if_gone(claim.id, read_at);
        positions.get(claim.id).map_or(ClaimStatus::Gone, |position| self.status(claim, position))
    }

    /// Records a claim's position as of revision `read_at`, and returns the claim's status.
    pub(super) fn record_position(
        &self,
        claim: &Claim,
        mine: &QueueEntry,
        ahead: Ahead,
        read_at: i64,
        is_complete: bool,
        sent: Instant,
    ) -> ClaimStatus {
        let mut positions = self.positions();
        // A position with another revision is that of an earlier key, whose lease has expired. It says
        // nothing about the new key.
        let before = positions.get(claim.id).filter(|position| position.mine.revision == mine.revision);
        let is_complete = is_complete || before.is_some_and(|position| position.is_complete);
        let holds = ahead.surely_holds(claim.permits) && is_complete;
        let granted = before.and_then(|position| position.granted).or(holds.then_some(sent));
        // A late answer must not overwrite what a later read has shown.
        let (ahead, read_at) = match before.filter(|position| position.read_at > read_at) {
            Some(later) => (later.ahead.clone(), later.read_at),
            None => (ahead, read_at),
        };
        let position =
            Position { mine: mine.clone(), granted, ahead, read_at, releasing: false, is_complete };
        let status = self.status(claim, &position);
        // Recorded even if the lease has expired by now, because the release must know which lease the key
        // had.
        positions.insert(claim, position);
        status
    }

    /// The status of a claim.
    ///
    /// `Gone` as soon as its lease may have expired, even if the cluster still has its key: the cluster may
    /// delete the key at any moment.
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

    /// Removes deleted keys from the claims in front of a waiter; returns its status if that grants it for
    /// certain.
    ///
    /// `None`: the queue must be read. That is also the answer if one of the keys belonged to another claim
    /// of this store that was not being released. The lease that both claims share may have expired: then the
    /// waiter's own key is gone too, and the deletion grants nothing.
    pub(super) fn advance(&self, claim: &Claim, deleted: &[Vec<u8>]) -> Option<ClaimStatus> {
        let mut positions = self.positions();
        let was_released = |id: ClaimId| positions.get(id).is_none_or(|position| position.releasing);
        let all_released = deleted.iter().filter_map(|key| self.key_numbers.owner(key)).all(was_released);
        let position = positions.get_mut(claim.id)?;
        position.ahead.remove(deleted);
        if !all_released || !position.is_complete || !position.ahead.surely_holds(claim.permits) {
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
    use std::borrow::Borrow;
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::backend::WaitMode;
    use crate::queue::Permits;
    use crate::stores::address::Address;
    use crate::stores::etcd::config::Config;
    use crate::stores::etcd::connection::Connection;
    use crate::stores::etcd::messages::KeyValue;
    use crate::stores::etcd::reading::KeyState;
    use crate::stores::etcd::scripted::Cluster;

    pub(in crate::stores::etcd) const OTHER: &str = "/locks/_glocks/a/0123456789abcdef.0.1.1";
    pub(in crate::stores::etcd) const MUTEX: Permits = Permits::MUTEX;
    pub(in crate::stores::etcd) const READ: Permits = Permits::READ;

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

    /// A store that has sent no request, a claim and the key that the claim will have.
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

    /// Lets the claim read this whole queue as of a revision.
    pub(in crate::stores::etcd) fn read(
        shared: &Shared,
        claim: &Claim,
        queue: &[KeyValue],
        read_at: i64,
    ) -> ClaimStatus {
        let queue = shared.claims(queue);
        let key = shared.key_numbers.key(claim.id).unwrap();
        let mine = queue.iter().find(|entry| entry.key == key).cloned();
        shared.record_view(claim, &QueueView::new(mine, queue, true, read_at), true, now())
    }

    /// A holder with lease 1 and revision 4, and its store with a scripted cluster.
    pub(in crate::stores::etcd) fn held() -> (Cluster, Arc<Shared>, Claim, Vec<u8>) {
        let (cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        shared.leases.pretend(1);
        let claim = claim(1, MUTEX);
        let key = shared.key_numbers.take(shared.prefix(), &claim);
        let status = read(&shared, &claim, &[found(&key, 4, 1)], 4);
        assert!(matches!(status, ClaimStatus::Held(_)), "{status:?}");
        (cluster, shared, claim, key)
    }

    pub(in crate::stores::etcd) fn fencing_token(status: impl Borrow<ClaimStatus>) -> Option<u64> {
        match status.borrow() {
            ClaimStatus::Held(grant) => Some(grant.fencing_token),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_grant_that_is_notified_after_its_lease_expired_does_not_grant_the_claims_next_key() {
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let queue = [found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)];
        assert_eq!(read(&shared, &claim, &queue, 4), ClaimStatus::Waiting);
        shared.leases.forget(1);
        assert_eq!(shared.advance(&claim, &[OTHER.into()]), Some(ClaimStatus::Gone));
        // It joins again, behind another claim.
        shared.leases.pretend(2);
        let queue = [found(OTHER.as_bytes(), 5, 9), found(&key, 6, 2)];
        assert_eq!(read(&shared, &claim, &queue, 6), ClaimStatus::Waiting);
        assert_eq!(shared.advance(&claim, &[OTHER.into()]).and_then(fencing_token), Some(6));
    }

    #[tokio::test]
    async fn a_late_answer_does_not_remove_a_claim_that_has_joined_again_since() {
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let held = read(&shared, &claim, &[found(&key, 6, 1)], 6);
        assert_eq!(fencing_token(held), Some(6));
        // These requests were sent when the earlier key was gone; their answers came late.
        assert_eq!(fencing_token(shared.record_gone(&claim, 5)), Some(6));
        assert_eq!(fencing_token(read(&shared, &claim, &[], 5)), Some(6));
        assert_eq!(read(&shared, &claim, &[], 6), ClaimStatus::Gone);
        assert!(shared.positions().get(claim.id).is_none());
    }

    #[tokio::test]
    async fn a_late_answer_does_not_overwrite_what_a_later_read_has_shown() {
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
    async fn of_two_reads_as_of_one_revision_the_last_one_counts() {
        let (shared, ..) = store();
        shared.leases.pretend(1);
        let reader = claim(2, READ);
        let key = shared.key_numbers.take(shared.prefix(), &reader);
        let queue = shared.claims(&[found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)]);
        let mine = || Some(queue[1].clone());
        // No claim in this part of the queue blocks it, which proves nothing: the rest is unknown.
        let some = QueueView::new(mine(), queue[1..].to_vec(), false, 6);
        assert_eq!(shared.record_view(&reader, &some, true, now()), ClaimStatus::Waiting);
        assert!(!shared.positions().get(reader.id).unwrap().ahead.is_known());
        let whole = QueueView::new(mine(), queue.clone(), true, 6);
        assert_eq!(shared.record_view(&reader, &whole, true, now()), ClaimStatus::Waiting);
        let blockers = |position: &Position| {
            position.ahead.blockers(READ).iter().map(|b| b.revision).collect::<Vec<_>>()
        };
        assert_eq!(blockers(shared.positions().get(reader.id).unwrap()), [3]);
    }

    #[tokio::test]
    async fn a_claim_holds_once_it_is_first_and_complete_and_stays_complete() {
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let reads = |queue: &[KeyValue], read_at, is_complete| {
            let queue = shared.claims(queue);
            let mine = queue.iter().find(|entry| entry.key == key).cloned();
            shared.record_view(&claim, &QueueView::new(mine, queue, true, read_at), is_complete, now())
        };
        let [other, mine, again] = [found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1), found(&key, 9, 1)];
        // It lacks the other key that it needs; then another claim is in front; then it lacks nothing.
        assert_eq!(reads(std::slice::from_ref(&mine), 5, false), ClaimStatus::Waiting);
        assert_eq!(reads(&[other.clone(), mine.clone()], 6, true), ClaimStatus::Waiting);
        assert_eq!(fencing_token(reads(&[mine], 7, false)), Some(4));
        // The claim's next key has no grant yet.
        assert_eq!(reads(std::slice::from_ref(&again), 9, false), ClaimStatus::Waiting);
        assert_eq!(reads(&[other, again], 10, false), ClaimStatus::Waiting);
        assert_eq!(shared.advance(&claim, &[OTHER.into()]), None);
        assert!(shared.positions().get(claim.id).unwrap().granted.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_max_hold_time_is_counted_from_the_request_whose_answer_showed_the_grant() {
        let (shared, mut claim, key) = store();
        shared.leases.pretend(1);
        claim.max_hold = Some(Duration::from_secs(30));
        let sent = now();
        for (read_at, passed) in [(4, 0), (14, 10)] {
            tokio::time::advance(Duration::from_secs(passed)).await;
            let ClaimStatus::Held(grant) = read(&shared, &claim, &[found(&key, 4, 1)], read_at) else {
                unreachable!("no claim is in front")
            };
            assert_eq!(grant.hold_ends.map(|ends| ends - sent), claim.max_hold);
        }
        claim.max_hold = None;
        let status = shared.status(&claim, shared.positions().get(claim.id).unwrap());
        assert!(matches!(status, ClaimStatus::Held(grant) if grant.hold_ends.is_none()));
    }

    #[test]
    fn a_read_proves_a_key_gone_if_it_finds_none_or_another_and_is_not_older_than_the_key() {
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
    async fn a_claim_joins_behind_the_last_claim_of_its_store_unless_that_is_leaving() {
        let (shared, first, key) = store();
        let second = claim(2, MUTEX);
        assert!(shared.behind(&second).is_none());
        shared.leases.pretend(1);
        read(&shared, &first, &[found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)], 4);
        let behind = shared.behind(&second).unwrap();
        assert_eq!((behind.last.revision, behind.read_at), (4, None));
        assert!(behind.ahead.is_blocked_only_by(&behind.last));
        // A shared claim has the blockers of the last claim, as of when those were read.
        let shared_key = shared.key_numbers.take(shared.prefix(), &claim(3, READ));
        read(&shared, &claim(3, READ), &[found(&key, 4, 1), found(&shared_key, 5, 1)], 6);
        let behind = shared.behind(&claim(4, READ)).unwrap();
        assert_eq!((behind.last.revision, behind.read_at), (5, Some(6)));
        assert_eq!(behind.ahead.blockers(READ)[0].revision, 4);
        // Not behind itself, nor a claim that is being released, nor one whose lease may have expired.
        assert!(shared.behind(&claim(3, READ)).is_none());
        shared.positions().get_mut(ClaimId::new(1, 3)).unwrap().releasing = true;
        assert!(shared.behind(&second).is_none());
        shared.positions().remove(ClaimId::new(1, 3));
        assert!(shared.behind(&second).is_some());
        shared.leases.pretend_expired(1);
        assert!(shared.behind(&second).is_none());
    }

    #[tokio::test]
    async fn the_deletion_of_another_claim_of_the_store_grants_only_if_that_was_being_released() {
        let (shared, first, key) = store();
        let second = claim(2, MUTEX);
        let second_key = shared.key_numbers.take(shared.prefix(), &second);
        shared.leases.pretend(1);
        let queue = [found(&key, 4, 1), found(&second_key, 5, 1)];
        read(&shared, &first, &queue, 5);
        assert_eq!(read(&shared, &second, &queue, 5), ClaimStatus::Waiting);
        let deleted = std::slice::from_ref(&key);
        assert_eq!(shared.advance(&second, deleted), None, "their lease may have expired");
        read(&shared, &second, &queue, 6);
        shared.positions().get_mut(first.id).unwrap().releasing = true;
        assert_eq!(shared.advance(&second, deleted).and_then(fencing_token), Some(5));
    }
}
