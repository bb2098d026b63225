//! The checker itself: for every rule a history that violates it, and similar ones that do not.

mod evictions;
mod logs;
mod values;

use globallock_faults::check::Rule;
use globallock_faults::history::{Failure, FaultEvent, OwnerEvent, Reason, Time};

use self::logs::{ClaimSpec, LEASE, Logs, mutex};

fn in_turn() -> Logs {
    Logs::new().claim(mutex(1, 1, 10, 20, 5, 100)).claim(mutex(2, 1, 30, 101, 7, 200))
}

#[test]
fn owners_that_take_turns_violate_nothing() {
    let report = in_turn().wrote(1, 1, 5, 50, true, true).wrote(2, 1, 7, 150, true, true).passes();
    assert_eq!((report.all_grants(), report.writes), (2, 2));
}

#[test]
fn two_holders_at_a_time_are_caught() {
    Logs::new().claim(mutex(1, 1, 10, 20, 5, 100)).claim(mutex(2, 1, 30, 99, 7, 200)).breaks(Rule::Exclusion);
}

#[test]
fn two_holders_are_excused_if_the_store_forgot_but_falling_tokens_are_not() {
    let flushed = |fencing_token| {
        let logs =
            Logs::new().claim(mutex(1, 1, 10, 20, 5, 100)).claim(mutex(2, 1, 30, 99, fencing_token, 200));
        logs.fault("flush_all", None, 90, 91, true)
    };
    assert_eq!(flushed(7).passes().excused, 1);
    flushed(5).breaks(Rule::Tokens);
}

#[test]
fn more_permits_than_the_capacity_are_caught() {
    let permits = |owner, count, asked, fencing_token| ClaimSpec {
        count,
        capacity: 3,
        ..mutex(owner, 1, asked, asked + 5, fencing_token, 500)
    };
    let two = || Logs::new().claim(permits(1, 2, 10, 5)).claim(permits(2, 1, 20, 6));
    two().passes();
    two().claim(permits(3, 1, 30, 7)).breaks(Rule::Exclusion);
}

#[test]
fn a_stopped_owner_counts_as_a_holder_until_its_deadline() {
    let stopped = |next| {
        let held = ClaimSpec { released: None, ..mutex(1, 1, 10, 20, 5, 0) };
        let lost = OwnerEvent::Lost { at: 5_000_000, claim: 1, reason: Reason::Expired, eviction: None };
        let logs = Logs::new().claim(held).event(1, lost).fault("owner_stop_long", Some(1), 30, 5_000, false);
        logs.claim(mutex(2, 1, 30, next, 7, next + 10))
    };
    stopped(20 + LEASE).passes();
    stopped(19 + LEASE).breaks(Rule::Exclusion);
}

#[test]
fn a_killed_owner_counts_as_a_holder_until_its_last_line() {
    let held = ClaimSpec { released: None, ..mutex(1, 1, 10, 20, 5, 0) };
    let killed = || Logs::new().claim(held).fault("owner_kill", Some(1), 21, 22, false);
    killed().claim(mutex(2, 1, 15, 30, 7, 40)).passes();
    let later = OwnerEvent::Held { at: 35_000, claim: 1, until: Some(1_030_000) };
    killed().event(1, later).claim(mutex(2, 1, 15, 30, 7, 40)).breaks(Rule::Exclusion);
}

#[test]
fn a_register_that_accepts_an_old_token_is_caught() {
    in_turn().wrote(2, 1, 7, 150, true, true).wrote(1, 1, 5, 160, true, false).breaks(Rule::Registers);
}

#[test]
fn one_token_of_two_claims_at_the_register_is_caught() {
    in_turn().wrote(1, 1, 5, 50, true, true).wrote(2, 1, 5, 60, true, false).breaks(Rule::Registers);
}

#[test]
fn a_refused_write_is_a_violation_only_if_its_owner_held_throughout() {
    let refused = |believed| in_turn().wrote(2, 1, 7, 150, true, true).wrote(1, 1, 5, 160, false, believed);
    assert_eq!(refused(false).passes().stale, 1);
    refused(true).breaks(Rule::BelievedWrites);
}

