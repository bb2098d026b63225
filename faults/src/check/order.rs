//! Who was granted before whom.

use std::collections::HashMap;

use super::exclusion::told;
use super::read::Claim;
use super::{Case, Report, Rule};
use crate::history::{Failure, Mode, ObserverEvent, Time};

/// When a claim was seen to wait in one place of the queue.
struct Wait<'a> {
    claim: &'a Claim,
    /// Its place.
    fencing_token: u64,
    /// When the answer was there that showed it first.
    first: Time,
    /// When the last answer was asked for that showed it.
    last: Time,
}

impl Case<'_> {
    /// Tokens rise: whoever asked after another had been told of its grant has a higher one, unless both share; and no
    /// token is given twice.
    ///
    /// Sound under every fault: tokens come from the store, whose order is that of the grants.
    pub(super) fn tokens(&self, report: &mut Report) {
        for claims in self.names.values() {
            let granted = |claim: &&Claim| claim.granted.map(|grant| (grant.at, grant.fencing_token));
            let mut asked: Vec<&Claim> =
                claims.iter().copied().filter(|claim| claim.granted.is_some()).collect();
            let mut told_of = asked.clone();
            asked.sort_by_key(|claim| claim.invoked);
            told_of.sort_by_key(granted);
            let mut known = told_of.iter().peekable();
            let (mut highest, mut highest_alone): (Option<&Claim>, Option<&Claim>) = (None, None);
            let fencing_token = |claim: &Claim| claim.granted.map_or(0, |grant| grant.fencing_token);
            for claim in asked {
                while let Some(earlier) =
                    known.next_if(|other| granted(other).is_some_and(|(at, _)| at < claim.invoked))
                {
                    if highest.is_none_or(|highest| fencing_token(highest) < fencing_token(earlier)) {
                        highest = Some(earlier);
                    }
                    if earlier.is_exclusive()
                        && highest_alone.is_none_or(|highest| fencing_token(highest) < fencing_token(earlier))
                    {
                        highest_alone = Some(earlier);
                    }
                }
                let earlier = if claim.is_exclusive() { highest } else { highest_alone };
                if let Some(earlier) =
                    earlier.filter(|earlier| fencing_token(earlier) >= fencing_token(claim))
                {
                    report.violated(Rule::Tokens, format!("{} and then {}", told(earlier), told(claim)));
                }
            }
            let mut given: HashMap<u64, &Claim> = HashMap::new();
            for claim in told_of {
                if let Some(other) = given.insert(fencing_token(claim), claim) {
                    report.violated(Rule::Tokens, format!("one token: {} and {}", told(other), told(claim)));
                }
            }
        }
    }

    /// Who was seen waiting before another asked, or asked so much before that it must have waited, is granted before
    /// it.
    ///
    /// Sound: the onlooker's answer was complete before the other asked, so it came later. In calm, places are kept
    /// while owners run and the store answers; and one that is still seen in the same place after the other's grant
    /// has kept it in any case. Pairs that may hold together are not judged, as a grant is told to one sooner than to
    /// another.
    pub(super) fn queue(&self, report: &mut Report) {
        for (name, claims) in &self.names {
            let seen: Vec<&ObserverEvent> =
                self.history.observed.iter().filter(|event| event.name == *name).collect();
            let mut later: Vec<&Claim> =
                claims.iter().copied().filter(|claim| claim.granted.is_some()).collect();
            later.sort_by_key(|claim| claim.invoked);
            self.starved(&later, claims, report);
            for wait in waits(claims, &seen) {
                let end = wait.claim.answered().unwrap_or(wait.last);
                let from = later.partition_point(|claim| claim.invoked <= wait.first);
                for other in later[from..].iter().take_while(|other| other.invoked < end) {
                    let Some(grant) = other.granted else { continue };
                    if other.number == wait.claim.number || wait.claim.goes_with(other) {
                        continue;
                    }
                    let seen_after = grant.at <= wait.last.min(end) && self.history.store != "zookeeper-3";
                    let calm = self.is_calm(wait.first, end.max(grant.at));
                    // Known to have kept its place until it was granted.
                    let behind =
                        wait.claim.granted.is_some_and(|mine| mine.fencing_token > grant.fencing_token);
                    if seen_after || calm {
                        report.pairs += 1;
                    }
                    let kept = || {
                        // A waiter whose renewals were late joins a second time, behind all others.
                        let since = wait.claim.invoked.saturating_sub(wait.claim.lease);
                        calm && behind && self.was_served(wait.claim, since, end.max(grant.at))
                    };
                    if (seen_after || kept()) && self.is_surely(&wait, claims) {
                        let what = format!(
                            "{} was seen waiting from {} to {}, and overtaken by {}",
                            told(wait.claim),
                            wait.first,
                            wait.last,
                            told(other)
                        );
                        report.violated(Rule::Queue, what);
                    }
                }
            }
        }
    }
}

