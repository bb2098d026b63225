//! Who waits for whom over several names, and where that goes round in a circle.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;

use crate::backend::{Entry, EntryKey};
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::{Permits, blockers, nearest};

/// One owner waits for another: for a name that the other holds, or asked for before.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wait {
    /// The name that is waited for.
    pub name: Name,
    /// Who waits.
    pub waiter: Owner,
    /// Which claim waits.
    pub claim: EntryKey,
    /// Who is waited for.
    pub blocker: Owner,
    /// Which claim is waited for.
    pub blocked_by: EntryKey,
    /// Whether that claim holds the name, rather than waits in front.
    pub is_held: bool,
}

/// Writes `job (pid 12 on db1) waits for "a", held by import (pid 7 on db2)`.
impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = if self.is_held { "held by" } else { "behind" };
        write!(f, "{} waits for {}, {has} {}", self.waiter, self.name, self.blocker)
    }
}

/// Who waits for whom, and the deadlocks in it: owners of whom each waits for the next, and the last for the
/// first.
///
/// An owner is a process, or a manager whose process is not known. A wait of a process for itself is left
/// out, because one of its threads may well wait for another; so is a holder of another program that says
/// nothing of itself. A circle of processes is a deadlock unless one of them gives up by itself, or lets go
/// of its lock by a thread that does not wait.
///
/// ```
/// use globallock::queue::Permits;
/// use globallock::{Entry, EntryKey, Name, Owner, WaitGraph};
///
/// let claim = |pid, held| {
///     let owner = Owner { host: "db1".into(), pid: Some(pid), label: None };
///     Entry::new(EntryKey::new(pid.to_string()), held, Permits::MUTEX, owner)
/// };
/// // As `LockManager::inspect` lists them.
/// let (a, b) = (Name::new("a")?, Name::new("b")?);
/// let queue_of_a = [claim(1, true), claim(2, false)];
/// let queue_of_b = [claim(2, true), claim(1, false)];
/// let graph = WaitGraph::of([(&a, &queue_of_a[..]), (&b, &queue_of_b[..])]);
/// let deadlock: Vec<String> = graph.cycles()[0].iter().map(|wait| wait.to_string()).collect();
/// assert_eq!(deadlock[0], "pid 2 on db1 waits for \"a\", held by pid 1 on db1");
/// assert_eq!(deadlock[1], "pid 1 on db1 waits for \"b\", held by pid 2 on db1");
/// # Ok::<(), globallock::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WaitGraph {
    waits: Vec<Wait>,
    cycles: Vec<Vec<Wait>>,
}

/// What tells owners apart.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Party {
    Process(String, u32),
    Manager(String),
}

impl Party {
    fn of(entry: &Entry) -> Option<Self> {
        match (&entry.owner, entry.id) {
            (Owner { host, pid: Some(pid), .. }, _) => Some(Party::Process(host.clone(), *pid)),
            (_, Some(id)) => Some(Party::Manager(id.manager())),
            (_, None) => None,
        }
    }
}

impl WaitGraph {
    /// Finds out who waits for whom, from the queues of names as [`LockManager::inspect`] lists them.
    ///
    /// [`LockManager::inspect`]: crate::LockManager::inspect
    #[must_use]
    pub fn of<'a>(queues: impl IntoIterator<Item = (&'a Name, &'a [Entry])>) -> Self {
        let mut waits = Vec::new();
        let mut edges = Edges::default();
        for (name, queue) in queues {
            let permits: Vec<Permits> = queue.iter().map(|entry| entry.permits).collect();
            for (index, waiter) in queue.iter().enumerate().filter(|(_, entry)| !entry.held) {
                // Behind a crowd, it waits for the nearest, who wait for the next.
                let ahead = permits[..index].iter().rev().copied();
                let first = index - nearest(ahead, waiter.permits).unwrap_or(index);
                for blocker in blockers(&permits[first..index], waiter.permits) {
                    let blocker = &queue[first + blocker];
                    let (Some(from), Some(to)) = (Party::of(waiter), Party::of(blocker)) else { continue };
                    if from != to {
                        edges.add(from, to, waits.len());
                        waits.push(Wait {
                            name: name.clone(),
                            waiter: waiter.owner.clone(),
                            claim: waiter.key.clone(),
                            blocker: blocker.owner.clone(),
                            blocked_by: blocker.key.clone(),
                            is_held: blocker.held,
                        });
                    }
                }
            }
        }
        let whole = |cycle: Vec<usize>| cycle.into_iter().map(|wait| waits[wait].clone()).collect();
        let cycles = edges.cycles().into_iter().map(whole).collect();
        WaitGraph { waits, cycles }
    }

    /// Every wait of one owner for another.
    #[must_use]
    pub fn waits(&self) -> &[Wait] {
        &self.waits
    }

    /// The deadlocks: in each, the blocker of a wait is the waiter of the next, and that of the last is the
    /// waiter of the first. Of owners that wait for each other in several ways, one shortest circle.
    #[must_use]
    pub fn cycles(&self) -> &[Vec<Wait>] {
        &self.cycles
    }
}

