//! The protocol, searched in every order of events; and that the search finds what is wrong where something is.

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
        // A claim that is asked for once has one answer.
        assert_eq!(found.violated.contains(&OVERTAKEN), found.protocol.requests > 1, "{found}");
        assert_eq!(
            found.violated.contains(&"two share the lock"),
            !found.protocol.name.contains("mutex"),
            "{found}"
        );
    }
}

/// Searches a protocol of two owners with a flaw, and expects a story of how it breaks that promise.
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
fn an_owner_that_believes_for_ever_is_found() {
    breaks(Flaw::NoDeadline, &BOTH, EXCLUSION);
}

#[test]
fn an_owner_that_counts_from_the_answer_is_found() {
    breaks(Flaw::CountsFromAnswer, &BOTH, EXCLUSION);
}

#[test]
fn an_owner_that_trusts_its_clock_is_found() {
    breaks(Flaw::NoMargin, &BOTH, EXCLUSION);
}

#[test]
fn a_resource_that_takes_every_token_is_found() {
    breaks(Flaw::NoFencing, &BOTH, FENCED);
}

#[test]
fn tokens_that_begin_anew_are_found() {
    breaks(Flaw::TokensRestart, &BOTH, "tokens rise");
}

#[test]
fn a_store_that_grants_to_all_is_found() {
    breaks(Flaw::GrantsToAll, &BOTH, EXCLUSION);
}

#[test]
fn a_store_that_keeps_the_dead_is_found() {
    breaks(
        Flaw::KeepsExpiredClaims,
        &BOTH,
        "a waiter is granted once the others have been silent for a lease",
    );
}

#[test]
fn a_store_that_lets_in_who_has_left_is_found() {
    let promise = "a released claim leaves nothing that another claim keeps alive";
    breaks(Flaw::NoTombstone, &[Shape::LeasePerOwner], promise);
}

#[test]
fn a_claim_that_trusts_the_end_of_the_next_is_found() {
    for name in ["mutex of three", "permits"] {
        breaks_for(name, Flaw::TakesGoneForGrant, &[Shape::LeasePerOwner], EXCLUSION);
    }
}

#[test]
fn an_owner_that_takes_a_newer_lease_for_the_older_is_found() {
    breaks_for("two mutexes of two", Flaw::ConfusesLeases, &[Shape::LeasePerOwner], EXCLUSION);
}

#[test]
fn an_owner_that_asks_while_it_leaves_is_found() {
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

/// Searches a protocol of two owners that may ask so often: a claim can expire while it waits, and join once more.
fn joins_twice(flaw: Flaw, shape: Shape, requests: u8, promise: &'static str) {
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
fn an_owner_that_forgets_a_place_for_what_is_said_of_an_earlier_one_is_found() {
    joins_twice(Flaw::ForgetsNewerEntry, Shape::LeasePerOwner, 4, UNPROVOKED);
}

#[test]
fn an_owner_that_takes_a_push_to_an_earlier_place_is_found() {
    joins_twice(Flaw::TakesOldPushes, Shape::LeasePerClaim, 3, "a believed holder is a holder in the store");
}