#[test]
fn tokens_that_fall_are_caught() {
    Logs::new().claim(mutex(1, 1, 10, 20, 5, 100)).claim(mutex(2, 1, 110, 120, 4, 200)).breaks(Rule::Tokens);
}

#[test]
fn a_token_given_twice_is_caught() {
    let shared =
        |owner, fencing_token| ClaimSpec { capacity: 9, ..mutex(owner, 1, 10, 20, fencing_token, 100) };
    Logs::new().claim(shared(1, 5)).claim(shared(2, 6)).passes();
    Logs::new().claim(shared(1, 5)).claim(shared(2, 5)).breaks(Rule::Tokens);
}

/// Owner 3 holds. Owner 1 waits and is seen, then owner 2 comes. Both are granted at these times with these
/// tokens.
fn waiting(first: (Time, u64), second: (Time, u64)) -> Logs {
    Logs::new()
        .claim(mutex(3, 1, 1, 2, 1, 100))
        .claim(mutex(1, 1, 10, first.0, first.1, first.0 + 10))
        .seen(20, &[(3, true, 1), (1, false, 4)])
        .claim(mutex(2, 1, 30, second.0, second.1, second.0 + 10))
}

#[test]
fn a_waiter_that_is_overtaken_is_caught() {
    assert_eq!(waiting((101, 4), (120, 6)).passes().pairs, 1);
    waiting((150, 8), (120, 6)).breaks(Rule::Queue);
}

#[test]
fn an_observed_claim_that_was_given_up_is_not_taken_for_its_owners_next_claim() {
    // Owner 3 holds. Owner 1 gives up a claim, which is still seen after that, and makes another one behind
    // owner 2.
    let given_up = |other: Option<ClaimSpec>| {
        let mut logs = Logs::new().claim(mutex(3, 1, 1, 2, 1, 100)).asked(1, 8, (1, 1), 3, 10).failed(
            1,
            8,
            13,
            Failure::Cancelled,
        );
        if let Some(spec) = other {
            logs = logs.claim(spec);
        }
        logs = logs.claim(mutex(1, 9, 19, 150, 8, 160)).seen(20, &[(3, true, 1), (1, false, 4)]);
        logs.claim(mutex(2, 1, 30, 120, 6, 130))
    };
    given_up(None).passes();
    // A claim that was enqueued in between has a lower token, so the claim that was seen is the second one.
    given_up(Some(mutex(4, 1, 14, 101, 3, 105))).breaks(Rule::Queue);
}

#[test]
fn a_position_may_be_lost_by_a_fault_but_not_while_it_is_observed() {
    let faulty = || waiting((150, 8), (120, 6)).fault("cut", None, 50, 60, false);
    faulty().passes();
    let seen = |logs: Logs| logs.seen(130, &[(2, true, 6), (1, false, 4)]);
    seen(faulty()).breaks(Rule::Queue);
    // Where an onlooker may be shown what was true earlier, only a time without faults proves anything.
    let lagging = |logs: Logs| Logs { reads_lag: true, ..seen(logs) };
    lagging(faulty()).passes();
    lagging(waiting((150, 8), (120, 6))).breaks(Rule::Queue);
    // It may also be lost without a fault, if the owner did not run.
    let pause = OwnerEvent::Pause { at: 120_000, length: 80_000 };
    waiting((150, 8), (120, 6)).event(1, pause).passes();
}

#[test]
fn a_waiter_that_starves_is_caught() {
    let logs = || {
        let mut logs = Logs::new().asked(1, 1, (1, 1), 10, 3_000);
        for turn in 0..30 {
            let at = 20 + turn * 100;
            logs = logs.claim(mutex(2, turn + 1, at, at + 1, turn + 1, at + 90));
        }
        logs.failed(1, 1, 3_010, Failure::TimedOut)
    };
    logs().breaks(Rule::Queue);
    // If its owner did not run, it may have lost its position before it was overtaken.
    logs().event(1, OwnerEvent::Pause { at: 400_000, length: 300_000 }).passes();
    logs().event(1, OwnerEvent::Pause { at: 2_990_000, length: 300_000 }).breaks(Rule::Queue);
}

