//! What has changed since when, so that each page is told what it does not know yet, and nothing is kept for
//! a page that is slow.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use axum::body::Bytes;
use serde::Serialize;
use tokio::time::Instant;

use crate::onlook::rows::{ClaimRow, LockRow, WaitRow};

/// How many locks pages are told of. Of more, the first by name.
pub(super) const MOST_ROWS: usize = 20_000;
/// How many names that are gone are kept for pages that have not heard of it; a page that is further behind
/// is told everything again.
const MOST_GONE: usize = 5_000;
/// How long it counts that deadlocks were sought.
const RECENT: Duration = Duration::from_secs(300);
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
    deadlocks: (u64, Vec<Vec<WaitRow>>),
    /// When deadlocks were sought.
    sought: Option<Instant>,
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
    /// None where they were not sought for a while.
    pub(super) deadlocks: Option<usize>,
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
    deadlocks: Option<&'a [Vec<WaitRow>]>,
}

impl Snapshot {
    /// Takes what a look has found, and returns the moment of the last change.
    pub(super) fn take(&mut self, look: Look) -> u64 {
        let passed = self.last.map(|(begun, _)| look.begun.saturating_duration_since(begun).as_secs_f64());
        let next = self.number + 1;
        let mut before = std::mem::take(&mut self.rows);
        let mut is_news = false;
        self.totals = Totals::of(&look.rows);
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
    pub(super) fn take_deadlocks(&mut self, deadlocks: Vec<Vec<WaitRow>>) -> u64 {
        self.sought = Some(Instant::now());
        let is_news = self.deadlocks.1 != deadlocks;
        if is_news {
            self.deadlocks = (self.number + 1, deadlocks);
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
            deadlocks: Some(&*self.deadlocks.1),
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
                message.deadlocks = message.deadlocks.filter(|_| self.deadlocks.0 > seen);
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
        let is_recent = self.sought.is_some_and(|sought| sought.elapsed() < RECENT);
        let deadlocks = is_recent.then_some(self.deadlocks.1.len());
        Totals { deadlocks, ..self.totals.clone() }
    }

    pub(super) fn is_anything_waited_for(&self) -> bool {
        self.rows.values().any(|known| known.row.waiters > 0)
    }

    /// Whether this holder of this lock gives no sign of life, as far as that was seen.
    pub(super) fn stale(&self, name: &str, holder: Option<&ClaimRow>) -> Option<bool> {
        let row = &self.rows.get(name)?.row;
        let is_same = row.holder.as_ref().map(|seen| &seen.claim) == holder.map(|holder| &holder.claim);
        row.stale.filter(|_| is_same)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &LockRow> {
        self.rows.values().map(|known| &known.row)
    }

    pub(super) fn names(&self) -> usize {
        self.names
    }
}

impl Totals {
    fn of(rows: &[LockRow]) -> Self {
        let mut totals = Totals { names: rows.len(), ..Totals::default() };
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
    // When the oldest waiter goes and another comes, there are as many as before.
    let is_same_wait = match (before.oldest_wait_seconds, after.oldest_wait_seconds) {
        (Some(before), Some(after)) => (before + passed - after).abs() <= TOLERANCE,
        (before, after) => before.is_none() && after.is_none(),
    };
    let has_lease = left(before).is_some() == left(after).is_some();
    is_same_wait && has_lease && before.timeless() == after.timeless()
}

fn left(row: &LockRow) -> Option<f64> {
    row.holder.as_ref().and_then(|holder| holder.lease_left_seconds)
}

fn is_lengthened(before: &LockRow, after: &LockRow, passed: f64) -> bool {
    match (left(before), left(after)) {
        (Some(before), Some(after)) => after > (before - passed).max(0.0) + TOLERANCE,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onlook::rows::Mode;
    use globallock::LockKind;
    use serde_json::{Value, json};

    fn row(name: &str, claim: &str, left: f64, wait: Option<f64>) -> LockRow {
        let mode = Mode::of(LockKind::Mutex);
        let holder = ClaimRow {
            claim: claim.into(),
            held: true,
            place: None,
            mode,
            fencing_token: Some(1),
            host: None,
            pid: None,
            label: None,
            foreign: false,
            age_seconds: Some(1.0),
            lease_left_seconds: Some(left),
        };
        let waiters = usize::from(wait.is_some());
        let holder = Some(holder);
        LockRow {
            name: name.into(),
            mode,
            holders: 1,
            waiters,
            holder,
            oldest_wait_seconds: wait,
            stale: None,
        }
    }

    /// A snapshot, and the moment that looks are counted from.
    struct Looks(Snapshot, Instant);

    impl Looks {
        fn take(&mut self, second: u64, rows: Vec<LockRow>, failure: Option<&str>) -> u64 {
            let begun = self.1 + Duration::from_secs(second);
            let failure = failure.map(str::to_owned);
            self.0.take(Look { rows, failure, begun, took: Duration::ZERO })
        }

        fn news(&mut self, seen: Option<u64>) -> Value {
            serde_json::from_slice(&self.0.news(seen).1).unwrap()
        }
    }

    fn looks() -> Looks {
        Looks(Snapshot::default(), Instant::now())
    }

    #[test]
    fn a_page_is_told_what_it_does_not_know_and_nothing_else() {
        let mut looks = looks();
        let first = looks.take(0, vec![row("a", "1", 9.0, None), row("b", "2", 9.0, None)], None);
        assert_eq!(looks.news(None)["rows"].as_array().unwrap().len(), 2);
        // Two seconds later nothing has happened.
        assert_eq!(looks.take(2, vec![row("a", "1", 7.0, None), row("b", "2", 7.0, None)], None), first);
        assert_eq!(looks.news(Some(first)), json!({ "number": first, "names": 2, "failure": null }));
        // One is renewed, and then changes hands; the other goes, and comes back.
        let renewed = looks.take(3, vec![row("a", "1", 9.0, None), row("b", "2", 6.0, None)], None);
        assert_eq!(looks.news(Some(first))["renewed"], json!({ "a": 9.0 }));
        let handed = looks.take(4, vec![row("a", "3", 9.0, None)], None);
        let news = looks.news(Some(renewed));
        assert_eq!((&news["changed"][0]["name"], &news["gone"]), (&json!("a"), &json!(["b"])));
        assert!(news["renewed"].is_null(), "a row that is told is not told again: {news}");
        let back = looks.take(5, vec![row("a", "3", 8.0, None), row("b", "4", 9.0, None)], None);
        let news = looks.news(Some(handed));
        assert_eq!((&news["changed"][0]["name"], &news["gone"]), (&json!("b"), &Value::Null));
        // A slow page is told it all together; one of another server, or of none, from the beginning.
        let news = looks.news(Some(first));
        assert_eq!((news["changed"].as_array().unwrap().len(), &news["gone"]), (2, &Value::Null), "{news}");
        assert_eq!(looks.news(Some(back + 1))["rows"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn another_wait_is_a_change_though_as_many_wait() {
        let mut looks = looks();
        let first = looks.take(0, vec![row("a", "1", 9.0, Some(10.0))], None);
        assert_eq!(looks.take(2, vec![row("a", "1", 7.0, Some(12.3))], None), first, "it waits on");
        assert_ne!(looks.take(4, vec![row("a", "1", 5.0, Some(0.5))], None), first);
        assert_eq!(looks.news(Some(first))["changed"][0]["name"], "a");
    }

    #[test]
    fn a_failure_is_news_and_its_end_too() {
        let mut looks = looks();
        let rows = || vec![row("a", "1", 9.0, None)];
        let first = looks.take(0, rows(), None);
        let failed = looks.take(1, rows(), Some("away"));
        let news = looks.news(Some(first));
        assert_eq!((&news["failure"], &news["changed"]), (&json!("away"), &Value::Null));
        assert_eq!(looks.take(2, rows(), Some("away")), failed);
        let again = looks.take(3, rows(), None);
        assert!(again > failed && looks.news(Some(failed))["failure"].is_null());
    }

    #[test]
    fn a_page_that_is_too_far_behind_is_told_all_again() {
        let mut looks = looks();
        let first =
            looks.take(0, (0..6000).map(|name| row(&name.to_string(), "1", 9.0, None)).collect(), None);
        let second = looks.take(1, vec![row("a", "1", 9.0, None)], None);
        assert_eq!(looks.news(Some(first))["rows"][0]["name"], "a", "6,000 names are not kept for it");
        assert!(looks.news(Some(second))["rows"].is_null());
        assert!(looks.0.gone.len() <= MOST_GONE);
        let most =
            looks.take(2, (0..30_000).map(|name| row(&name.to_string(), "1", 9.0, None)).collect(), None);
        assert!(most > second);
        let news = looks.news(None);
        assert_eq!((&news["names"], news["rows"].as_array().unwrap().len()), (&json!(30_000), MOST_ROWS));
        assert_eq!(looks.0.totals().held["mutex"], 30_000, "the metrics count all");
    }

    #[test]
    fn deadlocks_are_told_when_they_are_others() {
        let mut looks = looks();
        let first = looks.take(0, vec![row("a", "1", 9.0, None)], None);
        assert_eq!(looks.0.take_deadlocks(Vec::new()), first);
        assert_eq!((looks.news(None)["deadlocks"].clone(), looks.0.totals().deadlocks), (json!([]), Some(0)));
        let wait = WaitRow {
            name: "a".into(),
            waiter: "w".into(),
            claim: "1".into(),
            blocker: "b".into(),
            blocked_by: "2".into(),
            held: true,
        };
        let found = looks.0.take_deadlocks(vec![vec![wait.clone()]]);
        assert_eq!(looks.0.take_deadlocks(vec![vec![wait]]), found);
        assert_eq!(looks.news(Some(first))["deadlocks"][0][0]["name"], "a");
        assert!(looks.news(Some(found))["deadlocks"].is_null());
    }
}
