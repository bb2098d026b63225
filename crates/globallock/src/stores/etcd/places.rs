//! Where the claims of a store stand in their queues, as it has read and been told.

use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

use super::Shared;
use super::ahead::Ahead;
use super::keys::Listed;
use super::reading::Sight;
use crate::backend::{Claim, ClaimId, ClaimStatus, Grant};
use crate::name::Name;
use crate::sync::now;

/// A claim of this store in its queue, as last read.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Its key.
    pub(super) mine: Listed,
    /// No later than the grant; `None` while the claim waits.
    pub(super) granted: Option<Instant>,
    /// Those in front of it.
    pub(super) ahead: Ahead,
    /// The revision at which that was so.
    pub(super) read_at: i64,
    /// Whether its owner is taking it out.
    pub(super) leaves: bool,
    /// Whether it has all that it needs besides its place in the queue.
    pub(super) is_complete: bool,
}

/// The places of one store's claims.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_id: HashMap<ClaimId, (Name, Place)>,
    /// The claims of each name, in the order of joining.
    by_name: BTreeMap<(Name, i64), ClaimId>,
}

impl Places {
    pub(super) fn get(&self, id: ClaimId) -> Option<&Place> {
        self.by_id.get(&id).map(|(_, place)| place)
    }

    pub(super) fn get_mut(&mut self, id: ClaimId) -> Option<&mut Place> {
        self.by_id.get_mut(&id).map(|(_, place)| place)
    }

    pub(super) fn insert(&mut self, claim: &Claim, place: Place) {
        self.remove(claim.id);
        self.by_name.insert((claim.name.clone(), place.mine.revision), claim.id);
        self.by_id.insert(claim.id, (claim.name.clone(), place));
    }

    pub(super) fn remove(&mut self, id: ClaimId) {
        if let Some((name, place)) = self.by_id.remove(&id) {
            self.by_name.remove(&(name, place.mine.revision));
        }
    }

    /// Forgets a claim whose key was not there when it was looked for as of revision `read_at`, unless its key is newer.
    pub(super) fn miss(&mut self, id: ClaimId, read_at: i64) {
        if self.get(id).is_some_and(|place| place.mine.revision <= read_at) {
            self.remove(id);
        }
    }

    /// The last claim of this store in the queue of `name`.
    fn last(&self, name: &Name) -> Option<(ClaimId, &Place)> {
        let of_name = (name.clone(), i64::MIN)..=(name.clone(), i64::MAX);
        let (_, id) = self.by_name.range(of_name).next_back()?;
        Some((*id, self.get(*id)?))
    }
}

/// A claim of this store that one which joins now stands behind, and what keeps that one waiting then.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) last: Listed,
    pub(super) ahead: Ahead,
    /// The revision as of which those in front are there; `None`: as of when the last one is seen to be there.
    pub(super) read_at: Option<i64>,
}

impl Shared {
    /// What a claim that joins stands behind, as far as this store knows by itself.
    pub(super) fn behind(&self, claim: &Claim) -> Option<Behind> {
        if self.link.config().single_key {
            return None;
        }
        let places = self.places();
        let (id, place) = places.last(&claim.name)?;
        if id == claim.id || place.leaves || self.leases.find(place.mine.lease).is_none() {
            return None;
        }
        let its = place.granted.is_none().then_some(&place.ahead);
        let ahead = Ahead::behind(&place.mine, its, claim.permits)?;
        let read_at = (!ahead.is_only(&place.mine)).then_some(place.read_at);
        Some(Behind { last: place.mine.clone(), ahead, read_at })
    }

    /// Takes note of what a claim has read of its queue, and says where it stands.
    pub(super) fn note(&self, claim: &Claim, sight: &Sight, is_complete: bool, sent: Instant) -> ClaimStatus {
        match &sight.mine {
            Some(mine) => {
                let ahead = if sight.is_whole {
                    Ahead::of_queue(sight.ahead(), claim.permits)
                } else {
                    // What takes all there is waits behind anybody.
                    Ahead::of_some(sight.ahead(), claim.permits).unwrap_or_default()
                };
                self.stands(claim, mine, ahead, sight.read_at, is_complete, sent)
            }
            None => self.is_missing(claim, sight.read_at),
        }
    }

