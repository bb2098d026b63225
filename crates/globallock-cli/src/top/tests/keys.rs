//! What keys do in the table and on a page.

use super::*;
use crate::top::app::page::Deadlocks;

const BY_AGE: [&str; 7] =
    ["nightly/report", "deploy", "レポート/日次", "import", "redis-py", "migrate", "queue-only"];

#[test]
fn letters_choose_the_order() {
    let mut desk = Desk::with(locks());
    assert_eq!(desk.names(), BY_AGE);
    for (key, first) in [("t", "nightly/report"), ("n", "deploy"), ("l", "nightly/report"), ("o", "deploy")] {
        desk.types("G");
        desk.types(key);
        assert_eq!(desk.names()[0], first, "{key}");
        assert_eq!(desk.chosen(), first, "the first is in sight");
    }
    assert_eq!(desk.names()[1..3], ["import", "migrate"]);
    desk.types("a");
    assert_eq!(desk.names(), BY_AGE);
}

#[test]
fn letters_choose_what_is_shown_together_and_c_shows_all() {
    let mut desk = Desk::with(locks());
    for (keys, names) in [
        ("h", &["nightly/report", "deploy", "レポート/日次", "import", "redis-py", "migrate"][..]),
        ("w", &["nightly/report", "deploy"]),
        ("s", &["nightly/report"]),
        ("c", &BY_AGE),
        ("f", &["redis-py"]),
        ("f", &BY_AGE),
        ("w/ue", &["queue-only"]),
    ] {
        desk.types(keys);
        assert_eq!(desk.names(), names, "{keys}");
    }
    desk.press(Key::Enter);
    desk.types("c");
    assert_eq!(desk.names(), BY_AGE);
}

#[test]
fn a_part_of_a_name_is_typed_kept_or_given_up() {
    let mut desk = Desk::with(locks());
    desk.types("/mixq");
    assert_eq!(desk.names(), [""; 0], "letters are no keys there");
    desk.press(Key::Backspace);
    desk.press(Key::Backspace);
    assert_eq!(desk.names(), ["migrate"]);
    desk.press(Key::Enter);
    assert!(desk.screen(80, 24)[1].contains("only named *mi*: 1 shown"));
    desk.types("/");
    desk.press(Key::Ctrl('u'));
    desk.press(Key::Pasted("日\n".into()));
    assert_eq!(desk.names(), ["レポート/日次"]);
    desk.press(Key::Escape);
    assert_eq!(desk.names(), ["migrate"]);
    desk.types("/");
    desk.types(&"é".repeat(600));
    assert_eq!(desk.app.list.text.len(), 512);
}

#[test]
fn the_cursor_stays_on_its_lock_however_the_others_change() {
    let mut desk = Desk::with(locks());
    desk.types("jj");
    assert_eq!(desk.chosen(), "レポート/日次");
    let mut fewer = locks();
    fewer.retain(|row| row.name != "deploy");
    desk.look(fewer.clone());
    assert_eq!((desk.chosen(), desk.app.list.cursor()), ("レポート/日次", 1));
    desk.types("o");
    desk.types("jj");
    let name = desk.chosen().to_owned();
    fewer.retain(|row| row.name != name);
    desk.look(fewer);
    assert_eq!(desk.app.list.cursor(), 2, "where it was");
    desk.look(Vec::new());
    assert!(desk.app.list.row().is_none());
    desk.types("jkGgud");
    desk.press(Key::PageDown);
    assert!(desk.app.page.is_none() && desk.app.dialog.is_none());
}

#[test]
fn until_it_is_moved_the_cursor_is_on_the_first_row() {
    let mut desk = Desk::with(locks());
    let older = lock("older", Some(claim(50, "x 1 h", 90_000.0, None)), 0, None);
    desk.look(locks().into_iter().chain([older]).collect());
    assert_eq!(desk.chosen(), "older");
}

