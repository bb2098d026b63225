//! What operators evicted, and whom it hit.

use std::collections::HashMap;

use super::exclusion::describe;
use super::read::{Claim, History};
use super::{Case, Report, Rule};
use crate::history::{EvictionAnswer, OwnerEvent, Time, reason_of_eviction};

/// One eviction, as its operator logged it.
#[derive(Clone, Debug)]
pub(super) struct Eviction {
    /// The reason that the owner of the claim is told.
    reason: String,
    /// Right before it was sent.
    at: Time,
    name: String,
    owner: u32,
    held: bool,
    fencing_token: u64,
    answer: Option<(Time, EvictionAnswer)>,
}

/// The evictions of one operator.
pub(super) fn evictions(operator: u32, events: &[OwnerEvent]) -> Vec<Eviction> {
    let mut evictions: Vec<(u64, Eviction)> = Vec::new();
    for event in events {
        match event {
            OwnerEvent::Evict { at, eviction, name, owner, held, fencing_token } => {
                let (reason, name) = (reason_of_eviction(operator, *eviction), name.clone());
                let (at, owner, held, fencing_token) = (*at, *owner, *held, *fencing_token);
                let new = Eviction { reason, at, name, owner, held, fencing_token, answer: None };
                evictions.push((*eviction, new));
            }
            OwnerEvent::Evicted { at, eviction, answer } => {
                let asked = evictions.iter_mut().rev().find(|(number, _)| number == eviction);
                asked.into_iter().for_each(|(_, asked)| asked.answer = Some((*at, answer.clone())));
            }
            _ => {}
        }
    }
    evictions.into_iter().map(|(_, eviction)| eviction).collect()
}

impl Eviction {
    /// Whether this may be the claim that was seen.
    fn may_be_of(&self, claim: &Claim) -> bool {
        let same = claim.number.owner == self.owner && claim.name == self.name && claim.invoked <= self.at;
        // A claim that was seen waiting may have been granted since, and then its token is not known.
        same && claim.granted.is_none_or(|grant| !self.held || grant.fencing_token == self.fencing_token)
    }

    /// Whether the store has said that the claim is not there any more.
    fn gone(&self) -> Option<Time> {
        match self.answer {
            Some((at, EvictionAnswer::Released | EvictionAnswer::NotHeld)) => Some(at),
            _ => None,
        }
    }
}

impl History {
    /// Marks the claims that may have been evicted, each from the first eviction on that may be of it.
    pub(super) fn mark_evicted(&mut self) {
        let mut of_name: HashMap<(u32, &str), Vec<&Eviction>> = HashMap::new();
        for eviction in &self.evictions {
            of_name.entry((eviction.owner, &eviction.name)).or_default().push(eviction);
        }
        for claim in &mut self.claims {
            let evictions = of_name.get(&(claim.number.owner, &*claim.name)).into_iter().flatten();
            let may_be = evictions.filter(|eviction| eviction.may_be_of(claim));
            claim.evicted_from = may_be.map(|eviction| eviction.at).min();
        }
    }
}