#[test]
fn a_grant_with_no_time_left_is_caught() {
    let until = Some(19_000);
    let granted = OwnerEvent::Granted { at: 20_000, claim: 1, fencing_token: 5, until };
    let lost = OwnerEvent::Lost { at: 900_000, claim: 1, reason: Reason::Expired, eviction: None };
    Logs::new().asked(1, 1, (1, 1), 10, 100).event(1, granted).event(1, lost).breaks(Rule::Losses);
}

#[test]
fn a_loss_that_is_reported_late_or_never_is_caught() {
    let held = || Logs::new().claim(ClaimSpec { released: None, ..mutex(1, 1, 10, 20, 5, 0) });
    let lost = |at| OwnerEvent::Lost { at, claim: 1, reason: Reason::Expired, eviction: None };
    held().event(1, lost(1_500_000)).passes();
    held().event(1, lost(9_000_000)).breaks(Rule::Losses);
    held().breaks(Rule::Losses);
}

#[test]
fn a_lock_that_is_lost_in_calm_before_its_deadline_is_caught() {
    let lost = |at, reason| {
        Logs::new().claim(ClaimSpec { released: None, ..mutex(1, 1, 10, 20, 5, 0) }).lost(1, 1, at, reason)
    };
    for reason in [Reason::Revoked, Reason::Expired] {
        lost(500, reason).breaks(Rule::Unprovoked);
        lost(500, reason).fault("cut", None, 400, 410, false).passes();
        lost(500, reason).fault("owner_kill", Some(2), 5, 6, false).passes();
        // A full Redis only refuses what is new. To make room in etcd, its history is compacted.
        let full = |store| Logs { store, ..lost(500, reason).fault("full", None, 400, 600, false) };
        full("redis-replica").breaks(Rule::Unprovoked);
        full("etcd-1").passes();
        // The machine may have paused until the deadline.
        assert_eq!(lost(1_021, reason).passes().paused, 1);
    }
    lost(500, Reason::MaxHold).passes();
}

#[test]
fn a_lease_that_expires_in_calm_is_caught_if_its_owner_ran_and_the_store_answered() {
    let shared = |owner, claim, asked, fencing_token, released| ClaimSpec {
        capacity: 9,
        released,
        ..mutex(owner, claim, asked, asked + 1, fencing_token, 0)
    };
    let others = |times: &[Time]| {
        let mut logs = Logs::new().claim(shared(1, 1, 10, 1, None)).lost(1, 1, 1_030, Reason::Expired);
        for (claim, at) in (1..).zip(times) {
            logs = logs.claim(shared(2, claim, *at, claim + 1, Some(at + 5)));
        }
        logs
    };
    let throughout = [50, 300, 550, 800];
    others(&throughout).breaks(Rule::Unprovoked);
    // The owner did not run: excused. Another owner did not run: no excuse.
    let pause = OwnerEvent::Pause { at: 500_000, length: 200_000 };
    assert_eq!(others(&throughout).event(1, pause.clone()).passes().paused, 1);
    others(&throughout).event(2, pause).breaks(Rule::Unprovoked);
    // The store answered no release for a quarter of the lease, or one release slowly.
    others(&[50, 300, 800]).passes();
    // It was full, and showed the observer that it answered: on Redis that is enough.
    let full = others(&[50, 300, 800]).seen(550, &[]).fault("full", None, 400, 900, false);
    Logs { store: "redis-replica", ..full }.breaks(Rule::Unprovoked);
    Logs { store: "redis", ..others(&[50, 300, 800]).seen(550, &[]) }.passes();
    let slow = others(&throughout).claim(shared(3, 1, 100, 9, None));
    let slow = slow.event(3, OwnerEvent::Release { at: 300_000, claim: 1 });
    slow.event(3, OwnerEvent::Released { at: 400_000, claim: 1, outcome: "left".to_owned() }).passes();
}

#[test]
fn an_owed_fault_that_took_no_effect_is_caught() {
    let owing = |times: &[bool]| {
        let mut logs = Logs { owed: vec!["cut".to_owned()], ..in_turn() }.fault("delay", None, 1, 2, false);
        for took_effect in times.iter().copied() {
            let (kind, proof, at, mended) = ("cut".to_owned(), String::new(), 1_000, 2_000);
            let forgets = false;
            logs.faults.push(FaultEvent::Fault {
                at,
                mended,
                kind,
                owner: None,
                proof,
                took_effect,
                forgets,
            });
        }
        logs
    };
    owing(&[false, true]).passes();
    owing(&[]).breaks(Rule::Faults);
    owing(&[false, false]).breaks(Rule::Faults);
}

