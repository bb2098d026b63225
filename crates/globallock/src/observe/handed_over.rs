//! How long it takes from the release of one claim to the grant of the next, as far as one manager can know.
//!
//! A manager sees the releases of its own claims alone. So the time is known if nobody else's claim stood
//! between: as many of its own held claims were released since a claim began to wait as there were in front
//! of it. Those in front of it leave before it is granted, so these were all of them, and the last release
//! let it in. In doubt, such as after a loss, nothing is said.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::backend::{Claim, ClaimId};
use crate::name::Name;
use crate::sync::{Instant, Mutex};

/// The names that claims of one manager wait for, and what was released of them since.
#[derive(Debug, Default)]
pub(super) struct HandOvers {
    names: Mutex<HashMap<Name, Released>>,
    /// How many names there are, so that nothing is locked while nobody waits.
    count: AtomicUsize,
}

/// What was released of one name since its first waiter came.
#[derive(Debug, Default)]
struct Released {
    count: usize,
    last: Option<Instant>,
    /// For each waiter, how many there will be when all claims in front of it are released; `None` where its
    /// place is not known.
    waiters: HashMap<ClaimId, Option<usize>>,
}

impl HandOvers {
    pub(super) fn waits(&self, claim: &Claim, place: Option<usize>) {
        let mut names = self.names.lock();
        let released = names.entry(claim.name.clone()).or_default();
        let due = place.filter(|place| *place > 0).map(|place| released.count + place);
        released.waiters.insert(claim.id, due);
        self.count.store(names.len(), Ordering::Relaxed);
    }

    /// A held claim is released, and nobody is kept out by it any longer.
    pub(super) fn released(&self, claim: &Claim, at: Instant) {
        if self.count.load(Ordering::Relaxed) > 0
            && let Some(released) = self.names.lock().get_mut(&claim.name)
        {
            released.count += 1;
            released.last = Some(at);
        }
    }

    /// A claim waits no longer. If it was granted at this moment, this is how long its hand-over took.
    pub(super) fn waits_no_longer(&self, claim: &Claim, at: Instant) -> Option<Duration> {
        let mut names = self.names.lock();
        let released = names.get_mut(&claim.name)?;
        let due = released.waiters.remove(&claim.id)?;
        let (count, last) = (released.count, released.last);
        if released.waiters.is_empty() {
            names.remove(&claim.name);
            self.count.store(names.len(), Ordering::Relaxed);
        }
        (due == Some(count)).then_some(at.saturating_duration_since(last?))
    }
}

#[cfg(all(test, not(globallock_schedules)))]
mod tests {
    use super::*;
    use crate::queue::Permits;
    use crate::sync::now;

    const SECOND: Duration = Duration::from_secs(1);

    fn claim(number: u64) -> Claim {
        Claim::new(ClaimId::new(1, number), Name::new("a").unwrap(), Permits::MUTEX)
    }

    #[test]
    fn a_queue_of_ones_own_is_handed_over_in_the_time_since_the_last_release() {
        let (hand_overs, began) = (HandOvers::default(), now());
        hand_overs.waits(&claim(2), Some(1));
        hand_overs.waits(&claim(3), Some(2));
        hand_overs.released(&claim(1), began + SECOND);
        assert_eq!(hand_overs.waits_no_longer(&claim(2), began + SECOND * 3), Some(SECOND * 2));
        hand_overs.waits(&claim(4), Some(2));
        hand_overs.released(&claim(2), began + SECOND * 4);
        assert_eq!(hand_overs.waits_no_longer(&claim(3), began + SECOND * 5), Some(SECOND));
        hand_overs.released(&claim(3), began + SECOND * 6);
        assert_eq!(hand_overs.waits_no_longer(&claim(4), began + SECOND * 9), Some(SECOND * 3));
        assert!(hand_overs.names.lock().is_empty(), "nothing is kept of a name that nobody waits for");
        assert_eq!(hand_overs.count.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn nothing_is_known_behind_somebody_elses_claim_or_without_a_place() {
        let (hand_overs, began) = (HandOvers::default(), now());
        for place in [None, Some(0), Some(2)] {
            hand_overs.waits(&claim(2), place);
            hand_overs.released(&claim(1), began);
            assert_eq!(hand_overs.waits_no_longer(&claim(2), began + SECOND), None, "{place:?}");
        }
        // One in front has given up, and another one was released before this waiter came.
        hand_overs.waits(&claim(3), Some(1));
        hand_overs.released(&claim(1), began);
        hand_overs.waits(&claim(4), Some(1));
        hand_overs.waits_no_longer(&claim(3), began);
        assert_eq!(hand_overs.waits_no_longer(&claim(4), began + SECOND), None);
        // A claim that never waited.
        assert_eq!(hand_overs.waits_no_longer(&claim(9), began), None);
    }
}
