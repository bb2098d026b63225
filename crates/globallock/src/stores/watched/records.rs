//! The records of a store's claims: one a claim, found by its id, and in the order of the queues.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::ahead::{Ahead, Entry};
use crate::backend::{Claim, ClaimId, ClaimStatus, Grant};
use crate::sync::Instant;

/// What a store knows of one of its claims.
pub(crate) trait Record {
    /// What names a queue.
    type Queue: Clone + Ord;
    type Entry: Entry;

    /// The queue that the claim is in, and the number that orders it there; `None` if it is in none.
    fn place(&self) -> Option<(Self::Queue, i64)>;

    /// Whether its owner has begun to release the claim.
    fn is_being_released(&self) -> bool;

    fn ahead(&mut self) -> Option<&mut Ahead<Self::Entry>>;
}

/// The records of all claims of one store.
#[derive(Debug)]
pub(crate) struct Records<R: Record> {
    by_id: HashMap<ClaimId, R>,
    in_order: BTreeSet<(R::Queue, i64, ClaimId)>,
}

impl<R: Record> Default for Records<R> {
    fn default() -> Self {
        Records { by_id: HashMap::new(), in_order: BTreeSet::new() }
    }
}

impl<R: Record> Records<R> {
    pub(crate) fn get(&self, id: ClaimId) -> Option<&R> {
        self.by_id.get(&id)
    }

    /// A record, to change anything but its place.
    pub(crate) fn get_mut(&mut self, id: ClaimId) -> Option<&mut R> {
        self.by_id.get_mut(&id)
    }

    /// A record, which is made without a place if there is none.
    #[cfg(feature = "etcd")]
    pub(crate) fn get_or_default(&mut self, id: ClaimId) -> &mut R
    where
        R: Default,
    {
        self.by_id.entry(id).or_default()
    }

    pub(crate) fn insert(&mut self, id: ClaimId, record: R) {
        self.remove(id);
        self.in_order.extend(record.place().map(|(queue, number)| (queue, number, id)));
        self.by_id.insert(id, record);
    }

    pub(crate) fn remove(&mut self, id: ClaimId) -> Option<R> {
        let record = self.by_id.remove(&id)?;
        if let Some((queue, number)) = record.place() {
            self.in_order.remove(&(queue, number, id));
        }
        Some(record)
    }

    /// Changes a record, and with it perhaps its place.
    pub(crate) fn change(&mut self, id: ClaimId, change: impl FnOnce(&mut R)) {
        if let Some(mut record) = self.remove(id) {
            change(&mut record);
            self.insert(id, record);
        }
    }

    /// The claims of a queue whose numbers are in this range, in their order.
    pub(crate) fn in_order(
        &self,
        queue: &R::Queue,
        numbers: RangeInclusive<i64>,
    ) -> impl DoubleEndedIterator<Item = (ClaimId, &R)> {
        let [first, last] = [ClaimId::new(0, 0), ClaimId::new(u128::MAX, u64::MAX)];
        let range = (queue.clone(), *numbers.start(), first)..=(queue.clone(), *numbers.end(), last);
        self.in_order.range(range).filter_map(|(.., id)| Some((*id, self.get(*id)?)))
    }

    /// Removes what was deleted from what is known ahead of a claim, and returns whether that may be relied
    /// on; otherwise the queue must be read.
    ///
    /// It may not if any of it belonged to another claim of this store that was not being released. The lease
    /// or session that both claims share may have expired: then this claim is gone too, and the deletion
    /// grants nothing. `owner` names the claim of this store that has an entry.
    pub(crate) fn advance(
        &mut self,
        id: ClaimId,
        owner: impl Fn(&R::Entry) -> Option<ClaimId>,
        is_deleted: impl Fn(&R::Entry) -> bool,
    ) -> bool {
        let Some(ahead) = self.by_id.get_mut(&id).and_then(R::ahead).map(|ahead| ahead.clone()) else {
            return false;
        };
        let was_released = |id| self.get(id).is_none_or(R::is_being_released);
        if !ahead.of_deleted(&is_deleted).filter_map(owner).all(was_released) {
            return false;
        }
        if let Some(ahead) = self.by_id.get_mut(&id).and_then(R::ahead) {
            ahead.remove(is_deleted);
        }
        true
    }

    #[cfg(all(test, feature = "zookeeper"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = &R> {
        self.by_id.values()
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.in_order.is_empty()
    }
}

