//! What a waiter remembers of the claims in front of it: enough to know which deletions concern it, however
//! long the queue is.
//!
//! Nobody joins in front of a claim; the claims in front can only leave. Two things follow:
//!
//! - The waiter watches only its *blockers*: claims that block it as long as all of them stay. No other
//!   deletion can grant it.
//! - A waiter that remembers the whole of a short queue sees by itself, without another read, that it holds.

use super::keys::QueueEntry;
use crate::queue::{Permits, admit, blockers};

/// The longest queue that is remembered whole.
const SHORT: usize = 16;

/// The claims in front of a waiter, as far as they are known.
///
/// | `is_whole` | `entries` | what is known |
/// |---|---|---|
/// | true | all claims in front | whether the claim holds, and which claims it waits for |
/// | false | some blockers | which claims it waits for; when one is deleted, the queue must be read |
/// | false | empty (the default) | nothing: the queue must be read |
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    /// Sorted by creation revision, which is the order of the queue.
    entries: Vec<QueueEntry>,
    /// Whether these are all claims in front, rather than some blockers.
    is_whole: bool,
}

impl Ahead {
    /// Takes what must be remembered from the whole queue in front of a claim, sorted by creation revision.
    pub(super) fn of_queue(queue: &[QueueEntry], mine: Permits) -> Self {
        if queue.len() <= SHORT {
            return Ahead { entries: queue.to_vec(), is_whole: true };
        }
        let permits: Vec<Permits> = queue.iter().map(|entry| entry.permits).collect();
        let blockers = blockers(&permits, mine);
        let entries: Vec<QueueEntry> = blockers.into_iter().map(|index| queue[index].clone()).collect();
        // Without blockers the claim holds, and it needs to remember nothing.
        Ahead { is_whole: entries.is_empty(), entries }
    }

    /// Takes what must be remembered from a part of the queue in front of a claim.
    ///
    /// `None` unless one claim of that part blocks it alone: then more of the queue must be read.
    pub(super) fn of_some(some: &[QueueEntry], mine: Permits) -> Option<Self> {
        let blockers = some.iter().filter(|entry| blocks_alone(entry.permits, mine));
        let last = blockers.max_by_key(|entry| entry.revision)?;
        Some(Ahead { entries: vec![last.clone()], is_whole: false })
    }

    /// Finds the blockers of a claim that joins behind `last`, without a read.
    ///
    /// `its` is what `last` remembers, if it waits. Claims are granted in the order of the queue, so the
    /// blockers of `last` block every claim behind it too.
    ///
    /// | `last` blocks the new claim alone | `last` waits, with known blockers | blockers of the new claim |
    /// |---|---|---|
    /// | yes | either | `last` |
    /// | no | yes | the blockers of `last` |
    /// | no | no | `None`: unknown |
    pub(super) fn behind(last: &QueueEntry, its: Option<&Ahead>, mine: Permits) -> Option<Self> {
        if blocks_alone(last.permits, mine) {
            return Some(Ahead { entries: vec![last.clone()], is_whole: false });
        }
        let its = its.filter(|ahead| !ahead.surely_holds(last.permits))?;
        let entries = its.blockers(last.permits).into_iter().cloned().collect();
        Some(Ahead { entries, is_whole: false })
    }

    /// Whether the claim holds for certain: the whole queue in front of it is known and admits it.
    pub(super) fn surely_holds(&self, mine: Permits) -> bool {
        let permits = self.entries.iter().map(|entry| entry.permits).chain([mine]);
        self.is_whole && admit(permits) > self.entries.len()
    }

    /// The claims that a waiter must watch: as long as all of them stay, it waits.
    pub(super) fn blockers(&self, mine: Permits) -> Vec<&QueueEntry> {
        if !self.is_whole {
            return self.entries.iter().collect();
        }
        let permits: Vec<Permits> = self.entries.iter().map(|entry| entry.permits).collect();
        blockers(&permits, mine).into_iter().map(|index| &self.entries[index]).collect()
    }

