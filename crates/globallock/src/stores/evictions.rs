//! What a store remembers of evicted claims, so that their owners are told whenever they ask.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{ClaimId, Eviction};
use crate::sync::{Instant, now};

/// How much longer than the lease of its claim an eviction is remembered.
pub(crate) const KEPT: Duration = Duration::from_secs(60);

/// Evictions, each until nobody asks for its claim any more.
#[derive(Debug)]
pub(crate) struct Evictions<K = ClaimId> {
    by_claim: HashMap<K, Remembered>,
}

#[derive(Debug)]
struct Remembered {
    eviction: Arc<Eviction>,
    /// `None`: for ever.
    until: Option<Instant>,
}

impl<K> Default for Evictions<K> {
    fn default() -> Self {
        Evictions { by_claim: HashMap::new() }
    }
}

impl<K: Eq + Hash> Evictions<K> {
    /// Remembers the eviction of a claim for this long from now on, and drops those that have expired.
    /// Returns whether it is new.
    pub(crate) fn note(&mut self, claim: K, eviction: Arc<Eviction>, kept: Duration) -> bool {
        let now = now();
        self.by_claim.retain(|_, remembered| remembered.until.is_none_or(|until| until > now));
        self.by_claim.insert(claim, Remembered { eviction, until: now.checked_add(kept) }).is_none()
    }

    /// Remembers an eviction for at least this long from now on, if it is remembered.
    #[cfg(feature = "etcd")]
    pub(crate) fn prolong(&mut self, claim: &K, kept: Duration) {
        if let Some(remembered) = self.by_claim.get_mut(claim) {
            let until = now().checked_add(kept);
            remembered.until = remembered.until.zip(until).map(|(one, other)| one.max(other));
        }
    }

    /// The eviction of a claim.
    pub(crate) fn get(&self, claim: &K) -> Option<Arc<Eviction>> {
        self.by_claim.get(claim).map(|remembered| Arc::clone(&remembered.eviction))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_claim.is_empty()
    }

    /// How many are remembered, also those that have expired.
    #[cfg(all(test, feature = "etcd"))]
    pub(crate) fn len(&self) -> usize {
        self.by_claim.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::Owner;

    fn eviction(reason: &str) -> Arc<Eviction> {
        Arc::new(Eviction::new(Owner::default(), reason))
    }

    #[tokio::test(start_paused = true)]
    async fn an_eviction_is_remembered_for_its_time_and_then_forgotten_with_the_next_one() {
        let mut evictions = Evictions::default();
        assert!(evictions.note(1, eviction("a"), KEPT) && !evictions.note(1, eviction("b"), KEPT));
        assert!(evictions.note(2, eviction("for ever"), Duration::MAX));
        assert_eq!(evictions.get(&1).unwrap().reason, "b");
        tokio::time::advance(KEPT - Duration::from_nanos(1)).await;
        assert!(evictions.note(3, eviction("c"), KEPT));
        assert!(evictions.get(&1).is_some());
        tokio::time::advance(Duration::from_nanos(1)).await;
        assert!(evictions.note(4, eviction("d"), KEPT));
        assert!(evictions.get(&1).is_none());
        assert!([2, 3, 4].iter().all(|claim| evictions.get(claim).is_some()));
    }

    #[cfg(feature = "etcd")]
    #[tokio::test(start_paused = true)]
    async fn an_eviction_that_is_asked_for_is_remembered_for_longer_and_never_for_less() {
        let mut evictions = Evictions::default();
        for (claim, longer) in [(1, KEPT * 2), (2, KEPT / 2), (3, Duration::MAX)] {
            evictions.note(claim, eviction("a"), KEPT);
            evictions.prolong(&claim, longer);
        }
        evictions.prolong(&4, KEPT);
        tokio::time::advance(KEPT).await;
        evictions.note(5, eviction("b"), KEPT);
        let known = [1, 2, 3, 4].map(|claim| evictions.get(&claim).is_some());
        assert_eq!(known, [true, false, true, false]);
    }
}
