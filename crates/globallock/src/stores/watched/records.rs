//! The records of a store's claims: one a claim, found by its id, and in the order of the queues.

use std::collections::{BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Instant;

use super::ahead::{Ahead, Entry};
use crate::backend::{Claim, ClaimId, ClaimStatus, Grant};

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

/// The status of a claim that holds since `granted`.
pub(crate) fn held(claim: &Claim, token: i64, expires: Instant, granted: Instant) -> ClaimStatus {
    ClaimStatus::Held(Grant {
        fencing_token: token.unsigned_abs(),
        expires: Some(expires),
        hold_ends: claim.max_hold.map(|hold| granted + hold),
    })
}
