//! The numbers in the keys of this store's claims. A number is used again after its claim has left the queue.
//!
//! The reason: etcd keeps a deleted key in its index until its history is compacted, and steps over it
//! whenever the keys around it are listed. A new key for every claim would make a lock slower with every
//! grant.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

use super::keys;
use crate::backend::{Claim, ClaimId};
use crate::name::Name;
use crate::queue::Permits;

/// Which key numbers are taken, and by whom.
#[derive(Default)]
pub(super) struct KeyNumbers {
    by_key: HashMap<Vec<u8>, ClaimId>,
    numbers: HashMap<(Name, Permits), Numbers>,
    /// The least number above all that were retired, of any name: so nothing is kept for the names of those.
    unretired: u32,
}

/// The key of a claim, which nobody else gets until it is given back.
pub(super) struct OwnKey {
    pub(super) key: Vec<u8>,
    pub(super) name: Name,
    permits: Permits,
    number: u32,
}

/// The numbers for claims of one name and permits.
#[derive(Default)]
struct Numbers {
    given_back: BTreeSet<u32>,
    /// The least number that was never taken.
    next: u32,
    /// How many are taken.
    taken: usize,
}

impl KeyNumbers {
    /// Takes a key for a claim.
    pub(super) fn take(&mut self, prefix: &str, claim: &Claim) -> OwnKey {
        let (name, permits) = (claim.name.clone(), claim.permits);
        let unused = || Numbers { next: self.unretired, ..Numbers::default() };
        let numbers = self.numbers.entry((name.clone(), permits)).or_insert_with(unused);
        numbers.taken += 1;
        let number = numbers.given_back.pop_first().unwrap_or_else(|| {
            let number = numbers.next;
            numbers.next += 1;
            number
        });
        let key = keys::claim(prefix, claim, number);
        self.by_key.insert(key.clone(), claim.id);
        OwnKey { key, name, permits, number }
    }

    /// The claim of this store that has this key.
    pub(super) fn owner(&self, key: &[u8]) -> Option<ClaimId> {
        self.by_key.get(key).copied()
    }

    /// Gives up a key for good: a request that may still arrive could delete it under another claim.
    pub(super) fn retire(&mut self, own: &OwnKey) {
        self.unretired = self.unretired.max(own.number + 1);
        self.leave(own);
    }

    /// Frees a key for another claim.
    ///
    /// The key must certainly be gone from the queue: otherwise the next claim would take the old key for its
    /// own.
    pub(super) fn give_back(&mut self, own: &OwnKey) {
        if let Some(numbers) = self.leave(own) {
            numbers.given_back.insert(own.number);
        }
    }

    /// Takes a key from its claim. Returns the numbers of its kind, if others of these are taken.
    fn leave(&mut self, own: &OwnKey) -> Option<&mut Numbers> {
        self.by_key.remove(&own.key);
        let Entry::Occupied(mut numbers) = self.numbers.entry((own.name.clone(), own.permits)) else {
            return None;
        };
        numbers.get_mut().taken -= 1;
        if numbers.get().taken == 0 {
            numbers.remove();
            return None;
        }
        Some(numbers.into_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::WaitMode;
    use proptest::prelude::*;

    fn claim(number: u64, name: &str) -> Claim {
        Claim {
            id: ClaimId::new(1, number),
            name: Name::new(name).unwrap(),
            permits: Permits::MUTEX,
            wait_mode: WaitMode::Wait,
            lease: std::time::Duration::from_secs(1),
            max_hold: None,
            owner: "".into(),
            wants_value: false,
        }
    }

    #[test]
    fn a_claim_keeps_its_key_and_another_gets_it_after_it_is_given_back() {
        let mut key_numbers = KeyNumbers::default();
        let [first, second, third] = [1, 2, 3].map(|number| claim(number, "a"));
        let own = key_numbers.take("/", &first);
        let (key, others) = (own.key.clone(), key_numbers.take("/", &second).key);
        assert_ne!(others, key);
        assert_eq!(key_numbers.owner(&key), Some(first.id));
        key_numbers.give_back(&own);
        assert_eq!(key_numbers.owner(&key), None);
        assert_eq!(key_numbers.take("/", &third).key, key);
        assert_eq!((key_numbers.owner(&key), key_numbers.owner(&others)), (Some(third.id), Some(second.id)));
    }

    #[test]
    fn nothing_is_kept_for_names_that_are_no_longer_used() {
        let mut key_numbers = KeyNumbers::default();
        for own in [0, 1, 2].map(|number| key_numbers.take("/", &claim(number, "a"))) {
            assert_eq!(key_numbers.numbers.len(), 1);
            key_numbers.give_back(&own);
        }
        assert_eq!((key_numbers.numbers.len(), key_numbers.by_key.len()), (0, 0));
    }

    proptest! {
        #[test]
        fn no_two_claims_have_one_key_and_keys_are_used_again_unless_they_were_retired(
            steps in prop::collection::vec((0_u64..12, 0..5_u8), 0..80),
        ) {
            let mut key_numbers = KeyNumbers::default();
            let (mut taken, mut retired) = (HashMap::new(), BTreeSet::new());
            let mut most = 0;
            for (number, step) in steps {
                let claim = claim(number, if number % 2 == 0 { "a" } else { "b" });
                if step < 3 && !taken.contains_key(&number) {
                    let own = key_numbers.take("/", &claim);
                    prop_assert_eq!(key_numbers.owner(&own.key), Some(claim.id));
                    prop_assert!(!retired.contains(&own.key));
                    taken.insert(number, own);
                } else if let Some(own) = if step < 3 { None } else { taken.remove(&number) } {
                    let key = own.key.clone();
                    if step == 3 {
                        key_numbers.give_back(&own);
                    } else {
                        key_numbers.retire(&own);
                        retired.insert(key.clone());
                    }
                    prop_assert_eq!(key_numbers.owner(&key), None);
                }
                prop_assert_eq!(taken.len(), key_numbers.by_key.len());
                most = most.max(taken.len());
                // Each retired key may shift the keys of other names by as many as are taken at once.
                let bound = most * (retired.len() + 1);
                prop_assert!(key_numbers.numbers.values().all(|numbers| numbers.next as usize <= bound));
            }
            for own in taken.into_values() {
                key_numbers.give_back(&own);
            }
            prop_assert_eq!((key_numbers.numbers.len(), key_numbers.by_key.len()), (0, 0));
        }
    }
}
