//! When the store is asked, and what is told of its answers.

use super::*;

#[test]
fn one_look_is_asked_for_per_interval_after_the_answer_to_the_last() {
    let mut desk = Desk::blank();
    assert_eq!(desk.due(), [Ask::Look]);
    assert_eq!(desk.due(), []);
    desk.pass(100.0);
    assert_eq!(desk.due(), [], "the answer has not come");
    desk.look(locks());
    let mut looks = 0;
    for _ in 0..600 {
        desk.pass(0.1);
        if desk.due() == [Ask::Look] {
            looks += 1;
            desk.look(locks());
        }
    }
    assert!((29..=30).contains(&looks), "{looks} in a minute");
}

#[test]
fn an_open_page_costs_one_request_more_per_interval() {
    let mut desk = Desk::with(locks());
    desk.types("d");
    let (mut looks, mut queues) = (0, 0);
    for _ in 0..600 {
        for ask in desk.due() {
            match ask {
                Ask::Look => {
                    looks += 1;
                    desk.app.looked(Look { rows: locks(), failure: None, age: None }, desk.now);
                }
                Ask::Inspect(name) => {
                    queues += 1;
                    desk.queue(&name, vec![claim(2, "x 1 h", 1.0, None)]);
                }
                ask => panic!("{ask:?}"),
            }
        }
        desk.pass(0.1);
    }
    assert!((29..=30).contains(&looks) && (29..=31).contains(&queues), "{looks} and {queues} in a minute");
}

#[test]
fn nothing_wakes_before_something_is_to_be_done() {
    let mut desk = Desk::blank();
    let left = |desk: &Desk| desk.app.wakes(desk.now).map(|at| at - desk.now);
    assert_eq!(left(&desk), Some(Duration::ZERO));
    desk.look(locks());
    assert_eq!(left(&desk), Some(Duration::from_secs(1)), "to draw the times");
    desk.pass(1.5);
    assert_eq!(left(&desk), Some(Duration::from_millis(500)), "to look");
    desk.pass(0.5);
    assert_eq!(desk.due(), [Ask::Look]);
    assert_eq!(left(&desk), Some(Duration::from_secs(1)));
    desk.types(" ");
    assert_eq!(left(&desk), None);
}

#[test]
fn a_pause_stops_the_looks_and_what_is_shown() {
    let mut desk = Desk::with(locks());
    let before = desk.screen(80, 24);
    desk.types(" ");
    desk.pass(60.0);
    assert_eq!(desk.due(), []);
    let after = desk.screen(80, 24);
    assert!(after[1].ends_with(" PAUSED"), "{}", after[1]);
    assert_eq!(before[3..], after[3..]);
    // An answer that was under way changes nothing.
    desk.app.looked(Look { rows: Vec::new(), failure: None, age: Some(Duration::ZERO) }, desk.now);
    assert_eq!(desk.screen(80, 24), after);
    // A page is read once.
    desk.types("d");
    assert_eq!(desk.due(), [Ask::Inspect("nightly/report".into())]);
    desk.queue("nightly/report", vec![claim(2, "x 1 h", 1.0, None)]);
    desk.pass(60.0);
    assert_eq!(desk.due(), []);
    desk.types(" ");
    assert_eq!(desk.due().len(), 2);
    assert!(!desk.screen(80, 24)[1].contains("PAUSED"));
}

#[test]
fn r_looks_at_once() {
    let mut desk = Desk::with(locks());
    assert_eq!(desk.due(), []);
    desk.types("r");
    assert_eq!(desk.due(), [Ask::Look]);
}

#[test]
fn a_store_that_is_away_is_told_with_the_age_of_what_is_shown() {
    let mut desk = Desk::blank();
    let banner = |desk: &mut Desk| desk.screen(160, 24)[1..3].join("\n");
    assert!(desk.screen(80, 24).concat().contains("Looking at the store …"));
    desk.due();
    desk.pass(3.5);
    assert!(banner(&mut desk).contains("Nothing is known yet: the store has not answered for 3s"));
    let fails = |desk: &mut Desk, age| {
        desk.due();
        let rows = desk.app.list.all().to_vec();
        desk.app.looked(Look { rows, failure: Some("it is\u{7} away".to_owned()), age }, desk.now);
    };
    fails(&mut desk, None);
    assert!(banner(&mut desk).contains("Nothing is known yet: it is\\u{7} away"));
    desk.look(locks());
    assert_eq!(banner(&mut desk).trim(), "longest held first");
    desk.pass(61.0);
    fails(&mut desk, Some(Duration::from_secs(61)));
    assert!(banner(&mut desk).contains("What is shown is 1m1s old: it is\\u{7} away"));
    assert_eq!(desk.names().len(), 7, "it is still shown");
    desk.pass(2.0);
    assert_eq!(desk.due(), [Ask::Look], "and asked again");
    assert!(banner(&mut desk).contains("What is shown is 1m3s old: it is\\u{7} away"));
    desk.look(locks());
    assert_eq!(banner(&mut desk).trim(), "longest held first");
}

#[test]
fn an_empty_table_says_why() {
    let mut desk = Desk::with(Vec::new());
    let says = |desk: &mut Desk| desk.screen(80, 24)[5].trim().to_owned();
    assert_eq!(says(&mut desk), "Nobody holds a lock, and nobody waits for one.");
    desk.app.prefix = "a\u{202e}/".into();
    assert!(says(&mut desk).starts_with("Nobody holds a lock whose name begins with a\\u{202e}/, and"));
    desk.look(locks());
    desk.types("fw");
    assert_eq!(says(&mut desk), "There are 7 names, none of which is shown: c shows all.");
    desk.look(locks().split_off(6));
    assert_eq!(says(&mut desk), "There is one name, which is not shown: c shows it.");
}

#[test]
fn what_others_wrote_reaches_the_screen_only_as_harmless_text() {
    let bad = "\u{1b}]0;t\u{7}\u{9b}2J\r\n\u{202e}\u{200b}";
    let owner = ClaimRow {
        label: Some(bad.to_owned()),
        host: Some(bad.to_owned()),
        claim: bad.to_owned(),
        ..claim(1, "- 1 -", 5.0, None)
    };
    let mut desk = Desk::with(vec![lock(bad, Some(owner.clone()), 1, Some(3.0))]);
    (desk.app.prefix, desk.app.store) = (bad.to_owned(), "redis://h".to_owned());
    desk.app.list.filter.host = None;
    let check = |desk: &mut Desk| {
        for (columns, rows) in [(80, 24), (120, 40), (40, 10)] {
            let is_bad = |letter: char| letter.is_control() || "\u{202e}\u{200b}".contains(letter);
            let cells = desk.cells(columns, rows);
            assert!(!cells.content.iter().any(|cell| cell.symbol().contains(is_bad)));
        }
        assert!(desk.screen(120, 40).concat().contains("\\u{1b}]0;t\\u{7}"));
    };
    check(&mut desk);
    desk.types("u");
    check(&mut desk);
    desk.press(Key::Escape);
    desk.types("d");
    desk.queue(bad, vec![owner]);
    check(&mut desk);
    desk.app.waits(Err(bad.to_owned()), desk.now);
    check(&mut desk);
}
