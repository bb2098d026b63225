//! Losses without a fault.

use super::exclusion::describe;
use super::{Case, Claim, Report, Rule};
use crate::history::{Reason, Time};

/// The kind of fault after which a server refuses what takes room, and the stores where it does nothing else.
/// etcd also compacts its history and defragments its files, to make room.
const FULL: (&str, &str) = ("full", "redis");

impl Case<'_> {
    /// In calm, no lock is lost, unless its max hold time has ended. A full Redis is calm here, because it
    /// only refuses what is new.
    ///
    /// A loss in calm is judged by its reason and by when it comes:
    ///
    /// | reason | before the latest `until` | after it |
    /// |---|---|---|
    /// | max hold time | planned | planned |
    /// | expired | violation | violation if owner and store ran all the time, else counted |
    /// | revoked | violation | counted |
    /// | evicted, or any other once it may have been evicted | planned | planned |
    ///
    /// Sound, because the store keeps the claim until that `until`, however long the machine pauses. After
    /// it, an expired lease is a violation only if the owner ran, and the store answered others, during the
    /// whole lease.
    pub(super) fn unprovoked(&self, report: &mut Report) {
        for claim in &self.history.claims {
            let Some(grant) = claim.granted else { continue };
            let Some((lost, reason)) = claim.lost else {
                report.calm_grants += u64::from(self.is_calm(claim.invoked, grant.at));
                continue;
            };
            // Whether it was evicted rightly is judged by the rule of evictions.
            if reason == Reason::Evicted || claim.evicted_from.is_some_and(|from| from <= lost) {
                continue;
            }
            let is_redis = self.history.store.starts_with(FULL.1);
            let is_calm = self.is_calm_but_for(claim.invoked, lost, |fault| is_redis && fault.kind == FULL.0);
            if reason == Reason::MaxHold || !is_calm {
                continue;
            }
            let is_early = grant.last_until.is_none_or(|until| lost < until);
            let from = lost.saturating_sub(claim.lease);
            // Nothing new is granted by a full server, so little is released.
            let is_full = !self.is_calm(claim.invoked, lost);
            let served = || {
                let served = if is_full { Self::was_seen_served } else { Self::was_served };
                claim.invoked <= from && served(self, claim, from, lost)
            };
            if is_early || reason == Reason::Expired && served() {
                let what =
                    format!("there was no fault, but lost at {lost} ({reason:?}): {}", describe(claim));
                report.violated(Rule::Unprovoked, what);
            } else {
                report.paused += 1;
            }
        }
    }

    /// Whether the owner ran, and the store answered, from one time to another. A renewal then had all the
    /// time that it needs.
    ///
    /// A renewal is due after a third of the lease. There and back it passes five processes at most, and each
    /// of them delays it by less than a sixteenth of the lease. In each quarter of the lease the store must
    /// have answered some release.
    pub(super) fn was_served(&self, claim: &Claim, from: Time, to: Time) -> bool {
        !self.was_late(claim, from, to, claim.lease / 16)
            && in_each_quarter(claim, from, to, self.releases(from, to))
    }

    /// The same, if the observer's looks may show it too. In Redis, for which alone this is asked, they do,
    /// because one thread serves all requests in their order, and writes to no disk.
    fn was_seen_served(&self, claim: &Claim, from: Time, to: Time) -> bool {
        let looks = self.history.observed.iter().map(|look| (look.at, look.answered));
        let looks = looks.filter(|(sent, answered)| *sent <= to && from <= *answered);
        let late = claim.lease / 16;
        !self.was_late(claim, from, to, late)
            && !looks.clone().any(|(sent, answered)| answered - sent > late)
            && in_each_quarter(claim, from, to, self.releases(from, to).chain(looks))
    }

    /// Whether the logs show that the owner did not run, or the store did not answer, for longer than `late`.
    /// Up to five such delays may add up on the way of one renewal.
    pub(super) fn was_late(&self, claim: &Claim, from: Time, to: Time, late: Time) -> bool {
        let pauses = self.history.pauses.get(&claim.number.owner).into_iter().flatten();
        let mut pauses = pauses.filter(|(at, length)| from <= *at && at - length <= to);
        pauses.any(|(_, length)| *length > late)
            || self.releases(from, to).any(|(sent, answered)| answered - sent > late)
    }

    /// When releases were requested and answered. They measure the store, because they are writes like
    /// renewals and pass the same processes.
    fn releases(&self, from: Time, to: Time) -> impl Iterator<Item = (Time, Time)> {
        let releases =
            self.history.claims.iter().filter_map(|claim| Some((claim.released?, claim.release_answered?)));
        releases.filter(move |(sent, answered)| *sent <= to && from <= *answered)
    }
}

/// Whether some request was sent and answered in each quarter of the claim's lease.
fn in_each_quarter(claim: &Claim, from: Time, to: Time, answers: impl Iterator<Item = (Time, Time)>) -> bool {
    let quarter = (claim.lease / 4).max(1);
    let mut answered = vec![false; usize::try_from((to - from) / quarter).unwrap_or(usize::MAX).max(1)];
    for (sent, at) in answers {
        if let (Some(since), true) = (sent.checked_sub(from), at <= to)
            && let Some(quarter) = answered.get_mut(usize::try_from(since / quarter).unwrap_or(usize::MAX))
        {
            *quarter = true;
        }
    }
    answered.iter().all(|answered| *answered)
}
