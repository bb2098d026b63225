//! Numbers for Prometheus. Their labels are few and known, and never have a lock's name.
//!
//! What is seen of a store is called otherwise than what the owners of locks count of themselves, because a
//! sum over both would count each lock twice.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::changes::Totals;
use super::watcher::Watcher;

/// What the server counts of itself.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) viewers: AtomicUsize,
    requests: AtomicU64,
    refused: AtomicU64,
    broken: [AtomicU64; OUTCOMES.len()],
}

/// What becomes of a claim that is to be broken.
const OUTCOMES: [&str; 5] = ["broken", "gone", "granted", "failed", "unknown"];

impl Counts {
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that the gate has turned away.
    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_broken(&self, outcome: &str) {
        if let Some(index) = OUTCOMES.iter().position(|known| *known == outcome) {
            self.broken[index].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The modes that every answer has, so that a series that is 0 does not vanish.
const MODES: [&str; 4] = ["mutex", "permits", "read", "write"];

/// The text that Prometheus reads.
///
/// Where the last look has failed, or this one is late, what it would have told is left out, because a number
/// that may be wrong is worse than none.
pub(super) fn text(watcher: &Watcher, counts: &Counts, is_late: bool) -> String {
    let mut page = Page::default();
    let (took, is_up, totals) = {
        let snapshot = watcher.snapshot();
        let is_up = !is_late && snapshot.failure().is_none() && snapshot.took().is_some();
        (snapshot.took(), is_up, snapshot.totals())
    };
    page.one("store_up", "gauge", "Whether the store has told all at the last look.", u8::from(is_up));
    if let Some(took) = took {
        page.one(
            "store_listing_seconds",
            "gauge",
            "How long the last look at all names took.",
            took.as_secs_f64(),
        );
    }
    if is_up {
        page.totals(&totals);
    }
    let load = |number: &AtomicU64| number.load(Ordering::Relaxed);
    let viewers = counts.viewers.load(Ordering::Relaxed);
    page.one("serve_viewers", "gauge", "How many pages follow the locks.", viewers);
    page.one("serve_requests_total", "counter", "How many requests have come.", load(&counts.requests));
    page.one(
        "serve_refused_total",
        "counter",
        "How many requests were turned away: no secret, or another host or site.",
        load(&counts.refused),
    );
    page.head("serve_breaks_total", "counter", "How often a claim was to be broken, by what became of it.");
    for (outcome, number) in OUTCOMES.iter().zip(&counts.broken) {
        page.value("serve_breaks_total", Some(("outcome", outcome)), load(number));
    }
    page.text
}

#[derive(Default)]
struct Page {
    text: String,
}

impl Page {
    fn totals(&mut self, totals: &Totals) {
        self.one("store_names", "gauge", "How many names have a claim.", totals.names);
        self.modes("store_held", "How many claims hold a lock, by the lock's mode.", &totals.held);
        self.modes("store_waiting", "How many claims wait for a lock, by the lock's mode.", &totals.waiting);
        self.one(
            "store_stale",
            "gauge",
            "How many locks have a holder without a sign of life for half its lease.",
            totals.stale,
        );
        self.one("store_foreign", "gauge", "How many locks another program holds.", totals.foreign);
        if let Some(deadlocks) = totals.deadlocks {
            self.one(
                "store_deadlocks",
                "gauge",
                "How many circles of owners wait for each other.",
                deadlocks,
            );
        }
        self.one("store_oldest_hold_seconds", "gauge", "The longest hold of a lock.", totals.oldest_hold);
        self.one("store_oldest_wait_seconds", "gauge", "The longest wait for a lock.", totals.oldest_wait);
    }

    fn modes(&mut self, metric: &str, help: &str, numbers: &BTreeMap<&'static str, usize>) {
        self.head(metric, "gauge", help);
        for mode in MODES {
            self.value(metric, Some(("mode", mode)), numbers.get(mode).copied().unwrap_or_default());
        }
    }

    fn one(&mut self, metric: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.head(metric, kind, help);
        self.value(metric, None, value);
    }

    fn head(&mut self, metric: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP globallock_{metric} {help}\n# TYPE globallock_{metric} {kind}");
    }

    fn value(&mut self, metric: &str, label: Option<(&str, &str)>, value: impl std::fmt::Display) {
        let label = label.map(|(label, value)| format!("{{{label}=\"{value}\"}}")).unwrap_or_default();
        let _ = writeln!(self.text, "globallock_{metric}{label} {value}");
    }
}
