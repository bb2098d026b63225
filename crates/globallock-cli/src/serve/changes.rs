//! What has changed since when, so that each page is told what it does not know yet, and nothing is kept for
//! a page that is slow.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use axum::body::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use crate::onlook::rows::{LockRow, WaitRow};

/// How many locks pages are told of. Of more, the first by name.
pub(super) const MOST_ROWS: usize = 20_000;
/// How many names that are gone are kept for pages that have not heard of it; a page that is further behind
/// is told everything again.
const MOST_GONE: usize = 5_000;
/// By how many seconds times may differ that say the same: stores count in whole seconds, too.
const TOLERANCE: f64 = 1.1;

/// What one look has found.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) rows: Vec<LockRow>,
    pub(super) failure: Option<String>,
    pub(super) begun: Instant,
    pub(super) took: Duration,
}

/// All that is known, and when it was found out. Moments are numbers of looks that have found something.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    number: u64,
    rows: BTreeMap<String, Known>,
    gone: VecDeque<(u64, String)>,
    /// Names that went until this moment may be forgotten.
    forgotten: u64,
    /// How many names there are, with those that are too many.
    names: usize,
    failure: Option<String>,
    cycles: (u64, Vec<Vec<WaitRow>>),
    /// When the last look was begun, and how long it took.
    last: Option<(Instant, Duration)>,
    /// When the last look was begun that told all.
    complete: Option<Instant>,
    totals: Totals,
    /// What was made for others that know as much.
    made: Vec<(u64, Bytes)>,
}

#[derive(Debug)]
struct Known {
    row: LockRow,
    changed: u64,
    renewed: u64,
}

/// Numbers about all locks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Totals {
    pub(super) names: usize,
    /// Claims that hold, and claims that wait, by the mode of the lock.
    pub(super) held: BTreeMap<&'static str, usize>,
    pub(super) waiting: BTreeMap<&'static str, usize>,
    pub(super) stale: usize,
    pub(super) foreign: usize,
    pub(super) deadlocks: usize,
    pub(super) oldest_hold: f64,
    pub(super) oldest_wait: f64,
}

/// What a page is told, beside how long ago the look was.
#[derive(Serialize)]
struct Message<'a> {
    number: u64,
    /// How many names there are; more than the rows if those are too many.
    names: usize,
    /// Why the last look told nothing, or not all.
    failure: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<Vec<&'a LockRow>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    changed: Vec<&'a LockRow>,
    /// What is left of the leases that were lengthened.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    renewed: BTreeMap<&'a str, Option<f64>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    gone: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cycles: Option<&'a [Vec<WaitRow>]>,
}

impl Snapshot {
    /// Takes what a look has found, and returns the moment of the last change.
    pub(super) fn take(&mut self, look: Look) -> u64 {
        let passed = self.last.map(|(begun, _)| look.begun.saturating_duration_since(begun).as_secs_f64());
        let next = self.number + 1;
        let mut before = std::mem::take(&mut self.rows);
        let mut is_news = false;
        self.totals = Totals::of(&look.rows, self.cycles.1.len());
        if self.names != look.rows.len() {
            (self.names, is_news) = (look.rows.len(), true);
        }
        for row in look.rows.into_iter().take(MOST_ROWS) {
            let known = before.remove(&row.name);
            let (mut changed, mut renewed) = (next, next);
            if let Some(known) = &known {
                let is_same = is_same(&known.row, &row, passed.unwrap_or_default());
                changed = if is_same { known.changed } else { next };
                let is_longer = is_lengthened(&known.row, &row, passed.unwrap_or_default());
                renewed = if is_longer { next } else { known.renewed };
            }
            is_news |= changed == next || renewed == next;
            self.rows.insert(row.name.clone(), Known { row, changed, renewed });
        }
        is_news |= !before.is_empty();
        self.gone.extend(before.into_keys().map(|name| (next, name)));
        while self.gone.len() > MOST_GONE {
            self.forgotten = self.gone.pop_front().map_or(self.forgotten, |(at, _)| at);
        }
        is_news |= self.failure != look.failure || self.last.is_none();
        if look.failure.is_none() {
            self.complete = Some(look.begun);
        }
        self.failure = look.failure;
        self.last = Some((look.begun, look.took));
        self.turn(is_news)
    }

    /// Takes the deadlocks that were found, and returns the moment of the last change.
    pub(super) fn take_cycles(&mut self, cycles: Vec<Vec<WaitRow>>) -> u64 {
        self.totals.deadlocks = cycles.len();
        let is_news = self.cycles.1 != cycles;
        if is_news {
            self.cycles = (self.number + 1, cycles);
        }
        self.turn(is_news)
    }

    fn turn(&mut self, is_news: bool) -> u64 {
        if is_news {
            self.number += 1;
        }
        // The rows have other times even if nothing else has changed.
        self.made.clear();
        self.number
    }

