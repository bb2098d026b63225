//! Losses that nothing provoked.

use super::exclusion::told;
use super::{Case, Claim, Report, Rule};
use crate::history::{Reason, Time};

impl Case<'_> {
    /// In calm, nobody is told that it has lost a lock, but for the end of its longest hold.
    ///
    /// Sound: until the time that an owner was told of, the store keeps the claim whatever the machine's pauses are.
    /// After it an expired lease is blamed only if the owner ran all the while and the store answered others all the
    /// while.
    pub(super) fn unprovoked(&self, report: &mut Report) {
        for claim in &self.history.claims {
            let Some(grant) = claim.granted else { continue };
            let Some((lost, reason)) = claim.lost else {
                report.calm_grants += u64::from(self.is_calm(claim.invoked, grant.at));
                continue;
            };
            if reason == Reason::MaxHold || !self.is_calm(claim.invoked, lost) {
                continue;
            }
            let is_early = grant.last_until.is_none_or(|until| lost < until);
            let from = lost.saturating_sub(claim.lease);
            let served = || claim.invoked <= from && self.was_served(claim, from, lost);
            if is_early || reason == Reason::Expired && served() {
                let what =
                    format!("nothing was broken, and yet lost at {lost} ({reason:?}): {}", told(claim));
                report.violated(Rule::Unprovoked, what);
            } else {
                report.paused += 1;
            }
        }
    }

    /// Whether an owner ran, and the store answered, from one time to another: a renewal then had all the time that it
    /// needs.
    ///
    /// A renewal that is due after a third of the lease passes five processes at most on its way and back, and each
    /// is late by less than a sixteenth of the lease. In each quarter of a lease somebody has to have been answered.
    pub(super) fn was_served(&self, claim: &Claim, from: Time, to: Time) -> bool {
        if self.was_late(claim, from, to, claim.lease / 16) {
            return false;
        }
        let quarter = (claim.lease / 4).max(1);
        let mut answered = vec![false; usize::try_from((to - from) / quarter).unwrap_or(usize::MAX).max(1)];
        for (sent, told) in self.departures(from, to) {
            if let (Some(since), true) = (sent.checked_sub(from), told <= to)
                && let Some(quarter) =
                    answered.get_mut(usize::try_from(since / quarter).unwrap_or(usize::MAX))
            {
                *quarter = true;
            }
        }
        answered.iter().all(|answered| *answered)
    }

    /// Whether an owner was seen not to run, or the store not to answer, for longer than `late`. Five such delays may
    /// add up on the way of one renewal.
    pub(super) fn was_late(&self, claim: &Claim, from: Time, to: Time, late: Time) -> bool {
        let pauses = self.history.pauses.get(&claim.number.owner).into_iter().flatten();
        let mut pauses = pauses.filter(|(at, length)| from <= *at && at - length <= to);
        pauses.any(|(_, length)| *length > late)
            || self.departures(from, to).any(|(sent, told)| told - sent > late)
    }

    /// When releases were asked for and answered, which are written by the store, and pass the same way as renewals.
    fn departures(&self, from: Time, to: Time) -> impl Iterator<Item = (Time, Time)> {
        let departures =
            self.history.claims.iter().filter_map(|claim| Some((claim.released?, claim.departed?)));
        departures.filter(move |(sent, told)| *sent <= to && from <= *told)
    }
}
