//! The protocol, searched in every order of events; and that the search finds what is wrong where something is.

use globallock_faults::model::{Flaw, Protocol, Shape, sound};

const EXCLUSION: &str = "never more believe to hold than fit";

#[test]
fn the_protocol_keeps_its_promises_in_every_order_of_events() {
    for protocol in sound(3, 1) {
        let found = protocol.search();
        println!("{found}");
        // These may happen, and the others must not.
        let may = ["two share the lock", "a write comes too late and is refused"];
        assert!(found.violated.iter().all(|story| may.contains(story)), "{found}");
        assert_eq!(found.violated.contains(&may[0]), !found.protocol.name.contains("mutex"), "{found}");
    }
}

/// Searches a protocol of two owners with a flaw, and expects a story of how it breaks that promise.
fn breaks(flaw: Flaw, shapes: &[Shape], promise: &str) {
    for protocol in sound(4, 2).into_iter().filter(|protocol| protocol.name == "mutex of two") {
        if shapes.contains(&protocol.shape) {
            let found = Protocol { flaw, ..protocol }.search();
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
