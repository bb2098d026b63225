//! The protocol keeps its promises in every order of events, and the search finds each flaw that it is given.

use globallock_faults::model::{Flaw, Protocol, Shape, sound};

const EXCLUSION: &str = "believed holders never exceed the capacity";
const FENCED: &str = "the guarded resource never accepts an older token after a newer one";
const OVERTAKEN: &str = "a grant overtakes an answer of waiting";
const UNPROVOKED: &str = "no claim is reported lost that the store keeps and whose lease has not expired";

#[test]
fn the_protocol_keeps_its_promises_in_every_order_of_events() {
    for protocol in sound(2, 1) {
        // `globallock-faults model` goes further.
        let end = if protocol.claims.len() == 2 { 4 } else { protocol.end };
        let found = Protocol { end, ..protocol }.search();
        println!("{found}");
        assert!(found.is_sound(), "{found}");
        // A claim that is requested only once has only one answer, which no grant can overtake.
        assert_eq!(found.violated.contains(&OVERTAKEN), found.protocol.requests > 1, "{found}");
        assert_eq!(
            found.violated.contains(&"two share the lock"),
            !found.protocol.name.contains("mutex"),
            "{found}"
        );
    }
}

/// Searches the protocol of two owners with a flaw, and expects a counterexample to that promise.
fn breaks(flaw: Flaw, shapes: &[Shape], promise: &'static str) {
    breaks_for("mutex of two", flaw, shapes, promise);
}

fn breaks_for(name: &str, flaw: Flaw, shapes: &[Shape], promise: &'static str) {
    let ticks = if name == "mutex of two" { 4 } else { 3 };
    for protocol in sound(ticks, 2).into_iter().filter(|protocol| protocol.name == name) {
        if shapes.contains(&protocol.shape) {
            let found = Protocol { flaw, writes: promise == FENCED, ..protocol }.search_for(promise);
            println!("{found}");
            assert!(found.violated.contains(&promise), "{found}");
        }
    }
}

const BOTH: [Shape; 2] = [Shape::LeasePerClaim, Shape::LeasePerOwner];

#[test]
fn an_owner_without_a_deadline_is_found() {
    breaks(Flaw::NoDeadline, &BOTH, EXCLUSION);
}

#[test]
fn an_owner_that_counts_its_lease_from_the_answer_is_found() {
    breaks(Flaw::CountsFromAnswer, &BOTH, EXCLUSION);
}

#[test]
fn an_owner_without_a_margin_for_clocks_is_found() {
    breaks(Flaw::NoMargin, &BOTH, EXCLUSION);
}

#[test]
fn a_resource_that_accepts_every_token_is_found() {
    breaks(Flaw::NoFencing, &BOTH, FENCED);
}

#[test]
fn tokens_that_start_again_are_found() {
    breaks(Flaw::TokensRestart, &BOTH, "tokens rise");
}

#[test]
fn a_store_that_grants_to_all_is_found() {
    breaks(Flaw::GrantsToAll, &BOTH, EXCLUSION);
}

#[test]
fn a_store_that_keeps_expired_claims_is_found() {
    breaks(
        Flaw::KeepsExpiredClaims,
        &BOTH,
        "a waiter is granted once the others have been silent for a lease",
    );
}

#[test]
fn a_store_that_enqueues_a_released_claim_is_found() {
    let promise = "a released claim leaves nothing that another claim keeps alive";
    breaks(Flaw::NoTombstone, &[Shape::LeasePerOwner], promise);
}

#[test]
fn a_waiter_that_takes_any_end_for_its_grant_is_found() {
    for name in ["mutex of three", "permits"] {
        breaks_for(name, Flaw::TakesGoneForGrant, &[Shape::LeasePerOwner], EXCLUSION);
    }
}

#[test]
fn an_owner_that_confuses_its_leases_is_found() {
    breaks_for("two mutexes of two", Flaw::ConfusesLeases, &[Shape::LeasePerOwner], EXCLUSION);
}

#[test]
fn an_owner_that_requests_a_claim_while_it_releases_it_is_found() {
    breaks(Flaw::AsksWhileReleasing, &BOTH, EXCLUSION);
}

#[test]
fn an_owner_that_believes_an_answer_from_before_its_grant_is_found() {
    breaks(Flaw::BelievesOldAnswers, &BOTH, UNPROVOKED);
}

#[test]
fn an_owner_that_takes_the_token_of_an_old_answer_is_found() {
    breaks(Flaw::TakesAnyToken, &BOTH, "a believed holder knows its token");
}

/// Searches the protocol of two owners with so many requests that a waiter can expire and be enqueued again.
fn breaks_after_a_second_enqueue(flaw: Flaw, shape: Shape, requests: u8, promise: &'static str) {
    let of_two = |protocol: &Protocol| protocol.name == "mutex of two" && protocol.shape == shape;
    for protocol in sound(2, 2).into_iter().filter(of_two) {
        let without = Protocol { requests, writes: false, ..protocol.clone() }.search();
        println!("{without}");
        assert!(without.is_sound(), "{without}");
        let found = Protocol { flaw, requests, writes: false, ..protocol }.search_for(promise);
        println!("{found}");
        assert!(found.violated.contains(&promise), "{found}");
    }
}

#[test]
fn an_owner_that_forgets_an_entry_because_an_earlier_one_is_gone_is_found() {
    breaks_after_a_second_enqueue(Flaw::ForgetsNewerEntry, Shape::LeasePerOwner, 4, UNPROVOKED);
}

#[test]
fn an_owner_that_takes_a_push_to_an_earlier_entry_is_found() {
    breaks_after_a_second_enqueue(
        Flaw::TakesOldPushes,
        Shape::LeasePerClaim,
        3,
        "a believed holder is a holder in the store",
    );
}
