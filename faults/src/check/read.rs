//! Reads the logs of a run into claims, faults and observations.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Error, Result};
use std::path::{Path, PathBuf};

use globallock::queue::Permits;
use serde::de::DeserializeOwned;

use super::evictions::{Eviction, evictions};
use crate::history::{
    ClaimNumber, Failure, FaultEvent, Mode, ObserverEvent, OwnerEvent, Reason, RegisterAnswer, RegisterEvent,
    SeenValue, Terms, Time, ValueAnswer,
};

/// The history of a run, read from its logs.
#[derive(Debug, Default)]
pub struct History {
    pub(super) store: String,
    pub(super) lease: Time,
    pub(super) terms: Terms,
    /// The kinds of faults that must take effect.
    pub(super) owed: Vec<String>,
    pub(super) claims: Vec<Claim>,
    pub(super) faults: Vec<Fault>,
    pub(super) registered: Vec<RegisterEvent>,
    pub(super) observed: Vec<ObserverEvent>,
    /// What was left in the store, if that was checked.
    pub(super) left: Option<Vec<String>>,
    pub(super) is_complete: bool,
    /// Why the run was cut short, if that is known.
    pub(super) interrupted: Option<String>,
    /// What operators evicted.
    pub(super) evictions: Vec<Eviction>,
    /// For each owner, when a pause of the process ended, and how long the pause was.
    pub(super) pauses: HashMap<u32, Vec<(Time, Time)>>,
}

/// One claim, as its owner logged it.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) number: ClaimNumber,
    pub(super) is_pythons: bool,
    pub(super) lease: Time,
    pub(super) name: String,
    pub(super) kind: crate::history::Kind,
    pub(super) permits: Permits,
    pub(super) mode: Mode,
    pub(super) invoked: Time,
    pub(super) granted: Option<Grant>,
    pub(super) failed: Option<(Time, Failure)>,
    pub(super) lost: Option<(Time, Reason)>,
    pub(super) released: Option<Time>,
    /// When its release was answered.
    pub(super) release_answered: Option<Time>,
    /// When writes were refused by the register although the owner believed to hold throughout.
    pub(super) refused: Vec<Time>,
    /// What came with the grant, if the claim asked for the value of its name.
    pub(super) came_with: Option<Option<SeenValue>>,
    /// The writes of the value, in their order.
    pub(super) value_writes: Vec<ValueWrite>,
    /// When it was last checked that it holds.
    pub(super) last_held: Option<Time>,
    /// The reason of the eviction that its owner was told of.
    pub(super) told: Option<String>,
    /// From when on it may have been evicted.
    pub(super) evicted_from: Option<Time>,
    /// The time of the last line in the owner's log, and whether the process ended as it should.
    pub(super) owner_ended: (Time, bool),
}

/// One write of a value.
#[derive(Clone, Debug)]
pub(super) struct ValueWrite {
    pub(super) number: u64,
    /// Right before it was sent.
    pub(super) at: Time,
    pub(super) answer: Option<(Time, ValueAnswer)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Grant {
    pub(super) at: Time,
    pub(super) fencing_token: u64,
    /// Until when it was held for sure, as known at the grant.
    pub(super) until: Option<Time>,
    /// The latest `until` in the log; `None` where only the end of the process ends the hold.
    pub(super) last_until: Option<Time>,
}

/// One fault.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    pub(super) at: Time,
    pub(super) mended: Time,
    pub(super) kind: String,
    pub(super) owner: Option<u32>,
    pub(super) took_effect: bool,
    pub(super) forgets: bool,
}

impl Fault {
    /// Whether it stopped this owner for a while.
    pub(super) fn stopped(&self, owner: u32) -> bool {
        let stops = self.kind.starts_with("owner_stop") || self.kind == "owner_suspend";
        stops && self.owner == Some(owner)
    }
}

impl Claim {
    /// From when to when it surely held.
    pub(super) fn surely_held(&self) -> Option<(Time, Time)> {
        let grant = self.granted?;
        let (last_line, in_order) = self.owner_ended;
        let ends = [
            self.released,
            self.lost.map(|(at, _)| at),
            self.evicted_from,
            grant.last_until,
            (!in_order).then_some(last_line),
        ];
        let end = ends.into_iter().flatten().min().unwrap_or(Time::MAX);
        (grant.at < end).then_some((grant.at, end))
    }

    /// When the owner's call returned, if it did.
    pub(super) fn answered(&self) -> Option<Time> {
        self.granted.map(|grant| grant.at).or(self.failed.as_ref().map(|(at, _)| *at))
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.permits.is_exclusive()
    }

