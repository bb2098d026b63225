//! How everything is drawn, on a screen of any size.

mod dialog;
mod help;
mod list;
mod page;
mod theme;

use std::time::Duration;

use globallock::backend::Instant;
use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::Position;
use ratatui::style::Style;

use super::app::App;
use super::text::{self, clean, count, cut, tail, width, wrap};
use crate::onlook::select::Sort;

pub(super) use theme::Theme;

/// The smallest screen on which anything can be read.
const SMALLEST: (u16, u16) = (30, 8);
/// Screens that are lower have one line less above the table.
const LOW: u16 = 14;

/// Screens that are narrower have no room for a title with numbers.
const WIDE_TITLE: u16 = 64;

/// Where the parts of the screen are.
#[derive(Clone, Copy, Debug)]
struct Parts {
    columns: u16,
    /// The first line below the title and the state.
    begin: u16,
    /// The last line, for messages and hints.
    last: u16,
}

impl Parts {
    fn of((columns, rows): (u16, u16)) -> Self {
        Parts { columns, begin: if rows < LOW { 2 } else { 3 }, last: rows.saturating_sub(1) }
    }

    /// How many lines there are between the begin and the last line.
    fn height(self) -> u16 {
        self.last.saturating_sub(self.begin)
    }
}

/// How many locks the table has room for, and how many claims a lock's page.
pub(super) fn rows(app: &App, size: (u16, u16)) -> (usize, usize) {
    let parts = Parts::of(size);
    (list::rows(parts).into(), page::rows(app, parts).0.into())
}

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, app: &App, theme: Theme, now: Instant) {
    let area = frame.area();
    let size = (area.width, area.height);
    let buffer = frame.buffer_mut();
    if size.0 < SMALLEST.0 || size.1 < SMALLEST.1 {
        let small = format!(
            "This screen is too small: it has {} columns and {} lines, and {} and {} are needed. q quits.",
            size.0, size.1, SMALLEST.0, SMALLEST.1
        );
        for (line, text) in (0..size.1).zip(wrap(&small, size.0.into())) {
            put(buffer, (0, line), size.0, &text, theme.plain());
        }
        return;
    }
    let parts = Parts::of(size);
    let now = app.clock(now);
    let mut cursor = None;
    if app.is_help {
        help::draw(buffer, size, theme);
        return;
    }
    head(buffer, app, parts, theme, now);
    match &app.page {
        Some(page) => page::draw(buffer, app, page, parts, theme, now),
        None => list::draw(buffer, app, parts, theme, now),
    }
    if app.finding.is_some() {
        cursor = Some(find(buffer, app, parts, theme));
    } else {
        foot(buffer, app, parts, theme);
    }
    if let Some(dialog) = &app.dialog {
        cursor = Some(dialog::draw(buffer, dialog, size, theme, now));
    }
    if let Some(cursor) = cursor {
        frame.set_cursor_position(cursor);
    }
}

/// Writes a text, which is clean already, into so many columns. Returns how many it took.
fn put(buffer: &mut Buffer, (x, y): (u16, u16), columns: u16, text: &str, style: Style) -> u16 {
    let area = buffer.area;
    if x >= area.right() || y >= area.bottom() {
        return 0;
    }
    let columns = columns.min(area.right() - x);
    let (end, _) = buffer.set_stringn(x, y, cut(text, columns.into()), columns.into(), style);
    end - x
}

/// Writes a text so that it ends at the last of so many columns.
fn put_right(buffer: &mut Buffer, (x, y): (u16, u16), columns: u16, text: &str, style: Style) {
    let text = cut(text, columns.into());
    let gap = columns.saturating_sub(u16::try_from(width(&text)).unwrap_or(columns));
    put(buffer, (x + gap, y), columns - gap, &text, style);
}

/// Gives a whole line a style.
fn paint(buffer: &mut Buffer, y: u16, parts: Parts, style: Style) {
    if y < buffer.area.bottom() {
        for x in 0..parts.columns.min(buffer.area.right()) {
            buffer[(x, y)].set_style(style);
        }
    }
}

/// The title, and what is shown of the store, or why nothing is.
fn head(buffer: &mut Buffer, app: &App, parts: Parts, theme: Theme, now: Instant) {
    let all = app.list.all();
    let held = all.iter().filter(|row| row.holders > 0).count();
    let waited = all.iter().filter(|row| row.waiters > 0).count();
    let counts = match app.knows() && parts.columns >= WIDE_TITLE {
        true => format!("{}, {held} held, {waited} waited for", count(all.len(), "name", "names")),
        false => String::new(),
    };
    let right = u16::try_from(width(&counts)).unwrap_or(parts.columns);
    let left = parts.columns.saturating_sub(right + 2);
    paint(buffer, 0, parts, theme.title());
    let taken = put(buffer, (1, 0), left, "globallock top  ", theme.title());
    put(buffer, (1 + taken, 0), left.saturating_sub(taken), &app.store, theme.title());
    put_right(buffer, (0, 0), parts.columns - 1, &counts, theme.title());

    let room = parts.begin - 1;
    let trouble = app.trouble(now);
    let lines = trouble.map_or_else(Vec::new, |trouble| wrapped(&trouble, parts.columns - 2, room));
    let taken = u16::try_from(lines.len()).unwrap_or(room);
    if taken < room {
        put(buffer, (1, 1), parts.columns - 2, &state(app), theme.dim());
        if app.paused.is_some() {
            put_right(buffer, (1, 1), parts.columns - 2, " PAUSED ", theme.warning());
        }
    }
    for (line, text) in (parts.begin - taken..parts.begin).zip(lines) {
        paint(buffer, line, parts, theme.danger());
        put(buffer, (1, line), parts.columns - 2, &text, theme.danger());
    }
}

