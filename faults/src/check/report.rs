//! The checker's report.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::history::Time;

/// A promise that can be violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The holders never exceed the capacity.
    Exclusion,
    /// The registers refuse exactly the old tokens; no two claims use one token.
    Registers,
    /// No write of an owner that held is refused.
    BelievedWrites,
    /// Tokens rise.
    Tokens,
    /// A value is its newest holder's, and no earlier holder writes it.
    Values,
    /// First come, first served.
    Queue,
    /// An owner is notified of a loss in time, and a grant has some time left.
    Losses,
    /// In calm, nothing is lost.
    Unprovoked,
    /// An eviction takes out the very claim that was seen, or none, and its owner is told of it.
    Evictions,
    /// Each call returns within its limit.
    Limits,
    /// No waiter waits for a free lock.
    Progress,
    /// A dead owner's lock is granted to the next waiter in time.
    Recovery,
    /// Nothing is left in the store at the end.
    Left,
    /// Every kind of fault that the run owed took effect.
    Faults,
}

/// One violation.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// The promise.
    pub rule: Rule,
    /// Which claims, when and how.
    pub what: String,
}

/// What was counted in a run, and what was violated.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The store.
    pub store: String,
    /// Grants by kind of lock.
    pub grants: BTreeMap<String, u64>,
    /// The grants to owners in Python.
    pub to_python: u64,
    /// Acquisitions that were not granted, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Losses, by reason.
    pub losses: BTreeMap<String, u64>,
    /// The losses in calm that pauses of the machine may explain.
    pub paused: u64,
    /// Grants in calm, where no loss is excused.
    pub calm_grants: u64,
    /// The kinds of faults that had to take effect.
    pub owed: Vec<String>,
    /// Faults by kind: how many took effect, and how many did not.
    pub faults: BTreeMap<String, (u64, u64)>,
    /// Writes and reads that the registers served.
    pub writes: u64,
    /// How often the control accepted a token that was too old: the damage that fencing prevents.
    pub stale: u64,
    /// Grants with whose value it was judged who had written it.
    pub values: u64,
    /// Writes of values that were answered as written.
    pub values_written: u64,
    /// Writes of values that came too late: the lock was lost.
    pub values_refused: u64,
    /// Evictions, by what they were answered.
    pub evictions: BTreeMap<String, u64>,
    /// How many owners were told of one.
    pub told: u64,
    /// Evictions of a claim that another operator evicted at the same time.
    pub at_once: u64,
    /// Pairs of claims whose order was judged.
    pub pairs: u64,
    /// What would be a violation, but happened while the store may have forgotten what it had granted.
    pub excused: u64,
    /// The times from the kill of a holder to the next grant, in microseconds, ascending.
    pub recoveries: Vec<Time>,
    /// The violations.
    pub violations: Vec<Violation>,
}

impl Report {
    pub(super) fn new(store: &str) -> Self {
        Report {
            store: store.to_owned(),
            grants: BTreeMap::new(),
            to_python: 0,
            failures: BTreeMap::new(),
            losses: BTreeMap::new(),
            paused: 0,
            calm_grants: 0,
            owed: Vec::new(),
            faults: BTreeMap::new(),
            writes: 0,
            stale: 0,
            values: 0,
            values_written: 0,
            values_refused: 0,
            evictions: BTreeMap::new(),
            told: 0,
            at_once: 0,
            pairs: 0,
            excused: 0,
            recoveries: Vec::new(),
            violations: Vec::new(),
        }
    }

    pub(super) fn violated(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, what });
    }

    /// The number of grants.
    #[must_use]
    pub fn all_grants(&self) -> u64 {
        self.grants.values().sum()
    }

    /// The number of losses.
    #[must_use]
    pub fn all_losses(&self) -> u64 {
        self.losses.values().sum()
    }

    /// The number of faults that took effect.
    #[must_use]
    pub fn faults_with_effect(&self) -> u64 {
        self.faults.values().map(|(effective, _)| effective).sum()
    }

    /// Whether this rule was violated.
    #[must_use]
    pub fn violates(&self, rule: Rule) -> bool {
        self.violations.iter().any(|violation| violation.rule == rule)
    }

    /// Why the run proves little although nothing was violated; empty if it proves something.
    #[must_use]
    pub fn doubts(&self) -> Vec<&'static str> {
        let mut doubts = Vec::new();
        // In files there need not be a late write: the kernel ends only a dead owner's locks, so a stopped
        // owner keeps its own.
        if self.stale == 0
            && self.store != "file"
            && self.faults.get("owner_stop_long").is_some_and(|(effective, _)| *effective > 2)
        {
            doubts.push("no write came too late: the faults were too weak");
        }
        if self.writes == 0 {
            doubts.push("no write reached the registers");
        }
        if self.values == 0 {
            doubts.push("no value that came with a grant was judged");
        }
        if !self.evictions.is_empty() && self.told == 0 {
            doubts.push("no owner was told of an eviction");
        }
        if self.calm_grants == 0 {
            doubts.push("nothing was granted in calm");
        }
        if self.pairs == 0 {
            doubts.push("no pair of claims was judged by its order");
        }
        if self.faults_with_effect() == 0 {
            doubts.push("no fault took effect");
        }
        doubts
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} grants, {} faults, {} violations",
            self.store,
            self.all_grants(),
            self.faults_with_effect(),
            self.violations.len()
        )?;
        let list = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(what, count)| format!("{what} {count}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(
            f,
            "  granted: {} ({} to Python, {} in calm); not granted: {}; lost: {}; paused in calm: {}",
            list(&self.grants),
            self.to_python,
            self.calm_grants,
            list(&self.failures),
            list(&self.losses),
            self.paused
        )?;
        let faults: Vec<String> = self
            .faults
            .iter()
            .map(|(kind, (effective, ineffective))| match ineffective {
                0 => format!("{kind} {effective}"),
                ineffective => format!("{kind} {effective} (and {ineffective} without effect)"),
            })
            .collect();
        writeln!(f, "  faults: {}", faults.join(", "))?;
        if !self.owed.is_empty() {
            writeln!(f, "  had to take effect: {}", self.owed.join(", "))?;
        }
        writeln!(
            f,
            "  writes: {}, late in the control: {}; pairs in order: {}; excused while the store forgot: {}",
            self.writes, self.stale, self.pairs, self.excused
        )?;
        writeln!(
            f,
            "  values: {} judged; {} written, {} refused because the lock was lost",
            self.values, self.values_written, self.values_refused
        )?;
        if !self.evictions.is_empty() {
            let (evictions, told, at_once) = (list(&self.evictions), self.told, self.at_once);
            writeln!(f, "  evictions: {evictions}; owners told: {told}; by several at once: {at_once}")?;
        }
        if let (Some(median), Some(worst)) =
            (self.recoveries.get(self.recoveries.len() / 2), self.recoveries.last())
        {
            let milliseconds = |time: &Time| time / 1_000;
            writeln!(
                f,
                "  from a holder's death to the next grant: {} times, median {} ms, worst {} ms",
                self.recoveries.len(),
                milliseconds(median),
                milliseconds(worst)
            )?;
        }
        for doubt in self.doubts() {
            writeln!(f, "  DOUBT: {doubt}")?;
        }
        for violation in &self.violations {
            writeln!(f, "  VIOLATION of {:?}: {}", violation.rule, violation.what)?;
        }
        Ok(())
    }
}
