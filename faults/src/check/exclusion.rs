//! Who held together, and what the registers saw of it.

use std::collections::HashMap;

use super::read::Claim;
use super::{Case, Report, Rule};
use crate::history::{ClaimNumber, Time};
use crate::registers::Registers;

impl Case<'_> {
    /// Never more surely hold a name than fit the smallest capacity among them.
    ///
    /// Sound: a claim counts only from when its owner had been told of the grant until the first sign that it might be
    /// over, so whoever counts was entitled to be alone.
    pub(super) fn exclusion(&self, report: &mut Report) {
        for (name, claims) in &self.names {
            let mut events: Vec<(Time, bool, usize)> = Vec::new();
            for (position, claim) in claims.iter().enumerate() {
                if let Some((from, to)) = claim.surely() {
                    events.push((from, true, position));
                    events.push((to, false, position));
                }
            }
            // Who ends at a time is gone for who begins at it.
            events.sort_unstable();
            let mut holding: Vec<&Claim> = Vec::new();
            for (at, begins, position) in events {
                let claim = claims[position];
                if !begins {
                    holding.retain(|other| other.number != claim.number);
                    continue;
                }
                holding.push(claim);
                let weight: u64 = holding.iter().map(|claim| u64::from(claim.weight)).sum();
                let capacity = holding.iter().map(|claim| claim.capacity).min().unwrap_or(0);
                if weight <= u64::from(capacity) {
                    continue;
                }
                if self.is_excused(at) {
                    report.excused += 1;
                } else {
                    let who: Vec<String> = holding.iter().map(|claim| told(claim)).collect();
                    report.violated(Rule::Exclusion, format!("{name:?} at {at}: {}", who.join(" and ")));
                }
            }
        }
    }

    /// The registers refused what was too old and nothing else, and no token was two claims'.
    ///
    /// Sound: the register's log is in the order in which it served.
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

    /// No write was refused of an owner that held all the while.
    ///
    /// Sound: what is lost is never held again, so who held before and after the write held meanwhile.
    pub(super) fn believed_writes(&self, report: &mut Report) {
        for claim in &self.history.claims {
            for &at in &claim.refused {
                if self.is_excused(at) {
                    report.excused += 1;
                } else {
                    report.violated(Rule::BelievedWrites, format!("refused at {at}: {}", told(claim)));
                }
            }
        }
    }
}

/// A claim, for people.
pub(super) fn told(claim: &Claim) -> String {
    let ClaimNumber { owner, claim: number } = claim.number;
    let (from, to) = claim.surely().unwrap_or((0, 0));
    let grant = claim.granted.map_or(String::new(), |grant| format!(" with token {}", grant.fencing_token));
    format!(
        "owner {owner}'s claim {number} ({}/{} of {:?}, asked at {}, held {from} to {to}{grant})",
        claim.weight, claim.capacity, claim.name, claim.invoked
    )
}
