//! The page of one lock: its queue, who waits for whom in it, and the deadlocks that it is part of.

use globallock::backend::Instant;
use globallock::{Entry, Name};
use std::time::Duration;

use super::list::scrolled;
use crate::onlook::rows::{ClaimRow, WaitRow};

/// The queue of a lock, as it was at some moment.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The holders, and then the waiters in their order.
    pub(crate) claims: Vec<ClaimRow>,
    /// Who waits for whom in this queue.
    pub(crate) waits: Vec<WaitRow>,
    pub(crate) at: Instant,
}

impl Queue {
    pub(crate) fn new(name: &Name, entries: &[Entry], at: Instant) -> Self {
        let waits = WaitRow::of_queue(name, entries);
        Queue { claims: ClaimRow::queue(entries, Duration::ZERO), waits, at }
    }

    /// For whom a claim waits.
    pub(crate) fn blockers<'a>(&'a self, claim: &'a str) -> impl Iterator<Item = &'a WaitRow> {
        self.waits.iter().filter(move |wait| wait.claim == claim)
    }
}

/// What is known of deadlocks.
#[derive(Debug)]
pub(crate) enum Deadlocks {
    /// Nobody has asked.
    Unasked,
    /// So many queues would have to be read.
    TooMany(usize),
    Asked,
    Failed(String),
    /// Those that the lock is part of: in each, the blocker of a wait is the waiter of the next.
    Known(Vec<Vec<WaitRow>>, Instant),
}

/// The page of a lock.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) name: String,
    pub(crate) queue: Option<Queue>,
    /// Why the queue was not read.
    pub(crate) failure: Option<String>,
    pub(crate) deadlocks: Deadlocks,
    /// Whether the queue is being read, and when it is read again.
    pub(super) is_asked: bool,
    pub(super) next: Instant,
    chosen: Option<String>,
    cursor: usize,
    /// The first claim on the screen.
    pub(crate) top: usize,
}

impl Page {
    pub(super) fn new(name: String, now: Instant) -> Self {
        Page {
            name,
            queue: None,
            failure: None,
            deadlocks: Deadlocks::Unasked,
            is_asked: false,
            next: now,
            chosen: None,
            cursor: 0,
            top: 0,
        }
    }

    pub(crate) fn claims(&self) -> &[ClaimRow] {
        self.queue.as_ref().map(|queue| &*queue.claims).unwrap_or_default()
    }

    pub(super) fn set(&mut self, queue: Queue) {
        let at = |claim: &String| queue.claims.iter().position(|row| row.claim == *claim);
        let cursor = self.chosen.as_ref().and_then(at);
        self.cursor = cursor.unwrap_or(self.cursor).min(queue.claims.len().saturating_sub(1));
        self.queue = Some(queue);
    }

    pub(super) fn walk(&mut self, by: isize) {
        self.cursor = self.cursor.saturating_add_signed(by).min(self.claims().len().saturating_sub(1));
        self.chosen = self.claim().map(|row| row.claim.clone());
    }

    pub(super) fn home(&mut self) {
        (self.cursor, self.chosen) = (0, None);
    }

    pub(super) fn fit(&mut self, rows: usize) {
        self.top = scrolled(self.top, self.cursor, self.claims().len(), rows);
    }

    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }

    /// The claim at the cursor.
    pub(crate) fn claim(&self) -> Option<&ClaimRow> {
        self.claims().get(self.cursor)
    }
}