/// A text on at most so many lines; the last one ends with a sign if that is not all.
fn wrapped(text: &str, columns: u16, most: u16) -> Vec<String> {
    let mut lines = wrap(text, columns.into());
    let rest = lines.split_off(lines.len().min(most.saturating_sub(1).into()));
    if !rest.is_empty() && most > 0 {
        lines.push(cut(&rest.join(" "), columns.into()));
    }
    lines
}

/// Which locks are shown, in which order.
fn state(app: &App) -> String {
    let sorted = match app.list.sort {
        Sort::Name => "by name",
        Sort::Age => "longest held first",
        Sort::Wait => "longest wait first",
        Sort::Queue => "most waiters first",
        Sort::Lease => "shortest lease first",
    };
    let filter = &app.list.filter;
    let mut only = Vec::new();
    for (is_on, what) in [
        (filter.held, "held"),
        (filter.waiting, "waited for"),
        (filter.foreign, "foreign"),
        (filter.stale, "stale"),
    ] {
        only.extend(is_on.then(|| what.to_owned()));
    }
    only.extend(filter.host.as_ref().map(|host| format!("on {}", clean(host))));
    only.extend(filter.older_than.map(|age| format!("older than {}", text::time(age))));
    if !app.list.text.is_empty() && app.finding.is_none() {
        only.push(format!("named *{}*", clean(&app.list.text)));
    }
    let sorted = match app.prefix.as_str() {
        "" => sorted.to_owned(),
        prefix => format!("{}*, {sorted}", clean(prefix)),
    };
    match only.is_empty() {
        true => sorted,
        false => format!("{sorted}; only {}: {} shown", only.join(", "), app.list.rows().len()),
    }
}

/// The line where a part of a name is typed. Returns where the next letter comes.
fn find(buffer: &mut Buffer, app: &App, parts: Parts, theme: Theme) -> Position {
    let asks = "find in names: ";
    let taken = put(buffer, (1, parts.last), parts.columns - 2, asks, theme.strong());
    field(buffer, (1 + taken, parts.last), parts.columns.saturating_sub(taken + 2), &app.list.text, theme)
}

/// A text that is being typed. Returns where the next letter comes.
fn field(buffer: &mut Buffer, (x, y): (u16, u16), columns: u16, text: &str, theme: Theme) -> Position {
    for column in x..(x + columns).min(buffer.area.right()) {
        buffer[(column, y)].set_style(theme.field());
    }
    let text = tail(&clean(text), columns.saturating_sub(1).into());
    let taken = put(buffer, (x, y), columns, &text, theme.field());
    Position { x: (x + taken).min(buffer.area.right().saturating_sub(1)), y }
}

/// The last line: what has happened, or what can be done.
fn foot(buffer: &mut Buffer, app: &App, parts: Parts, theme: Theme) {
    if let Some(message) = &app.message {
        paint(buffer, parts.last, parts, theme.warning());
        put(buffer, (1, parts.last), parts.columns - 2, message, theme.warning());
        return;
    }
    // Those that have no room are left out from the end.
    let hints: &[(&str, &str)] = match &app.page {
        Some(_) => &[
            ("?", "help"),
            ("q", "quit"),
            ("Esc", "back"),
            ("u", "break"),
            ("x", "deadlocks"),
            ("j/k", "choose"),
        ],
        None => &[
            ("?", "help"),
            ("q", "quit"),
            ("Enter", "queue"),
            ("u", "break"),
            ("/", "find"),
            ("h w f s", "filter"),
            ("a t n l o", "sort"),
        ],
    };
    let mut x = 1;
    for (key, what) in hints {
        let taken = u16::try_from(key.len() + what.len() + 1).unwrap_or(u16::MAX);
        if x + taken >= parts.columns {
            break;
        }
        x += put(buffer, (x, parts.last), parts.columns - x, key, theme.strong());
        x += 1 + put(buffer, (x + 1, parts.last), parts.columns - x, what, theme.dim());
        x += 2;
    }
}

/// A number of seconds that was told at a moment, as it is now if it grows.
fn grown(seconds: Option<f64>, at: Instant, now: Instant) -> Option<Duration> {
    Some(seconds_of(seconds?) + now.saturating_duration_since(at))
}

/// A number of seconds that was told at a moment, as it is now if it runs out.
fn run_out(seconds: Option<f64>, at: Instant, now: Instant) -> Option<Duration> {
    Some(seconds_of(seconds?).saturating_sub(now.saturating_duration_since(at)))
}

fn seconds_of(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// A time, or a sign that it is not known.
fn shown(time: Option<Duration>) -> String {
    time.map_or_else(|| "-".to_owned(), text::time)
}
