//! What the checker found.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::history::Time;

/// What can be violated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Never more hold than fit.
    Exclusion,
    /// The registers did as they should; one token is one claim's.
    Registers,
    /// No write of an owner that held is refused.
    BelievedWrites,
    /// Tokens rise.
    Tokens,
    /// Who came first is granted first.
    Queue,
    /// A loss is told in time, and a grant has something left.
    Losses,
    /// In calm, nothing is lost.
    Unprovoked,
    /// Whoever asks is answered within the limit.
    Limits,
    /// Nobody waits for a lock that nobody has.
    Progress,
    /// A dead owner's lock goes on to the next.
    Recovery,
    /// Nothing is left at the end.
    Left,
    /// What was to be broken was broken.
    Faults,
}

/// One violation.
#[derive(Clone, Debug, Serialize)]
pub struct Violation {
    /// Of what.
    pub rule: Rule,
    /// Who, when and how.
    pub what: String,
}

/// What was counted in a run, and what was violated.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The store.
    pub store: String,
    /// Grants by sort.
    pub grants: BTreeMap<String, u64>,
    /// How many of the grants were to owners in Python.
    pub to_python: u64,
    /// Acquisitions that were not granted, by reason.
    pub failures: BTreeMap<String, u64>,
    /// Losses that were told, by reason.
    pub losses: BTreeMap<String, u64>,
    /// Of these, the expired leases in calm that pauses of the machine may explain.
    pub paused: u64,
    /// Grants in calm, where no loss is excused.
    pub calm_grants: u64,
    /// The faults that had to bite.
    pub owed: Vec<String>,
    /// Faults by sort: how many bit, and how many did not.
    pub faults: BTreeMap<String, (u64, u64)>,
    /// Writes and looks that the registers served.
    pub writes: u64,
    /// How often the register that takes everything took a write that was too old: what fencing is for.
    pub stale: u64,
    /// Pairs of claims whose order was judged.
    pub pairs: u64,
    /// What looked like a violation while the store may have forgotten what it had granted.
    pub excused: u64,
    /// From the kill of a holder to the next grant, in microseconds, ascending.
    pub recoveries: Vec<Time>,
    /// What was violated.
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
            pairs: 0,
            excused: 0,
            recoveries: Vec::new(),
            violations: Vec::new(),
        }
    }

    pub(super) fn violated(&mut self, rule: Rule, what: String) {
        self.violations.push(Violation { rule, what });
    }

    /// How many grants there were.
    #[must_use]
    pub fn all_grants(&self) -> u64 {
        self.grants.values().sum()
    }

    /// How many losses were told.
    #[must_use]
    pub fn all_losses(&self) -> u64 {
        self.losses.values().sum()
    }

    /// How many faults bit.
    #[must_use]
    pub fn bites(&self) -> u64 {
        self.faults.values().map(|(bit, _)| bit).sum()
    }

    /// Whether a rule is among the violated.
    #[must_use]
    pub fn violates(&self, rule: Rule) -> bool {
        self.violations.iter().any(|violation| violation.rule == rule)
    }

    /// Why the run proves little though nothing was violated; empty if it proves something.
    #[must_use]
    pub fn doubts(&self) -> Vec<&'static str> {
        let mut doubts = Vec::new();
        // Where the kernel ends a dead owner's locks, a stopped one keeps them.
        if self.stale == 0
            && self.store != "file"
            && self.faults.get("owner_stop_long").is_some_and(|bits| bits.0 > 2)
        {
            doubts.push("no write came too late: the faults were too weak");
        }
        if self.writes == 0 {
            doubts.push("no write reached the registers");
        }
        if self.calm_grants == 0 {
            doubts.push("nothing was granted in calm");
        }
        if self.pairs == 0 {
            doubts.push("no pair of claims was seen in its order");
        }
        if self.bites() == 0 {
            doubts.push("no fault bit");
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
            self.bites(),
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
            .map(|(what, (bit, not))| match not {
                0 => format!("{what} {bit}"),
                not => format!("{what} {bit} (and {not} without effect)"),
            })
            .collect();
        writeln!(f, "  faults: {}", faults.join(", "))?;
        if !self.owed.is_empty() {
            writeln!(f, "  had to bite: {}", self.owed.join(", "))?;
        }
        writeln!(
            f,
            "  writes: {}, too late for the control: {}; pairs in order: {}; excused while the store forgot: {}",
            self.writes, self.stale, self.pairs, self.excused
        )?;
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
