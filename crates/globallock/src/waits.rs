//! Who waits for whom over several names, and where that goes round in a circle.

mod circles;
mod reduction;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;

use circles::{Step, circles};
use reduction::{Place, Reduction};

use crate::backend::{Entry, EntryKey};
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::{Permits, blockers, nearest};

/// A claim waits for another one: for a name that the other holds, or asked for before.
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
    /// Whether another program made the claim that waits.
    pub is_waiter_foreign: bool,
    /// Whether another program made the claim that is waited for.
    pub is_blocker_foreign: bool,
}

impl Wait {
    fn new(name: &Name, waiter: &Entry, blocker: &Entry) -> Self {
        Wait {
            name: name.clone(),
            waiter: waiter.owner.clone(),
            claim: waiter.key.clone(),
            blocker: blocker.owner.clone(),
            blocked_by: blocker.key.clone(),
            is_held: blocker.held,
            is_waiter_foreign: waiter.id.is_none(),
            is_blocker_foreign: blocker.id.is_none(),
        }
    }
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
/// An owner is a process, or a manager whose process is not known, or a single claim that says nothing of its
/// owner. Owners are a deadlock if none of them could go on whatever all others release, and if it is not one
/// wait of a process for itself: in the queue of one name, a claim may well be that of another thread. For
/// a semaphore, the release of any permit is enough to go on. A process keeps what it holds as long as one of
/// its claims on other names waits. It may still end its deadlock itself: it may give up, or release by
/// a thread that does not wait.
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
    stuck: Vec<Name>,
}

/// What tells owners apart.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Party {
    Process(String, u32),
    Manager(String),
    /// By the number of its name, and its place there.
    Unknown(usize, usize),
}

impl Party {
    fn of(entry: &Entry, (name, place): (usize, usize)) -> Self {
        match (&entry.owner, entry.id) {
            (Owner { host, pid: Some(pid), .. }, _) => Party::Process(host.clone(), *pid),
            (_, Some(id)) => Party::Manager(id.manager()),
            (_, None) => Party::Unknown(name, place),
        }
    }
}

impl WaitGraph {
    /// Finds out who waits for whom, from the queues of names as [`LockManager::inspect`] lists them at one
    /// moment.
    ///
    /// [`LockManager::inspect`]: crate::LockManager::inspect
    #[must_use]
    pub fn of<'a>(queues: impl IntoIterator<Item = (&'a Name, &'a [Entry])>) -> Self {
        let queues: Vec<(&Name, &[Entry])> = queues.into_iter().collect();
        let mut parties = HashMap::new();
        let mut waits = Vec::new();
        let mut places = Vec::with_capacity(queues.len());
        for (number, (name, queue)) in queues.iter().enumerate() {
            let permits: Vec<Permits> = queue.iter().map(|entry| entry.permits).collect();
            for (index, waiter) in queue.iter().enumerate().filter(|(_, entry)| !entry.held) {
                // Behind a crowd, it waits for the nearest, who wait for the next.
                let ahead = permits[..index].iter().rev().copied();
                let first = index - nearest(ahead, waiter.permits).unwrap_or(index);
                let blockers = blockers(&permits[first..index], waiter.permits);
                waits.extend(blockers.into_iter().map(|at| Wait::new(name, waiter, &queue[first + at])));
            }
            let place = |(at, entry): (usize, &Entry)| {
                let next = parties.len();
                let party = *parties.entry(Party::of(entry, (number, at))).or_insert(next);
                Place { party, permits: entry.permits, held: entry.held }
            };
            places.push(queue.iter().enumerate().map(place).collect());
        }
        let left = Reduction::of(places, parties.len());
        let whole = |step: &Step| {
            let (name, queue) = queues[step.name];
            Wait::new(name, &queue[step.waiter], &queue[step.blocker])
        };
        let circles = circles(&left, queues.len());
        let cycles = circles.iter().map(|circle| circle.iter().map(whole).collect()).collect();
        let stuck: BTreeSet<usize> =
            (0..parties.len()).flat_map(|party| left.stuck(party).iter().copied()).collect();
        WaitGraph { waits, cycles, stuck: stuck.into_iter().map(|name| queues[name].0.clone()).collect() }
    }

    /// For each claim that waits, the fewest claims in front of it that keep it waiting as long as they stay.
    #[must_use]
    pub fn waits(&self) -> &[Wait] {
        &self.waits
    }

    /// The deadlocks: in each, the blocker of a wait is the waiter of the next, and that of the last is the
    /// waiter of the first. Of owners that wait for each other in several ways, one circle.
    #[must_use]
    pub fn cycles(&self) -> &[Vec<Wait>] {
        &self.cycles
    }

    /// The names that somebody waits for in vain: all that has to do with deadlocks is in their queues.
    pub(crate) fn stuck(&self) -> &[Name] {
        &self.stuck
    }

    /// Keeps the deadlocks alone that are there also at a second look at the names of [`WaitGraph::stuck`].
    ///
    /// Queues are read one after the other, so that waits may have been seen which never were at the same
    /// time. Claims do not change places and have a key each that never comes back. So claims that are seen
    /// again have all been there at the moment between the looks, and those that wait still have waited.
    /// What else there was at that moment can only have made others wait.
    pub(crate) fn confirm(&mut self, first: &HashSet<EntryKey>, mut again: Vec<(Name, Vec<Entry>)>) {
        again.iter_mut().for_each(|(_, queue)| queue.retain(|entry| first.contains(&entry.key)));
        self.cycles = WaitGraph::of(again.iter().map(|(name, queue)| (name, &queue[..]))).cycles;
    }
}

#[cfg(test)]
mod tests;