    /// Whether both can hold at the same time.
    pub(super) fn is_compatible_with(&self, other: &Claim) -> bool {
        let capacity = self.permits.capacity.min(other.permits.capacity);
        u64::from(self.permits.count) + u64::from(other.permits.count) <= u64::from(capacity)
    }
}

impl History {
    /// Reads the logs in `directory`.
    ///
    /// # Errors
    /// When a log is missing or unreadable. Only the last line of a process that was killed may be cut short.
    pub fn read(directory: &Path) -> Result<Self> {
        let mut history = History {
            registered: lines(&directory.join("register.jsonl"))?.0,
            observed: lines(&directory.join("observer.jsonl"))?.0,
            ..History::default()
        };
        let mut begun = None;
        for event in lines(&directory.join("faults.jsonl"))?.0 {
            match &event {
                FaultEvent::Begin { at, kind } => begun = Some((*at, kind.clone())),
                FaultEvent::Fault { .. } => begun = None,
                _ => {}
            }
            history.take_fault(event);
        }
        if let Some((at, kind)) = begun {
            // The run was cut short during this fault, so its effect is unknown: assume the worst, without an
            // end.
            let (mended, owner) = (Time::MAX / 2, None);
            history.faults.push(Fault { at, mended, kind, owner, took_effect: false, forgets: true });
        }
        let mut logs: Vec<PathBuf> = std::fs::read_dir(directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                name.starts_with("owner-") && name.ends_with(".jsonl")
            })
            .collect();
        logs.sort();
        for log in logs {
            let (events, is_cut) = lines(&log)?;
            let number = match events.first() {
                Some(OwnerEvent::Start { owner, .. }) => *owner,
                _ => 0,
            };
            let claims = owner(&events).map_err(|why| Error::other(format!("{}: {why}", log.display())))?;
            let killed = |claim: &Claim| {
                history
                    .faults
                    .iter()
                    .any(|fault| fault.kind == "owner_kill" && fault.owner == Some(claim.number.owner))
            };
            // If the run was killed, all its owners were killed with it.
            if is_cut && history.is_complete && !claims.iter().all(killed) {
                return Err(Error::other(format!("{}: its last line is cut", log.display())));
            }
            history.claims.extend(claims);
            history.evictions.extend(evictions(number, &events));
            for event in events {
                if let OwnerEvent::Pause { at, length } = event {
                    history.pauses.entry(number).or_default().push((at, length));
                }
            }
        }
        history.mark_evicted();
        Ok(history)
    }

    pub(super) fn take_fault(&mut self, event: FaultEvent) {
        match event {
            FaultEvent::Start { store, lease, terms, owed, .. } => {
                (self.store, self.lease, self.terms, self.owed) = (store, lease, terms, owed);
            }
            FaultEvent::Begin { .. } => {}
            FaultEvent::Interrupted { why, .. } => self.interrupted = Some(why),
            FaultEvent::Fault { at, mended, kind, owner, took_effect, forgets, .. } => {
                self.faults.push(Fault { at, mended, kind, owner, took_effect, forgets });
            }
            FaultEvent::Left { left, .. } => self.left = Some(left),
            FaultEvent::End { .. } => self.is_complete = true,
        }
    }
}

/// The events of a log, and whether its last line is cut short.
fn lines<T: DeserializeOwned>(path: &Path) -> Result<(Vec<T>, bool)> {
    let named = |why: &dyn std::fmt::Display| Error::other(format!("{}: {why}", path.display()));
    let mut reader = BufReader::new(File::open(path).map_err(|error| named(&error))?);
    let (mut events, mut line) = (Vec::new(), Vec::new());
    while reader.read_until(b'\n', &mut line)? > 0 {
        if line.last() != Some(&b'\n') {
            return Ok((events, true));
        }
        let event = serde_json::from_slice(&line);
        events.push(event.map_err(|error| named(&format!("line {}: {error}", events.len() + 1)))?);
        line.clear();
    }
    Ok((events, false))
}

/// Puts together the claims of one owner.
pub(super) fn owner(events: &[OwnerEvent]) -> std::result::Result<Vec<Claim>, String> {
    let Some(OwnerEvent::Start { owner, language, lease, .. }) = events.first() else {
        // An empty log is of a process that was killed before it could write.
        return if events.is_empty() {
            Ok(Vec::new())
        } else {
            Err("its first line is no start event".to_owned())
        };
    };
    let last = events.iter().map(time).max().unwrap_or(0);
    let owner_ended = (last, matches!(events.last(), Some(OwnerEvent::End { .. })));
    let mut claims: Vec<Claim> = Vec::new();
    for event in events {
        if let OwnerEvent::Invoke { at, claim, name, kind, count, capacity, mode } = event {
            claims.push(Claim {
                number: ClaimNumber { owner: *owner, claim: *claim },
                is_pythons: language == "python",
                lease: *lease,
                name: name.clone(),
                kind: *kind,
                permits: Permits::new(*count, *capacity),
                mode: *mode,
                invoked: *at,
                granted: None,
                failed: None,
                lost: None,
                released: None,
                release_answered: None,
                refused: Vec::new(),
                came_with: None,
                value_writes: Vec::new(),
                last_held: None,
                told: None,
                evicted_from: None,
                owner_ended,
            });
        } else if let Some(number) = claim_of(event) {
            // Events are about recent claims, so the search from the end is short.
            let found = claims.iter_mut().rev().find(|claim| claim.number.claim == number);
            take(found.ok_or_else(|| format!("claim {number} was never asked for"))?, event);
        }
    }
    Ok(claims)
}

