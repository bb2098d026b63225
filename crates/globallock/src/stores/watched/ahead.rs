//! What is known of the claims ahead of a claim: enough to know which deletions concern it, however long the
//! queue is.
//!
//! Nobody joins ahead of a claim; the claims ahead can only leave. Two things follow:
//!
//! - What is remembered can be wrong in one way alone: it may name claims that have left already.
//! - A waiter watches only its *blockers*: claims that block it as long as all of them stay. No other
//!   deletion can grant it.
//!
//! A claim that knows all claims ahead is granted as they leave, without a read of the queue.

use std::sync::Arc;

use crate::queue::{Permits, blockers, nearest};

/// The longest queue that is remembered whole.
pub(crate) const SHORT: usize = 16;

/// A claim as its store lists it in a queue.
pub(crate) trait Entry: Clone + PartialEq {
    fn permits(&self) -> Permits;
}

/// The claims ahead of a claim, as far as they are known.
///
/// | `is_whole` | `entries` | what is known |
/// |---|---|---|
/// | true | all claims ahead | whether the claim holds, and which claims it waits for |
/// | false | some that block it | which claims it waits for |
/// | false | others, or none | nothing, unless it holds: the queue must be read |
#[derive(Clone, Debug)]
pub(crate) struct Ahead<E> {
    mine: Permits,
    /// In the order of the queue. Some of them may have left.
    entries: Arc<[E]>,
    /// Whether no other claim can be ahead.
    is_whole: bool,
    /// Whether the claim was seen to hold. It holds then until it leaves.
    holds: bool,
}

impl<E: Entry> Ahead<E> {
    /// Nothing is known.
    pub(crate) fn unknown(mine: Permits) -> Self {
        Ahead { mine, entries: Arc::default(), is_whole: false, holds: false }
    }

    /// Takes what must be remembered of claims ahead, given in the order of the queue.
    ///
    /// `is_all` says whether no others are ahead. Of a long queue, or of a part of it, those are remembered
    /// that block the claim: the next ones ahead, because the others leave before them.
    pub(crate) fn of<'a>(
        ahead: impl DoubleEndedIterator<Item = &'a E> + Clone,
        is_all: bool,
        mine: Permits,
    ) -> Self
    where
        E: 'a,
    {
        let near = nearest(ahead.clone().rev().map(E::permits), mine);
        let is_whole = is_all && ahead.clone().nth(SHORT).is_none();
        let remembered: Vec<&E> = if is_whole {
            ahead.collect()
        } else {
            let mut near: Vec<&E> = ahead.rev().take(near.unwrap_or(0)).collect();
            near.reverse();
            fewest(&near, mine)
        };
        Ahead { entries: shared(remembered), is_whole, holds: is_all && near.is_none(), mine }
    }

    /// What a claim knows that joins behind `last`, without a read. `its` is what `last` knows.
    ///
    /// `is_next` says whether no claim can be between the two. If some can, only what blocks the claim is
    /// known: `last`, or it together with what blocks it.
    pub(crate) fn behind(last: &E, its: &Ahead<E>, is_next: bool, mine: Permits) -> Self {
        let (known, is_whole) = its.and(last, is_next);
        Ahead::of(known.iter().copied(), is_whole, mine)
    }

    /// Takes over what `last` knows, which is about to leave, if this claim waits for `last` alone.
    ///
    /// `last` is remembered too, so that the claim goes on to watch it, and learns that it has left.
    #[cfg(feature = "zookeeper")]
    pub(crate) fn take_over(&mut self, last: &E, its: &Ahead<E>, is_next: bool) {
        if !self.holds && self.is_blocked_only_by(last) {
            let (known, is_whole) = its.and(last, is_next);
            (self.entries, self.is_whole) = (shared(known), is_whole);
        }
    }

    /// What is known behind `last`, if this is what `last` knows, and whether those are all claims.
    fn and<'a>(&'a self, last: &'a E, is_next: bool) -> (Vec<&'a E>, bool) {
        let is_whole = is_next && self.is_whole && self.entries.len() < SHORT;
        let mut known = if is_whole { self.entries.iter().collect() } else { self.blockers() };
        known.push(last);
        (known, is_whole)
    }

    /// Whether the claim holds for certain.
    pub(crate) fn surely_holds(&self) -> bool {
        self.holds
    }

    /// Whether anything is known: that the claim holds, or which claims to watch.
    pub(crate) fn is_known(&self) -> bool {
        self.holds || self.waits()
    }

    fn waits(&self) -> bool {
        nearest(self.entries.iter().rev().map(E::permits), self.mine).is_some()
    }

    /// How many claims are ahead, where all of them are known.
    pub(crate) fn count(&self) -> Option<usize> {
        self.is_whole.then_some(self.entries.len())
    }

    /// Whether every claim ahead is known.
    #[cfg(feature = "etcd")]
    pub(crate) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The claims that a waiter must watch: as long as all of them stay, it waits.
    pub(crate) fn blockers(&self) -> Vec<&E> {
        fewest(&self.entries.iter().collect::<Vec<_>>(), self.mine)
    }

    /// Whether one claim is all that is known to be ahead, and others may be.
    pub(crate) fn is_blocked_only_by(&self, other: &E) -> bool {
        !self.is_whole && *self.entries == *std::slice::from_ref(other)
    }

    /// The remembered claims among those that were deleted.
    pub(crate) fn of_deleted(&self, is_deleted: impl Fn(&E) -> bool) -> impl Iterator<Item = &E> {
        self.entries.iter().filter(move |entry| is_deleted(entry))
    }

    /// How many claims are remembered.
    #[cfg(all(test, feature = "zookeeper"))]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Removes claims that were deleted.
    ///
    /// If the remaining ones do not block the claim and others may be ahead, nothing is known any more.
    pub(crate) fn remove(&mut self, is_deleted: impl Fn(&E) -> bool) {
        if self.entries.iter().any(&is_deleted) {
            self.entries = self.entries.iter().filter(|entry| !is_deleted(entry)).cloned().collect();
            self.holds |= self.is_whole && !self.waits();
        }
    }
}

/// The fewest of these claims that keep another one waiting as long as all of them stay.
fn fewest<'a, E: Entry>(ahead: &[&'a E], mine: Permits) -> Vec<&'a E> {
    let permits: Vec<Permits> = ahead.iter().map(|entry| entry.permits()).collect();
    blockers(&permits, mine).into_iter().map(|index| ahead[index]).collect()
}

/// Needs no memory for none.
fn shared<E: Clone>(entries: Vec<&E>) -> Arc<[E]> {
    if entries.is_empty() { Arc::default() } else { entries.into_iter().cloned().collect() }
}

#[cfg(test)]
mod tests;
