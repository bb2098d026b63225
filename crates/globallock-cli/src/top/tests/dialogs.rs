//! The question whether a claim is to be broken, and what is told of the answer.

use globallock::Error;

use super::*;
use crate::break_claim::Outcome;
use crate::top::app::dialog::Note;

/// Whether this is asked for.
fn breaks(asked: Option<Ask>, name: &str, number: u64, reason: &str) {
    let Some(Ask::Break { name: of, claim, reason: why }) = asked else { panic!("{asked:?}") };
    assert_eq!((&*of, claim.claim, &*why), (name, format!("{number:032}"), reason));
}

#[test]
fn the_claim_that_was_seen_is_broken_after_it_is_confirmed() {
    for confirmed in ["y", "yes", " y ", "nightly/report"] {
        let mut desk = Desk::with(locks());
        desk.types("u");
        assert_eq!(desk.types(" it hangs "), [], "no key is taken for another there");
        assert_eq!(desk.press(Key::Enter), None);
        desk.types(confirmed);
        breaks(desk.press(Key::Enter), "nightly/report", 2, "it hangs");
        assert!(desk.app.dialog.is_none());
    }
}

#[test]
fn nothing_else_confirms() {
    let mut desk = Desk::with(locks());
    desk.types("u");
    desk.press(Key::Tab);
    for typed in ["", "n", "Y", "nightly", "nightly/report ", "yy"] {
        desk.press(Key::Ctrl('u'));
        desk.types(typed);
        assert_eq!(desk.press(Key::Enter), None, "{typed:?}");
        assert_eq!(desk.app.dialog.as_ref().unwrap().note, Some(Note::NotConfirmed));
    }
    desk.types("x");
    assert_eq!(desk.app.dialog.as_ref().unwrap().note, None);
    desk.press(Key::Escape);
    assert!(desk.app.dialog.is_none());
    // One key too many breaks nothing: the reason is asked for first, and an empty answer is no.
    desk.types("uy");
    assert_eq!(desk.press(Key::Enter), None);
    assert_eq!(desk.press(Key::Enter), None);
    assert!(desk.app.dialog.is_some());
}

#[test]
fn a_pasted_text_confirms_nothing_by_its_lines() {
    let mut desk = Desk::with(locks());
    assert_eq!(desk.press(Key::Pasted("u\n\ny\n".into())), None);
    assert!(desk.app.dialog.is_none());
    desk.types("u");
    assert_eq!(desk.press(Key::Pasted("because\ny\n".into())), None);
    assert_eq!(desk.app.dialog.as_ref().unwrap().reason, "because y");
    desk.press(Key::Pasted("é".repeat(200)));
    assert!(desk.app.dialog.as_ref().unwrap().reason.len() <= 256);
}

#[test]
fn both_fields_are_reached_and_edited() {
    let mut desk = Desk::with(locks());
    desk.types("uab");
    desk.press(Key::Down);
    desk.types("y");
    desk.press(Key::Up);
    desk.press(Key::Backspace);
    desk.types("c");
    desk.press(Key::Tab);
    breaks(desk.press(Key::Enter), "nightly/report", 2, "ac");
}

#[test]
fn of_several_holders_one_is_chosen_on_the_page() {
    let mut desk = Desk::with(locks());
    desk.types("oju");
    assert!(desk.app.dialog.is_none());
    assert!(desk.app.message.as_ref().unwrap().starts_with("It has 2 holders: choose the claim"));
    desk.types("d");
    desk.queue(
        "import",
        vec![claim(5, "import 77 etl1", 95.0, Some(8.0)), claim(11, "import 78 etl2", 9.0, None)],
    );
    desk.types("ju");
    assert_eq!(desk.app.dialog.as_ref().unwrap().claim.pid, Some(78));
    desk.press(Key::Enter);
    desk.types("y");
    breaks(desk.press(Key::Enter), "import", 11, "");
    // A waiter of a lock that nobody holds, from the table.
    let mut desk = Desk::with(locks());
    desk.types("Gu");
    assert!(desk.app.message.as_ref().unwrap().starts_with("It has 0 holders: choose the claim"));
}

