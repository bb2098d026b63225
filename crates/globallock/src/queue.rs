//! The two pure decisions over a queue of claims that make all three locks, without any I/O.
//!
//! A claim takes a count of permits, out of a capacity. It *holds* iff the running count of the queue, from
//! its front up to and including it, fits the smallest capacity on that stretch. A mutex is (1 of 1), a
//! semaphore claim (k of n), a reader (1 of [`MAX_CAPACITY`]) and a writer (all of it): the construction of
//! `tokio::sync`'s `batch_semaphore`. Taking the smallest capacity, rather than the claim's own, keeps
//! exclusion whole where one name is used as two kinds of lock at once: a mutex excludes readers too.
//!
//! Both rules look only at the claims in front. So an arrival never takes back a grant, and a release only
//! ever lets more in.

use std::cmp::Reverse;

/// The capacity of a read-write lock, and the largest capacity of a semaphore.
pub const MAX_CAPACITY: u32 = u32::MAX >> 3;

/// How much of a lock a claim takes, and of how much: all that the decisions need to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Permits {
    /// How much of the capacity the claim takes.
    pub count: u32,
    /// How much the lock has to give, as this claim sees it.
    pub capacity: u32,
}

impl Permits {
    /// All of a mutex.
    pub const MUTEX: Permits = Permits { count: 1, capacity: 1 };
    /// A reader's part of a read-write lock.
    pub const READ: Permits = Permits { count: 1, capacity: MAX_CAPACITY };
    /// A writer's part of a read-write lock, which is all of it.
    pub const WRITE: Permits = Permits { count: MAX_CAPACITY, capacity: MAX_CAPACITY };

    /// `count` of `capacity` permits.
    #[must_use]
    pub const fn new(count: u32, capacity: u32) -> Self {
        Permits { count, capacity }
    }

    /// Whether the claim takes all there is, so that it excludes everybody.
    #[must_use]
    pub const fn is_exclusive(self) -> bool {
        self.count == self.capacity
    }
}

/// Says how many claims at the front of `queue` hold.
pub fn admit(queue: impl IntoIterator<Item = Permits>) -> usize {
    let mut running = 0_u64;
    let mut capacity = u64::MAX;
    queue
        .into_iter()
        .take_while(|permits| {
            running += u64::from(permits.count);
            capacity = capacity.min(u64::from(permits.capacity));
            running <= capacity
        })
        .count()
}

/// Names the fewest claims ahead of `mine` that keep it waiting as long as all of them stay, as positions in
/// `ahead`, the queue in front of it from oldest to newest. Empty iff `mine` holds.
///
/// A waiter that watches just these is woken by few releases and misses none. For a mutex or a writer it is
/// the claim next in front, for a reader the last writer, for a semaphore as many of the largest as fill it.
#[must_use]
pub fn blockers(ahead: &[Permits], mine: Permits) -> Vec<usize> {
    if admit(ahead.iter().copied().chain([mine])) > ahead.len() {
        return Vec::new();
    }
    if let Some(alone) = ahead.iter().rposition(|&other| admit([other, mine]) < 2) {
        return vec![alone];
    }
    // No claim fills the lock alone. The largest together do, under each capacity that a claim ahead could
    // set.
    let mut heaviest: Vec<usize> = (0..ahead.len()).rev().collect();
    heaviest.sort_by_key(|&position| Reverse(ahead[position].count));
    let mut fewest: Option<Vec<usize>> = None;
    let mut tried = Vec::new();
    for &limiting in &heaviest {
        let capacity = ahead[limiting].capacity.min(mine.capacity);
        if tried.contains(&capacity) {
            continue;
        }
        tried.push(capacity);
        let found = fill(ahead, mine, &heaviest, limiting);
        if found.as_ref().is_some_and(|found| fewest.as_ref().is_none_or(|best| found.len() < best.len())) {
            fewest = found;
        }
    }
    let mut fewest = fewest.unwrap_or_default();
    fewest.sort_unstable();
    fewest
}