    /// Takes note that a claim was not in its queue as of revision `read_at`, and says where it stands.
    pub(super) fn is_missing(&self, claim: &Claim, read_at: i64) -> ClaimStatus {
        let mut places = self.places();
        places.miss(claim.id, read_at);
        places.get(claim.id).map_or(ClaimStatus::Gone, |place| self.status(claim, place))
    }

    /// Takes note of where a claim stands as of revision `read_at`.
    pub(super) fn stands(
        &self,
        claim: &Claim,
        mine: &Listed,
        ahead: Ahead,
        read_at: i64,
        is_complete: bool,
        sent: Instant,
    ) -> ClaimStatus {
        let mut places = self.places();
        // What was known of an earlier key of the claim, whose lease has ended, says nothing of this one.
        let before = places.get(claim.id).filter(|place| place.mine.revision == mine.revision);
        let is_complete = is_complete || before.is_some_and(|place| place.is_complete);
        let holds = ahead.lets_in(claim.permits) && is_complete;
        let granted = before.and_then(|place| place.granted).or(holds.then_some(sent));
        // An answer that a later one has overtaken takes back nothing of what that has told.
        let (ahead, read_at) = match before.filter(|place| place.read_at > read_at) {
            Some(later) => (later.ahead.clone(), later.read_at),
            None => (ahead, read_at),
        };
        let place = Place { mine: mine.clone(), granted, ahead, read_at, leaves: false, is_complete };
        let status = self.status(claim, &place);
        // Kept even if its lease is over by now: that is what its departure has to know.
        places.insert(claim, place);
        status
    }

