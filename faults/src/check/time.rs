//! What came too late, or never.

use std::collections::HashMap;

use super::exclusion::describe;
use super::{Case, Report, Rule};
use crate::history::{Failure, Mode, Time};

impl Case<'_> {
    /// A grant has some time left, and an owner that does not release is notified of the loss in time.
    ///
    /// What must be in the log of a granted claim:
    ///
    /// | the log has | judged |
    /// |---|---|
    /// | a loss | it came by the deadline, at most a lease later than the last one known |
    /// | a release and no loss | nothing |
    /// | neither, and the owner ended as it should | violation |
    /// | neither, and the owner was killed | its last line came by the deadline, in the same way |
    ///
    /// That the notification comes before the store grants the lock again is judged by the rule of exclusion,
    /// because a claim counts as held until its loss or its deadline.
    pub(super) fn losses(&self, report: &mut Report) {
        for claim in &self.history.claims {
            let Some(grant) = claim.granted else { continue };
            let owner = claim.number.owner;
            let (last_line, in_order) = claim.owner_ended;
            let excused = |from, to| self.was_stopped(owner, from, to);
            if grant.until.is_some_and(|until| until <= grant.at)
                && claim.lost.is_none_or(|(lost, _)| lost >= grant.at + self.terms.slack)
                && !excused(claim.invoked, grant.at)
            {
                report.violated(Rule::Losses, format!("granted with no time left: {}", describe(claim)));
            }
            match (claim.lost, claim.released) {
                (Some((lost, _)), _) => {
                    let deadline = grant.last_until.unwrap_or(Time::MAX).saturating_add(self.terms.slack);
                    // Renewals after the last `until` in the log extend it by a lease at most.
                    if lost > deadline.saturating_add(self.history.lease) && !excused(grant.at, lost) {
                        report.violated(
                            Rule::Losses,
                            format!("notified too late, at {lost}: {}", describe(claim)),
                        );
                    }
                }
                (None, None) if in_order => {
                    report.violated(
                        Rule::Losses,
                        format!("neither released nor reported lost: {}", describe(claim)),
                    );
                }
                (None, None) => {
                    let deadline = grant.last_until.unwrap_or(Time::MAX);
                    let late = deadline.saturating_add(self.history.lease + self.terms.slack);
                    if late < last_line && !excused(grant.at, last_line) {
                        report.violated(
                            Rule::Losses,
                            format!("not notified until {last_line}: {}", describe(claim)),
                        );
                    }
                }
                (None, Some(_)) => {}
            }
        }
    }

    /// Each call returns within its own limit plus the store timeout.
    pub(super) fn limits(&self, report: &mut Report) {
        for claim in &self.history.claims {
            let limit = match claim.mode {
                Mode::Try => 0,
                Mode::Wait(limit) | Mode::Cancel(limit) => limit,
            };
            let (last_line, in_order) = claim.owner_ended;
            let end = match claim.answered() {
                Some(answered) => answered,
                None if in_order => {
                    report.violated(Rule::Limits, format!("never answered: {}", describe(claim)));
                    continue;
                }
                None => last_line,
            };
            let allowed = limit
                + self.history.lease
                + self.terms.slack
                + self.stopped(claim.number.owner, claim.invoked, end);
            if end - claim.invoked > allowed {
                report.violated(Rule::Limits, format!("answered at {end}: {}", describe(claim)));
            }
            if matches!((&claim.mode, &claim.failed), (Mode::Cancel(_), Some((_, Failure::TimedOut)))) {
                report.violated(Rule::Limits, format!("timed out before its limit: {}", describe(claim)));
            }
        }
    }

    /// In calm, no claim waits for longer than a lease while the lock is free.
    ///
    /// A claim that was granted counts as using the lock from one slack before its owner knew of the grant,
    /// until its release was answered or its lease must have expired. A claim that was never granted uses
    /// nothing.
    ///
    /// Sound if the slack is long enough for an owner to hear of its grant.
    pub(super) fn progress(&self, report: &mut Report) {
        let allowed = self.history.lease + self.terms.slack;
        for claims in self.names.values() {
            let mut busy: Vec<(Time, Time)> = claims
                .iter()
                .filter_map(|claim| Some((claim, claim.granted?)))
                .map(|(claim, grant)| {
                    let ended = claim.released.or(claim.lost.map(|(at, _)| at));
                    let expired = ended.unwrap_or(claim.owner_ended.0) + self.history.lease;
                    let from = claim.invoked.max(grant.at.saturating_sub(self.terms.slack));
                    (from, claim.release_answered.unwrap_or(expired))
                })
                .collect();
            busy.sort_unstable();
            // The times in which the lock was free.
            let (mut free, mut until) = (Vec::new(), 0);
            for (from, to) in busy {
                if from > until + allowed {
                    free.push((until, from));
                }
                until = until.max(to);
            }
            free.push((until, Time::MAX));
            for claim in claims.iter().filter(|claim| matches!(claim.mode, Mode::Wait(_))) {
                let end = claim.answered().unwrap_or(claim.owner_ended.0);
                let waits = |(from, to): &&(Time, Time)| {
                    end.min(*to).saturating_sub(claim.invoked.max(*from)) > allowed
                };
                // The end of its own wait ends the time for which it is judged.
                if let Some((from, to)) = free.iter().find(waits).filter(|_| self.is_calm(claim.invoked, end))
                {
                    let what = format!("free from {from} to {to}, but not granted to {}", describe(claim));
                    report.violated(Rule::Progress, what);
                }
            }
        }
    }

    /// No owner gets only errors for longer than the consequences of any fault last. The faults themselves do
    /// not count, if they hit this owner or all: how long they last depends on the machine, as when a server
    /// is started three times.
    ///
    /// Sound, because between two faults there is a time in which the store answers.
    pub(super) fn errors(&self, report: &mut Report) {
        let allowed = 6 * self.history.lease + 2 * self.terms.slack;
        let mut since: HashMap<(u32, &str), &super::Claim> = HashMap::new();
        for claim in &self.history.claims {
            let (Some(end), key) = (claim.answered(), (claim.number.owner, claim.name.as_str())) else {
                continue;
            };
            if !matches!(claim.failed, Some((_, Failure::Error(_)))) {
                since.remove(&key);
                continue;
            }
            let first = *since.entry(key).or_insert(claim);
            let hampered = self.hampered(claim.number.owner, first.invoked, end);
            if end - first.invoked > allowed + hampered {
                let what = format!("only errors since {}: {}", first.invoked, describe(claim));
                report.violated(Rule::Progress, what);
                since.remove(&key);
            }
        }
    }

    /// When a holder is killed, a waiter is granted within a lease and the recovery time.
    ///
    /// Judged only where there was no other fault meanwhile, because another fault may delay the grant too.
    pub(super) fn recovery(&self, report: &mut Report) {
        let allowed = self.history.lease + self.terms.recovery;
        for (number, kill) in
            self.history.faults.iter().enumerate().filter(|(_, fault)| fault.kind == "owner_kill")
        {
            let others = |(other, fault): (usize, &super::Fault)| {
                other != number
                    && fault.at <= kill.at + allowed
                    && kill.at <= fault.mended + self.history.lease
            };
            let calm = !self.history.faults.iter().enumerate().any(others);
            for claims in self.names.values() {
                let held = claims.iter().find(|claim| {
                    Some(claim.number.owner) == kill.owner
                        && !claim.owner_ended.1
                        && claim.granted.is_some()
                        && claim.released.is_none()
                        && claim.lost.is_none()
                });
                let Some(held) = held else { continue };
                let waited = |claim: &&&super::Claim| {
                    claim.number.owner != held.number.owner
                        && claim.invoked < kill.at
                        && claim.answered().is_none_or(|answered| answered > kill.at)
                        && !claim.is_compatible_with(held)
                };
                let Some(next) = claims
                    .iter()
                    .filter(waited)
                    .filter_map(|claim| claim.granted)
                    .map(|grant| grant.at)
                    .min()
                else {
                    continue;
                };
                if calm {
                    let after = next - kill.at;
                    report.recoveries.push(after);
                    if after > allowed {
                        report.violated(
                            Rule::Recovery,
                            format!("the next was granted after {after}: {}", describe(held)),
                        );
                    }
                }
            }
        }
        report.recoveries.sort_unstable();
    }
}
