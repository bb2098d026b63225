//! Operators evict the very claim that they saw, or none, and its owner is told of it.

use globallock_faults::check::Rule;
use globallock_faults::history::{EvictionAnswer, Failure, OwnerEvent, Reason, Time, reason_of_eviction};

use super::logs::{ClaimSpec, LEASE, Logs, mutex};

/// The operator of these histories.
const OPERATOR: u32 = 8;

/// An operator evicts a claim that it has seen: of this owner, and held with this token or waiting.
fn evicts(
    logs: Logs,
    operator: u32,
    owner: u32,
    (held, fencing_token): (bool, u64),
    (at, answered): (Time, Time),
    answer: EvictionAnswer,
) -> Logs {
    let (at, answered, eviction, name) = (at * 1_000, answered * 1_000, 1, "a".to_owned());
    logs.event(operator, OwnerEvent::Evict { at, eviction, name, owner, held, fencing_token })
        .event(operator, OwnerEvent::Evicted { at: answered, eviction, answer })
}

/// The owner of a granted claim is told of an eviction of this operator.
fn told(logs: Logs, owner: u32, at: Time, operator: u32) -> Logs {
    let (reason, eviction) = (Reason::Evicted, Some(reason_of_eviction(operator, 1)));
    logs.event(owner, OwnerEvent::Lost { at: at * 1_000, claim: 1, reason, eviction })
}

/// Owner 1 holds from 20 on.
fn held() -> Logs {
    Logs::new().claim(ClaimSpec { released: None, ..mutex(1, 1, 10, 20, 5, 0) })
}

fn evicted() -> Logs {
    evicts(held(), OPERATOR, 1, (true, 5), (100, 110), EvictionAnswer::Released)
}

#[test]
fn an_owner_that_is_told_who_evicted_its_claim_violates_nothing() {
    let report = told(evicted(), 1, 120, OPERATOR).passes();
    assert_eq!((report.told, report.evictions["released"], report.losses["evicted"]), (1, 1, 1));
    // The next one may hold before the owner has heard.
    told(evicted().claim(mutex(2, 1, 30, 111, 7, 200)), 1, 300, OPERATOR).passes();
    let waiter = Logs::new().asked(1, 1, (1, 1), 10, 20_000);
    let waiter = evicts(waiter, OPERATOR, 1, (false, 5), (100, 110), EvictionAnswer::Released);
    let failure = Failure::Evicted(reason_of_eviction(OPERATOR, 1));
    assert_eq!(waiter.failed(1, 1, 120, failure).passes().failures["evicted"], 1);
}

#[test]
fn a_claim_that_was_seen_waiting_may_have_been_granted_since() {
    let seen = evicts(held(), OPERATOR, 1, (false, 3), (100, 110), EvictionAnswer::Released);
    told(seen.claim(mutex(2, 1, 30, 111, 7, 200)), 1, 300, OPERATOR).passes();
}

#[test]
fn an_eviction_that_nobody_asked_for_is_caught() {
    told(held(), 1, 120, OPERATOR).breaks(Rule::Evictions);
    told(evicted(), 1, 120, OPERATOR + 1).breaks(Rule::Evictions);
    told(evicted(), 1, 99, OPERATOR).breaks(Rule::Evictions);
}

#[test]
fn an_eviction_that_hits_another_claim_is_caught() {
    let other = |owner, seen| {
        let seen = evicts(held(), OPERATOR, owner, seen, (100, 110), EvictionAnswer::Released);
        told(seen, 1, 120, OPERATOR)
    };
    other(1, (true, 5)).passes();
    other(1, (true, 4)).breaks(Rule::Evictions);
    other(2, (true, 5)).breaks(Rule::Evictions);
    other(2, (false, 5)).breaks(Rule::Evictions);
    let later = evicts(Logs::new(), OPERATOR, 1, (false, 3), (5, 110), EvictionAnswer::Released);
    let later = later.claim(ClaimSpec { released: None, ..mutex(1, 1, 10, 20, 5, 0) });
    told(later, 1, 120, OPERATOR).breaks(Rule::Evictions);
}

#[test]
fn an_eviction_that_hits_two_claims_is_caught() {
    let shared = |claim, fencing_token| ClaimSpec {
        claim,
        capacity: 9,
        released: None,
        ..mutex(1, claim, 10, 20, fencing_token, 0)
    };
    let two = Logs::new().claim(shared(1, 5)).claim(shared(2, 6));
    let two = evicts(two, OPERATOR, 1, (false, 5), (100, 110), EvictionAnswer::Released);
    let (reason, eviction) = (Reason::Evicted, Some(reason_of_eviction(OPERATOR, 1)));
    let two = two.event(1, OwnerEvent::Lost { at: 120_000, claim: 2, reason, eviction });
    told(two, 1, 120, OPERATOR).breaks(Rule::Evictions);
}

