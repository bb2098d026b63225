//! The protocol, searched in every order of events; and that the search finds what is wrong where something is.

use globallock_faults::model::{Flaw, Protocol, Shape, sound};

const EXCLUSION: &str = "never more believe to hold than fit";

#[test]
fn the_protocol_keeps_its_promises_in_every_order_of_events() {
    for protocol in sound(2, 1) {
        // `globallock-faults model` goes further.
        let end = if protocol.claims.len() == 2 { 4 } else { protocol.end };
        let found = Protocol { end, ..protocol }.search();
        println!("{found}");
        // These may happen, and the others must not.
        let may = ["two share the lock", "a write comes too late and is refused"];
        assert!(found.violated.iter().all(|story| may.contains(story)), "{found}");
        assert_eq!(found.violated.contains(&may[0]), !found.protocol.name.contains("mutex"), "{found}");
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
            let found = Protocol { flaw, ..protocol }.search_for(promise);
            println!("{found}");
            assert!(found.violated.contains(&promise), "{found}");
        }
    }
}

const BOTH: [Shape; 2] = [Shape::LeaseOfClaim, Shape::LeaseOfOwner];

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
    breaks(Flaw::NoFencing, &BOTH, "what is guarded never takes an older token after a newer one");
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
        Flaw::KeepsTheDead,
        &BOTH,
        "whoever waits is granted when the others have been silent for a lease",
    );
}

#[test]
fn a_store_that_lets_in_who_has_left_is_found() {
    let promise = "who has left leaves nothing that another claim keeps alive";
    breaks(Flaw::NoBar, &[Shape::LeaseOfOwner], promise);
}

#[test]
fn a_claim_that_trusts_the_end_of_the_next_is_found() {
    for name in ["mutex of three", "permits"] {
        breaks_for(name, Flaw::TrustsTheNext, &[Shape::LeaseOfOwner], EXCLUSION);
    }
}

#[test]
fn an_owner_that_takes_a_newer_lease_for_the_older_is_found() {
    breaks_for("two mutexes of two", Flaw::OneLeaseForEver, &[Shape::LeaseOfOwner], EXCLUSION);
}

#[test]
fn an_owner_that_asks_while_it_leaves_is_found() {
    breaks(Flaw::AsksWhileLeaving, &BOTH, EXCLUSION);
}
