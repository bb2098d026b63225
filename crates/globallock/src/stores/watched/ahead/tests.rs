use super::*;
use crate::queue::admit;
use proptest::prelude::*;

/// A claim in a queue, by its number.
#[derive(Clone, Debug, PartialEq)]
struct Queued {
    number: usize,
    permits: Permits,
}

impl Entry for Queued {
    fn permits(&self) -> Permits {
        self.permits
    }
}

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

fn queue(permits: &[Permits]) -> Vec<Queued> {
    permits.iter().enumerate().map(|(number, permits)| Queued { number, permits: *permits }).collect()
}

fn whole(queue: &[Queued], mine: Permits) -> Ahead<Queued> {
    Ahead::of(queue.iter(), true, mine)
}

fn holds(queue: &[Queued], mine: Permits) -> bool {
    admit(queue.iter().map(|entry| entry.permits).chain([mine])) > queue.len()
}

/// Whether the claim waits as long as none of these leaves, even if all others leave.
fn keeps_waiting<'a>(watched: impl IntoIterator<Item = &'a Queued>, mine: Permits) -> bool {
    let watched: Vec<Permits> = watched.into_iter().map(|entry| entry.permits).collect();
    admit(watched.iter().copied().chain([mine])) <= watched.len()
}

#[test]
fn after_the_deletion_of_any_blocker_a_long_queue_is_read_again() {
    let permit = Permits::new(1, 3);
    let ahead = whole(&queue(&[permit; SHORT + 1]), permit);
    assert_eq!(ahead.blockers().len(), 3);
    for leaving in ahead.blockers() {
        let mut left = ahead.clone();
        left.remove(|entry| entry == leaving);
        assert!(!left.is_known(), "{leaving:?}");
    }
}

#[test]
fn a_claim_is_the_only_blocker_where_it_blocks_alone_and_the_queue_was_not_read() {
    let mutex = Permits::MUTEX;
    let permit = Permits::new(1, 2);
    let [first, second] = &queue(&[mutex; 2])[..] else { unreachable!() };
    let one = Ahead::behind(first, &Ahead::unknown(mutex), false, mutex);
    assert!(one.is_blocked_only_by(first) && !one.is_blocked_only_by(second));
    // A shared claim can have two blockers. A waiter that read the whole queue may know more than one claim.
    let two = whole(&queue(&[permit; SHORT + 1]), permit);
    assert!(two.blockers().iter().all(|entry| !two.is_blocked_only_by(entry)));
    let known = whole(std::slice::from_ref(first), permit);
    assert!(!known.is_blocked_only_by(first) && !Ahead::unknown(mutex).is_blocked_only_by(first));
}

#[test]
fn a_short_queue_is_remembered_whole_and_of_a_long_one_the_blockers() {
    let mutex = Permits::MUTEX;
    for (length, is_whole) in [(0, true), (1, true), (SHORT, true), (SHORT + 1, false)] {
        let ahead = whole(&queue(&vec![mutex; length]), mutex);
        assert_eq!(ahead.is_whole, is_whole, "{length}");
        assert_eq!(ahead.entries.len(), if is_whole { length } else { 1 }, "{length}");
        assert_eq!(ahead.count(), is_whole.then_some(length));
    }
}

#[test]
fn the_next_ones_ahead_block_a_claim_rather_than_one_that_leaves_before_them() {
    let (all, permit) = (Permits::new(5, 5), Permits::new(1, 5));
    let mut permits = vec![all];
    permits.extend([permit; SHORT]);
    let ahead = whole(&queue(&permits), permit);
    assert!(ahead.blockers().iter().all(|entry| entry.permits == permit));
}

#[test]
fn a_holder_behind_a_long_queue_says_nothing_about_it_to_the_next_claim() {
    let read = queue(&[Permits::READ; SHORT + 2]);
    let its = whole(&read[..=SHORT], Permits::READ);
    assert!(its.surely_holds() && its.blockers().is_empty());
    let last = &read[SHORT + 1];
    let mut next = Ahead::behind(last, &its, true, Permits::WRITE);
    assert!(next.is_blocked_only_by(last));
    next.remove(|entry| entry == last);
    assert!(!next.is_known(), "many others may be ahead");
    assert!(!Ahead::behind(last, &its, true, Permits::READ).is_known());
}