impl Case<'_> {
    /// Whether it was this claim that was seen, and not an earlier one of its owner that was given up and still there.
    ///
    /// The claim that was seen joined after every claim with a lower token; if one of those was asked for after the
    /// earlier one had been given up, it was not the earlier one.
    fn is_surely(&self, wait: &Wait<'_>, claims: &[&Claim]) -> bool {
        let (seen, owner) = (wait.claim, wait.claim.number.owner);
        if seen.granted.is_some_and(|grant| grant.fencing_token == wait.fencing_token) {
            return true;
        }
        let given_up =
            claims.iter().filter(|other| other.number.owner == owner && other.invoked < seen.invoked);
        let mut given_up = given_up.filter_map(|other| match &other.failed {
            Some((at, failure)) if *failure != Failure::Refused => Some(*at),
            _ => None,
        });
        !given_up.any(|at| {
            let joined_before = |other: &&Claim| {
                other.invoked > at
                    && other.granted.is_some_and(|grant| grant.fencing_token < wait.fencing_token)
            };
            wait.first <= at + self.history.lease + self.terms.slack && !claims.iter().any(joined_before)
        })
    }

    /// In calm, nobody waits while others are granted who asked much later.
    fn starved(&self, later: &[&Claim], claims: &[&Claim], report: &mut Report) {
        for claim in claims.iter().filter(|claim| matches!(claim.mode, Mode::Wait(_))) {
            let end = claim.answered().unwrap_or(claim.owner_ended.0);
            let since = claim.invoked + self.terms.slack;
            let from = later.partition_point(|other| other.invoked <= since);
            let passing = later[from..].iter().take_while(|other| other.invoked < end).filter_map(|other| {
                let at = other.granted?.at;
                (!claim.goes_with(other) && at + self.terms.slack < end).then_some((at, *other))
            });
            let Some((at, other)) = passing.min_by_key(|(at, _)| *at) else { continue };
            // A waiter whose renewals were late joins a second time, behind all others.
            if self.is_calm(claim.invoked, end) && !self.was_late(claim, claim.invoked, at, claim.lease / 8) {
                let what = format!("{} waited until {end}, overtaken by {}", told(claim), told(other));
                report.violated(Rule::Queue, what);
            }
        }
    }
}

/// The times that claims were seen to wait, each place in the queue apart.
fn waits<'a>(claims: &[&'a Claim], seen: &[&ObserverEvent]) -> Vec<Wait<'a>> {
    let mut by_owner: HashMap<u32, Vec<&Claim>> = HashMap::new();
    for claim in claims {
        by_owner.entry(claim.number.owner).or_default().push(claim);
    }
    let mut waits: HashMap<(&str, u64), Wait<'_>> = HashMap::new();
    for event in seen {
        for entry in event.queue.iter().filter(|entry| !entry.held) {
            let (Some(id), Some(label)) = (&entry.id, &entry.label) else { continue };
            if let Some(wait) = waits.get_mut(&(id.as_str(), entry.fencing_token)) {
                wait.last = event.at;
                continue;
            }
            let owner = label.strip_prefix("owner-").and_then(|number| number.parse().ok());
            let Some(claims) = owner.and_then(|owner| by_owner.get(&owner)) else { continue };
            // Asked before the answer, and not answered before the question: of one owner's, one at most, or the
            // sighting does not say which.
            let asked = claims.partition_point(|claim| claim.invoked <= event.answered);
            let mut fits = claims[..asked]
                .iter()
                .rev()
                .take(3)
                .filter(|claim| claim.answered().is_none_or(|answered| answered >= event.at));
            if let (Some(claim), None) = (fits.next(), fits.next()) {
                waits.insert(
                    (id, entry.fencing_token),
                    Wait { claim, fencing_token: entry.fencing_token, first: event.answered, last: event.at },
                );
            }
        }
    }
    waits.into_values().collect()
}
