//! Whole screens, each of which is in a file below `screens`.

use super::*;
use crate::onlook::rows::WaitRow;

/// Compares what is shown on a screen of this size with its file.
fn check(desk: &mut Desk, (columns, rows): (u16, u16), name: &str) {
    let text: String = desk.screen(columns, rows).into_iter().map(|line| line + "\n").collect();
    assert_is_in(&format!("src/top/tests/screens/{name}-{columns}x{rows}.txt"), &text);
}

const SIZES: [(u16, u16); 4] = [(80, 24), (120, 40), (60, 16), (40, 10)];

/// The page of a lock, with a deadlock.
pub(super) fn page() -> Desk {
    let mut desk = Desk::with(locks());
    let on = |waiter: &str, name: &str, blocker: &str| WaitRow {
        name: name.to_owned(),
        waiter: waiter.to_owned(),
        claim: format!("{:032}", 8),
        blocker: blocker.to_owned(),
        blocked_by: format!("{:032}", 1),
        held: true,
    };
    let (deploy, back) = ("deploy.sh (pid 4711 on ci-runner-12)", "rollback (pid 80 on ci-runner-3)");
    desk.types("jd");
    desk.due();
    let claims = vec![
        claim(1, "deploy.sh 4711 ci-runner-12", 4000.0, Some(2.0)),
        waiter(8, 1, "rollback 80 ci-runner-3", 900.0),
        waiter(9, 2, "deploy.sh 4712 ci-runner-12", 60.0),
        waiter(10, 3, "- - -", 5.0),
    ];
    let waits = vec![on(back, "deploy", deploy)];
    let queue = Queue { claims, waits, at: desk.now };
    desk.app.inspected("deploy", Ok(queue), desk.now);
    let cycle = vec![on(back, "deploy", deploy), on(deploy, "nightly/report", back)];
    desk.app.waits(Ok(vec![cycle]), desk.now);
    desk.types("j");
    desk
}

#[test]
fn how_to_quit_is_told_on_every_screen() {
    for (columns, rows) in [(80, 24), (40, 10), (30, 8)] {
        let mut desk = Desk::with(locks());
        for _ in 0..2 {
            let screen = desk.screen(columns, rows);
            let foot = screen.last().unwrap();
            assert!(foot.contains("q quit"), "{columns}: {foot}");
            assert!(columns < 80 || foot.ends_with(" sort") || foot.ends_with(" choose"), "{foot}");
            desk.types("d");
        }
    }
}

#[test]
fn the_table() {
    for size in SIZES {
        check(&mut Desk::with(locks()), size, "table");
    }
}

#[test]
fn the_page_of_a_lock() {
    for size in SIZES {
        check(&mut page(), size, "page");
    }
}

#[test]
fn the_question_whether_a_claim_is_to_be_broken() {
    for size in SIZES {
        let mut desk = Desk::with(locks());
        desk.types("ustuck since noon");
        desk.press(Key::Enter);
        desk.types("n");
        desk.press(Key::Enter);
        check(&mut desk, size, "question");
    }
}

#[test]
fn the_help() {
    for size in SIZES {
        let mut desk = Desk::with(locks());
        desk.types("?");
        check(&mut desk, size, "help");
    }
}

#[test]
fn the_table_with_filters_while_a_name_is_typed() {
    for size in SIZES {
        let mut desk = Desk::with(locks());
        desk.types("hwt/epo");
        check(&mut desk, size, "find");
    }
}

#[test]
fn the_table_while_the_store_is_away() {
    for size in SIZES {
        let mut desk = Desk::with(locks());
        desk.pass(14.0);
        desk.due();
        let failure = "redis://10.0.0.7:6379 is unavailable: cannot connect: Connection refused (os error \
                       111): is the server running, and is its port right?";
        let rows = desk.app.list.all().to_vec();
        let age = Some(Duration::from_secs(14));
        desk.app.looked(Look { rows, failure: Some(failure.to_owned()), age }, desk.now);
        check(&mut desk, size, "away");
    }
}

#[test]
fn a_screen_that_is_too_small_says_so() {
    for (columns, rows) in [(29, 24), (80, 7), (20, 5), (1, 1)] {
        let screen = Desk::with(locks()).screen(columns, rows);
        let said = screen.join(" ");
        assert_eq!(screen.len(), usize::from(rows));
        if columns >= 20 {
            let what = format!("This screen is too small: it has {columns} columns and {rows} lines");
            assert!(said.split_whitespace().collect::<Vec<_>>().join(" ").starts_with(&what), "{said}");
        }
    }
}

#[test]
fn without_colours_everything_is_still_told_apart() {
    let mut desk = Desk::with(locks());
    desk.app.resize(80, 24);
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    for screen in [&mut desk, &mut page()] {
        terminal.draw(|frame| draw(frame, &screen.app, Theme::new(false), screen.now)).unwrap();
        let cells = &terminal.backend().buffer().content;
        let is_plain = |colour| colour == ratatui::style::Color::Reset;
        assert!(cells.iter().all(|cell| is_plain(cell.fg) && is_plain(cell.bg)));
        assert!(cells.iter().any(|cell| !cell.modifier.is_empty()));
    }
}
