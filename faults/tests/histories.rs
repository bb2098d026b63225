//! The checker itself: for every rule a history that breaks it, beside ones that do not.

use std::collections::BTreeMap;

use globallock_faults::check::{History, Report, Rule, check};
use globallock_faults::history::{
    ClaimNumber, Failure, FaultEvent, Kind, Mode, ObservedClaim, ObserverEvent, OwnerEvent, Reason,
    RegisterAnswer, RegisterEvent, Terms, Time,
};
use globallock_faults::log::Log;
use tempfile::TempDir;

const LEASE: Time = 1_000;

/// A history under construction; all times are milliseconds here.
#[derive(Default)]
struct Story {
    owners: BTreeMap<u32, Vec<OwnerEvent>>,
    registered: Vec<RegisterEvent>,
    observed: Vec<ObserverEvent>,
    faults: Vec<FaultEvent>,
    left: Vec<String>,
    ends: bool,
    /// The owners that do not end in order.
    killed: Vec<u32>,
    /// The kinds of faults that had to bite.
    owed: Vec<String>,
}

/// One claim of a story: who, which, asked, granted, token, given back.
#[derive(Clone, Copy)]
struct Told {
    owner: u32,
    claim: u64,
    weight: u32,
    capacity: u32,
    asked: Time,
    granted: Time,
    fencing_token: u64,
    released: Option<Time>,
}

/// A mutex's claim.
fn mutex(owner: u32, claim: u64, asked: Time, granted: Time, fencing_token: u64, released: Time) -> Told {
    Told { owner, claim, weight: 1, capacity: 1, asked, granted, fencing_token, released: Some(released) }
}

impl Story {
    fn new() -> Self {
        Story { ends: true, ..Story::default() }
    }

    fn event(mut self, owner: u32, event: OwnerEvent) -> Self {
        self.owners.entry(owner).or_default().push(event);
        self
    }

    fn asked(self, owner: u32, claim: u64, permits: (u32, u32), at: Time, limit: Time) -> Self {
        let (weight, capacity) = permits;
        let (name, mode) = ("a".to_owned(), Mode::Wait(limit * 1_000));
        let kind = Kind::Permits;
        self.event(owner, OwnerEvent::Invoke { at: at * 1_000, claim, name, kind, weight, capacity, mode })
    }

    fn claim(self, told: Told) -> Self {
        let Told { owner, claim, weight, capacity, asked, granted, fencing_token, released } = told;
        let until = Some((granted + LEASE) * 1_000);
        let story = self
            .asked(owner, claim, (weight, capacity), asked, 20_000)
            .event(owner, OwnerEvent::Granted { at: granted * 1_000, claim, fencing_token, until });
        let Some(released) = released else { return story };
        let departure = "left".to_owned();
        story
            .event(owner, OwnerEvent::Release { at: released * 1_000, claim })
            .event(owner, OwnerEvent::Released { at: released * 1_000 + 500, claim, departure })
    }

    fn lost(self, owner: u32, claim: u64, at: Time, reason: Reason) -> Self {
        self.event(owner, OwnerEvent::Lost { at: at * 1_000, claim, reason })
    }

    fn failed(self, owner: u32, claim: u64, at: Time, failure: Failure) -> Self {
        self.event(owner, OwnerEvent::Failed { at: at * 1_000, claim, failure })
    }

