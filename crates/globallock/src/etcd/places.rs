//! Where the claims of a store stand in their queues, as it has read and been told.

use std::time::Instant;

use super::Shared;
use super::keys::Listed;
use super::messages::KeyValue;
use crate::backend::{Claim, ClaimId, Grant, Standing};
use crate::queue::admit;

/// A claim of this store in its queue, as last read.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) lease: i64,
    pub(super) revision: i64,
    /// No later than the grant; `None` while the claim waits.
    pub(super) granted: Option<Instant>,
    /// Those in front of it, or more: who was in front only ever leaves.
    pub(super) ahead: Vec<Listed>,
    /// The revision at which that was so.
    pub(super) read_at: i64,
    /// Whether its owner is taking it out.
    pub(super) leaves: bool,
    /// Whether it has all that it needs besides its place in the queue.
    pub(super) is_complete: bool,
}

impl Shared {
    /// Takes note of the queue as it was read, and says where the claim stands in it.
    pub(super) fn note(
        &self,
        claim: &Claim,
        key: &[u8],
        found: &[KeyValue],
        read_at: i64,
        sent: Instant,
    ) -> Standing {
        let single = self.single_key(claim);
        let (single, found): (Vec<&KeyValue>, Vec<&KeyValue>) =
            found.iter().partition(|kv| Some(&kv.key) == single.as_ref());
        let mut queue: Vec<Listed> =
            found.into_iter().map(Listed::new).filter(|listed| self.is_claim(listed)).collect();
        queue.sort_by_key(|listed| listed.revision);
        let Some(position) = queue.iter().position(|listed| listed.key == key) else {
            self.places().remove(&claim.id);
            return Standing::Gone;
        };
        let mine = queue.swap_remove(position);
        queue.truncate(position);
        let holds = holds(&queue, claim);
        let mut places = self.places();
        // What was known of an earlier key of the claim, whose lease has ended, says nothing of this one.
        let before = places.get(&claim.id).filter(|place| place.revision == mine.revision);
        let is_complete = before.is_some_and(|place| place.is_complete) || self.is_complete(claim, &single);
        let granted = before.and_then(|place| place.granted).or((holds && is_complete).then_some(sent));
        let place = Place {
            lease: mine.lease,
            revision: mine.revision,
            granted,
            ahead: queue,
            read_at,
            leaves: false,
            is_complete,
        };
        let standing = self.standing(claim, &place);
        // Kept even if its lease is over by now: that is what its departure has to know.
        places.insert(claim.id, place);
        standing
    }

    /// Where a claim stands: nowhere once its lease may be over, whatever the cluster still has.
    pub(super) fn standing(&self, claim: &Claim, place: &Place) -> Standing {
        let Some(lease) = self.leases.find(place.lease) else {
            return Standing::Gone;
        };
        match place.granted {
            None => Standing::Waiting,
            Some(granted) => Standing::Held(Grant {
                fence: place.revision.unsigned_abs(),
                expires: Some(lease.expires()),
                hold_ends: claim.max_hold.map(|hold| granted + hold),
            }),
        }
    }

    /// Takes note that keys in front of a waiting claim are gone, and says whether it surely holds by that.
    ///
    /// The end of another claim of this store that nobody took out may be the end of the lease of both: that has to be
    /// asked.
    pub(super) fn advance(&self, claim: &Claim, deleted: &[Vec<u8>]) -> Option<Standing> {
        let mut places = self.places();
        let taken_out = |id: ClaimId| places.get(&id).is_none_or(|place| place.leaves);
        if !deleted.iter().filter_map(|key| self.slots.owner(key)).all(taken_out) {
            return None;
        }
        let place = places.get_mut(&claim.id)?;
        place.ahead.retain(|listed| !deleted.contains(&listed.key));
        if !place.is_complete || !holds(&place.ahead, claim) {
            return None;
        }
        place.granted.get_or_insert_with(Instant::now);
        let place = place.clone();
        drop(places);
        Some(self.standing(claim, &place))
    }
}

/// Whether a claim holds behind these.
pub(super) fn holds(ahead: &[Listed], claim: &Claim) -> bool {
    admit(ahead.iter().map(|listed| listed.share).chain([claim.share])) > ahead.len()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::address::Address;
    use crate::backend::Patience;
    use crate::etcd::config::Config;
    use crate::etcd::link::Link;
    use crate::name::Name;
    use crate::queue::Share;

    const OTHER: &str = "/locks/_glocks/a/0123456789abcdef.0.1.1";

    /// A store that has asked for nothing, and a claim of its own with its key.
    pub(in crate::etcd) fn store() -> (Shared, Claim, Vec<u8>) {
        let address = Address::parse("etcd://127.0.0.1:1").unwrap();
        let shared = Shared::new(Link::new(Config::new(address).unwrap()));
        let claim = Claim {
            id: ClaimId::new(1, 1),
            name: Name::new("a").unwrap(),
            share: Share { weight: 1, capacity: 1 },
            patience: Patience::Queue,
            lease: Duration::from_secs(1),
            max_hold: None,
            owner: Arc::from(""),
        };
        let key = shared.slots.take(shared.prefix(), &claim);
        (shared, claim, key)
    }

    pub(in crate::etcd) fn found(key: &[u8], create_revision: i64, lease: i64) -> KeyValue {
        KeyValue { key: key.to_vec(), create_revision, lease, ..KeyValue::default() }
    }

    #[tokio::test]
    async fn a_grant_that_is_heard_of_after_its_lease_is_not_that_of_the_next_key() {
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let queue = [found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)];
        let now = Instant::now();
        assert_eq!(shared.note(&claim, &key, &queue, 4, now), Standing::Waiting);
        shared.leases.forget(1);
        assert_eq!(shared.advance(&claim, &[OTHER.into()]), Some(Standing::Gone));
        // It joins anew, behind somebody.
        shared.leases.pretend(2);
        let queue = [found(OTHER.as_bytes(), 5, 9), found(&key, 6, 2)];
        assert_eq!(shared.note(&claim, &key, &queue, 6, now), Standing::Waiting);
        let granted = shared.advance(&claim, &[OTHER.into()]);
        assert!(matches!(granted, Some(Standing::Held(grant)) if grant.fence == 6), "{granted:?}");
    }
}