    /// What a page does not know that knows all until this moment: none knows nothing. Also the moment that
    /// it knows then.
    pub(super) fn news(&mut self, seen: Option<u64>) -> (u64, Bytes) {
        let seen = seen.filter(|seen| *seen >= self.forgotten && *seen <= self.number);
        // No look has the number 0.
        let key = seen.unwrap_or_default();
        if let Some((_, made)) = self.made.iter().find(|(known, _)| *known == key) {
            return (self.number, made.clone());
        }
        let rows = || self.rows.values();
        let mut message = Message {
            number: self.number,
            names: self.names,
            failure: self.failure.as_deref(),
            rows: None,
            changed: Vec::new(),
            renewed: BTreeMap::new(),
            gone: Vec::new(),
            cycles: Some(&*self.cycles.1),
        };
        match seen {
            None => message.rows = Some(rows().map(|known| &known.row).collect()),
            Some(seen) => {
                message.changed =
                    rows().filter(|known| known.changed > seen).map(|known| &known.row).collect();
                let renewed = rows().filter(|known| known.changed <= seen && known.renewed > seen);
                let left = |row: &LockRow| row.holder.as_ref().and_then(|holder| holder.lease_left_seconds);
                message.renewed = renewed.map(|known| (&*known.row.name, left(&known.row))).collect();
                // One that is back is among the rows that have changed.
                let gone = self.gone.iter().filter(|(at, name)| *at > seen && !self.rows.contains_key(name));
                message.gone = gone.map(|(_, name)| &**name).collect();
                message.cycles = message.cycles.filter(|_| self.cycles.0 > seen);
            }
        }
        let made = Bytes::from(serde_json::to_string(&message).unwrap_or_default());
        // Pages that follow are all at the same moment; few are not.
        if self.made.len() < 4 {
            self.made.push((key, made.clone()));
        }
        (self.number, made)
    }

    /// How long ago the last look was begun.
    pub(super) fn age(&self) -> Option<Duration> {
        self.last.map(|(begun, _)| begun.elapsed())
    }

    /// Whether the last look was begun not longer ago than this.
    pub(super) fn is_fresh(&self, limit: Duration) -> bool {
        self.age().is_some_and(|age| age <= limit)
    }

    /// How long ago the last look was begun that told all.
    pub(super) fn complete_age(&self) -> Option<Duration> {
        self.complete.map(|begun| begun.elapsed())
    }

    /// How long the last look took.
    pub(super) fn took(&self) -> Option<Duration> {
        self.last.map(|(_, took)| took)
    }

    /// Why the last look told nothing, or not all.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    pub(super) fn totals(&self) -> Totals {
        self.totals.clone()
    }

    pub(super) fn is_anything_waited_for(&self) -> bool {
        self.rows.values().any(|known| known.row.waiters > 0)
    }

    pub(super) fn row(&self, name: &str) -> Option<&LockRow> {
        self.rows.get(name).map(|known| &known.row)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &LockRow> {
        self.rows.values().map(|known| &known.row)
    }

    pub(super) fn names(&self) -> usize {
        self.names
    }
}

impl Totals {
    fn of(rows: &[LockRow], deadlocks: usize) -> Self {
        let mut totals = Totals { names: rows.len(), deadlocks, ..Totals::default() };
        for row in rows {
            let mode = row.mode.mode;
            *totals.held.entry(mode).or_default() += row.holders;
            *totals.waiting.entry(mode).or_default() += row.waiters;
            totals.stale += usize::from(row.stale == Some(true));
            totals.foreign += usize::from(row.holder.as_ref().is_some_and(|holder| holder.foreign));
            let age = row.holder.as_ref().and_then(|holder| holder.age_seconds);
            totals.oldest_hold = totals.oldest_hold.max(age.unwrap_or_default());
            totals.oldest_wait = totals.oldest_wait.max(row.oldest_wait_seconds.unwrap_or_default());
        }
        totals
    }
}

/// Whether nothing has happened to a lock but that this many seconds have passed, and that its lease was
/// lengthened.
fn is_same(before: &LockRow, after: &LockRow, passed: f64) -> bool {
    let timeless = |row: &LockRow| {
        let mut row = row.clone();
        row.oldest_wait_seconds = None;
        if let Some(holder) = &mut row.holder {
            holder.age_seconds = None;
            holder.lease_left_seconds = holder.lease_left_seconds.map(|_| 0.0);
        }
        row
    };
    // When the oldest waiter goes and another comes, there are as many as before.
    let is_same_wait = match (before.oldest_wait_seconds, after.oldest_wait_seconds) {
        (Some(before), Some(after)) => (before + passed - after).abs() <= TOLERANCE,
        (before, after) => before.is_none() && after.is_none(),
    };
    is_same_wait && timeless(before) == timeless(after)
}

fn is_lengthened(before: &LockRow, after: &LockRow, passed: f64) -> bool {
    let left = |row: &LockRow| row.holder.as_ref().and_then(|holder| holder.lease_left_seconds);
    match (left(before), left(after)) {
        (Some(before), Some(after)) => after > (before - passed).max(0.0) + TOLERANCE,
        _ => false,
    }
}
