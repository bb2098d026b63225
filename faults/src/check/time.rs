//! What was told too late, or never.

use std::collections::HashMap;

use super::exclusion::told;
use super::{Case, Report, Rule};
use crate::history::{Failure, Mode, Time};

impl Case<'_> {
    /// Whoever was granted had something left of it, and was told when it was over, if it did not give it back.
    ///
    /// That the loss was told before the store granted anew is the rule of exclusion's affair: until it is told, and the
    /// deadline has come, the claim counts as held.
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
                report.violated(Rule::Losses, format!("granted with nothing left: {}", told(claim)));
            }
            match (claim.lost, claim.released) {
                (Some((lost, _)), _) => {
                    let deadline = grant.last_until.unwrap_or(Time::MAX).saturating_add(self.terms.slack);
                    // Renewals after the last look of the log put it off by a lease at most.
                    if lost > deadline.saturating_add(self.history.lease) && !excused(grant.at, lost) {
                        report.violated(Rule::Losses, format!("told at {lost}: {}", told(claim)));
                    }
                }
                (None, None) if in_order => {
                    report
                        .violated(Rule::Losses, format!("neither given back nor told lost: {}", told(claim)));
                }
                (None, None) => {
                    let deadline = grant.last_until.unwrap_or(Time::MAX);
                    let late = deadline.saturating_add(self.history.lease + self.terms.slack);
                    if late < last_line && !excused(grant.at, last_line) {
                        report
                            .violated(Rule::Losses, format!("never told until {last_line}: {}", told(claim)));
                    }
                }
                (None, Some(_)) => {}
            }
        }
    }

    /// Whoever asked was answered within the time that it gave, and the patience with a silent store.
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
                    report.violated(Rule::Limits, format!("never answered: {}", told(claim)));
                    continue;
                }
                None => last_line,
            };
            let allowed = limit
                + self.history.lease
                + self.terms.slack
                + self.stopped(claim.number.owner, claim.invoked, end);
            if end - claim.invoked > allowed {
                report.violated(Rule::Limits, format!("answered at {end}: {}", told(claim)));
            }
            if matches!((&claim.mode, &claim.failed), (Mode::Cancel(_), Some((_, Failure::TimedOut)))) {
                report.violated(Rule::Limits, format!("out of time before its time: {}", told(claim)));
            }
        }
    }

    /// In calm, nobody waits for longer than a lease while nobody has anything of the lock.
    ///
    /// Sound as far as the slack is enough to tell an owner of its grant: a claim is taken to have the lock from so long
    /// before it was told, until its departure was answered or its lease must be over; whoever only waited has nothing.
    pub(super) fn progress(&self, report: &mut Report) {
        let allowed = self.history.lease + self.terms.slack;
        for claims in self.names.values() {
            let mut busy: Vec<(Time, Time)> = claims
                .iter()
                .filter_map(|claim| Some((claim, claim.granted?)))
                .map(|(claim, grant)| {
                    let over =
                        claim.released.or(claim.lost.map(|(at, _)| at)).map(|over| over + self.history.lease);
                    let known = claim.departed.or(over);
                    let from = claim.invoked.max(grant.at.saturating_sub(self.terms.slack));
                    (from, known.unwrap_or(claim.owner_ended.0 + self.history.lease))
                })
                .collect();
            busy.sort_unstable();
            // From when to when nobody had it.
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
                // Its own grant ends what it is judged by.
                if let Some((from, to)) = free.iter().find(waits).filter(|_| self.is_calm(claim.invoked, end))
                {
                    let what = format!("nobody had it from {from} to {to}, and yet waited {}", told(claim));
                    report.violated(Rule::Progress, what);
                }
            }
        }
    }

    /// Nobody is told nothing but errors for longer than any fault and what follows it last.
    ///
    /// Sound: between two faults there is a moment in which the store answers.
    pub(super) fn errors(&self, report: &mut Report) {
        let allowed = 6 * self.history.lease + 2 * self.terms.slack;
        let mut since: HashMap<(u32, &str), &super::Claim> = HashMap::new();
        for claim in &self.history.claims {
            let (Some(end), place) = (claim.answered(), (claim.number.owner, claim.name.as_str())) else {
                continue;
            };
            if !matches!(claim.failed, Some((_, Failure::Error(_)))) {
                since.remove(&place);
                continue;
            }
            let first = *since.entry(place).or_insert(claim);
            let stopped = self.stopped(claim.number.owner, first.invoked, end);
            if end - first.invoked > allowed + stopped {
                let what = format!("nothing but errors since {}: {}", first.invoked, told(claim));
                report.violated(Rule::Progress, what);
                since.remove(&place);
            }
        }
    }

    /// Once a holder is killed, one who waited is granted within the lease and a little.
    ///
    /// Judged where nothing else was broken meanwhile, since that may cost its own time.
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
                        && !claim.goes_with(held)
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
                            format!("the next was granted after {after}: {}", told(held)),
                        );
                    }
                }
            }
        }
        report.recoveries.sort_unstable();
    }
}
