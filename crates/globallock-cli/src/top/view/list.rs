//! The table of locks.

use globallock::backend::Instant;
use ratatui::buffer::Buffer;
use ratatui::style::Style;

use super::{Parts, Theme, grown, paint, put, put_right, run_out, shown};
use crate::onlook::rows::LockRow;
use crate::onlook::select::Sort;
use crate::top::app::App;
use crate::top::text::{clean, wrap};

/// Where the marks of a lock are, in front of its name.
const MARKS: u16 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    Name,
    Mode,
    Holder,
    Held,
    Lease,
    Waiters,
    Oldest,
}

impl Column {
    fn heading(self) -> (&'static str, Option<Sort>) {
        match self {
            Column::Name => ("NAME", Some(Sort::Name)),
            Column::Mode => ("MODE", None),
            Column::Holder => ("HOLDER", None),
            Column::Held => ("HELD", Some(Sort::Age)),
            Column::Lease => ("LEASE", Some(Sort::Lease)),
            Column::Waiters => ("WAIT", Some(Sort::Queue)),
            Column::Oldest => ("OLDEST", Some(Sort::Wait)),
        }
    }

    /// How wide it is; names and holders share what is left.
    fn width(self) -> Option<u16> {
        match self {
            Column::Name | Column::Holder => None,
            Column::Waiters => Some(4),
            Column::Mode | Column::Held | Column::Lease | Column::Oldest => Some(6),
        }
    }

    fn text(self, row: &LockRow, at: Instant, now: Instant) -> String {
        let holder = row.holder.as_ref();
        match self {
            Column::Name => clean(&row.name),
            Column::Mode => row.mode.to_string(),
            Column::Holder => holders(row),
            Column::Held => shown(grown(holder.and_then(|holder| holder.age_seconds), at, now)),
            Column::Lease => shown(run_out(holder.and_then(|holder| holder.lease_left_seconds), at, now)),
            Column::Waiters if row.waiters == 0 => "-".to_owned(),
            Column::Waiters => row.waiters.to_string(),
            Column::Oldest => shown(grown(row.oldest_wait_seconds, at, now)),
        }
    }
}

/// A column in its place.
#[derive(Clone, Copy, Debug)]
struct Placed {
    column: Column,
    x: u16,
    width: u16,
}

impl Placed {
    fn put(self, buffer: &mut Buffer, y: u16, text: &str, style: Style) {
        // Words begin and numbers end below each other.
        if matches!(self.column, Column::Name | Column::Mode | Column::Holder) {
            put(buffer, (self.x, y), self.width, text, style);
        } else {
            put_right(buffer, (self.x, y), self.width, text, style);
        }
    }
}

/// The columns that there is room for.
fn columns(wide: u16) -> Vec<Placed> {
    use Column::{Held, Holder, Lease, Mode, Name, Oldest, Waiters};
    let columns: &[Column] = match wide {
        72.. => &[Name, Mode, Holder, Held, Lease, Waiters, Oldest],
        56..72 => &[Name, Holder, Held, Waiters, Oldest],
        _ => &[Name, Holder, Held, Waiters],
    };
    let gaps = u16::try_from(columns.len() - 1).unwrap_or(0);
    let fixed: u16 = columns.iter().filter_map(|column| column.width()).sum();
    let room = wide.saturating_sub(MARKS + gaps + fixed);
    let of_holders = room * 11 / 20;
    let mut x = MARKS;
    let place = |&column: &Column| {
        let rest = if column == Holder { of_holders } else { room - of_holders };
        let width = column.width().unwrap_or(rest);
        let placed = Placed { column, x, width };
        x += width + 1;
        placed
    };
    columns.iter().map(place).collect()
}

/// How many locks there is room for.
pub(super) fn rows(parts: Parts) -> u16 {
    parts.height().saturating_sub(1)
}

pub(super) fn draw(buffer: &mut Buffer, app: &App, parts: Parts, theme: Theme, now: Instant) {
    let list = &app.list;
    let columns = columns(parts.columns);
    let y = parts.begin;
    for placed in &columns {
        let (text, sort) = placed.column.heading();
        placed.put(buffer, y, text, theme.heading(sort == Some(list.sort)));
    }
    let shown = list.rows().iter().enumerate().skip(list.top);
    for (line, (index, row)) in (y + 1..parts.last).zip(shown) {
        let is_stale = row.stale == Some(true);
        let style = match row.waiters {
            _ if is_stale => theme.stale(),
            0 => theme.plain(),
            _ => theme.waited(),
        };
        let is_foreign = row.holder.as_ref().is_some_and(|holder| holder.foreign);
        let marks = [if is_stale { "!" } else { "" }, if is_foreign { "+" } else { "" }].concat();
        put(buffer, (0, line), MARKS, &marks, style);
        for placed in &columns {
            placed.put(buffer, line, &placed.column.text(row, list.at, now), style);
        }
        if index == list.cursor() {
            paint(buffer, line, parts, theme.chosen());
        }
    }
    if list.rows().is_empty() {
        let says = wrap(&nothing(app), parts.columns.saturating_sub(4).into());
        for (line, text) in (y + 2..parts.last).zip(says) {
            put(buffer, (2, line), parts.columns - 4, &text, theme.plain());
        }
    }
}

/// Who holds a lock.
fn holders(row: &LockRow) -> String {
    match (&row.holder, row.holders) {
        (None, 0) => "nobody".to_owned(),
        (None, several) => format!("{several} holders"),
        (Some(holder), 0 | 1) => holder.who(),
        (Some(holder), several) => format!("+{} {}", several - 1, holder.who()),
    }
}

/// Why no lock is shown.
fn nothing(app: &App) -> String {
    if !app.knows() {
        return "Looking at the store …".to_owned();
    }
    match (app.list.all().len(), app.prefix.as_str()) {
        (0, "") => "Nobody holds a lock, and nobody waits for one.".to_owned(),
        (0, prefix) => {
            let prefix = clean(prefix);
            format!("Nobody holds a lock whose name begins with {prefix}, and nobody waits for one.")
        }
        (1, _) => "There is one name, which is not shown: c shows it.".to_owned(),
        (many, _) => format!("There are {many} names, none of which is shown: c shows all."),
    }
}
