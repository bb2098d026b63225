//! The table of locks: which are shown, in which order, and which one is chosen.

use globallock::backend::Instant;

use crate::onlook::rows::LockRow;
use crate::onlook::select::{Filter, Sort};

/// The longest text that names are looked for by, in bytes: as long as a name.
pub(crate) const LONGEST_TEXT: usize = globallock::MAX_NAME_BYTES;

/// The locks of the last look, and what is shown of them.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) filter: Filter,
    /// What must be in a name that is shown.
    pub(crate) text: String,
    pub(crate) sort: Sort,
    /// All that the last look has found.
    all: Vec<LockRow>,
    /// When that was.
    pub(crate) at: Instant,
    /// What is shown, in its order.
    shown: Vec<LockRow>,
    /// The lock that was chosen by keys. Until then, and once it is gone, it is the one at the cursor.
    chosen: Option<String>,
    cursor: usize,
    /// The first row on the screen.
    pub(crate) top: usize,
}

impl List {
    pub(crate) fn new(filter: Filter, sort: Sort, now: Instant) -> Self {
        let (all, shown) = (Vec::new(), Vec::new());
        List { filter, text: String::new(), sort, all, at: now, shown, chosen: None, cursor: 0, top: 0 }
    }

    /// Takes what a look has found.
    pub(crate) fn set(&mut self, rows: Vec<LockRow>, now: Instant) {
        (self.all, self.at) = (rows, now);
        self.arrange();
    }

    /// Shows what the filters leave, as it is sorted, with the cursor on the lock that it was on.
    pub(crate) fn arrange(&mut self) {
        let shows = |row: &&LockRow| self.filter.shows(row) && row.name.contains(&self.text);
        self.shown = self.all.iter().filter(shows).cloned().collect();
        self.sort.sort(&mut self.shown);
        let chosen =
            self.chosen.as_ref().and_then(|name| self.shown.iter().position(|row| row.name == *name));
        self.cursor = chosen.unwrap_or(self.cursor).min(self.shown.len().saturating_sub(1));
    }

    /// Sorts otherwise, and shows the first.
    pub(crate) fn sort_by(&mut self, sort: Sort) {
        self.sort = sort;
        self.home();
        self.arrange();
    }

    /// Shows all.
    pub(crate) fn clear(&mut self) {
        (self.filter, self.text) = (Filter::default(), String::new());
        self.arrange();
    }

    /// Moves the cursor by so many rows.
    pub(crate) fn walk(&mut self, by: isize) {
        self.cursor = self.cursor.saturating_add_signed(by).min(self.shown.len().saturating_sub(1));
        self.chosen = self.row().map(|row| row.name.clone());
    }

    /// Moves the cursor to the first row, where it stays whatever comes there.
    pub(crate) fn home(&mut self) {
        (self.cursor, self.chosen) = (0, None);
    }

    /// Scrolls so that the cursor is in sight on a screen of so many rows.
    pub(crate) fn fit(&mut self, rows: usize) {
        self.top = scrolled(self.top, self.cursor, self.shown.len(), rows);
    }

    pub(crate) fn cursor(&self) -> usize {
        self.cursor
    }

    /// The lock at the cursor.
    pub(crate) fn row(&self) -> Option<&LockRow> {
        self.shown.get(self.cursor)
    }

    pub(crate) fn rows(&self) -> &[LockRow] {
        &self.shown
    }

    pub(crate) fn all(&self) -> &[LockRow] {
        &self.all
    }

    /// The lock of this name, shown or not.
    pub(crate) fn find(&self, name: &str) -> Option<&LockRow> {
        self.all.iter().find(|row| row.name == name)
    }
}

/// The first of the rows on the screen, moved only as far as the cursor needs it.
pub(super) fn scrolled(top: usize, cursor: usize, all: usize, rows: usize) -> usize {
    let rows = rows.max(1);
    let last = all.saturating_sub(rows);
    top.min(cursor).max((cursor + 1).saturating_sub(rows)).min(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_scrolled_no_farther_than_the_cursor_needs() {
        for (top, cursor, all, rows, expected) in [
            (0, 0, 10, 4, 0),
            (0, 3, 10, 4, 0),
            (0, 4, 10, 4, 1),
            (5, 4, 10, 4, 4),
            (9, 9, 10, 4, 6),
            (6, 2, 3, 4, 0),
            (0, 0, 0, 0, 0),
            (0, 5, 10, 0, 5),
        ] {
            assert_eq!(scrolled(top, cursor, all, rows), expected, "{top} {cursor} {all} {rows}");
        }
    }
}
