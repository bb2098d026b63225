//! The numbers in the keys of this store's claims. A number is used again after its claim has left the queue.
//!
//! The reason: etcd keeps a deleted key in its index until its history is compacted, and steps over it
//! whenever the keys around it are listed. A new key for every claim would make a lock slower with every
//! grant.

use std::collections::{BTreeSet, HashMap};

use super::keys;
use crate::backend::{Claim, ClaimId};
use crate::name::Name;
use crate::queue::Permits;
use crate::sync::{Mutex, MutexGuard};

/// Which claim has which key number.
#[derive(Default)]
pub(super) struct KeyNumbers {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_claim: HashMap<ClaimId, KeyNumber>,
    by_key: HashMap<Vec<u8>, ClaimId>,
    numbers: HashMap<(Name, Permits), Numbers>,
}

/// The number of one claim, and the key that contains it.
struct KeyNumber {
    kind: (Name, Permits),
    number: u32,
    key: Vec<u8>,
    /// Whether a request may have put the claim into its queue.
    may_have_joined: bool,
}

/// The numbers for claims of one name and permits.
#[derive(Default)]
struct Numbers {
    given_back: BTreeSet<u32>,
    /// The least number that was never taken.
    next: u32,
}

impl KeyNumbers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Returns the key of a claim. The claim keeps it until `give_back`.
    pub(super) fn take(&self, prefix: &str, claim: &Claim) -> Vec<u8> {
        let mut state = self.state();
        if let Some(key_number) = state.by_claim.get(&claim.id) {
            return key_number.key.clone();
        }
        let kind = (claim.name.clone(), claim.permits);
        let numbers = state.numbers.entry(kind.clone()).or_default();
        let number = numbers.given_back.pop_first().unwrap_or_else(|| {
            let number = numbers.next;
            numbers.next += 1;
            number
        });
        let key = keys::claim(prefix, claim, number);
        state.by_key.insert(key.clone(), claim.id);
        state.by_claim.insert(claim.id, KeyNumber { kind, number, key: key.clone(), may_have_joined: false });
        key
    }

    pub(super) fn key(&self, id: ClaimId) -> Option<Vec<u8>> {
        self.state().by_claim.get(&id).map(|key_number| key_number.key.clone())
    }

    /// Records that a request may have put a claim into its queue.
    pub(super) fn joined(&self, id: ClaimId) {
        if let Some(key_number) = self.state().by_claim.get_mut(&id) {
            key_number.may_have_joined = true;
        }
    }

    /// Whether an earlier request may have put a claim into its queue.
    pub(super) fn may_have_joined(&self, id: ClaimId) -> bool {
        self.state().by_claim.get(&id).is_some_and(|key_number| key_number.may_have_joined)
    }

    /// The claim of this store that has this key.
    pub(super) fn owner(&self, key: &[u8]) -> Option<ClaimId> {
        self.state().by_key.get(key).copied()
    }

    /// Frees the key of a claim for another claim.
    ///
    /// The key must certainly be gone from the queue: otherwise the next claim would take the old key for its
    /// own.
    pub(super) fn give_back(&self, id: ClaimId) {
        let mut state = self.state();
        let Some(key_number) = state.by_claim.remove(&id) else { return };
        state.by_key.remove(&key_number.key);
        if let Some(numbers) = state.numbers.get_mut(&key_number.kind) {
            numbers.given_back.insert(key_number.number);
            if numbers.given_back.len() == numbers.next as usize {
                state.numbers.remove(&key_number.kind);
            }
        }
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
        }
    }

    #[test]
    fn a_claim_keeps_its_key_and_another_gets_it_after_it_is_given_back() {
        let key_numbers = KeyNumbers::default();
        let [first, second, third] = [1, 2, 3].map(|number| claim(number, "a"));
        let key = key_numbers.take("/", &first);
        assert_eq!(key_numbers.take("/", &first), key);
        let others = key_numbers.take("/", &second);
        assert_ne!(others, key);
        key_numbers.give_back(first.id);
        assert_eq!((key_numbers.key(first.id), key_numbers.owner(&key)), (None, None));
        assert_eq!(key_numbers.take("/", &third), key);
        assert_eq!((key_numbers.owner(&key), key_numbers.owner(&others)), (Some(third.id), Some(second.id)));
    }

    #[test]
    fn nothing_is_kept_for_names_that_are_no_longer_used() {
        let key_numbers = KeyNumbers::default();
        for number in 0..3 {
            key_numbers.take("/", &claim(number, "a"));
        }
        for number in 0..3 {
            assert_eq!(key_numbers.state().numbers.len(), 1);
            key_numbers.give_back(ClaimId::new(1, number));
        }
        let state = key_numbers.state();
        assert_eq!((state.numbers.len(), state.by_key.len(), state.by_claim.len()), (0, 0, 0));
    }

    proptest! {
        #[test]
        fn no_two_claims_have_one_key_and_keys_are_used_again(
            steps in prop::collection::vec((0_u64..12, any::<bool>()), 0..80),
        ) {
            let key_numbers = KeyNumbers::default();
            let mut most = 0;
            for (number, takes) in steps {
                let claim = claim(number, if number % 2 == 0 { "a" } else { "b" });
                if takes {
                    let key = key_numbers.take("/", &claim);
                    prop_assert_eq!(key_numbers.key(claim.id), Some(key.clone()));
                    prop_assert_eq!(key_numbers.owner(&key), Some(claim.id));
                } else {
                    key_numbers.give_back(claim.id);
                    prop_assert_eq!(key_numbers.key(claim.id), None);
                }
                let state = key_numbers.state();
                prop_assert_eq!(state.by_claim.len(), state.by_key.len());
                most = most.max(state.by_claim.len());
                prop_assert!(state.numbers.values().all(|numbers| numbers.next as usize <= most));
            }
        }
    }
}