#[test]
fn of_two_operators_at_once_one_ends_the_grant() {
    let both = |seen, first, second| {
        let logs = evicts(held(), OPERATOR, 1, seen, (100, 110), first);
        told(evicts(logs, OPERATOR + 1, 1, seen, (101, 111), second), 1, 120, OPERATOR)
    };
    let (released, gone) = (EvictionAnswer::Released, EvictionAnswer::NotHeld);
    assert_eq!(both((true, 5), released.clone(), gone).passes().at_once, 1);
    both((true, 5), released.clone(), EvictionAnswer::Unknown("no".to_owned())).passes();
    both((true, 5), released.clone(), released.clone()).breaks(Rule::Evictions);
    // A waiter that has heard only that it is gone comes back.
    both((false, 5), released.clone(), released.clone()).passes();
    let forgot = both((true, 5), released.clone(), released).fault("promotion", None, 90, 100, true);
    assert_eq!(forgot.passes().excused, 1);
}

#[test]
fn a_grant_that_is_renewed_after_its_eviction_is_caught() {
    let renewed = |answer, until: Option<Time>| {
        let logs = evicts(held(), OPERATOR, 1, (true, 5), (100, 110), answer);
        let until = until.map(|until| until * 1_000);
        let logs = logs.event(1, OwnerEvent::Held { at: 130_000, claim: 1, until });
        logs.lost(1, 1, 1_000, Reason::Revoked)
    };
    for answer in [EvictionAnswer::Released, EvictionAnswer::NotHeld] {
        // What was confirmed just before lasts for a lease.
        renewed(answer.clone(), Some(110 + LEASE)).passes();
        renewed(answer.clone(), Some(111 + LEASE)).breaks(Rule::Evictions);
        assert_eq!(
            renewed(answer, Some(111 + LEASE)).fault("flush_all", None, 90, 95, true).passes().excused,
            1
        );
    }
    renewed(EvictionAnswer::Unknown("no".to_owned()), Some(111 + LEASE)).passes();
}

#[test]
fn an_owner_without_a_lease_that_goes_on_after_its_eviction_is_caught() {
    let goes_on = |at: Time| {
        let permits = Logs::new().asked(1, 1, (1, 1), 10, 20_000);
        let granted = OwnerEvent::Granted { at: 20_000, claim: 1, fencing_token: 5, until: None };
        let logs =
            evicts(permits.event(1, granted), OPERATOR, 1, (true, 5), (100, 110), EvictionAnswer::Released);
        let logs = logs.event(1, OwnerEvent::Held { at: at * 1_000, claim: 1, until: None });
        told(logs, 1, at + 1, OPERATOR)
    };
    goes_on(1_600).passes();
    goes_on(1_700).breaks(Rule::Evictions);
    goes_on(1_700).fault("owner_stop_long", Some(1), 100, 1_650, false).passes();
}

#[test]
fn what_others_lose_without_an_eviction_is_judged_as_ever() {
    let other = ClaimSpec { released: None, ..mutex(2, 1, 121, 130, 7, 0) };
    let logs = told(evicted(), 1, 120, OPERATOR).claim(other);
    logs.lost(2, 1, 140, Reason::Revoked).breaks(Rule::Unprovoked);
    // The evicted owner is told otherwise, such as when the notice of its eviction was lost.
    evicted().lost(1, 1, 120, Reason::Revoked).passes();
    held().lost(1, 1, 120, Reason::Revoked).breaks(Rule::Unprovoked);
}

#[test]
fn two_holders_at_a_time_are_excused_only_from_the_eviction_on() {
    let next = |granted| told(evicted().claim(mutex(2, 1, 30, granted, 7, 200)), 1, 300, OPERATOR);
    next(100).passes();
    next(99).breaks(Rule::Exclusion);
    let write = |at| {
        let logs = told(evicted().claim(mutex(2, 1, 30, 111, 7, 200)), 1, 300, OPERATOR);
        logs.wrote(2, 1, 7, at - 5, true, true).wrote(1, 1, 5, at, false, true)
    };
    write(150).passes();
    write(95).breaks(Rule::BelievedWrites);
}