#[test]
fn a_long_list_is_scrolled() {
    let mut desk = Desk::with(
        (0..100_u64).map(|n| lock(&format!("{n:03}"), Some(claim(n, "x 1 h", 1.0, None)), 0, None)).collect(),
    );
    desk.types("o");
    let shows = |desk: &mut Desk, name: &str| desk.screen(80, 24).iter().any(|line| line.contains(name));
    assert!(shows(&mut desk, " 018 ") && !shows(&mut desk, " 019 "));
    desk.press(Key::PageDown);
    assert!(shows(&mut desk, " 018 ") && desk.chosen() == "018");
    desk.press(Key::PageDown);
    assert_eq!(desk.chosen(), "036");
    desk.press(Key::End);
    assert!(shows(&mut desk, " 099 ") && !shows(&mut desk, " 080 "));
    desk.press(Key::PageUp);
    assert_eq!(desk.chosen(), "081");
    // A screen that becomes smaller still has the cursor on it.
    assert!(desk.screen(40, 10).iter().any(|line| line.contains(" 081 ")));
    desk.press(Key::Home);
    assert!(shows(&mut desk, " 000 "));
}

#[test]
fn a_page_is_opened_read_and_left() {
    let mut desk = Desk::with(locks());
    desk.types("GG");
    desk.types("kk");
    assert_eq!(desk.chosen(), "redis-py");
    assert_eq!(desk.types("d"), [], "nobody waits, so there is no deadlock");
    assert_eq!(desk.due(), [Ask::Inspect("redis-py".into())]);
    assert_eq!(desk.due(), [], "it is asked once");
    assert!(desk.screen(80, 24)[4].contains("Reading its queue …"));
    desk.queue("redis-py", vec![claim(6, "- - -", 30.0, None), waiter(7, 1, "x 1 h", 1.0)]);
    assert_eq!(desk.app.page.as_ref().unwrap().claim().unwrap().claim, format!("{:032}", 6));
    desk.types("j");
    desk.queue("redis-py", vec![waiter(9, 1, "y 1 h", 3.0), waiter(7, 2, "x 1 h", 1.0)]);
    assert_eq!(desk.app.page.as_ref().unwrap().cursor(), 1, "on its claim");
    desk.queue("other", Vec::new());
    assert_eq!(desk.app.page.as_ref().unwrap().claims().len(), 2, "of a page that was open before");
    desk.app.inspected("redis-py", Err("no\u{1b}[31m".to_owned()), desk.now);
    assert!(desk.screen(80, 24)[4].contains("As it was 0s ago: no\\u{1b}[31m"));
    desk.queue("redis-py", Vec::new());
    assert!(desk.screen(80, 24)[4].contains("Free: nobody holds it"));
    desk.press(Key::Escape);
    assert!(desk.app.page.is_none());
    for key in [Key::Enter, Key::Backspace, Key::Enter, Key::Char('d')] {
        desk.press(key);
    }
    assert!(desk.app.page.is_none());
    assert_eq!(desk.chosen(), "redis-py");
}

#[test]
fn some_keys_are_done_outside() {
    let mut desk = Desk::with(locks());
    assert_eq!(desk.press(Key::Ctrl('z')), Some(Ask::Stop));
    assert_eq!(desk.press(Key::Ctrl('l')), Some(Ask::Redraw));
    assert_eq!(desk.types("q"), [Ask::Quit]);
    desk.types("?");
    assert_eq!(desk.types("q"), [Ask::Quit], "from the help too");
    desk.types("d");
    assert_eq!(desk.types("q"), [Ask::Quit], "and from a page");
    desk.types("u/q");
    for _ in 0..3 {
        assert_eq!(desk.press(Key::Ctrl('c')), Some(Ask::Quit), "whatever is typed");
        desk.press(Key::Escape);
    }
    assert!(matches!(desk.app.page, None | Some(_)));
}

#[test]
fn any_key_leaves_the_help() {
    let mut desk = Desk::with(locks());
    desk.types("?");
    assert!(desk.app.is_help);
    desk.types("u");
    assert!(!desk.app.is_help && desk.app.dialog.is_none());
    let page = |desk: &Desk| desk.app.page.as_ref().map(|page| matches!(page.deadlocks, Deadlocks::Asked));
    desk.types("?d");
    assert_eq!(page(&desk), None);
}