#[test]
fn a_fault_during_which_a_run_was_cut_short_excuses_its_consequences() {
    let held = ClaimSpec { released: None, ..mutex(1, 1, 10, 20, 5, 0) };
    let mut logs = Logs { ends: false, owed: vec!["cut".to_owned()], ..Logs::new() };
    logs = logs.claim(held).lost(1, 1, 500, Reason::Revoked);
    logs.faults.push(FaultEvent::Begin { at: 400_000, kind: "flush_all".to_owned() });
    logs.faults.push(FaultEvent::Interrupted { at: 600_000, why: "no room".to_owned() });
    let report = logs.judged();
    let [violation] = &report.violations[..] else { panic!("{report}") };
    assert!(violation.rule == Rule::Left && violation.what.ends_with("no room"), "{report}");
}

#[test]
fn a_call_that_returns_late_or_never_is_caught() {
    let asked = || Logs::new().claim(mutex(2, 1, 1, 2, 5, 59_000)).asked(1, 1, (1, 1), 10, 100);
    asked().failed(1, 1, 1_500, Failure::TimedOut).passes();
    asked().failed(1, 1, 1_700, Failure::TimedOut).breaks(Rule::Limits);
    asked().breaks(Rule::Limits);
    asked()
        .failed(1, 1, 2_700, Failure::TimedOut)
        .fault("owner_stop_long", Some(1), 20, 1_900, false)
        .passes();
}

#[test]
fn an_owner_that_gets_only_errors_is_caught() {
    let errors = |claims: std::ops::Range<u64>| {
        claims.fold(Logs::new(), |logs, claim| {
            let failure = Failure::Error("no".to_owned());
            logs.asked(1, claim, (1, 1), claim * 1_000, 100).failed(1, claim, claim * 1_000 + 50, failure)
        })
    };
    errors(1..8).passes();
    errors(1..10).breaks(Rule::Progress);
    errors(1..6).claim(mutex(1, 6, 6_000, 6_001, 5, 6_002)).passes();
    // Faults that hit it, or all; how long a server takes to start three times depends on the machine.
    for kind in ["owner_stop_long", "owner_suspend", "restart_storm", "link_down"] {
        let owner = (kind != "restart_storm").then_some(1);
        errors(1..10).fault(kind, owner, 2_000, 5_000, false).passes();
    }
    errors(1..10).fault("link_down", Some(2), 2_000, 5_000, false).breaks(Rule::Progress);
    // What two faults at the same time last counts once.
    let cut = |logs: Logs| logs.fault("cut", None, 2_000, 2_600, false);
    cut(cut(errors(1..10))).breaks(Rule::Progress);
}

#[test]
fn a_waiter_of_a_free_lock_is_caught() {
    Logs::new().asked(1, 1, (1, 1), 10, 2_000).failed(1, 1, 2_010, Failure::TimedOut).breaks(Rule::Progress);
    let held = ClaimSpec { released: Some(1_900), ..mutex(2, 1, 1, 2, 5, 0) };
    Logs::new().claim(held).asked(1, 1, (1, 1), 10, 2_000).failed(1, 1, 2_010, Failure::TimedOut).passes();
}

#[test]
fn a_killed_owners_lock_that_is_granted_late_is_caught() {
    let killed = |next| {
        let held = ClaimSpec { released: None, ..mutex(1, 1, 10, 20, 5, 0) };
        let logs = Logs::new().claim(held).fault("owner_kill", Some(1), 21, 22, false);
        logs.claim(mutex(2, 1, 15, next, 7, next + 10))
    };
    assert_eq!(killed(1_020).passes().recoveries, [999_000]);
    killed(1_600).breaks(Rule::Recovery);
}

#[test]
fn leftovers_and_a_run_without_an_end_are_caught() {
    Logs { left: vec!["a".to_owned()], ..in_turn() }.breaks(Rule::Left);
    Logs { ends: false, ..in_turn() }.breaks(Rule::Left);
}
