//! What a waiting claim remembers of those in front of it: enough to know whose departure concerns it, and no more,
//! however long the queue is.
//!
//! Who was in front of a claim only ever leaves. So claims that keep it waiting as long as all of them stay are all that
//! it has to watch; and where it knows the whole of a short queue, it also knows by itself when it holds.

use super::keys::Listed;
use crate::queue::{Permits, admit, blockers};

/// Queues up to this length are remembered whole.
const SHORT: usize = 16;

/// Claims in front of a waiting one.
///
/// By default it tells nothing: the queue must be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ahead {
    /// In the order of joining.
    listed: Vec<Listed>,
    /// Whether these are all, rather than some that keep it waiting as long as all of them stay.
    is_whole: bool,
}

impl Ahead {
    /// Reads it off the whole queue in front of a claim, in the order of joining.
    pub(super) fn of_queue(queue: &[Listed], mine: Permits) -> Self {
        if queue.len() <= SHORT {
            return Ahead { listed: queue.to_vec(), is_whole: true };
        }
        let shares: Vec<Permits> = queue.iter().map(|listed| listed.permits).collect();
        let blocking = blockers(&shares, mine);
        let listed: Vec<Listed> = blocking.into_iter().map(|position| queue[position].clone()).collect();
        // Where nobody keeps it waiting it holds, and there is nothing to remember.
        Ahead { is_whole: listed.is_empty(), listed }
    }

    /// Reads it off some of the claims in front, where one of them alone keeps the claim waiting; `None` where none does.
    pub(super) fn of_some(some: &[Listed], mine: Permits) -> Option<Self> {
        let blocking = some.iter().filter(|listed| blocks_alone(listed.permits, mine));
        let last = blocking.max_by_key(|listed| listed.revision)?;
        Some(Ahead { listed: vec![last.clone()], is_whole: false })
    }

    /// What keeps a claim waiting that joins behind `last`, which waits or holds; `None` where that does not tell.
    ///
    /// Claims are granted in their order: what keeps a claim waiting keeps those behind it waiting too.
    pub(super) fn behind(last: &Listed, its: Option<&Ahead>, mine: Permits) -> Option<Self> {
        if blocks_alone(last.permits, mine) {
            return Some(Ahead { listed: vec![last.clone()], is_whole: false });
        }
        let its = its.filter(|ahead| !ahead.lets_in(last.permits))?;
        let listed = its.blockers(last.permits).into_iter().cloned().collect();
        Some(Ahead { listed, is_whole: false })
    }

    /// Whether the claim surely holds.
    pub(super) fn lets_in(&self, mine: Permits) -> bool {
        let shares = self.listed.iter().map(|listed| listed.permits).chain([mine]);
        self.is_whole && admit(shares) > self.listed.len()
    }

    /// The claims whose departure concerns a claim that waits.
    pub(super) fn blockers(&self, mine: Permits) -> Vec<&Listed> {
        if !self.is_whole {
            return self.listed.iter().collect();
        }
        let shares: Vec<Permits> = self.listed.iter().map(|listed| listed.permits).collect();
        blockers(&shares, mine).into_iter().map(|position| &self.listed[position]).collect()
    }

    /// Whether it tells what to watch, or that the claim holds.
    pub(super) fn tells(&self) -> bool {
        self.is_whole || !self.listed.is_empty()
    }

    /// Whether it tells of every claim in front.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Whether it is this claim that keeps the one behind it waiting.
    pub(super) fn is_only(&self, other: &Listed) -> bool {
        !self.is_whole && self.listed.len() == 1 && self.listed[0].key == other.key
    }

