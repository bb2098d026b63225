//! The checker: reads the logs of a run, and reports which promises they refute.
//!
//! Each rule is sound: a lock that keeps its promises can never produce what the rule flags, however long the
//! machine pauses. What cannot be judged because of a fault at that time is counted, so that the report shows
//! it.

mod evictions;
mod exclusion;
mod loss;
mod order;
mod pass;
mod read;
mod report;
mod time;
mod values;

use std::collections::BTreeMap;

pub use self::pass::Pass;
pub use self::read::History;
pub use self::report::{Report, Rule, Violation};
pub use crate::history::Terms;

use self::read::{Claim, Fault};
use crate::history::{Failure, Time};

/// What the rules judge.
struct Case<'a> {
    history: &'a History,
    terms: Terms,
    names: BTreeMap<&'a str, Vec<&'a Claim>>,
}

/// Judges a run by the terms in its logs.
#[must_use]
pub fn check(history: &History) -> Report {
    let terms = history.terms;
    let mut names: BTreeMap<&str, Vec<&Claim>> = BTreeMap::new();
    for claim in &history.claims {
        names.entry(&claim.name).or_default().push(claim);
    }
    let case = Case { history, terms, names };
    let mut report = Report::new(&history.store);
    report.owed.clone_from(&history.owed);
    case.count(&mut report);
    case.exclusion(&mut report);
    case.registers(&mut report);
    case.believed_writes(&mut report);
    case.tokens(&mut report);
    case.values(&mut report);
    case.queue(&mut report);
    case.losses(&mut report);
    case.unprovoked(&mut report);
    case.evictions(&mut report);
    case.limits(&mut report);
    case.progress(&mut report);
    case.errors(&mut report);
    case.recovery(&mut report);
    case.end(&mut report);
    report
}

impl Case<'_> {
    /// Whether the store may have forgotten at this time what it had granted.
    fn is_excused(&self, at: Time) -> bool {
        self.is_excused_between(at, at)
    }

    /// Whether it may have forgotten it at some time between the two.
    fn is_excused_between(&self, from: Time, to: Time) -> bool {
        let after = self.history.lease + self.terms.slack;
        self.history
            .faults
            .iter()
            .any(|fault| fault.forgets && fault.at <= to && from <= fault.mended + after)
    }

    /// How long an owner was stopped between two times.
    fn stopped(&self, owner: u32, from: Time, to: Time) -> Time {
        let stops = self.history.faults.iter().filter(|fault| fault.stopped(owner));
        stops.map(|stop| stop.mended.min(to).saturating_sub(stop.at.max(from))).sum()
    }

    /// For how long between two times there was a fault that hit this owner, or all of them.
    fn hampered(&self, owner: u32, from: Time, to: Time) -> Time {
        let hits = self.history.faults.iter().filter(|fault| fault.owner.is_none_or(|hit| hit == owner));
        let mut spans: Vec<_> = hits.map(|fault| (fault.at.max(from), fault.mended.min(to))).collect();
        spans.sort_unstable();
        let mut counted = from;
        let mut each = |(begin, end): (Time, Time)| {
            let more = end.saturating_sub(begin.max(counted));
            counted = counted.max(end);
            more
        };
        spans.into_iter().map(&mut each).sum()
    }

    /// Whether an owner was stopped at some time between the two.
    fn was_stopped(&self, owner: u32, from: Time, to: Time) -> bool {
        // After SIGCONT it takes a moment until the process runs.
        let near = |fault: &Fault| fault.at <= to && from <= fault.mended + 100_000;
        self.history.faults.iter().any(|fault| fault.stopped(owner) && near(fault))
    }

    /// Whether there was no fault between two times, nor within two leases and the slack before.
    fn is_calm(&self, from: Time, to: Time) -> bool {
        self.is_calm_but_for(from, to, |_| false)
    }

    /// The same, but for faults that do not count.
    fn is_calm_but_for(&self, from: Time, to: Time, harmless: impl Fn(&Fault) -> bool) -> bool {
        let after = 2 * self.history.lease + self.terms.slack;
        let near = |fault: &Fault| fault.at <= to && from <= fault.mended + after;
        !self.history.faults.iter().any(|fault| near(fault) && !harmless(fault))
    }

    fn count(&self, report: &mut Report) {
        for claim in &self.history.claims {
            let kind = format!("{:?}", claim.kind).to_lowercase();
            if claim.granted.is_some() {
                *report.grants.entry(kind).or_default() += 1;
                report.to_python += u64::from(claim.is_pythons);
            }
            if let Some((_, failure)) = &claim.failed {
                let name = match failure {
                    Failure::Refused => "refused",
                    Failure::TimedOut => "timed_out",
                    Failure::Cancelled => "cancelled",
                    Failure::Evicted(_) => "evicted",
                    Failure::Error(_) => "error",
                };
                *report.failures.entry(name.to_owned()).or_default() += 1;
            }
            if let Some((_, reason)) = claim.lost {
                *report.losses.entry(format!("{reason:?}").to_lowercase()).or_default() += 1;
            }
        }
        for fault in &self.history.faults {
            let (effective, ineffective) = report.faults.entry(fault.kind.clone()).or_default();
            *(if fault.took_effect { effective } else { ineffective }) += 1;
        }
    }

    /// The run ended as it should, and left nothing in the store.
    fn end(&self, report: &mut Report) {
        match &self.history.left {
            Some(left) if left.is_empty() => {}
            Some(left) => report.violated(Rule::Left, format!("still in the store: {}", left.join(", "))),
            None => report.violated(Rule::Left, "the store was not checked for what is left".to_owned()),
        }
        if !self.history.is_complete {
            let why = self.history.interrupted.as_deref().unwrap_or("for an unknown reason");
            report.violated(Rule::Left, format!("the run did not come to its end: {why}"));
        }
        // A run that was cut short already has its violation: what it owes beside that is not judged.
        for kind in self.history.owed.iter().filter(|_| self.history.is_complete) {
            if report.faults.get(kind).is_none_or(|(effective, _)| *effective == 0) {
                let what = format!("{kind} never took effect on {}", report.store);
                report.violated(Rule::Faults, what);
            }
        }
    }
}
