//! The order of grants.

use std::collections::HashMap;

use super::exclusion::describe;
use super::read::Claim;
use super::{Case, Report, Rule};
use crate::history::{Failure, Mode, ObserverEvent, Time};

/// From when to when a waiter was seen at one position of the queue.
struct Wait<'a> {
    claim: &'a Claim,
    /// Its position in the order of the store.
    fencing_token: u64,
    /// When the first answer that showed it had arrived.
    first: Time,
    /// When the last answer that showed it was requested.
    last: Time,
}

impl Case<'_> {
    /// Tokens rise: a claim that was requested after the owner of another knew of its grant has a higher
    /// token, unless both are shared. No token is given twice.
    ///
    /// Sound under every fault, because tokens come from the store in the order of its grants.
    pub(super) fn tokens(&self, report: &mut Report) {
        for claims in self.names.values() {
            let granted = |claim: &&Claim| claim.granted.map(|grant| (grant.at, grant.fencing_token));
            let mut asked: Vec<&Claim> =
                claims.iter().copied().filter(|claim| claim.granted.is_some()).collect();
            let mut by_grant = asked.clone();
            asked.sort_by_key(|claim| claim.invoked);
            by_grant.sort_by_key(granted);
            let mut known = by_grant.iter().peekable();
            let (mut highest, mut highest_exclusive): (Option<&Claim>, Option<&Claim>) = (None, None);
            let fencing_token = |claim: &Claim| claim.granted.map_or(0, |grant| grant.fencing_token);
            for claim in asked {
                while let Some(earlier) =
                    known.next_if(|other| granted(other).is_some_and(|(at, _)| at < claim.invoked))
                {
                    if highest.is_none_or(|highest| fencing_token(highest) < fencing_token(earlier)) {
                        highest = Some(earlier);
                    }
                    if earlier.is_exclusive()
                        && highest_exclusive
                            .is_none_or(|highest| fencing_token(highest) < fencing_token(earlier))
                    {
                        highest_exclusive = Some(earlier);
                    }
                }
                let earlier = if claim.is_exclusive() { highest } else { highest_exclusive };
                if let Some(earlier) =
                    earlier.filter(|earlier| fencing_token(earlier) >= fencing_token(claim))
                {
                    report.violated(
                        Rule::Tokens,
                        format!("{} and then {}", describe(earlier), describe(claim)),
                    );
                }
            }
            let mut given: HashMap<u64, &Claim> = HashMap::new();
            for claim in by_grant {
                if let Some(other) = given.insert(fencing_token(claim), claim) {
                    report.violated(
                        Rule::Tokens,
                        format!("one token: {} and {}", describe(other), describe(claim)),
                    );
                }
            }
        }
    }

    /// A waiter is granted before a claim that came later.
    ///
    /// Which of two claims came first is known in two ways: one was seen waiting before the other was
    /// requested, or it was requested so much earlier that it must have waited. The second way is judged in
    /// [`Case::starved`].
    ///
    /// Sound: the observer's answer had arrived before the other was requested, so the other came later. A
    /// waiter keeps its position in calm, while its owner runs and the store answers. It has also kept its
    /// position if it is still seen there after the other's grant, whatever happened. Two claims that can
    /// hold at the same time are not judged, because the owner of the first may hear of its grant later than
    /// the owner of the second.
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
                    if other.number == wait.claim.number || wait.claim.is_compatible_with(other) {
                        continue;
                    }
                    let seen_after = grant.at <= wait.last.min(end) && !self.terms.reads_lag;
                    let calm = self.is_calm(wait.first, end.max(grant.at));
                    // Granted after the other one, by the store's own order.
                    let behind =
                        wait.claim.granted.is_some_and(|mine| mine.fencing_token > grant.fencing_token);
                    if seen_after || calm {
                        report.pairs += 1;
                    }
                    let kept = || {
                        // A waiter whose renewals were late is enqueued a second time, behind all others.
                        let since = wait.claim.invoked.saturating_sub(wait.claim.lease);
                        calm && behind && self.was_served(wait.claim, since, end.max(grant.at))
                    };
                    if (seen_after || kept()) && self.is_surely(&wait, claims) {
                        let what = format!(
                            "{} was seen waiting from {} to {}, and overtaken by {}",
                            describe(wait.claim),
                            wait.first,
                            wait.last,
                            describe(other)
                        );
                        report.violated(Rule::Queue, what);
                    }
                }
            }
        }
    }
}

impl Case<'_> {
    /// Whether the observer saw this claim, and not an earlier one of the same owner that was given up and
    /// not removed yet.
    ///
    /// The seen claim was enqueued after every claim with a lower token. If one of those was requested after
    /// the earlier claim had been given up, the seen claim cannot be the earlier one.
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
            let enqueued_before = |other: &&Claim| {
                other.invoked > at
                    && other.granted.is_some_and(|grant| grant.fencing_token < wait.fencing_token)
            };
            wait.first <= at + self.history.lease + self.terms.slack && !claims.iter().any(enqueued_before)
        })
    }

    /// In calm, no claim waits while another is granted that was requested much later.
    fn starved(&self, later: &[&Claim], claims: &[&Claim], report: &mut Report) {
        for claim in claims.iter().filter(|claim| matches!(claim.mode, Mode::Wait(_))) {
            let end = claim.answered().unwrap_or(claim.owner_ended.0);
            // Its owner may hear of its eviction later.
            let end = claim.evicted_from.map_or(end, |from| from.min(end));
            let since = claim.invoked + self.terms.slack;
            let from = later.partition_point(|other| other.invoked <= since);
            let passing = later[from..].iter().take_while(|other| other.invoked < end).filter_map(|other| {
                let at = other.granted?.at;
                (!claim.is_compatible_with(other) && at + self.terms.slack < end).then_some((at, *other))
            });
            let Some((at, other)) = passing.min_by_key(|(at, _)| *at) else { continue };
            // A waiter whose renewals were late is enqueued a second time, behind all others.
            if self.is_calm(claim.invoked, end) && !self.was_late(claim, claim.invoked, at, claim.lease / 8) {
                let what =
                    format!("{} waited until {end}, overtaken by {}", describe(claim), describe(other));
                report.violated(Rule::Queue, what);
            }
        }
    }
}

/// When claims were seen waiting: one [`Wait`] for each position that a claim had in the queue.
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
            // The owner's claims that may have been in the queue: requested before the observer's answer, and
            // not answered before its request. If there are several, it is unknown which one was seen.
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
