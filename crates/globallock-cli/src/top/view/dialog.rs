//! The question whether a claim is to be broken.

use globallock::backend::Instant;
use ratatui::buffer::Buffer;
use ratatui::layout::Position;
use ratatui::style::Style;

use super::{Theme, field, grown, put, run_out, shown};
use crate::top::app::dialog::{Dialog, Field, Note};
use crate::top::text::{clean, width, wrap};

/// How wide it is, where there is room.
const COLUMNS: u16 = 72;
/// The column of what is told, behind what it is.
const INDENT: u16 = 9;
/// Screens that are lower have no room for explanations.
const LOW: u16 = 18;

enum Line {
    Text(&'static str, String, Style),
    Field(&'static str, Field),
}

/// Draws it. Returns where the next letter comes.
pub(super) fn draw(
    buffer: &mut Buffer,
    dialog: &Dialog,
    (columns, rows): (u16, u16),
    theme: Theme,
    now: Instant,
) -> Position {
    let wide = columns.min(COLUMNS);
    let inner = wide - 4;
    let lines = lines(dialog, (inner, rows < LOW), theme, now);
    let high = u16::try_from(lines.len()).unwrap_or(rows).saturating_add(2).min(rows);
    let (left, top) = ((columns - wide) / 2, (rows - high) / 2);
    frame(buffer, (left, top), (wide, high), theme);
    let mut cursor = Position { x: left, y: top };
    for (y, line) in (top + 1..top + high - 1).zip(lines) {
        let x = left + 2;
        match line {
            Line::Text(what, text, style) => {
                let indent = if what.is_empty() { 0 } else { INDENT };
                put(buffer, (x, y), indent, what, theme.dim());
                put(buffer, (x + indent, y), inner - indent, &text, style);
            }
            Line::Field(what, which) => {
                let asked = u16::try_from(width(what)).unwrap_or(0) + 1;
                let style = if dialog.field == which { theme.strong() } else { theme.dim() };
                put(buffer, (x, y), inner, what, style);
                let text = match which {
                    Field::Reason => &dialog.reason,
                    Field::Confirmation => &dialog.typed,
                };
                let end = field(buffer, (x + asked, y), inner.saturating_sub(asked), text, theme);
                if dialog.field == which {
                    cursor = end;
                }
            }
        }
    }
    cursor
}

fn lines(dialog: &Dialog, (inner, is_low): (u16, bool), theme: Theme, now: Instant) -> Vec<Line> {
    let claim = &dialog.claim;
    let mut lines = Vec::new();
    let names = wrap(&clean(&dialog.name), (inner - INDENT).into());
    let most = if is_low { 1 } else { 3 };
    for (index, name) in names.into_iter().take(most).enumerate() {
        lines.push(Line::Text(if index == 0 { "lock" } else { " " }, name, theme.strong()));
    }
    let mut say = |what, text: String| lines.push(Line::Text(what, text, theme.plain()));
    let age = shown(grown(claim.age_seconds, dialog.at, now));
    match (claim.held, claim.lease_left_seconds) {
        (true, None) => say("claim", format!("holds it for {age}")),
        (true, left) => {
            let left = shown(run_out(left, dialog.at, now));
            say("claim", format!("holds it for {age}; {left} of its lease are left"));
        }
        (false, _) => say("claim", format!("waits for {age}, at place {}", claim.place.unwrap_or_default())),
    }
    if is_low {
        say("owner", claim.who());
    } else {
        let unknown = || "-".to_owned();
        say("label", claim.label.as_deref().map_or_else(unknown, clean));
        say("host", claim.host.as_deref().map_or_else(unknown, clean));
        say("pid", claim.pid.map_or_else(unknown, |pid| pid.to_string()));
    }
    let oldest = grown(dialog.oldest_wait_seconds, dialog.at, now);
    match oldest {
        Some(_) => say("waiters", format!("{}, the oldest for {}", dialog.waiters, shown(oldest))),
        None => say("waiters", dialog.waiters.to_string()),
    }
    if !is_low {
        say("", String::new());
        let what = match (claim.foreign, claim.held) {
            (true, _) => {
                "Another program made this claim. It is not told, and may go on as if it held the lock."
            }
            (_, true) => {
                "Its owner is told who did it and why. Until it has heard, it may go on with its work."
            }
            (_, false) => "Its owner is told who did it and why, and waits no more.",
        };
        for line in wrap(what, inner.into()) {
            say("", line);
        }
        say("", String::new());
    }
    lines.push(Line::Field("reason:", Field::Reason));
    lines.push(Line::Field("y, or the name, breaks it:", Field::Confirmation));
    let note = match dialog.note {
        None => None,
        Some(Note::NotConfirmed) => Some("That is neither y nor the name"),
        Some(Note::HoldsNow) => Some("It has been granted the lock since, and holds it"),
        Some(Note::Ended) => Some("This claim has ended: there is nothing to break"),
    };
    match note {
        Some(note) => lines.push(Line::Text("", note.to_owned(), theme.warning())),
        None => {
            let enter = if dialog.field == Field::Reason { "Enter goes on" } else { "Enter breaks it" };
            lines.push(Line::Text("", format!("{enter}   Esc leaves it alone"), theme.dim()));
        }
    }
    lines
}

/// An empty box.
fn frame(buffer: &mut Buffer, (left, top): (u16, u16), (wide, high): (u16, u16), theme: Theme) {
    let line = "─".repeat(usize::from(wide) - 2);
    for y in top..top + high {
        if left > 0 && width(buffer[(left - 1, y)].symbol()) > 1 {
            // Its second half would be below the box.
            buffer[(left - 1, y)].set_symbol(" ");
        }
        for x in left..left + wide {
            buffer[(x, y)].reset();
        }
        let text = match y - top {
            0 => format!("┌{line}┐"),
            row if row + 1 == high => format!("└{line}┘"),
            _ => {
                put(buffer, (left, y), 1, "│", theme.danger_line());
                put(buffer, (left + wide - 1, y), 1, "│", theme.danger_line());
                continue;
            }
        };
        put(buffer, (left, y), wide, &text, theme.danger_line());
    }
    put(buffer, (left + 2, top), wide - 4, " Break this claim? ", theme.stale());
}