    fn wrote(
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

    fn seen(mut self, at: Time, queue: &[(u32, bool, u64)]) -> Self {
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

    fn fault(mut self, kind: &str, owner: Option<u32>, at: Time, mended: Time, forgets: bool) -> Self {
        let (at, mended, kind, proof) = (at * 1_000, mended * 1_000, kind.to_owned(), String::new());
        if kind == "owner_kill" {
            self.killed.extend(owner);
        }
        self.faults.push(FaultEvent::Fault { at, mended, kind, owner, proof, took_effect: true, forgets });
        self
    }

    fn judged(self) -> Report {
        let directory = TempDir::new().unwrap();
        let log = |name: &str| Log::create(&directory.path().join(name)).unwrap();
        let (faults, lease) = (log("faults.jsonl"), LEASE * 1_000);
        let (store, terms) = ("memory".to_owned(), Terms { slack: 500_000, recovery: 500_000 });
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

    fn passes(self) -> Report {
        let report = self.judged();
        assert!(report.violations.is_empty(), "{report}");
        report
    }

    fn breaks(self, rule: Rule) {
        let report = self.judged();
        let others: Vec<_> = report.violations.iter().filter(|violation| violation.rule != rule).collect();
        assert!(report.violates(rule) && others.is_empty(), "{rule:?}: {report}");
    }
}

fn in_turn() -> Story {
    Story::new().claim(mutex(1, 1, 10, 20, 5, 100)).claim(mutex(2, 1, 30, 101, 7, 200))
}

#[test]
fn owners_in_turn_are_not_blamed() {
    let report = in_turn().wrote(1, 1, 5, 50, true, true).wrote(2, 1, 7, 150, true, true).passes();
    assert_eq!((report.all_grants(), report.writes), (2, 2));
}

#[test]
fn two_at_a_time_are_seen() {
    Story::new()
        .claim(mutex(1, 1, 10, 20, 5, 100))
        .claim(mutex(2, 1, 30, 99, 7, 200))
        .breaks(Rule::Exclusion);
}

#[test]
fn two_at_a_time_are_excused_where_the_store_forgot_but_their_tokens_are_not() {
    let flushed = |fencing_token| {
        let story =
            Story::new().claim(mutex(1, 1, 10, 20, 5, 100)).claim(mutex(2, 1, 30, 99, fencing_token, 200));
        story.fault("flush_all", None, 90, 91, true)
    };
    assert_eq!(flushed(7).passes().excused, 1);
    flushed(5).breaks(Rule::Tokens);
}

#[test]
fn more_permits_than_there_are_are_seen() {
    let permits = |owner, weight, asked, fencing_token| Told {
        weight,
        capacity: 3,
        ..mutex(owner, 1, asked, asked + 5, fencing_token, 500)
    };
    let two = || Story::new().claim(permits(1, 2, 10, 5)).claim(permits(2, 1, 20, 6));
    two().passes();
    two().claim(permits(3, 1, 30, 7)).breaks(Rule::Exclusion);
}

#[test]
fn an_owner_that_was_stopped_counts_until_its_deadline() {
    let stopped = |next| {
        let held = Told { released: None, ..mutex(1, 1, 10, 20, 5, 0) };
        let lost = OwnerEvent::Lost { at: 5_000_000, claim: 1, reason: Reason::Expired };
        let story =
            Story::new().claim(held).event(1, lost).fault("owner_stop_long", Some(1), 30, 5_000, false);
        story.claim(mutex(2, 1, 30, next, 7, next + 10))
    };
    stopped(20 + LEASE).passes();
    stopped(19 + LEASE).breaks(Rule::Exclusion);
}

#[test]
fn a_killed_owner_counts_until_its_last_line() {
    let held = Told { released: None, ..mutex(1, 1, 10, 20, 5, 0) };
    let killed = || Story::new().claim(held).fault("owner_kill", Some(1), 21, 22, false);
    killed().claim(mutex(2, 1, 15, 30, 7, 40)).passes();
    let later = OwnerEvent::Held { at: 35_000, claim: 1, until: Some(1_030_000) };
    killed().event(1, later).claim(mutex(2, 1, 15, 30, 7, 40)).breaks(Rule::Exclusion);
}

#[test]
fn a_register_that_takes_what_is_too_old_is_seen() {
    in_turn().wrote(2, 1, 7, 150, true, true).wrote(1, 1, 5, 160, true, false).breaks(Rule::Registers);
}

#[test]
fn a_token_of_two_claims_at_the_register_is_seen() {
    in_turn().wrote(1, 1, 5, 50, true, true).wrote(2, 1, 5, 60, true, false).breaks(Rule::Registers);
}

#[test]
fn a_refused_write_is_an_owners_fault_only_if_it_held_all_the_while() {
    let refused = |believed| in_turn().wrote(2, 1, 7, 150, true, true).wrote(1, 1, 5, 160, false, believed);
    assert_eq!(refused(false).passes().stale, 1);
    refused(true).breaks(Rule::BelievedWrites);
}

#[test]
fn tokens_that_fall_are_seen() {
    Story::new().claim(mutex(1, 1, 10, 20, 5, 100)).claim(mutex(2, 1, 110, 120, 4, 200)).breaks(Rule::Tokens);
}

#[test]
fn a_token_given_twice_is_seen() {
    let shared = |owner, fencing_token| Told { capacity: 9, ..mutex(owner, 1, 10, 20, fencing_token, 100) };
    Story::new().claim(shared(1, 5)).claim(shared(2, 6)).passes();
    Story::new().claim(shared(1, 5)).claim(shared(2, 5)).breaks(Rule::Tokens);
}

/// Owner 3 has it; owner 1 waits, owner 2 comes later, and is granted when it says.
fn waiting(first: (Time, u64), second: (Time, u64)) -> Story {
    Story::new()
        .claim(mutex(3, 1, 1, 2, 1, 100))
        .claim(mutex(1, 1, 10, first.0, first.1, first.0 + 10))
        .seen(20, &[(3, true, 1), (1, false, 4)])
        .claim(mutex(2, 1, 30, second.0, second.1, second.0 + 10))
}

#[test]
fn the_order_of_the_queue_is_judged() {
    assert_eq!(waiting((101, 4), (120, 6)).passes().pairs, 1);
    waiting((150, 8), (120, 6)).breaks(Rule::Queue);
}

#[test]
fn what_an_owner_gave_up_and_was_seen_all_the_same_is_not_taken_for_its_next_claim() {
    // Owner 3 has it. Owner 1 gives up a claim, which is seen yet, and asks once more, behind owner 2.
    let given_up = |other: Option<Told>| {
        let mut story = Story::new().claim(mutex(3, 1, 1, 2, 1, 100)).asked(1, 8, (1, 1), 3, 10).failed(
            1,
            8,
            13,
            Failure::Cancelled,
        );
        if let Some(told) = other {
            story = story.claim(told);
        }
        story = story.claim(mutex(1, 9, 19, 150, 8, 160)).seen(20, &[(3, true, 1), (1, false, 4)]);
        story.claim(mutex(2, 1, 30, 120, 6, 130))
    };
    given_up(None).passes();
    // One that joined in between has a lower token: the claim that was seen is the second.
    given_up(Some(mutex(4, 1, 14, 101, 3, 105))).breaks(Rule::Queue);
}

#[test]
fn a_place_may_be_lost_by_a_fault_but_not_while_it_is_seen() {
    let faulty = || waiting((150, 8), (120, 6)).fault("cut", None, 50, 60, false);
    faulty().passes();
    faulty().seen(130, &[(2, true, 6), (1, false, 4)]).breaks(Rule::Queue);
    // So it may be where its owner did not run, though nothing was broken.
    let pause = OwnerEvent::Pause { at: 120_000, length: 80_000 };
    waiting((150, 8), (120, 6)).event(1, pause).passes();
}

#[test]
fn who_waits_while_others_come_and_go_is_seen() {
    let story = || {
        let mut story = Story::new().asked(1, 1, (1, 1), 10, 3_000);
        for turn in 0..30 {
            let at = 20 + turn * 100;
            story = story.claim(mutex(2, turn + 1, at, at + 1, turn + 1, at + 90));
        }
        story.failed(1, 1, 3_010, Failure::TimedOut)
    };
    story().breaks(Rule::Queue);
    // One whose owner did not run may have lost its place before it was overtaken.
    story().event(1, OwnerEvent::Pause { at: 400_000, length: 300_000 }).passes();
    story().event(1, OwnerEvent::Pause { at: 2_990_000, length: 300_000 }).breaks(Rule::Queue);
}

#[test]
fn a_grant_with_nothing_left_is_seen() {
    let until = Some(19_000);
    let granted = OwnerEvent::Granted { at: 20_000, claim: 1, fencing_token: 5, until };
    let lost = OwnerEvent::Lost { at: 900_000, claim: 1, reason: Reason::Expired };
    Story::new().asked(1, 1, (1, 1), 10, 100).event(1, granted).event(1, lost).breaks(Rule::Losses);
}

#[test]
fn a_loss_that_is_told_late_or_never_is_seen() {
    let held = || Story::new().claim(Told { released: None, ..mutex(1, 1, 10, 20, 5, 0) });
    let lost = |at| OwnerEvent::Lost { at, claim: 1, reason: Reason::Expired };
    held().event(1, lost(1_500_000)).passes();
    held().event(1, lost(9_000_000)).breaks(Rule::Losses);
    held().breaks(Rule::Losses);
}

#[test]
fn a_lock_that_is_lost_in_calm_before_its_time_is_seen() {
    let lost = |at, reason| {
        Story::new().claim(Told { released: None, ..mutex(1, 1, 10, 20, 5, 0) }).lost(1, 1, at, reason)
    };
    for reason in [Reason::Revoked, Reason::Expired] {
        lost(500, reason).breaks(Rule::Unprovoked);
        lost(500, reason).fault("cut", None, 400, 410, false).passes();
        lost(500, reason).fault("owner_kill", Some(2), 5, 6, false).passes();
        // The machine may have stood still until its time was over.
        assert_eq!(lost(1_021, reason).passes().paused, 1);
    }
    lost(500, Reason::MaxHold).passes();
}

#[test]
fn a_lease_that_ends_in_calm_is_seen_if_its_owner_ran_and_the_store_answered() {
    let shared = |owner, claim, asked, fencing_token, released| Told {
        capacity: 9,
        released,
        ..mutex(owner, claim, asked, asked + 1, fencing_token, 0)
    };
    let others = |times: &[Time]| {
        let mut story = Story::new().claim(shared(1, 1, 10, 1, None)).lost(1, 1, 1_030, Reason::Expired);
        for (claim, at) in (1..).zip(times) {
            story = story.claim(shared(2, claim, *at, claim + 1, Some(at + 5)));
        }
        story
    };
    let throughout = [50, 300, 550, 800];
    others(&throughout).breaks(Rule::Unprovoked);
    // It did not run, or another one did not.
    let pause = OwnerEvent::Pause { at: 500_000, length: 200_000 };
    assert_eq!(others(&throughout).event(1, pause.clone()).passes().paused, 1);
    others(&throughout).event(2, pause).breaks(Rule::Unprovoked);
    // The store answered nobody, for a quarter of the lease or in one case.
    others(&[50, 300, 800]).passes();
    let slow = others(&throughout).claim(shared(3, 1, 100, 9, None));
    let slow = slow.event(3, OwnerEvent::Release { at: 300_000, claim: 1 });
    slow.event(3, OwnerEvent::Released { at: 400_000, claim: 1, departure: "left".to_owned() }).passes();
}

#[test]
fn a_fault_that_had_to_bite_and_did_not_is_seen() {
    let owing = |times: &[bool]| {
        let mut story = Story { owed: vec!["cut".to_owned()], ..in_turn() }.fault("delay", None, 1, 2, false);
        for bit in times.iter().copied() {
            let (kind, proof, at, mended) = ("cut".to_owned(), String::new(), 1_000, 2_000);
            let forgets = false;
            story.faults.push(FaultEvent::Fault {
                at,
                mended,
                kind,
                owner: None,
                proof,
                took_effect,
                forgets,
            });
        }
        story
    };
    owing(&[false, true]).passes();
    owing(&[]).breaks(Rule::Faults);
    owing(&[false, false]).breaks(Rule::Faults);
}

#[test]
fn what_was_being_broken_when_a_run_was_cut_short_excuses_what_came_of_it() {
    let held = Told { released: None, ..mutex(1, 1, 10, 20, 5, 0) };
    let mut story = Story { ends: false, owed: vec!["cut".to_owned()], ..Story::new() };
    story = story.claim(held).lost(1, 1, 500, Reason::Revoked);
    story.faults.push(FaultEvent::Begin { at: 400_000, kind: "flush_all".to_owned() });
    story.faults.push(FaultEvent::Interrupted { at: 600_000, why: "no room".to_owned() });
    let report = story.judged();
    let [violation] = &report.violations[..] else { panic!("{report}") };
    assert!(violation.rule == Rule::Left && violation.what.ends_with("no room"), "{report}");
}

#[test]
fn who_is_answered_late_or_never_is_seen() {
    let asked = || Story::new().claim(mutex(2, 1, 1, 2, 5, 59_000)).asked(1, 1, (1, 1), 10, 100);
    asked().failed(1, 1, 1_500, Failure::TimedOut).passes();
    asked().failed(1, 1, 1_700, Failure::TimedOut).breaks(Rule::Limits);
    asked().breaks(Rule::Limits);
    asked()
        .failed(1, 1, 2_700, Failure::TimedOut)
        .fault("owner_stop_long", Some(1), 20, 1_900, false)
        .passes();
}

#[test]
fn nothing_but_errors_is_seen() {
    let errors = |claims: std::ops::Range<u64>| {
        claims.fold(Story::new(), |story, claim| {
            let failure = Failure::Error("no".to_owned());
            story.asked(1, claim, (1, 1), claim * 1_000, 100).failed(1, claim, claim * 1_000 + 50, failure)
        })
    };
    errors(1..8).passes();
    errors(1..10).breaks(Rule::Progress);
    errors(1..6).claim(mutex(1, 6, 6_000, 6_001, 5, 6_002)).passes();
    errors(1..10).fault("owner_stop_long", Some(1), 2_000, 5_000, false).passes();
}

#[test]
fn waiting_for_what_nobody_has_is_seen() {
    Story::new().asked(1, 1, (1, 1), 10, 2_000).failed(1, 1, 2_010, Failure::TimedOut).breaks(Rule::Progress);
    let held = Told { released: Some(1_900), ..mutex(2, 1, 1, 2, 5, 0) };
    Story::new().claim(held).asked(1, 1, (1, 1), 10, 2_000).failed(1, 1, 2_010, Failure::TimedOut).passes();
}

#[test]
fn the_lock_of_the_dead_goes_on_in_time() {
    let killed = |next| {
        let held = Told { released: None, ..mutex(1, 1, 10, 20, 5, 0) };
        let story = Story::new().claim(held).fault("owner_kill", Some(1), 21, 22, false);
        story.claim(mutex(2, 1, 15, next, 7, next + 10))
    };
    assert_eq!(killed(1_020).passes().recoveries, [999_000]);
    killed(1_600).breaks(Rule::Recovery);
}

#[test]
fn what_is_left_and_a_run_without_an_end_are_seen() {
    Story { left: vec!["a".to_owned()], ..in_turn() }.breaks(Rule::Left);
    Story { ends: false, ..in_turn() }.breaks(Rule::Left);
}

#[test]
fn a_log_that_makes_no_sense_is_refused() {
    let directory = TempDir::new().unwrap();
    for name in ["register.jsonl", "observer.jsonl", "faults.jsonl"] {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    assert!(History::read(directory.path()).is_ok());
    let log = directory.path().join("owner-1.jsonl");
    for text in ["nonsense\n", "{\"event\":\"release\",\"at\":1,\"claim\":2}\n"] {
        std::fs::write(&log, text).unwrap();
        let error = History::read(directory.path()).unwrap_err();
        assert!(error.to_string().contains("owner-1"), "{error}");
    }
}

#[test]
fn only_a_killed_owners_last_line_may_be_cut() {
    let directory = TempDir::new().unwrap();
    for name in ["register.jsonl", "observer.jsonl", "faults.jsonl"] {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    let log = Log::create(&directory.path().join("owner-1.jsonl")).unwrap();
    log.write(&OwnerEvent::Start { at: 0, pid: 1, owner: 1, language: "rust".to_owned(), lease: 1 });
    let mode = Mode::Wait(1);
    let (name, kind, claim, weight, capacity) = ("a".to_owned(), Kind::Mutex, 1, 1, 1);
    log.write(&OwnerEvent::Invoke { at: 1, claim, name, kind, weight, capacity, mode });
    let log = directory.path().join("owner-1.jsonl");
    let whole = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, format!("{whole}{{\"event\":\"gra")).unwrap();
    // All owners are killed with a run that is.
    assert!(History::read(directory.path()).is_ok());
    Log::open(&directory.path().join("faults.jsonl")).unwrap().write(&FaultEvent::End { at: 4 });
    assert!(History::read(directory.path()).unwrap_err().to_string().contains("cut"));
    let (kind, owner, proof, took_effect, forgets) =
        ("owner_kill".to_owned(), Some(1), String::new(), true, false);
    let faults = Log::open(&directory.path().join("faults.jsonl")).unwrap();
    faults.write(&FaultEvent::Fault { at: 2, mended: 3, kind, owner, proof, took_effect, forgets });
    History::read(directory.path()).unwrap();
}