fn take(claim: &mut Claim, event: &OwnerEvent) {
    match event {
        OwnerEvent::Granted { at, fencing_token, until, .. } => {
            claim.granted =
                Some(Grant { at: *at, fencing_token: *fencing_token, until: *until, last_until: *until });
        }
        OwnerEvent::Failed { at, failure, .. } => {
            claim.failed = Some((*at, failure.clone()));
            if let Failure::Evicted(reason) = failure {
                claim.told = Some(reason.clone());
            }
        }
        OwnerEvent::Held { at, until, .. } => {
            claim.last_held = Some(*at);
            if let Some(grant) = &mut claim.granted {
                grant.last_until = grant.last_until.max(*until);
            }
        }
        OwnerEvent::Wrote {
            answered,
            held_before: true,
            held_after: true,
            guarded: RegisterAnswer::Refused,
            ..
        } => {
            claim.refused.push(*answered);
        }
        OwnerEvent::Value { value, .. } => claim.came_with = Some(value.clone()),
        OwnerEvent::SetValue { at, write, .. } => {
            claim.value_writes.push(ValueWrite { number: *write, at: *at, answer: None });
        }
        OwnerEvent::ValueSet { at, write, answer, .. } => {
            let asked = claim.value_writes.iter_mut().rev().find(|asked| asked.number == *write);
            asked.into_iter().for_each(|asked| asked.answer = Some((*at, answer.clone())));
        }
        OwnerEvent::Lost { at, reason, eviction, .. } => {
            claim.lost = Some((*at, *reason));
            claim.told.clone_from(eviction);
        }
        OwnerEvent::Release { at, .. } => claim.released = Some(*at),
        // Only these two are answers of the store. A dropped or unanswered release goes on in the background;
        // at the latest the lease ends the claim.
        OwnerEvent::Released { at, outcome, .. } if outcome == "left" || outcome == "gone" => {
            claim.release_answered = Some(*at);
        }
        _ => {}
    }
}

fn claim_of(event: &OwnerEvent) -> Option<u64> {
    match event {
        OwnerEvent::Granted { claim, .. }
        | OwnerEvent::Value { claim, .. }
        | OwnerEvent::SetValue { claim, .. }
        | OwnerEvent::ValueSet { claim, .. }
        | OwnerEvent::Failed { claim, .. }
        | OwnerEvent::Held { claim, .. }
        | OwnerEvent::Wrote { claim, .. }
        | OwnerEvent::Lost { claim, .. }
        | OwnerEvent::Release { claim, .. }
        | OwnerEvent::Released { claim, .. } => Some(*claim),
        OwnerEvent::Start { .. }
        | OwnerEvent::Invoke { .. }
        | OwnerEvent::Evict { .. }
        | OwnerEvent::Evicted { .. }
        | OwnerEvent::Pause { .. }
        | OwnerEvent::Clock { .. }
        | OwnerEvent::Suspended { .. }
        | OwnerEvent::End { .. } => None,
    }
}

fn time(event: &OwnerEvent) -> Time {
    match event {
        OwnerEvent::Wrote { answered, .. } => *answered,
        OwnerEvent::Start { at, .. }
        | OwnerEvent::Invoke { at, .. }
        | OwnerEvent::Granted { at, .. }
        | OwnerEvent::Value { at, .. }
        | OwnerEvent::SetValue { at, .. }
        | OwnerEvent::ValueSet { at, .. }
        | OwnerEvent::Failed { at, .. }
        | OwnerEvent::Held { at, .. }
        | OwnerEvent::Lost { at, .. }
        | OwnerEvent::Release { at, .. }
        | OwnerEvent::Released { at, .. }
        | OwnerEvent::Evict { at, .. }
        | OwnerEvent::Evicted { at, .. }
        | OwnerEvent::Pause { at, .. }
        | OwnerEvent::Clock { at, .. }
        | OwnerEvent::Suspended { at, .. }
        | OwnerEvent::End { at } => *at,
    }
}
