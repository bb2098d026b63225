//! Tests of what is shown, and of the keys, without a terminal and without a store.

mod deadlocks;
mod dialogs;
mod keys;
mod looks;
mod picture;
mod property;
mod screens;
mod terminal;

use std::path::Path;
use std::time::Duration;

use globallock::LockKind;
use globallock::backend::Instant;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;

use super::app::page::Queue;
use super::app::{App, Ask, Look};
use super::keys::Key;
use super::view::{Theme, draw};
use crate::onlook::rows::{ClaimRow, LockRow, Mode};
use crate::onlook::select::{Filter, Sort};

/// An owner, as `label pid host`; `-` is one that is not known.
fn claim(number: u64, owner: &str, age: f64, left: Option<f64>) -> ClaimRow {
    let mut words = owner.split(' ').map(|word| (word != "-").then(|| word.to_owned()));
    let label = words.next().flatten();
    let pid = words.next().flatten().map(|pid| pid.parse().unwrap());
    ClaimRow {
        claim: format!("{number:032}"),
        held: true,
        place: None,
        mode: Mode::of(LockKind::Mutex),
        fencing_token: Some(number),
        host: words.next().flatten(),
        pid,
        label,
        foreign: false,
        age_seconds: Some(age),
        lease_left_seconds: left,
    }
}

fn waiter(number: u64, place: usize, owner: &str, age: f64) -> ClaimRow {
    ClaimRow { held: false, place: Some(place), ..claim(number, owner, age, Some(9.0)) }
}

fn lock(name: &str, holder: Option<ClaimRow>, waiters: usize, wait: Option<f64>) -> LockRow {
    LockRow {
        name: name.to_owned(),
        mode: holder.as_ref().map_or(Mode::of(LockKind::Mutex), |holder| holder.mode),
        holders: holder.iter().count(),
        waiters,
        holder,
        oldest_wait_seconds: wait,
        stale: Some(false),
    }
}

/// A store with a lock of each sort.
fn locks() -> Vec<LockRow> {
    let permits = Mode::of(LockKind::Permits { count: 3, capacity: 5 });
    let foreign = ClaimRow { foreign: true, fencing_token: None, ..claim(6, "- - -", 30.0, Some(25.0)) };
    let import = ClaimRow { mode: permits, ..claim(5, "import 77 etl1", 95.0, Some(8.0)) };
    vec![
        lock("deploy", Some(claim(1, "deploy.sh 4711 ci-runner-12", 4000.0, Some(2.0))), 3, Some(900.0)),
        LockRow {
            stale: Some(true),
            ..lock("nightly/report", Some(claim(2, "report 300 db1", 7300.0, Some(1.0))), 1, Some(7200.0))
        },
        lock("migrate", Some(claim(3, "django 18 web-1", 12.0, Some(9.5))), 0, None),
        LockRow { mode: permits, holders: 2, ..lock("import", Some(import), 0, None) },
        lock("レポート/日次", Some(claim(4, "集計 9 東京1", 200.0, None)), 0, None),
        lock("redis-py", Some(foreign), 0, None),
        lock("queue-only", None, 1, Some(4.0)),
    ]
}

/// The program, as keys and the store see it.
struct Desk {
    app: App,
    now: Instant,
}

impl Desk {
    /// One that has looked at these locks.
    fn with(locks: Vec<LockRow>) -> Self {
        let mut desk = Desk::blank();
        desk.look(locks);
        desk
    }

    /// One that has not looked yet.
    fn blank() -> Self {
        let (now, interval) = (Instant::now(), Duration::from_secs(2));
        let shows = (Filter::default(), Sort::Age);
        Desk { app: App::new("redis://10.0.0.7:6379", "", interval, shows, now), now }
    }

    /// Time passes.
    fn pass(&mut self, seconds: f64) {
        self.now += Duration::from_secs_f64(seconds);
    }

    /// What is asked of the store now.
    fn due(&mut self) -> Vec<Ask> {
        self.app.due(self.now)
    }

    fn look(&mut self, rows: Vec<LockRow>) {
        self.due();
        self.app.looked(Look { rows, failure: None, age: Some(Duration::ZERO) }, self.now);
    }

    fn queue(&mut self, name: &str, claims: Vec<ClaimRow>) {
        self.due();
        self.app.inspected(name, Ok(Queue { claims, waits: Vec::new(), at: self.now }), self.now);
    }

    /// Presses keys, one a letter, and returns what they ask for.
    fn types(&mut self, keys: &str) -> Vec<Ask> {
        keys.chars().filter_map(|key| self.press(Key::Char(key))).collect()
    }

    fn press(&mut self, key: Key) -> Option<Ask> {
        self.app.key(key, self.now)
    }

    fn cells(&mut self, columns: u16, rows: u16) -> Buffer {
        self.app.resize(columns, rows);
        let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
        terminal.draw(|frame| draw(frame, &self.app, Theme::new(true), self.now)).unwrap();
        terminal.backend().buffer().clone()
    }

    /// The lines of a screen, without the spaces at their ends.
    fn screen(&mut self, columns: u16, rows: u16) -> Vec<String> {
        lines(&self.cells(columns, rows))
    }

    /// What stands in front of the names of locks, in their order.
    fn names(&mut self) -> Vec<String> {
        self.app.list.rows().iter().map(|row| row.name.clone()).collect()
    }

    fn chosen(&self) -> &str {
        &self.app.list.row().unwrap().name
    }
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let width = |symbol: &str| super::text::width(symbol).max(1);
    let line = |y: u16| {
        let (mut line, mut x) = (String::new(), 0);
        while x < buffer.area.width {
            let symbol = buffer[(x, y)].symbol();
            line += symbol;
            // What is behind a wide letter is hidden by it.
            x += u16::try_from(width(symbol)).unwrap();
        }
        line.trim_end().to_owned()
    };
    (0..buffer.area.height).map(line).collect()
}

/// Compares a screen, or another text, with the file that has it. With `GLOBALLOCK_UPDATE` in the environment
/// the file is written instead: then look at what has changed.
fn assert_is_in(file: &str, seen: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("GLOBALLOCK_UPDATE").is_some() {
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, seen).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(seen == expected, "seen:\n{seen}\nexpected in {}:\n{expected}", file.display());
}