    /// Whether anything is known: which claims to watch, or that the claim holds.
    pub(super) fn is_known(&self) -> bool {
        self.is_whole || !self.entries.is_empty()
    }

    /// Whether every claim in front is known.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether this one claim is the only known blocker.
    pub(super) fn is_blocked_only_by(&self, other: &QueueEntry) -> bool {
        !self.is_whole && self.entries.len() == 1 && self.entries[0].key == other.key
    }

    /// Removes claims whose keys were deleted.
    ///
    /// If the whole queue is known, it stays known. Otherwise the remaining blockers prove nothing, because
    /// claims that are not remembered may block too: everything is forgotten, so that the queue is read.
    pub(super) fn remove(&mut self, deleted: &[Vec<u8>]) {
        let before = self.entries.len();
        self.entries.retain(|entry| !deleted.contains(&entry.key));
        if !self.is_whole && self.entries.len() < before {
            self.entries.clear();
        }
    }
}

fn blocks_alone(other: Permits, mine: Permits) -> bool {
    admit([other, mine]) < 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_permits() -> impl Strategy<Value = Permits> {
        prop_oneof![
            Just(Permits::MUTEX),
            Just(Permits::READ),
            Just(Permits::WRITE),
            (1_u32..=4).prop_flat_map(|capacity| {
                (1..=capacity).prop_map(move |count| Permits::new(count, capacity))
            }),
        ]
    }

    fn queue(permits: &[Permits]) -> Vec<QueueEntry> {
        let entry = |(revision, permits): (i64, &Permits)| QueueEntry {
            key: revision.to_string().into_bytes(),
            ours: true,
            permits: *permits,
            revision,
            lease: 1,
        };
        (1..).zip(permits).map(entry).collect()
    }

    fn holds(queue: &[QueueEntry], mine: Permits) -> bool {
        admit(queue.iter().map(|entry| entry.permits).chain([mine])) > queue.len()
    }

    /// Whether the claim waits as long as none of these leaves, even if all others leave.
    fn keeps_waiting(watched: &[&QueueEntry], mine: Permits) -> bool {
        admit(watched.iter().map(|entry| entry.permits).chain([mine])) <= watched.len()
    }

    #[test]
    fn after_the_deletion_of_any_blocker_a_long_queue_is_read_again() {
        let permit = Permits::new(1, 3);
        let queue = queue(&[permit; SHORT + 1]);
        let ahead = Ahead::of_queue(&queue, permit);
        assert_eq!(ahead.blockers(permit).len(), 3);
        for leaving in ahead.blockers(permit) {
            let mut left = ahead.clone();
            left.remove(std::slice::from_ref(&leaving.key));
            assert!(!left.is_known(), "{leaving:?}");
        }
    }

    #[test]
    fn a_claim_is_the_only_blocker_where_it_blocks_alone_and_the_queue_was_not_read() {
        let mutex = Permits::MUTEX;
        let permit = Permits::new(1, 2);
        let [first, second] = &queue(&[mutex; 2])[..] else { unreachable!() };
        let one = Ahead::behind(first, None, mutex).unwrap();
        assert!(one.is_blocked_only_by(first) && !one.is_blocked_only_by(second));
        // A shared claim can have two blockers. A waiter that read the whole queue may know more than one
        // claim.
        let two = Ahead::of_queue(&queue(&[permit; SHORT + 1]), permit);
        assert!(two.blockers(permit).iter().all(|entry| !two.is_blocked_only_by(entry)));
        let whole = Ahead::of_queue(std::slice::from_ref(first), permit);
        assert!(!whole.is_blocked_only_by(first) && !Ahead::default().is_blocked_only_by(first));
    }

    #[test]
    fn a_short_queue_is_remembered_whole_and_of_a_long_one_the_blockers() {
        let mutex = Permits::MUTEX;
        for (length, is_whole) in [(0, true), (1, true), (SHORT, true), (SHORT + 1, false)] {
            let ahead = Ahead::of_queue(&queue(&vec![mutex; length]), mutex);
            assert_eq!(ahead.is_whole(), is_whole, "{length}");
            assert_eq!(ahead.entries.len(), if is_whole { length } else { 1 }, "{length}");
        }
    }

    proptest! {
        #[test]
        fn a_claim_holds_iff_the_queue_admits_it_and_its_blockers_alone_block_it(
            queued in prop::collection::vec(any_permits(), 0..40), mine in any_permits(),
        ) {
            let queue = queue(&queued);
            let ahead = Ahead::of_queue(&queue, mine);
            prop_assert_eq!(ahead.surely_holds(mine), holds(&queue, mine));
            prop_assert!(ahead.surely_holds(mine) || keeps_waiting(&ahead.blockers(mine), mine));
            prop_assert!(queue.len() <= SHORT || ahead.entries.len() <= 4, "{:?}", ahead);
        }

        #[test]
        fn where_the_whole_queue_is_known_deletions_grant_as_admission_says(
            queued in prop::collection::vec(any_permits(), 0..=SHORT), mine in any_permits(),
            leaving in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut left = queue(&queued);
            let mut ahead = Ahead::of_queue(&left, mine);
            for index in leaving {
                if left.is_empty() {
                    break;
                }
                let gone = left.remove(index.index(left.len())).key;
                ahead.remove(&[gone]);
                prop_assert!(ahead.is_known());
                prop_assert_eq!(ahead.surely_holds(mine), holds(&left, mine));
                prop_assert!(ahead.surely_holds(mine) || keeps_waiting(&ahead.blockers(mine), mine));
            }
        }

        #[test]
        fn a_part_of_the_queue_gives_one_blocker_or_nothing(
            queued in prop::collection::vec(any_permits(), 0..40), mine in any_permits(),
        ) {
            match Ahead::of_some(&queue(&queued), mine) {
                Some(ahead) => {
                    prop_assert!(!ahead.surely_holds(mine));
                    prop_assert!(keeps_waiting(&ahead.blockers(mine), mine));
                    prop_assert_eq!(ahead.entries.len(), 1);
                }
                None => prop_assert!(queued.iter().all(|other| admit([*other, mine]) == 2)),
            }
        }

        #[test]
        fn a_claim_behind_another_is_blocked_by_that_or_by_its_blockers(
            queued in prop::collection::vec(any_permits(), 1..40), mine in any_permits(),
        ) {
            let mut front = queue(&queued);
            let last = front.pop().unwrap();
            let its = Ahead::of_queue(&front, last.permits);
            match Ahead::behind(&last, Some(&its), mine) {
                Some(ahead) => {
                    prop_assert!(!ahead.surely_holds(mine));
                    // A blocker of the last claim blocks everybody behind that too.
                    let watched = ahead.blockers(mine);
                    prop_assert!(keeps_waiting(&watched, mine) || keeps_waiting(&watched, last.permits));
                }
                None => prop_assert!(its.surely_holds(last.permits) && admit([last.permits, mine]) == 2),
            }
        }

        #[test]
        fn a_queue_that_is_not_known_whole_grants_nothing_and_is_read_again_after_a_deletion(
            queued in prop::collection::vec(any_permits(), 17..40), mine in any_permits(),
        ) {
            let mut ahead = Ahead::of_queue(&queue(&queued), mine);
            prop_assume!(!ahead.is_whole);
            ahead.remove(&[b"nobody".to_vec()]);
            prop_assert!(ahead.is_known() && !ahead.surely_holds(mine));
            let gone = ahead.entries[0].key.clone();
            ahead.remove(&[gone]);
            prop_assert!(!ahead.is_known() && !ahead.surely_holds(mine));
        }
    }
}
