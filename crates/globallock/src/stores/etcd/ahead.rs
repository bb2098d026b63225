//! What a waiting claim remembers of those in front of it: enough to know whose departure concerns it, and no more,
//! however long the queue is.
//!
//! Who was in front of a claim only ever leaves. So claims that keep it waiting as long as all of them stay are all that
//! it has to watch; and where it knows the whole of a short queue, it also knows by itself when it holds.

use super::keys::QueueEntry;
use crate::queue::{Permits, admit, blockers};

/// Queues up to this length are remembered whole.
const SHORT: usize = 16;

/// Claims in front of a waiting one.
///
/// By default it tells nothing: the queue must be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    /// In the order of joining.
    entries: Vec<QueueEntry>,
    /// Whether these are all, rather than some that keep it waiting as long as all of them stay.
    is_whole: bool,
}

impl Ahead {
    /// Reads it off the whole queue in front of a claim, in the order of joining.
    pub(super) fn of_queue(queue: &[QueueEntry], mine: Permits) -> Self {
        if queue.len() <= SHORT {
            return Ahead { entries: queue.to_vec(), is_whole: true };
        }
        let permits: Vec<Permits> = queue.iter().map(|entry| entry.permits).collect();
        let blockers = blockers(&permits, mine);
        let entries: Vec<QueueEntry> = blockers.into_iter().map(|index| queue[index].clone()).collect();
        // Where nobody keeps it waiting it holds, and there is nothing to remember.
        Ahead { is_whole: entries.is_empty(), entries }
    }

    /// Reads it off some of the claims in front, where one of them alone keeps the claim waiting; `None` where none does.
    pub(super) fn of_some(some: &[QueueEntry], mine: Permits) -> Option<Self> {
        let blockers = some.iter().filter(|entry| blocks_alone(entry.permits, mine));
        let last = blockers.max_by_key(|entry| entry.revision)?;
        Some(Ahead { entries: vec![last.clone()], is_whole: false })
    }

    /// What keeps a claim waiting that joins behind `last`, which waits or holds; `None` where that does not tell.
    ///
    /// Claims are granted in their order: what keeps a claim waiting keeps those behind it waiting too.
    pub(super) fn behind(last: &QueueEntry, its: Option<&Ahead>, mine: Permits) -> Option<Self> {
        if blocks_alone(last.permits, mine) {
            return Some(Ahead { entries: vec![last.clone()], is_whole: false });
        }
        let its = its.filter(|ahead| !ahead.surely_holds(last.permits))?;
        let entries = its.blockers(last.permits).into_iter().cloned().collect();
        Some(Ahead { entries, is_whole: false })
    }

    /// Whether the claim surely holds.
    pub(super) fn surely_holds(&self, mine: Permits) -> bool {
        let permits = self.entries.iter().map(|entry| entry.permits).chain([mine]);
        self.is_whole && admit(permits) > self.entries.len()
    }

    /// The claims whose departure concerns a claim that waits.
    pub(super) fn blockers(&self, mine: Permits) -> Vec<&QueueEntry> {
        if !self.is_whole {
            return self.entries.iter().collect();
        }
        let permits: Vec<Permits> = self.entries.iter().map(|entry| entry.permits).collect();
        blockers(&permits, mine).into_iter().map(|index| &self.entries[index]).collect()
    }

    /// Whether it tells what to watch, or that the claim holds.
    pub(super) fn is_known(&self) -> bool {
        self.is_whole || !self.entries.is_empty()
    }

    /// Whether it tells of every claim in front.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether it is this claim that keeps the one behind it waiting.
    pub(super) fn is_blocked_only_by(&self, other: &QueueEntry) -> bool {
        !self.is_whole && self.entries.len() == 1 && self.entries[0].key == other.key
    }

    /// Takes note of departures. Where not the whole queue is known, what is left of it tells nothing.
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
    use crate::queue::MAX_CAPACITY;
    use proptest::prelude::*;