/// Says how many of the claims next in front of `mine`, given from there to the front, already keep it
/// waiting; `None` if all of them together do not.
///
/// The [`blockers`] among these are enough to watch, however long the queue is: for a mutex it is one.
pub fn nearest(ahead: impl IntoIterator<Item = Permits>, mine: Permits) -> Option<usize> {
    let mut count = u64::from(mine.count);
    let mut capacity = mine.capacity;
    let full = ahead.into_iter().position(|permits| {
        count += u64::from(permits.count);
        capacity = capacity.min(permits.capacity);
        count > u64::from(capacity)
    });
    full.map(|last| last + 1)
}

/// Takes `first`, then the largest others, until they leave no room for `mine`.
fn fill(ahead: &[Permits], mine: Permits, heaviest: &[usize], first: usize) -> Option<Vec<usize>> {
    let mut taken = vec![first];
    let mut count = u64::from(mine.count) + u64::from(ahead[first].count);
    let mut capacity = mine.capacity.min(ahead[first].capacity);
    let mut others = heaviest.iter().copied().filter(|&position| position != first);
    while count <= u64::from(capacity) {
        let next = others.next()?;
        count += u64::from(ahead[next].count);
        capacity = capacity.min(ahead[next].capacity);
        taken.push(next);
    }
    Some(taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MUTEX: Permits = Permits::MUTEX;
    const READ: Permits = Permits::READ;
    const WRITE: Permits = Permits::WRITE;

    fn permits(count: u32, capacity: u32) -> Permits {
        Permits { count, capacity }
    }

    #[test]
    fn a_claim_for_all_permits_is_exclusive() {
        for exclusive in [MUTEX, WRITE, permits(3, 3)] {
            assert!(exclusive.is_exclusive(), "{exclusive:?}");
        }
        for shared in [READ, permits(2, 3)] {
            assert!(!shared.is_exclusive(), "{shared:?}");
        }
    }

    #[test]
    fn one_mutex_holds_and_the_next_watches_the_one_in_front() {
        assert_eq!(admit([MUTEX; 3]), 1);
        assert_eq!(blockers(&[MUTEX; 3], MUTEX), [2]);
        assert!(blockers(&[], MUTEX).is_empty());
    }

    #[test]
    fn readers_share_up_to_the_first_writer() {
        assert_eq!(admit([READ, READ, WRITE, READ]), 2);
        assert_eq!(blockers(&[READ, READ, WRITE], READ), [2]);
        assert!(blockers(&[READ, READ], READ).is_empty());
        assert_eq!(blockers(&[WRITE, READ, READ], WRITE), [2]);
        assert_eq!(blockers(&[WRITE, READ, READ], READ), [0]);
    }

    #[test]
    fn a_semaphore_is_filled_in_order_and_watches_what_fills_it() {
        assert_eq!(admit([permits(2, 3), permits(1, 3), permits(1, 3)]), 2);
        assert_eq!(admit([permits(1, 3), permits(3, 3), permits(1, 3)]), 1);
        assert_eq!(blockers(&[permits(1, 3); 5], permits(1, 3)), [2, 3, 4]);
        assert_eq!(blockers(&[permits(2, 3), permits(1, 3)], permits(1, 3)), [0, 1]);
    }

    #[test]
    fn the_smallest_capacity_counts_where_kinds_are_mixed() {
        assert_eq!(admit([MUTEX, READ]), 1);
        assert_eq!(admit([READ, MUTEX]), 1);
        assert_eq!(admit([permits(1, 2), permits(1, 5), permits(1, 5)]), 2);
    }

    #[test]
    fn no_more_are_watched_than_have_to_be() {
        // The heaviest fill the lock in threes, and in twos with the one that allows less.
        let ahead = [permits(40, 100), permits(35, 100), permits(1, 40)];
        assert_eq!(blockers(&ahead, permits(1, 100)), [0, 2]);
    }

    #[test]
    fn the_largest_capacity_is_an_eighth_of_all_numbers() {
        assert_eq!(MAX_CAPACITY, 536_870_911);
    }

    #[test]
    fn the_weights_of_many_writers_do_not_overflow() {
        assert_eq!(admit([WRITE; 100]), 1);
        assert_eq!(blockers(&[WRITE; 100], WRITE), [99]);
    }

    /// A fair queue as a textbook has it: waiters in order, each let in when what is held leaves room for it.
    #[derive(Default)]
    struct Textbook {
        held: Vec<(u32, Permits)>,
        waiting: Vec<(u32, Permits)>,
    }

    impl Textbook {
        fn let_in(&mut self) {
            while let Some(&(_, next)) = self.waiting.first() {
                let capacity =
                    self.held.iter().map(|(_, permits)| permits.capacity).min().unwrap_or(u32::MAX);
                let taken: u64 = self.held.iter().map(|(_, permits)| u64::from(permits.count)).sum();
                if taken + u64::from(next.count) > u64::from(capacity.min(next.capacity)) {
                    return;
                }
                self.held.push(self.waiting.remove(0));
            }
        }
    }

    fn shares() -> impl Strategy<Value = Permits> {
        prop_oneof![
            Just(MUTEX),
            Just(READ),
            Just(WRITE),
            (1_u32..=5)
                .prop_flat_map(|capacity| (1..=capacity).prop_map(move |count| permits(count, capacity))),
        ]
    }

    proptest! {
        #[test]
        fn admit_agrees_with_the_textbook_queue(
            steps in prop::collection::vec((shares(), any::<prop::sample::Index>(), any::<bool>()), 1..60),
        ) {
            let mut textbook = Textbook::default();
            let mut queue: Vec<(u32, Permits)> = Vec::new();
            for (number, (permits, index, leave)) in (0..).zip(steps) {
                if leave && !queue.is_empty() {
                    let gone = queue.remove(index.index(queue.len())).0;
                    textbook.held.retain(|(id, _)| *id != gone);
                    textbook.waiting.retain(|(id, _)| *id != gone);
                } else {
                    queue.push((number, permits));
                    textbook.waiting.push((number, permits));
                }
                textbook.let_in();
                let holding = admit(queue.iter().map(|(_, permits)| *permits));
                let mut ours: Vec<u32> = queue[..holding].iter().map(|(id, _)| *id).collect();
                let mut theirs: Vec<u32> = textbook.held.iter().map(|(id, _)| *id).collect();
                ours.sort_unstable();
                theirs.sort_unstable();
                prop_assert_eq!(ours, theirs);
            }
        }

        #[test]
        fn a_departure_never_takes_back_a_grant(
            queue in prop::collection::vec(shares(), 1..12),
            index in any::<prop::sample::Index>(),
        ) {
            let gone = index.index(queue.len());
            let before = admit(queue.iter().copied());
            let others = queue.iter().enumerate().filter(|(i, _)| *i != gone);
            let after = admit(others.map(|(_, permits)| *permits));
            prop_assert!(after + usize::from(gone < before) >= before);
        }

        #[test]
        fn the_nearest_keep_a_claim_out_and_no_fewer_of_them_do(
            ahead in prop::collection::vec(shares(), 0..9),
            mine in shares(),
        ) {
            let holds = |of: &[Permits]| admit(of.iter().copied().chain([mine])) > of.len();
            let fits = mine.count <= mine.capacity;
            match nearest(ahead.iter().rev().copied(), mine) {
                Some(count) => {
                    let near = &ahead[ahead.len() - count..];
                    prop_assert!(!holds(near));
                    prop_assert!(holds(&near[1..]) || !fits);
                    prop_assert!(blockers(near, mine).len() <= count);
                }
                None => prop_assert!(holds(&ahead) || !fits),
            }
        }

        #[test]
        fn blockers_are_the_fewest_that_keep_a_claim_out(
            ahead in prop::collection::vec(shares(), 0..9),
            mine in shares(),
        ) {
            let keeps_out = |set: &[usize]| {
                let kept: Vec<Permits> = set.iter().map(|&i| ahead[i]).collect();
                admit(kept.iter().copied().chain([mine])) <= kept.len()
            };
            let found = blockers(&ahead, mine);
            if !keeps_out(&(0..ahead.len()).collect::<Vec<_>>()) {
                prop_assert!(found.is_empty());
                return Ok(());
            }
            prop_assert!(keeps_out(&found), "{found:?}");
            let fewest = (0_u32..1 << ahead.len())
                .map(|bits| (0..ahead.len()).filter(|i| bits >> i & 1 == 1).collect::<Vec<_>>())
                .filter(|set| keeps_out(set))
                .map(|set| set.len())
                .min();
            prop_assert_eq!(Some(found.len()), fewest);
        }
    }
}