    /// Takes note of departures. Where not the whole queue is known, what is left of it tells nothing.
    pub(super) fn remove(&mut self, deleted: &[Vec<u8>]) {
        let before = self.listed.len();
        self.listed.retain(|listed| !deleted.contains(&listed.key));
        if !self.is_whole && self.listed.len() < before {
            self.listed.clear();
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

    fn shares() -> impl Strategy<Value = Permits> {
        prop_oneof![
            Just(Permits { count: 1, capacity: 1 }),
            Just(Permits { count: 1, capacity: MAX_CAPACITY }),
            Just(Permits { count: MAX_CAPACITY, capacity: MAX_CAPACITY }),
            (1_u32..=4)
                .prop_flat_map(|capacity| (1..=capacity).prop_map(move |count| Permits { count, capacity })),
        ]
    }

    fn queue(shares: &[Permits]) -> Vec<Listed> {
        let listed = |(revision, permits): (i64, &Permits)| Listed {
            key: revision.to_string().into_bytes(),
            ours: true,
            permits: *permits,
            revision,
            lease: 1,
        };
        (1..).zip(shares).map(listed).collect()
    }

    fn holds(queue: &[Listed], mine: Permits) -> bool {
        admit(queue.iter().map(|listed| listed.permits).chain([mine])) > queue.len()
    }

    /// Whether the claim waits as long as none of these leaves, whoever else does.
    fn keeps_waiting(watched: &[&Listed], mine: Permits) -> bool {
        admit(watched.iter().map(|listed| listed.permits).chain([mine])) <= watched.len()
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
            assert!(!left.tells(), "{leaving:?}");
        }
    }

    #[test]
    fn only_what_keeps_a_claim_waiting_all_alone_is_what_it_waits_for() {
        let mutex = Permits { count: 1, capacity: 1 };
        let permit = Permits { count: 1, capacity: 2 };
        let [first, second] = &queue(&[mutex; 2])[..] else { unreachable!() };
        let one = Ahead::behind(first, None, mutex).unwrap();
        assert!(one.is_only(first) && !one.is_only(second));
        // Those that share may wait for two, and who has read a queue need not wait for whoever was in front.
        let two = Ahead::of_queue(&queue(&[permit; SHORT + 1]), permit);
        assert!(two.blockers(permit).iter().all(|listed| !two.is_only(listed)));
        let whole = Ahead::of_queue(std::slice::from_ref(first), permit);
        assert!(!whole.is_only(first) && !Ahead::default().is_only(first));
    }

    #[test]
    fn short_queues_are_known_whole_and_of_long_ones_no_more_than_one_has_to_watch() {
        let mutex = Permits { count: 1, capacity: 1 };
        for (length, is_whole) in [(0, true), (1, true), (SHORT, true), (SHORT + 1, false)] {
            let ahead = Ahead::of_queue(&queue(&vec![mutex; length]), mutex);
            assert_eq!(ahead.is_whole(), is_whole, "{length}");
            assert_eq!(ahead.listed.len(), if is_whole { length } else { 1 }, "{length}");
        }
    }

    proptest! {
        #[test]
        fn it_holds_iff_the_queue_lets_it_in_and_is_kept_waiting_by_what_it_watches(
            queued in prop::collection::vec(shares(), 0..40), mine in shares(),
        ) {
            let queue = queue(&queued);
            let ahead = Ahead::of_queue(&queue, mine);
            prop_assert_eq!(ahead.lets_in(mine), holds(&queue, mine));
            prop_assert!(ahead.lets_in(mine) || keeps_waiting(&ahead.blockers(mine), mine));
            prop_assert!(queue.len() <= SHORT || ahead.listed.len() <= 4, "{:?}", ahead);
        }

        #[test]
        fn departures_let_in_whom_they_should_where_the_whole_queue_is_known(
            queued in prop::collection::vec(shares(), 0..=SHORT), mine in shares(),
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
                prop_assert!(ahead.tells());
                prop_assert_eq!(ahead.lets_in(mine), holds(&left, mine));
                prop_assert!(ahead.lets_in(mine) || keeps_waiting(&ahead.blockers(mine), mine));
            }
        }

        #[test]
        fn some_of_the_queue_tell_whom_to_watch_or_nothing(
            queued in prop::collection::vec(shares(), 0..40), mine in shares(),
        ) {
            match Ahead::of_some(&queue(&queued), mine) {
                Some(ahead) => {
                    prop_assert!(!ahead.lets_in(mine));
                    prop_assert!(keeps_waiting(&ahead.blockers(mine), mine));
                    prop_assert_eq!(ahead.listed.len(), 1);
                }
                None => prop_assert!(queued.iter().all(|other| admit([*other, mine]) == 2)),
            }
        }

        #[test]
        fn who_joins_behind_another_is_kept_waiting_by_it_or_by_what_keeps_it_waiting(
            queued in prop::collection::vec(shares(), 1..40), mine in shares(),
        ) {
            let mut front = queue(&queued);
            let last = front.pop().unwrap();
            let its = Ahead::of_queue(&front, last.permits);
            match Ahead::behind(&last, Some(&its), mine) {
                Some(ahead) => {
                    prop_assert!(!ahead.lets_in(mine));
                    // Either kind of claim in front lets nobody by.
                    let watched = ahead.blockers(mine);
                    prop_assert!(keeps_waiting(&watched, mine) || keeps_waiting(&watched, last.permits));
                }
                None => prop_assert!(its.lets_in(last.permits) && admit([last.permits, mine]) == 2),
            }
        }

        #[test]
        fn what_is_not_whole_lets_nobody_in_and_is_read_again_once_one_has_left(
            queued in prop::collection::vec(shares(), 17..40), mine in shares(),
        ) {
            let mut ahead = Ahead::of_queue(&queue(&queued), mine);
            prop_assume!(!ahead.is_whole);
            ahead.remove(&[b"nobody".to_vec()]);
            prop_assert!(ahead.tells() && !ahead.lets_in(mine));
            let gone = ahead.listed[0].key.clone();
            ahead.remove(&[gone]);
            prop_assert!(!ahead.tells() && !ahead.lets_in(mine));
        }
    }
}
