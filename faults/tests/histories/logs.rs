//! The logs of runs that never were.

use std::collections::BTreeMap;

use globallock_faults::check::{History, Report, Rule, check};
use globallock_faults::history::{
    ClaimNumber, Failure, FaultEvent, Kind, Mode, ObservedClaim, ObserverEvent, OwnerEvent, Reason,
    RegisterAnswer, RegisterEvent, SeenValue, Terms, Time, ValueAnswer,
};
use globallock_faults::log::Log;
use tempfile::TempDir;

pub(super) const LEASE: Time = 1_000;

/// The logs of a run under construction. All times are milliseconds here.
#[derive(Default)]
pub(super) struct Logs {
    pub(super) owners: BTreeMap<u32, Vec<OwnerEvent>>,
    pub(super) registered: Vec<RegisterEvent>,
    pub(super) observed: Vec<ObserverEvent>,
    pub(super) faults: Vec<FaultEvent>,
    pub(super) left: Vec<String>,
    pub(super) ends: bool,
    /// The owners that do not end as they should.
    pub(super) killed: Vec<u32>,
    /// The kinds of faults that had to take effect.
    pub(super) owed: Vec<String>,
    pub(super) reads_lag: bool,
    pub(super) store: &'static str,
}

/// A claim that is requested, granted and perhaps released.
#[derive(Clone, Copy)]
pub(super) struct ClaimSpec {
    pub(super) owner: u32,
    pub(super) claim: u64,
    pub(super) count: u32,
    pub(super) capacity: u32,
    pub(super) asked: Time,
    pub(super) granted: Time,
    pub(super) fencing_token: u64,
    pub(super) released: Option<Time>,
}

/// A mutex's claim.
pub(super) fn mutex(
    owner: u32,
    claim: u64,
    asked: Time,
    granted: Time,
    fencing_token: u64,
    released: Time,
) -> ClaimSpec {
    ClaimSpec { owner, claim, count: 1, capacity: 1, asked, granted, fencing_token, released: Some(released) }
}

impl Logs {
    pub(super) fn new() -> Self {
        Logs { ends: true, store: "memory", ..Logs::default() }
    }

    pub(super) fn event(mut self, owner: u32, event: OwnerEvent) -> Self {
        self.owners.entry(owner).or_default().push(event);
        self
    }

    pub(super) fn asked(self, owner: u32, claim: u64, permits: (u32, u32), at: Time, limit: Time) -> Self {
        let (count, capacity) = permits;
        let (name, mode) = ("a".to_owned(), Mode::Wait(limit * 1_000));
        let kind = Kind::Permits;
        self.event(owner, OwnerEvent::Invoke { at: at * 1_000, claim, name, kind, count, capacity, mode })
    }

    pub(super) fn claim(self, spec: ClaimSpec) -> Self {
        let ClaimSpec { owner, claim, count, capacity, asked, granted, fencing_token, released } = spec;
        let until = Some((granted + LEASE) * 1_000);
        let logs = self
            .asked(owner, claim, (count, capacity), asked, 20_000)
            .event(owner, OwnerEvent::Granted { at: granted * 1_000, claim, fencing_token, until });
        let Some(released) = released else { return logs };
        let outcome = "left".to_owned();
        logs.event(owner, OwnerEvent::Release { at: released * 1_000, claim })
            .event(owner, OwnerEvent::Released { at: released * 1_000 + 500, claim, outcome })
    }

    pub(super) fn lost(self, owner: u32, claim: u64, at: Time, reason: Reason) -> Self {
        self.event(owner, OwnerEvent::Lost { at: at * 1_000, claim, reason, eviction: None })
    }

    pub(super) fn failed(self, owner: u32, claim: u64, at: Time, failure: Failure) -> Self {
        self.event(owner, OwnerEvent::Failed { at: at * 1_000, claim, failure })
    }