impl Case<'_> {
    /// An eviction takes out the very claim that was seen, or none.
    ///
    /// - An owner is told only of an eviction that an operator has asked for, and of its own claim.
    /// - One eviction hits one claim.
    /// - Of several evictions of one grant, one at most is answered as having taken it out.
    /// - A grant that an eviction has ended, or found gone, is not renewed any more.
    ///
    /// Sound: the reason that an owner is told names the operator and the eviction, and operators log what
    /// they evict before they ask. An owner that was not told, such as one that was killed, is not judged:
    /// that a claim was lost without an eviction is judged by the other rules. What was confirmed before the
    /// eviction was answered lasts for a lease from then at most.
    pub(super) fn evictions(&self, report: &mut Report) {
        self.told(report);
        let mut of_grant: HashMap<_, Vec<&Eviction>> = HashMap::new();
        for eviction in &self.history.evictions {
            let answer = match eviction.answer {
                Some((_, EvictionAnswer::Released)) => "released",
                Some((_, EvictionAnswer::NotHeld)) => "not_held",
                Some((_, EvictionAnswer::Unknown(_))) | None => "unknown",
            };
            *report.evictions.entry(answer.to_owned()).or_default() += 1;
            let grant = (&*eviction.name, eviction.owner, eviction.fencing_token, eviction.held);
            of_grant.entry(grant).or_default().push(eviction);
        }
        for ((_, _, _, held), evictions) in &of_grant {
            report.at_once += evictions.len() as u64 - 1;
            let is_released =
                |eviction: &&&Eviction| matches!(eviction.answer, Some((_, EvictionAnswer::Released)));
            let released: Vec<_> = evictions.iter().filter(is_released).collect();
            // A waiter may come back to its place, if its owner has heard only that it is gone.
            if let ([first, .., last], true) = (&released[..], *held) {
                let ended = released.iter().filter_map(|eviction| eviction.gone()).max();
                let what = format!("{} and {} both ended one grant", first.reason, last.reason);
                self.wrong_eviction(first.at.min(last.at), ended.unwrap_or(last.at), what, report);
            }
        }
        let mut granted: HashMap<_, &Claim> = HashMap::new();
        for claim in &self.history.claims {
            let Some(grant) = claim.granted else { continue };
            granted.insert((&*claim.name, claim.number.owner, grant.fencing_token), claim);
        }
        for eviction in self.history.evictions.iter().filter(|eviction| eviction.held) {
            let claim = granted.get(&(&*eviction.name, eviction.owner, eviction.fencing_token));
            if let (Some(claim), Some(gone)) = (claim, eviction.gone()) {
                self.ended(eviction, gone, claim, report);
            }
        }
    }

    /// Judges whom evictions have hit, as the owners were told.
    fn told(&self, report: &mut Report) {
        let evictions = self.history.evictions.iter().map(|eviction| (&*eviction.reason, eviction));
        let (evictions, mut hit): (HashMap<_, _>, HashMap<&str, &Claim>) =
            (evictions.collect(), HashMap::new());
        for claim in &self.history.claims {
            let Some(reason) = claim.told.as_deref() else { continue };
            report.told += 1;
            let heard = claim.lost.map(|(at, _)| at).or(claim.answered()).unwrap_or(Time::MAX);
            let wrong = match evictions.get(reason) {
                None => Some("nobody evicted"),
                Some(eviction) if !eviction.may_be_of(claim) => Some("which is of another claim, has hit"),
                Some(eviction) if heard < eviction.at => Some("which comes later, has hit"),
                Some(_) => None,
            };
            if let Some(wrong) = wrong {
                let what = format!("{reason:?}: {wrong} {}", describe(claim));
                report.violated(Rule::Evictions, what);
            }
            if let Some(other) = hit.insert(reason, claim) {
                let what = format!("{reason:?} has hit {} and {}", describe(other), describe(claim));
                report.violated(Rule::Evictions, what);
            }
        }
    }

    /// Judges that a grant was not renewed any more once an eviction has found it gone.
    fn ended(&self, eviction: &Eviction, gone: Time, claim: &Claim, report: &mut Report) {
        let Some(grant) = claim.granted else { return };
        let (last, is_late) = match (grant.last_until, claim.last_held) {
            (Some(until), _) => (until, until > gone + claim.lease),
            // Where no lease ends the hold, its owner hears of its end when it runs.
            (None, Some(held)) => {
                let is_late = held > gone + claim.lease + self.terms.slack;
                (held, is_late && self.is_calm(claim.invoked, held))
            }
            (None, None) => return,
        };
        if is_late {
            let what = format!("{} found it gone at {gone}, held on: {}", eviction.reason, describe(claim));
            self.wrong_eviction(eviction.at, last, what, report);
        }
    }

    /// A violation, unless the store may have forgotten something between two times.
    fn wrong_eviction(&self, from: Time, to: Time, what: String, report: &mut Report) {
        if self.is_excused_between(from, to) {
            report.excused += 1;
        } else {
            report.violated(Rule::Evictions, what);
        }
    }
}