proptest! {
    #[test]
    fn a_claim_holds_iff_the_queue_admits_it_and_its_blockers_alone_block_it(
        queued in prop::collection::vec(any_permits(), 0..40), mine in any_permits(),
    ) {
        let queue = queue(&queued);
        let ahead = whole(&queue, mine);
        prop_assert_eq!(ahead.surely_holds(), holds(&queue, mine));
        prop_assert!(ahead.is_known());
        prop_assert_eq!(ahead.surely_holds(), ahead.blockers().is_empty());
        prop_assert!(ahead.surely_holds() || keeps_waiting(ahead.blockers(), mine));
        prop_assert!(queue.len() <= SHORT || ahead.entries.len() <= 4, "{:?}", ahead);
    }

    #[test]
    fn where_the_whole_queue_is_known_deletions_grant_as_admission_says(
        queued in prop::collection::vec(any_permits(), 0..=SHORT), mine in any_permits(),
        leaving in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut left = queue(&queued);
        let mut ahead = whole(&left, mine);
        for index in leaving {
            if left.is_empty() {
                break;
            }
            let gone = left.remove(index.index(left.len()));
            let remembered = ahead.of_deleted(|entry| *entry == gone).count();
            prop_assert_eq!(remembered, usize::from(ahead.entries.contains(&gone)));
            ahead.remove(|entry| *entry == gone);
            prop_assert!(ahead.is_known());
            prop_assert_eq!(ahead.surely_holds(), holds(&left, mine));
            prop_assert!(ahead.surely_holds() || keeps_waiting(ahead.blockers(), mine));
        }
    }

    #[test]
    fn a_part_of_the_queue_gives_blockers_if_it_blocks_by_itself_and_otherwise_nothing(
        queued in prop::collection::vec(any_permits(), 0..40), mine in any_permits(),
    ) {
        let part = queue(&queued);
        let ahead = Ahead::of(part.iter(), false, mine);
        prop_assert!(!ahead.surely_holds());
        prop_assert_eq!(ahead.is_known(), !holds(&part, mine));
        prop_assert_eq!(ahead.is_known(), keeps_waiting(ahead.blockers(), mine));
        prop_assert!(ahead.is_known() || ahead.entries.is_empty());
        prop_assert!(ahead.entries.len() <= 4, "{:?}", ahead);
    }

    #[test]
    fn a_claim_behind_another_is_blocked_by_that_or_by_it_together_with_its_blockers(
        queued in prop::collection::vec(any_permits(), 1..40), mine in any_permits(), is_next: bool,
    ) {
        let mut front = queue(&queued);
        let last = front.pop().unwrap();
        let its = whole(&front, last.permits);
        let ahead = Ahead::behind(&last, &its, is_next, mine);
        front.push(last.clone());
        if is_next && front.len() <= SHORT {
            prop_assert_eq!(ahead.surely_holds(), holds(&front, mine));
            prop_assert_eq!(&ahead.entries[..], &front[..]);
        } else {
            prop_assert!(!ahead.surely_holds());
            let alone = admit([last.permits, mine]) < 2;
            prop_assert!(ahead.is_known() || its.surely_holds() && !alone);
        }
        prop_assert!(!ahead.is_known() || ahead.surely_holds() || keeps_waiting(ahead.blockers(), mine));
    }

    #[test]
    fn a_queue_that_is_not_known_whole_grants_nothing_and_is_read_again_after_a_deletion(
        queued in prop::collection::vec(any_permits(), 17..40), mine in any_permits(),
    ) {
        let mut ahead = whole(&queue(&queued), mine);
        prop_assume!(!ahead.surely_holds());
        ahead.remove(|entry| entry.number == queued.len());
        prop_assert!(ahead.is_known() && !ahead.surely_holds());
        let gone = ahead.entries[0].clone();
        ahead.remove(|entry| *entry == gone);
        prop_assert!(!ahead.is_known() && !ahead.surely_holds());
    }

    /// Whatever joins and leaves, and however much each claim takes from the one before it, claims that are
    /// said to hold do so, and waiters watch claims that keep them waiting.
    #[test]
    fn what_claims_take_from_each_other_agrees_with_the_queue(
        steps in prop::collection::vec((any_permits(), any::<prop::sample::Index>(), 0_u8..6), 1..60),
    ) {
        // With what each claim of this store knows. The others are those of other programs.
        let mut queue: Vec<(Queued, Option<Ahead<Queued>>)> = Vec::new();
        for (number, (permits, index, step)) in steps.into_iter().enumerate() {
            let entry = Queued { number, permits };
            match step {
                0 | 1 if !queue.is_empty() => {
                    let at = index.index(queue.len());
                    let (gone, its) = queue.remove(at);
                    let is_next = queue.get(at).is_some_and(|(_, next)| next.is_some());
                    #[cfg(feature = "zookeeper")]
                    if let Some(its) = its
                        && let Some(behind) = queue[at..].iter_mut().find_map(|(_, ahead)| ahead.as_mut())
                    {
                        behind.take_over(&gone, &its, is_next);
                    }
                    #[cfg(not(feature = "zookeeper"))]
                    let _ = (its, is_next);
                    queue.iter_mut().filter_map(|(_, ahead)| ahead.as_mut()).for_each(|ahead| {
                        ahead.remove(|entry| *entry == gone);
                    });
                }
                2 => queue.push((entry, None)),
                _ => {
                    let ours = queue.iter().rposition(|(_, ahead)| ahead.is_some());
                    let ahead = ours.map(|at| {
                        let (last, its) = &queue[at];
                        Ahead::behind(last, its.as_ref().unwrap(), at + 1 == queue.len(), permits)
                    });
                    queue.push((entry, Some(ahead.unwrap_or_else(|| Ahead::unknown(permits)))));
                }
            }
            let entries: Vec<Queued> = queue.iter().map(|(entry, _)| entry.clone()).collect();
            for (index, (mine, ahead)) in queue.iter_mut().enumerate() {
                let Some(ahead) = ahead else { continue };
                let holds = holds(&entries[..index], mine.permits);
                if !ahead.is_known() {
                    *ahead = whole(&entries[..index], mine.permits);
                }
                prop_assert_eq!(ahead.surely_holds(), holds);
                prop_assert!(holds || keeps_waiting(ahead.blockers(), mine.permits));
                let in_front = |blocker: &&Queued| entries[..index].contains(*blocker);
                prop_assert!(ahead.blockers().iter().all(in_front));
            }
        }
    }
}
