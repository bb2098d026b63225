//! Deadlocks are looked for when a page is opened, and by a key, and never of too many queues.

use super::*;
use globallock::backend::{ClaimId, Instant};
use globallock::queue::Permits;
use globallock::{Entry, EntryKey, Name, Owner};

use crate::onlook::rows::WaitRow;
use crate::top::app::page::{Deadlocks, Queue};

fn waited(count: usize) -> Vec<LockRow> {
    let claim = || Some(claim(1, "x 1 h", 5.0, None));
    (0..count).map(|number| lock(&format!("{number:04}"), claim(), 1, Some(1.0))).collect()
}

fn state(desk: &Desk) -> &Deadlocks {
    &desk.app.page.as_ref().unwrap().deadlocks
}

#[test]
fn they_are_asked_for_once_when_a_page_is_opened_and_again_by_a_key() {
    let mut desk = Desk::with(waited(32));
    assert_eq!(desk.types("d"), [Ask::Waits]);
    assert!(matches!(state(&desk), Deadlocks::Asked));
    desk.app.waits(Ok(Vec::new()), desk.now);
    for _ in 0..10 {
        desk.pass(2.0);
        assert!(!desk.due().contains(&Ask::Waits));
    }
    assert_eq!(desk.types("x"), [Ask::Waits]);
    desk.app.waits(Err("away".to_owned()), desk.now);
    assert!(matches!(state(&desk), Deadlocks::Failed(_)));
    desk.press(Key::Escape);
    assert_eq!(desk.types("x"), [], "there is no page");
}

#[test]
fn many_queues_are_read_by_a_key_only_and_very_many_never() {
    let mut desk = Desk::with(waited(33));
    assert_eq!(desk.types("d"), []);
    assert!(matches!(state(&desk), Deadlocks::TooMany(33)));
    assert_eq!(desk.types("x"), [Ask::Waits]);
    let mut desk = Desk::with(waited(1001));
    desk.types("d");
    assert_eq!(desk.types("x"), []);
    desk.queue("0000", vec![claim(1, "x 1 h", 5.0, None)]);
    let screen = desk.screen(100, 30).concat();
    let says = "To find deadlocks, 1001 queues are to be read: it is not done for more than 1000";
    assert!(screen.contains(says), "{screen}");
}

#[test]
fn only_those_of_the_lock_are_shown() {
    let wait = |name: &str| WaitRow {
        name: name.to_owned(),
        waiter: "a".to_owned(),
        claim: "1".to_owned(),
        blocker: "b".to_owned(),
        blocked_by: "2".to_owned(),
        held: true,
    };
    let mut desk = Desk::with(waited(2));
    desk.types("d");
    desk.queue("0000", vec![claim(1, "x 1 h", 5.0, None)]);
    desk.app.waits(Ok(vec![vec![wait("0001"), wait("other")]]), desk.now);
    assert!(desk.screen(80, 24).concat().contains("No deadlock found 0s ago"));
    desk.app.waits(Ok(vec![vec![wait("0001"), wait("0000")], vec![wait("0001"), wait("other")]]), desk.now);
    let screen = desk.screen(80, 24).concat();
    assert!(screen.contains("DEADLOCK") && screen.contains("* a waits for 0000, held by b"), "{screen}");
    assert!(!screen.contains("other"));
}

#[test]
fn the_page_shows_what_is_waited_for_also_of_the_same_process_and_of_another_program() {
    let name = Name::new("a").unwrap();
    let process = || Owner { host: "db1".into(), pid: Some(1), label: None };
    let claim = |number, held| Entry::new(ClaimId::new(1, number).into(), held, Permits::MUTEX, process());
    let foreign = Entry::new(EntryKey::new("x"), true, Permits::MUTEX, Owner::default());
    for (holder, blocker) in [(claim(1, true), "pid 1 on db1"), (foreign, "(foreign)")] {
        let queue = Queue::new(&name, &[holder, claim(2, false)], Instant::now());
        let waits: Vec<&str> = queue.blockers(&queue.claims[1].claim).map(|wait| &*wait.blocker).collect();
        assert_eq!(waits, [blocker]);
    }
}