    /// Where a claim stands: nowhere once its lease may be over, whatever the cluster still has.
    pub(super) fn status(&self, claim: &Claim, place: &Place) -> ClaimStatus {
        let Some(lease) = self.leases.find(place.mine.lease) else {
            return ClaimStatus::Gone;
        };
        match place.granted {
            None => ClaimStatus::Waiting,
            Some(granted) => ClaimStatus::Held(Grant {
                fencing_token: place.mine.revision.unsigned_abs(),
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
        let mut places = self.places();
        let taken_out = |id: ClaimId| places.get(id).is_none_or(|place| place.leaves);
        let is_told = deleted.iter().filter_map(|key| self.slots.owner(key)).all(taken_out);
        let place = places.get_mut(claim.id)?;
        place.ahead.remove(deleted);
        if !is_told || !place.is_complete || !place.ahead.lets_in(claim.permits) {
            return None;
        }
        place.granted.get_or_insert_with(now);
        let place = place.clone();
        drop(places);
        Some(self.status(claim, &place))
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
    use crate::stores::etcd::link::Link;
    use crate::stores::etcd::messages::KeyValue;
    use crate::stores::etcd::reading::Seen;
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
        let shared = Shared::new(Link::new(Config::new(address).unwrap()));
        let claim = claim(1, MUTEX);
        let key = shared.slots.take(shared.prefix(), &claim);
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
        let key = shared.slots.key(claim.id).unwrap();
        let mine = queue.iter().find(|listed| listed.key == key).cloned();
        shared.note(claim, &Sight::new(mine, queue, true, read_at), true, now())
    }

    /// A claim that holds, under lease 1 and as of revision 4, in a store with a cluster.
    pub(in crate::stores::etcd) fn held() -> (Cluster, Arc<Shared>, Claim, Vec<u8>) {
        let (cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        shared.leases.pretend(1);
        let claim = claim(1, MUTEX);
        let key = shared.slots.take(shared.prefix(), &claim);
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
        assert_eq!(fencing_token(shared.is_missing(&claim, 5)), Some(6));
        assert_eq!(fencing_token(read(&shared, &claim, &[], 5)), Some(6));
        assert_eq!(read(&shared, &claim, &[], 6), ClaimStatus::Gone);
        assert!(shared.places().get(claim.id).is_none());
    }

    #[tokio::test]
    async fn a_reading_that_a_later_one_has_overtaken_takes_nothing_back() {
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let queue = [found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)];
        assert_eq!(read(&shared, &claim, &queue, 4), ClaimStatus::Waiting);
        assert_eq!(fencing_token(read(&shared, &claim, &queue[1..], 8)), Some(4));
        assert_eq!(fencing_token(read(&shared, &claim, &queue, 7)), Some(4));
        let place = shared.places().get(claim.id).cloned().unwrap();
        assert_eq!((place.read_at, place.ahead.lets_in(MUTEX)), (8, true));
    }

    #[tokio::test]
    async fn of_two_readings_as_of_one_revision_the_last_one_counts() {
        let (shared, ..) = store();
        shared.leases.pretend(1);
        let reader = claim(2, READ);
        let key = shared.slots.take(shared.prefix(), &reader);
        let queue = shared.claims(&[found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)]);
        let mine = || Some(queue[1].clone());
        // Some of those in front do not keep it waiting, which tells nothing of the others.
        let some = Sight::new(mine(), queue[1..].to_vec(), false, 6);
        assert_eq!(shared.note(&reader, &some, true, now()), ClaimStatus::Waiting);
        assert!(!shared.places().get(reader.id).unwrap().ahead.tells());
        let whole = Sight::new(mine(), queue.clone(), true, 6);
        assert_eq!(shared.note(&reader, &whole, true, now()), ClaimStatus::Waiting);
        let blockers =
            |place: &Place| place.ahead.blockers(READ).iter().map(|b| b.revision).collect::<Vec<_>>();
        assert_eq!(blockers(shared.places().get(reader.id).unwrap()), [3]);
    }

    #[tokio::test]
    async fn a_claim_holds_with_all_that_it_needs_and_what_it_once_had_it_keeps() {
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let reads = |queue: &[KeyValue], read_at, is_complete| {
            let queue = shared.claims(queue);
            let mine = queue.iter().find(|listed| listed.key == key).cloned();
            shared.note(&claim, &Sight::new(mine, queue, true, read_at), is_complete, now())
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
        assert!(shared.places().get(claim.id).unwrap().granted.is_none());
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
        let status = shared.status(&claim, shared.places().get(claim.id).unwrap());
        assert!(matches!(status, ClaimStatus::Held(grant) if grant.hold_ends.is_none()));
    }

    #[test]
    fn a_key_is_missed_where_it_was_there_before_the_look_and_is_not_found_or_is_another() {
        for (created, read_at, misses) in
            [(7, 9, false), (0, 9, true), (8, 9, true), (0, 6, false), (0, 7, true)]
        {
            assert_eq!(Seen { created, read_at }.misses(7), misses, "created {created}, read at {read_at}");
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
        assert!(behind.ahead.is_only(&behind.last));
        // One that shares waits for what keeps the last one waiting, as of when that was seen.
        let shared_key = shared.slots.take(shared.prefix(), &claim(3, READ));
        read(&shared, &claim(3, READ), &[found(&key, 4, 1), found(&shared_key, 5, 1)], 6);
        let behind = shared.behind(&claim(4, READ)).unwrap();
        assert_eq!((behind.last.revision, behind.read_at), (5, Some(6)));
        assert_eq!(behind.ahead.blockers(READ)[0].revision, 4);
        // Not itself, not what leaves, not what is attached to a lease that may have ended.
        assert!(shared.behind(&claim(3, READ)).is_none());
        shared.places().get_mut(ClaimId::new(1, 3)).unwrap().leaves = true;
        assert!(shared.behind(&second).is_none());
        shared.places().remove(ClaimId::new(1, 3));
        assert!(shared.behind(&second).is_some());
        shared.leases.pretend_over(1);
        assert!(shared.behind(&second).is_none());
    }

    #[tokio::test]
    async fn the_end_of_another_claim_of_the_store_is_a_grant_only_where_it_was_taken_out() {
        let (shared, first, key) = store();
        let second = claim(2, MUTEX);
        let second_key = shared.slots.take(shared.prefix(), &second);
        shared.leases.pretend(1);
        let queue = [found(&key, 4, 1), found(&second_key, 5, 1)];
        read(&shared, &first, &queue, 5);
        assert_eq!(read(&shared, &second, &queue, 5), ClaimStatus::Waiting);
        let deleted = std::slice::from_ref(&key);
        assert_eq!(shared.advance(&second, deleted), None, "their lease may have ended");
        read(&shared, &second, &queue, 6);
        shared.places().get_mut(first.id).unwrap().leaves = true;
        assert_eq!(shared.advance(&second, deleted).and_then(fencing_token), Some(5));
    }
}