    pub(super) fn wrote(
        mut self,
        owner: u32,
        claim: u64,
        fencing_token: u64,
        at: Time,
        accepted: bool,
        believed: bool,
    ) -> Self {
        let (name, by) = ("a".to_owned(), ClaimNumber { owner, claim });
        let (exclusive, stale) = (true, !accepted);
        self.registered.push(RegisterEvent {
            at: at * 1_000,
            name,
            by,
            fencing_token,
            exclusive,
            accepted,
            stale,
        });
        let guarded = if accepted { RegisterAnswer::Accepted } else { RegisterAnswer::Refused };
        let (at, answered, control) = (at * 1_000, at * 1_000 + 100, RegisterAnswer::Accepted);
        let (held_before, held_after) = (true, believed);
        self.event(
            owner,
            OwnerEvent::Wrote { at, answered, claim, held_before, held_after, guarded, control },
        )
    }

    /// A value, as its writer's token and the number of the write, comes with the grant of a claim.
    pub(super) fn came(self, owner: u32, claim: u64, value: Option<(u64, u64)>) -> Self {
        let seen =
            |(fencing_token, write)| SeenValue { fencing_token, text: format!("{fencing_token} {write}") };
        self.event(owner, OwnerEvent::Value { at: 0, claim, value: value.map(seen) })
    }

    /// A claim writes the value between two times.
    pub(super) fn set(
        self,
        owner: u32,
        claim: u64,
        write: u64,
        (at, answered): (Time, Time),
        answer: ValueAnswer,
    ) -> Self {
        let (at, answered) = (at * 1_000, answered * 1_000);
        self.event(owner, OwnerEvent::SetValue { at, claim, write })
            .event(owner, OwnerEvent::ValueSet { at: answered, claim, write, answer })
    }

    pub(super) fn seen(mut self, at: Time, queue: &[(u32, bool, u64)]) -> Self {
        let seen = |&(owner, held, fencing_token): &(u32, bool, u64)| ObservedClaim {
            id: Some(format!("{owner}-{fencing_token}")),
            label: Some(format!("owner-{owner}")),
            held,
            fencing_token,
        };
        let (name, queue) = ("a".to_owned(), queue.iter().map(seen).collect());
        self.observed.push(ObserverEvent { at: at * 1_000, answered: at * 1_000 + 500, name, queue });
        self
    }

    pub(super) fn fault(
        mut self,
        kind: &str,
        owner: Option<u32>,
        at: Time,
        mended: Time,
        forgets: bool,
    ) -> Self {
        let (at, mended, kind, proof) = (at * 1_000, mended * 1_000, kind.to_owned(), String::new());
        if kind == "owner_kill" {
            self.killed.extend(owner);
        }
        self.faults.push(FaultEvent::Fault { at, mended, kind, owner, proof, took_effect: true, forgets });
        self
    }

    pub(super) fn judged(self) -> Report {
        let directory = TempDir::new().unwrap();
        let log = |name: &str| Log::create(&directory.path().join(name)).unwrap();
        let (faults, lease) = (log("faults.jsonl"), LEASE * 1_000);
        let (store, terms) =
            (self.store.to_owned(), Terms { slack: 500_000, recovery: 500_000, reads_lag: self.reads_lag });
        faults.write(&FaultEvent::Start { at: 0, store, seed: 0, lease, terms, owed: self.owed });
        self.faults.iter().for_each(|event| faults.write(event));
        faults.write(&FaultEvent::Left { at: 0, left: self.left });
        if self.ends {
            faults.write(&FaultEvent::End { at: 0 });
        }
        let (registered, observed) = (log("register.jsonl"), log("observer.jsonl"));
        self.registered.iter().for_each(|event| registered.write(event));
        self.observed.iter().for_each(|event| observed.write(event));
        for (owner, events) in self.owners {
            let log = log(&format!("owner-{owner}.jsonl"));
            log.write(&OwnerEvent::Start { at: 0, pid: 1, owner, language: "rust".to_owned(), lease });
            events.iter().for_each(|event| log.write(event));
            if !self.killed.contains(&owner) {
                log.write(&OwnerEvent::End { at: 60_000_000 });
            }
        }
        check(&History::read(directory.path()).unwrap())
    }

    pub(super) fn passes(self) -> Report {
        let report = self.judged();
        assert!(report.violations.is_empty(), "{report}");
        report
    }

    pub(super) fn breaks(self, rule: Rule) {
        let report = self.judged();
        let others: Vec<_> = report.violations.iter().filter(|violation| violation.rule != rule).collect();
        assert!(report.violates(rule) && others.is_empty(), "{rule:?}: {report}");
    }
}