/// The status of a claim that holds since `granted`. `lease` is what expires then, if that is not the claim's
/// own lease.
pub(crate) fn held(
    claim: &Claim,
    token: i64,
    expires: Instant,
    lease: Option<Duration>,
    granted: Instant,
) -> ClaimStatus {
    ClaimStatus::Held(Grant {
        fencing_token: token.unsigned_abs(),
        expires: Some(expires),
        lease,
        hold_ends: claim.max_hold.map(|hold| granted + hold),
        value: None,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::name::Name;
    use crate::queue::Permits;
    use proptest::prelude::*;

    /// A mutex claim, by its number.
    #[derive(Clone, Debug, PartialEq)]
    struct Mutex(i64);

    impl Entry for Mutex {
        fn permits(&self) -> Permits {
            Permits::MUTEX
        }
    }

    #[derive(Debug)]
    struct Known {
        place: Option<(u8, i64)>,
        releasing: bool,
        ahead: Ahead<Mutex>,
    }

    impl Record for Known {
        type Queue = u8;
        type Entry = Mutex;

        fn place(&self) -> Option<(u8, i64)> {
            self.place
        }

        fn is_being_released(&self) -> bool {
            self.releasing
        }

        fn ahead(&mut self) -> Option<&mut Ahead<Mutex>> {
            Some(&mut self.ahead)
        }
    }

    fn id(number: i64) -> ClaimId {
        ClaimId::new(1, number.unsigned_abs())
    }

    fn known(place: Option<(u8, i64)>, ahead: &[Mutex]) -> Known {
        Known { place, releasing: false, ahead: Ahead::of(ahead.iter(), true, Permits::MUTEX) }
    }

    /// A claim with the number 5 behind those with the numbers 1 to 4. 2 and 3 are of this store, and 3 is
    /// being released.
    fn behind_four() -> Records<Known> {
        let mut records = Records::default();
        records.insert(id(5), known(Some((1, 5)), &[1, 2, 3, 4].map(Mutex)));
        records.insert(id(2), known(Some((1, 2)), &[]));
        records.insert(id(3), Known { releasing: true, ..known(Some((1, 3)), &[]) });
        records
    }

    #[test]
    fn the_deletion_of_a_claim_of_this_store_counts_only_if_that_was_being_released() {
        for (deleted, counts) in [(1, true), (2, false), (3, true), (4, true), (9, true)] {
            let mut records = behind_four();
            let owner = |entry: &Mutex| Some(id(entry.0));
            let advanced = records.advance(id(5), owner, |entry| entry.0 == deleted);
            assert_eq!(advanced, counts, "{deleted}");
            let left = records.get(id(5)).unwrap().ahead.of_deleted(|_| true).count();
            assert_eq!(
                left,
                if counts && deleted <= 4 { 3 } else { 4 },
                "what is read again stays: {deleted}"
            );
        }
        let mut records = behind_four();
        assert!(records.advance(id(5), |_| None, |_| true), "they are of other programs");
        assert!(records.get(id(5)).unwrap().ahead.surely_holds());
        assert!(!records.advance(id(6), |_| None, |_| true), "there is no such claim");
    }

    #[test]
    fn a_claim_holds_from_its_grant_to_the_end_of_its_max_hold_time() {
        let mut claim = Claim::new(id(1), Name::new("a").unwrap(), Permits::MUTEX);
        let (granted, expires) = (Instant::now(), Instant::now() + Duration::from_secs(9));
        for max_hold in [None, Some(Duration::from_secs(3))] {
            claim.max_hold = max_hold;
            let ClaimStatus::Held(grant) = held(&claim, 7, expires, None, granted) else {
                panic!("it holds")
            };
            assert_eq!((grant.fencing_token, grant.expires), (7, Some(expires)));
            assert_eq!(grant.hold_ends, max_hold.map(|hold| granted + hold));
        }
    }

    proptest! {
        #[test]
        fn claims_are_in_the_order_of_their_queues_wherever_they_are_moved(
            steps in prop::collection::vec((0_i64..6, 0_u8..5, 0_u8..3, 0_i64..4), 0..60),
        ) {
            let (mut records, mut model) = (Records::default(), BTreeMap::new());
            for (claim, step, queue, number) in steps {
                let place = (queue > 0).then_some((queue, number));
                match step {
                    0 => {
                        prop_assert_eq!(records.remove(id(claim)).is_some(), model.remove(&claim).is_some());
                    }
                    1 | 2 => {
                        records.insert(id(claim), known(place, &[]));
                        model.insert(claim, place);
                    }
                    _ => {
                        records.change(id(claim), |known| known.place = place);
                        model.entry(claim).and_modify(|before| *before = place);
                    }
                }
                for queue in 1..3 {
                    let order = |from, to| -> Vec<ClaimId> {
                        records.in_order(&queue, from..=to).map(|(id, _)| id).collect()
                    };
                    let placed = |from: i64, to: i64| {
                        let of = model.iter().filter_map(|(claim, place)| Some((*claim, (*place)?)));
                        let mut of: Vec<_> = of.filter(|(_, (of, _))| *of == queue).collect();
                        of.retain(|(_, (_, number))| (from..=to).contains(number));
                        of.sort_by_key(|(claim, (_, number))| (*number, *claim));
                        of.into_iter().map(|(claim, _)| id(claim)).collect::<Vec<_>>()
                    };
                    for (from, to) in [(i64::MIN, i64::MAX), (1, 2), (2, i64::MAX)] {
                        prop_assert_eq!(order(from, to), placed(from, to));
                    }
                }
            }
            for claim in model.into_keys() {
                records.remove(id(claim));
            }
            prop_assert!(records.is_empty());
        }
    }
}