#[test]
fn a_claim_that_has_ended_meanwhile_is_told_and_nothing_is_broken() {
    let mut desk = Desk::with(locks());
    desk.types("u");
    desk.press(Key::Enter);
    desk.types("y");
    let mut others = locks();
    others[1].holder = Some(claim(20, "next 1 db2", 1.0, Some(9.0)));
    desk.look(others);
    let dialog = desk.app.dialog.as_ref().unwrap();
    assert_eq!((dialog.note, &*dialog.claim.claim), (Some(Note::Ended), &*format!("{:032}", 2)));
    assert_eq!(desk.press(Key::Enter), None);
    assert!(desk.app.dialog.is_none());
    // The same on the page, and where the name is gone.
    desk.types("ud");
    desk.press(Key::Escape);
    desk.types("du");
    desk.queue("nightly/report", Vec::new());
    assert!(desk.app.dialog.is_none(), "there is no claim to be chosen yet");
    desk.look(locks());
    desk.press(Key::Escape);
    desk.types("u");
    desk.look(Vec::new());
    assert_eq!(desk.app.dialog.as_ref().unwrap().note, Some(Note::Ended));
}

#[test]
fn a_waiter_that_is_granted_the_lock_meanwhile_is_confirmed_anew() {
    let mut desk = Desk::with(locks());
    desk.types("d");
    desk.queue("nightly/report", vec![claim(2, "x 1 h", 9.0, None), waiter(3, 1, "y 2 h", 5.0)]);
    desk.types("ju");
    desk.press(Key::Enter);
    desk.types("y");
    desk.queue("nightly/report", vec![claim(3, "y 2 h", 0.0, None)]);
    assert_eq!(desk.app.dialog.as_ref().unwrap().note, Some(Note::HoldsNow));
    assert_eq!(desk.press(Key::Enter), None);
    desk.types("y");
    breaks(desk.press(Key::Enter), "nightly/report", 3, "");
}

#[test]
fn what_became_of_it_is_told_until_the_next_key() {
    for (outcome, says) in [
        (Outcome::Broken, "nightly/report: broken. report (pid 300 on db1) is told"),
        (Outcome::Gone, "nightly/report: that claim is not there any more, and no other was touched"),
        (
            Outcome::Unknown(Error::unavailable("redis://db", "it is away\n")),
            "nightly/report: it is not known whether it was broken: redis://db is unavailable: it is away\\n",
        ),
        (
            Outcome::Failed(Error::unavailable("redis://db", "it is away")),
            "nightly/report: not broken: redis://db is unavailable: it is away",
        ),
    ] {
        let mut desk = Desk::with(locks());
        desk.types("u");
        desk.press(Key::Enter);
        desk.types("y");
        desk.press(Key::Enter);
        assert!(desk.screen(100, 24)[23].contains("nightly/report: is being broken …"));
        desk.types("u");
        assert_eq!(desk.app.message.as_deref(), Some("nightly/report: is still being broken"));
        desk.app.broken(outcome, None, desk.now);
        assert!(desk.screen(120, 24)[23].contains(says), "{:?}", desk.app.message);
        assert_eq!(desk.due(), [Ask::Look], "what is shown is as it is now");
        desk.types("j");
        assert!(desk.app.message.is_none());
        desk.types("u");
        assert!(desk.app.dialog.is_some());
    }
}

#[test]
fn a_waiter_that_is_found_to_hold_when_it_is_to_be_broken_is_asked_about_anew() {
    let mut desk = Desk::with(locks());
    desk.types("d");
    desk.queue("nightly/report", vec![claim(2, "x 1 h", 9.0, None), waiter(3, 1, "y 2 h", 5.0)]);
    // Nothing that is looked at later is shown during a pause.
    desk.types(" jubad");
    desk.press(Key::Tab);
    desk.types("y");
    breaks(desk.press(Key::Enter), "nightly/report", 3, "bad");
    desk.app.broken(Outcome::Granted(claim(3, "y 2 h", 0.0, None)), None, desk.now);
    let dialog = desk.app.dialog.as_ref().unwrap();
    assert_eq!((dialog.note, &*dialog.reason, &*dialog.typed), (Some(Note::HoldsNow), "bad", ""));
    assert!(desk.app.message.as_ref().unwrap().contains("not broken yet"), "{:?}", desk.app.message);
    // One key too many confirms nothing.
    assert_eq!(desk.press(Key::Enter), None);
    assert_eq!(desk.press(Key::Enter), None);
    desk.types("y");
    breaks(desk.press(Key::Enter), "nightly/report", 3, "bad");
    desk.app.broken(Outcome::Broken, None, desk.now);
    assert!(desk.app.dialog.is_none());
}
