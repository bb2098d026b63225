//! Which owners can never go on, whoever of the others goes on and releases.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use crate::queue::Permits;

/// A claim in a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// The owner, by number.
    pub(super) party: usize,
    pub(super) permits: Permits,
    pub(super) held: bool,
}

/// What is left of all queues when whoever can go on has gone on, and has released what it held.
///
/// This is the reduction of a graph of reusable resources (R. C. Holt, "Some Deadlock Properties of Computer
/// Systems", ACM Computing Surveys 4 (3), 1972), with each name as a resource of several units that are
/// granted in the order of the queue, as [`admit`](crate::queue::admit) does. It tells a wait for one of
/// several permits, which any of their holders can end, from a wait for several holders at once.
///
/// An owner keeps what it holds of one name as long as it waits for another name in vain: it is *tied*.
/// Claims in the queue of one name are taken for those of different threads, of which each may release by
/// itself, and so are claims that wait: each goes on by itself once it is granted. A departure never takes
/// back a grant, so the order in which owners go on makes no difference, and each needs to be tried once.
#[derive(Debug)]
pub(super) struct Reduction {
    queues: Vec<Vec<Place>>,
    /// The names that each owner waits for in vain.
    stuck: Vec<BTreeSet<usize>>,
    /// The names that each owner has claims on.
    names: Vec<BTreeSet<usize>>,
}

/// An owner that waits in a queue.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    party: usize,
    /// The place of its last claim that waits.
    last: usize,
    holds_too: bool,
}

impl Reduction {
    /// Reduces.
    ///
    /// A queue is walked through once, and again when one of its owners is not tied any more, each time up to
    /// the first claim that does not fit; and for each owner that waits for a name that it holds, once more.
    /// So the cost is about linear in the number of claims where names have few holders. It is at most the
    /// claims of a name times its holders, and times those holders that also wait for it.
    pub(super) fn of(queues: Vec<Vec<Place>>, parties: usize) -> Self {
        let mut this = Reduction {
            queues,
            stuck: vec![BTreeSet::new(); parties],
            names: vec![BTreeSet::new(); parties],
        };
        let mut waiting: Vec<VecDeque<Waiting>> =
            (0..this.queues.len()).map(|name| this.waiting(name)).collect();
        let wait_for_themselves: Vec<Vec<Waiting>> = waiting
            .iter()
            .map(|waiting| waiting.iter().copied().filter(|waiting| waiting.holds_too).collect())
            .collect();
        let mut walk: BTreeSet<usize> = (0..this.queues.len()).collect();
        let mut walk_for_each = walk.clone();
        loop {
            while let Some(name) = walk.pop_first() {
                walk_for_each.insert(name);
                let stuck_from = this.first_stuck(name, None);
                while waiting[name].front().is_some_and(|waiting| waiting.last < stuck_from) {
                    let granted = waiting[name].pop_front().map(|waiting| waiting.party);
                    granted.into_iter().for_each(|party| this.let_go_on(party, name, &mut walk));
                }
            }
            let Some(name) = walk_for_each.pop_first() else { return this };
            for waiting in &wait_for_themselves[name] {
                if this.stuck[waiting.party].contains(&name)
                    && waiting.last < this.first_stuck(name, Some(waiting.party))
                {
                    this.let_go_on(waiting.party, name, &mut walk);
                }
            }
        }
    }

    /// Who waits for a name, in the order of the last claim of each. Notes it.
    fn waiting(&mut self, name: usize) -> VecDeque<Waiting> {
        let mut waiting = Vec::new();
        let holders = self.holders(name);
        for (last, place) in self.queues[name].iter().enumerate().rev() {
            self.names[place.party].insert(name);
            if !place.held && self.stuck[place.party].insert(name) {
                waiting.push(Waiting { party: place.party, last, holds_too: holders.contains(&place.party) });
            }
        }
        waiting.into_iter().rev().collect()
    }

    /// Who holds a name.
    fn holders(&self, name: usize) -> HashSet<usize> {
        self.queues[name].iter().filter(|place| place.held).map(|place| place.party).collect()
    }

    /// Takes an owner's wait for a name as over, and names the queues in which it is not tied any more.
    fn let_go_on(&mut self, party: usize, name: usize, walk: &mut BTreeSet<usize>) {
        let stuck = &mut self.stuck[party];
        if stuck.remove(&name) {
            match stuck.len() {
                0 => walk.extend(self.names[party].iter().filter(|other| **other != name)),
                1 => walk.extend(stuck.iter()),
                _ => {}
            }
        }
    }

    /// The first place in a queue that waits in vain: those in front of it who are not tied have been granted
    /// the name, and have released it. With an owner given, all of its claims have been released too.
    fn first_stuck(&self, name: usize, without: Option<usize>) -> usize {
        let queue = &self.queues[name];
        let (mut count, mut capacity) = (0_u64, u32::MAX);
        for (at, place) in queue.iter().enumerate() {
            let with_it = count + u64::from(place.permits.count);
            let least = capacity.min(place.permits.capacity);
            if !place.held && with_it > u64::from(least) {
                return at;
            }
            if without != Some(place.party) && self.is_tied(place, name) {
                (count, capacity) = (with_it, least);
            }
        }
        queue.len()
    }

    /// Whether a claim holds this name, and its owner waits in vain for another one, so that it keeps this.
    pub(super) fn is_tied(&self, place: &Place, name: usize) -> bool {
        let stuck = &self.stuck[place.party];
        place.held && stuck.len() > usize::from(stuck.contains(&name))
    }

    /// The names that an owner waits for in vain.
    pub(super) fn stuck(&self, party: usize) -> &BTreeSet<usize> {
        &self.stuck[party]
    }

    /// The queue of a name.
    pub(super) fn queue(&self, name: usize) -> &[Place] {
        &self.queues[name]
    }

    /// For each place of a queue, whether it waits in vain.
    pub(super) fn stuck_places(&self, name: usize) -> Vec<bool> {
        let queue = &self.queues[name];
        let in_general = self.first_stuck(name, None);
        let holders = self.holders(name);
        let mut of_party = HashMap::new();
        let is_stuck = |(at, place): (usize, &Place)| {
            let stuck_from = || match holders.contains(&place.party) {
                false => in_general,
                true => self.first_stuck(name, Some(place.party)),
            };
            !place.held
                && self.stuck[place.party].contains(&name)
                && *of_party.entry(place.party).or_insert_with(stuck_from) <= at
        };
        queue.iter().enumerate().map(is_stuck).collect()
    }
}
