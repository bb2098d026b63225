//! Values: what comes with a grant, and who may write it.

use globallock_faults::check::Rule;
use globallock_faults::history::ValueAnswer::{self, Lost, Outranked, Unknown, Written};

use super::logs::{ClaimSpec, LEASE, Logs, mutex};

fn unknown() -> ValueAnswer {
    Unknown("no answer".to_owned())
}

/// Three holders of a mutex, one after the other. The first has token 5 and writes, the others have 7 and 9.
fn three() -> Logs {
    Logs::new()
        .claim(mutex(1, 1, 10, 20, 5, 100))
        .set(1, 1, 1, (30, 40), Written)
        .claim(mutex(2, 1, 50, 110, 7, 200))
        .claim(mutex(3, 1, 60, 210, 9, 300))
}

/// Readers: all hold from their grants to 500.
fn reader(owner: u32, asked: u64, fencing_token: u64) -> ClaimSpec {
    ClaimSpec { capacity: 9, ..mutex(owner, 1, asked, asked + 5, fencing_token, 500) }
}

#[test]
fn values_that_are_their_newest_holders_violate_nothing() {
    let logs = three().came(1, 1, None).came(2, 1, Some((5, 1))).set(2, 1, 1, (120, 130), Written);
    let report = logs.set(2, 1, 2, (140, 150), Written).came(3, 1, Some((7, 2))).passes();
    assert_eq!((report.values, report.values_written), (3, 3));
}

#[test]
fn a_value_that_is_older_than_what_was_written_is_caught() {
    let came = |value| three().set(1, 1, 2, (50, 60), Written).came(2, 1, value);
    came(Some((5, 2))).passes();
    came(Some((5, 1))).breaks(Rule::Values);
    came(None).breaks(Rule::Values);
    // The store may have forgotten it.
    let forgot = |at| came(None).fault("flush_all", None, at, at + 1, true);
    assert_eq!(forgot(105).passes().excused, 1);
    forgot(111).breaks(Rule::Values);
    // An unanswered write may have been carried out or not.
    for value in [(5, 1), (5, 2)] {
        three().set(1, 1, 2, (50, 60), unknown()).came(2, 1, Some(value)).passes();
    }
}

#[test]
fn a_write_counts_for_the_next_holder_whenever_its_writer_hears_of_it() {
    // The writer was stopped, and the next holder had asked long before.
    let stopped = |value| {
        let held = ClaimSpec { released: None, ..mutex(1, 1, 10, 20, 5, 0) };
        let logs = Logs::new().claim(held).set(1, 1, 1, (30, 2_000), Written);
        let logs = logs.lost(1, 1, 2_000, globallock_faults::history::Reason::Expired);
        let logs = logs.fault("owner_stop_long", Some(1), 31, 1_999, false);
        logs.claim(mutex(2, 1, 25, 20 + LEASE, 7, 1_500)).came(2, 1, value)
    };
    stopped(Some((5, 1))).passes();
    stopped(None).breaks(Rule::Values);
}

#[test]
fn a_holder_that_writes_after_a_later_grant_is_caught() {
    let late = |at, answer| three().set(1, 1, 2, (at, 250), answer);
    late(109, Written).passes();
    late(111, Written).breaks(Rule::Values);
    late(111, unknown()).passes();
    assert_eq!(late(111, Lost).passes().values_refused, 1);
    assert_eq!(late(111, Written).fault("promotion", None, 111, 112, true).passes().excused, 1);
    late(111, unknown()).came(3, 1, Some((5, 2))).breaks(Rule::Values);
    // It was sent before, but it was not there yet when the next holder was granted the lock.
    let overtaken = |value| late(90, unknown()).came(2, 1, value).came(3, 1, Some((5, 2)));
    overtaken(Some((5, 2))).passes();
    overtaken(Some((5, 1))).breaks(Rule::Values);
}

#[test]
fn a_value_that_comes_and_goes_without_a_write_is_caught() {
    let unanswered = || Logs::new().claim(mutex(1, 1, 10, 20, 5, 100)).set(1, 1, 1, (30, 40), unknown());
    let two = |first, second| {
        let logs = unanswered().claim(mutex(2, 1, 50, 110, 7, 200)).claim(mutex(3, 1, 60, 210, 9, 300));
        logs.came(2, 1, first).came(3, 1, second)
    };
    two(None, None).passes();
    two(Some((5, 1)), Some((5, 1))).passes();
    two(None, Some((5, 1))).breaks(Rule::Values);
    two(Some((5, 1)), None).breaks(Rule::Values);
}

#[test]
fn a_value_that_nobody_wrote_is_caught() {
    three().came(2, 1, Some((5, 2))).breaks(Rule::Values);
    three().came(2, 1, Some((6, 1))).breaks(Rule::Values);
    // A reader's write that was begun after the other had been granted.
    let seen = |begun| {
        let logs = Logs::new().claim(reader(1, 10, 5)).claim(reader(2, 20, 6));
        logs.set(1, 1, 1, (begun, 40), unknown()).came(2, 1, Some((5, 1)))
    };
    seen(24).passes();
    seen(26).breaks(Rule::Values);
}

#[test]
fn an_exclusive_claim_with_a_newer_holders_value_is_caught() {
    // The owner of token 9 hears of its grant, and the store lets it write, before that of token 7 hears of
    // its own.
    let newer = |shared: bool| {
        let spec = |owner, fencing_token| ClaimSpec {
            capacity: if shared { 9 } else { 1 },
            ..mutex(owner, 1, 10, 40, fencing_token, 100)
        };
        let first = ClaimSpec { granted: 20, released: Some(35), ..spec(1, 9) };
        Logs::new().claim(first).set(1, 1, 1, (25, 30), Written).claim(spec(2, 7)).came(2, 1, Some((9, 1)))
    };
    newer(true).passes();
    newer(false).breaks(Rule::Values);
}

#[test]
fn of_readers_the_highest_token_writes_last() {
    let readers = || Logs::new().claim(reader(1, 10, 5)).claim(reader(2, 20, 6));
    // While both hold, a reader that asks gets the higher one's value, also if the lower one wrote later.
    let asked = |answer, value| {
        let logs = readers().set(2, 1, 1, (30, 40), Written).set(1, 1, 1, (50, 60), answer);
        logs.claim(reader(3, 70, 7)).came(3, 1, Some(value))
    };
    asked(Outranked, (6, 1)).passes();
    asked(unknown(), (5, 1)).breaks(Rule::Values);
    // What was written after it had asked, it may get or not.
    for value in [None, Some((6, 1))] {
        readers().claim(reader(3, 30, 7)).set(2, 1, 1, (31, 34), Written).came(3, 1, value).passes();
    }
}

#[test]
fn a_holder_that_is_outranked_while_nobody_else_holds_is_caught() {
    let outranked = |answered| three().set(1, 1, 2, (50, answered), Outranked);
    outranked(90).breaks(Rule::Values);
    outranked(150).passes();
}