    fn any_permits() -> impl Strategy<Value = Permits> {
        prop_oneof![
            Just(Permits { count: 1, capacity: 1 }),
            Just(Permits { count: 1, capacity: MAX_CAPACITY }),
            Just(Permits { count: MAX_CAPACITY, capacity: MAX_CAPACITY }),
            (1_u32..=4)
                .prop_flat_map(|capacity| (1..=capacity).prop_map(move |count| Permits { count, capacity })),
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

    /// Whether the claim waits as long as none of these leaves, whoever else does.
    fn keeps_waiting(watched: &[&QueueEntry], mine: Permits) -> bool {
        admit(watched.iter().map(|entry| entry.permits).chain([mine])) <= watched.len()
    }

    #[test]
    fn of_a_long_queue_the_departure_of_any_that_it_watches_has_it_read_again() {
        let permit = Permits { count: 1, capacity: 3 };
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
    fn only_what_keeps_a_claim_waiting_all_alone_is_what_it_waits_for() {
        let mutex = Permits { count: 1, capacity: 1 };
        let permit = Permits { count: 1, capacity: 2 };
        let [first, second] = &queue(&[mutex; 2])[..] else { unreachable!() };
        let one = Ahead::behind(first, None, mutex).unwrap();
        assert!(one.is_blocked_only_by(first) && !one.is_blocked_only_by(second));
        // Those that share may wait for two, and who has read a queue need not wait for whoever was in front.
        let two = Ahead::of_queue(&queue(&[permit; SHORT + 1]), permit);
        assert!(two.blockers(permit).iter().all(|entry| !two.is_blocked_only_by(entry)));
        let whole = Ahead::of_queue(std::slice::from_ref(first), permit);
        assert!(!whole.is_blocked_only_by(first) && !Ahead::default().is_blocked_only_by(first));
    }

    #[test]
    fn short_queues_are_known_whole_and_of_long_ones_no_more_than_one_has_to_watch() {
        let mutex = Permits { count: 1, capacity: 1 };
        for (length, is_whole) in [(0, true), (1, true), (SHORT, true), (SHORT + 1, false)] {
            let ahead = Ahead::of_queue(&queue(&vec![mutex; length]), mutex);
            assert_eq!(ahead.is_whole(), is_whole, "{length}");
            assert_eq!(ahead.entries.len(), if is_whole { length } else { 1 }, "{length}");
        }
    }

    proptest! {
        #[test]
        fn it_holds_iff_the_queue_lets_it_in_and_is_kept_waiting_by_what_it_watches(
            queued in prop::collection::vec(any_permits(), 0..40), mine in any_permits(),
        ) {
            let queue = queue(&queued);
            let ahead = Ahead::of_queue(&queue, mine);
            prop_assert_eq!(ahead.surely_holds(mine), holds(&queue, mine));
            prop_assert!(ahead.surely_holds(mine) || keeps_waiting(&ahead.blockers(mine), mine));
            prop_assert!(queue.len() <= SHORT || ahead.entries.len() <= 4, "{:?}", ahead);
        }

        #[test]
        fn departures_let_in_whom_they_should_where_the_whole_queue_is_known(
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
        fn some_of_the_queue_tell_whom_to_watch_or_nothing(
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
        fn who_joins_behind_another_is_kept_waiting_by_it_or_by_what_keeps_it_waiting(
            queued in prop::collection::vec(any_permits(), 1..40), mine in any_permits(),
        ) {
            let mut front = queue(&queued);
            let last = front.pop().unwrap();
            let its = Ahead::of_queue(&front, last.permits);
            match Ahead::behind(&last, Some(&its), mine) {
                Some(ahead) => {
                    prop_assert!(!ahead.surely_holds(mine));
                    // Either kind of claim in front lets nobody by.
                    let watched = ahead.blockers(mine);
                    prop_assert!(keeps_waiting(&watched, mine) || keeps_waiting(&watched, last.permits));
                }
                None => prop_assert!(its.surely_holds(last.permits) && admit([last.permits, mine]) == 2),
            }
        }

        #[test]
        fn what_is_not_whole_lets_nobody_in_and_is_read_again_once_one_has_left(
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