/// The parties by number, and whom each waits for, by which wait.
#[derive(Debug, Default)]
struct Edges {
    numbers: HashMap<Party, usize>,
    of: Vec<Vec<(usize, usize)>>,
}

impl Edges {
    fn number(&mut self, party: Party) -> usize {
        let number = *self.numbers.entry(party).or_insert(self.of.len());
        self.of.resize(self.numbers.len(), Vec::new());
        number
    }

    fn add(&mut self, from: Party, to: Party, wait: usize) {
        let (from, to) = (self.number(from), self.number(to));
        self.of[from].push((to, wait));
    }

    /// One shortest circle, as its waits, for each group of parties of which each waits, over others, for
    /// every other one.
    fn cycles(&self) -> Vec<Vec<usize>> {
        let groups = self.groups();
        let mut told = HashSet::new();
        // In a group of one nobody waits for itself.
        let starts = (0..self.of.len()).filter(|party| told.insert(groups[*party]));
        starts.filter_map(|start| self.shortest_cycle(start, &groups)).collect()
    }

    /// The group of each party: Kosaraju's algorithm, as in Aho, Hopcroft and Ullman, "Data Structures and
    /// Algorithms" (1983), section 6.7.
    fn groups(&self) -> Vec<usize> {
        let mut left = Vec::with_capacity(self.of.len());
        let mut seen = vec![false; self.of.len()];
        for start in 0..self.of.len() {
            let mut path = vec![(start, 0)];
            while let Some((party, next)) = path.pop() {
                if next == 0 && std::mem::replace(&mut seen[party], true) {
                    continue;
                }
                match self.of[party].get(next) {
                    Some((to, _)) => path.extend([(party, next + 1), (*to, 0)]),
                    None => left.push(party),
                }
            }
        }
        let mut back = vec![Vec::new(); self.of.len()];
        for (from, edges) in self.of.iter().enumerate() {
            edges.iter().for_each(|(to, _)| back[*to].push(from));
        }
        let mut groups = vec![None; self.of.len()];
        for start in left.into_iter().rev() {
            let mut next = vec![start];
            while let Some(party) = next.pop() {
                if groups[party].is_none() {
                    groups[party] = Some(start);
                    next.extend(&back[party]);
                }
            }
        }
        groups.into_iter().flatten().collect()
    }

    /// The waits that lead from a party to itself, by breadth.
    fn shortest_cycle(&self, start: usize, groups: &[usize]) -> Option<Vec<usize>> {
        let mut came_by: HashMap<usize, (usize, usize)> = HashMap::new();
        let mut next = VecDeque::from([start]);
        while let Some(party) = next.pop_front() {
            for &(to, wait) in self.of[party].iter().filter(|(to, _)| groups[*to] == groups[start]) {
                if to == start {
                    let before =
                        std::iter::successors(came_by.get(&party), |(before, _)| came_by.get(before));
                    let mut cycle: Vec<usize> = before.map(|(_, wait)| *wait).collect();
                    cycle.reverse();
                    cycle.push(wait);
                    return Some(cycle);
                }
                came_by.entry(to).or_insert_with(|| {
                    next.push_back(to);
                    (party, wait)
                });
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
