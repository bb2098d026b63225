//! Which claims held at the same time, and what the registers saw of that.

use std::collections::HashMap;

use super::read::Claim;
use super::{Case, Report, Rule};
use crate::history::{ClaimNumber, Time};
use crate::registers::Registers;

impl Case<'_> {
    /// The permits of the claims that surely hold a name never exceed the smallest capacity among them.
    ///
    /// Sound, because a claim counts only from the moment when its owner knew of the grant until the first
    /// sign that the hold may have ended. Meanwhile the lock was its owner's.
    pub(super) fn exclusion(&self, report: &mut Report) {
        for (name, claims) in &self.names {
            let mut events: Vec<(Time, bool, usize)> = Vec::new();
            for (position, claim) in claims.iter().enumerate() {
                if let Some((from, to)) = claim.surely_held() {
                    events.push((from, true, position));
                    events.push((to, false, position));
                }
            }
            // At the same time, ends (`false`) sort before beginnings: such claims do not overlap.
            events.sort_unstable();
            let mut holding: Vec<&Claim> = Vec::new();
            for (at, begins, position) in events {
                let claim = claims[position];
                if !begins {
                    holding.retain(|other| other.number != claim.number);
                    continue;
                }
                holding.push(claim);
                let count: u64 = holding.iter().map(|claim| u64::from(claim.permits.count)).sum();
                let capacity = holding.iter().map(|claim| claim.permits.capacity).min().unwrap_or(0);
                if count <= u64::from(capacity) {
                    continue;
                }
                if self.is_excused(at) {
                    report.excused += 1;
                } else {
                    let holders: Vec<String> = holding.iter().map(|claim| describe(claim)).collect();
                    report.violated(Rule::Exclusion, format!("{name:?} at {at}: {}", holders.join(" and ")));
                }
            }
        }
    }

    /// The register refused exactly the tokens that were too old, and no two claims used the same token.
    ///
    /// Sound, because the register's log is in the order in which it served.
    pub(super) fn registers(&self, report: &mut Report) {
        let mut registers = Registers::default();
        let mut owners: HashMap<(&str, u64), ClaimNumber> = HashMap::new();
        for event in &self.history.registered {
            report.writes += 1;
            report.stale += u64::from(event.stale);
            let accepted = registers.serve(&event.name, event.fencing_token, event.exclusive);
            if accepted != event.accepted || event.stale == event.accepted {
                report.violated(Rule::Registers, format!("the register at {} served {event:?}", event.at));
            }
            let owner = *owners.entry((&event.name, event.fencing_token)).or_insert(event.by);
            if owner != event.by {
                let what = format!(
                    "token {} of {:?}: {owner:?} and {:?}",
                    event.fencing_token, event.name, event.by
                );
                report.violated(Rule::Registers, what);
            }
        }
    }

    /// No write was refused of an owner that held throughout.
    ///
    /// Sound, because a lost claim is never held again: an owner that held before and after the write also
    /// held in between.
    pub(super) fn believed_writes(&self, report: &mut Report) {
        for claim in &self.history.claims {
            // The owner of an evicted claim may not have heard of that yet.
            let believed = |at: &&Time| claim.evicted_from.is_none_or(|from| **at < from);
            for &at in claim.refused.iter().filter(believed) {
                if self.is_excused(at) {
                    report.excused += 1;
                } else {
                    report.violated(Rule::BelievedWrites, format!("refused at {at}: {}", describe(claim)));
                }
            }
        }
    }
}

/// Describes a claim to people.
pub(super) fn describe(claim: &Claim) -> String {
    let ClaimNumber { owner, claim: number } = claim.number;
    let (from, to) = claim.surely_held().unwrap_or((0, 0));
    let grant = claim.granted.map_or(String::new(), |grant| format!(" with token {}", grant.fencing_token));
    format!(
        "owner {owner}'s claim {number} ({}/{} of {:?}, asked at {}, held {from} to {to}{grant})",
        claim.permits.count, claim.permits.capacity, claim.name, claim.invoked
    )
}
