//! Columns on a terminal, and in a pipe.

use std::fmt::Write;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use super::text::{cut, shown, width};

/// What stands between two columns.
const GAP: usize = 2;
/// To what a column is cut at most, while others can be.
const LEAST: usize = 12;

/// Where a table goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sheet {
    /// How wide it is; none where nothing is to be cut.
    pub(crate) width: Option<usize>,
    pub(crate) coloured: bool,
}

impl Sheet {
    /// Standard output: a terminal has a width, and colours unless `NO_COLOR` is set.
    pub(crate) fn of_output() -> Self {
        Sheet::of(&std::io::stdout())
    }

    /// Standard error.
    pub(crate) fn of_errors() -> Self {
        Sheet::of(&std::io::stderr())
    }

    fn of(output: &(impl IsTerminal + AsFd)) -> Self {
        if !output.is_terminal() {
            return Sheet { width: None, coloured: false };
        }
        let width = terminal_size::terminal_size_of(output).map_or(80, |(width, _)| width.0.into());
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        let is_plain = set("NO_COLOR").is_some() || set("TERM").is_none_or(|term| term == "dumb");
        Sheet { width: Some(width), coloured: !is_plain }
    }
}

/// How a cell stands out, where there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ink {
    #[default]
    Plain,
    /// Headings.
    Bold,
    /// Somebody waits.
    Yellow,
    /// Something is wrong.
    Red,
}

impl Ink {
    fn code(self) -> Option<&'static str> {
        match self {
            Ink::Plain => None,
            Ink::Bold => Some("1"),
            Ink::Yellow => Some("33"),
            Ink::Red => Some("31"),
        }
    }
}

/// A text in its column, fit for a terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    text: String,
    ink: Ink,
}

impl Cell {
    /// A text that others may have written.
    pub(crate) fn of(text: &str) -> Self {
        Cell { text: shown(text), ink: Ink::Plain }
    }

    /// A text that is fit for a terminal as it is.
    pub(crate) fn safe(text: impl Into<String>) -> Self {
        Cell { text: text.into(), ink: Ink::Plain }
    }

    pub(crate) fn ink(self, ink: Ink) -> Self {
        Cell { ink, ..self }
    }
}

/// Rows under their headings.
pub(crate) struct Table {
    headings: Vec<&'static str>,
    /// Which columns can be cut in their middle: those of texts.
    texts: Vec<bool>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    /// A table without rows. The columns whose heading is in `texts` are cut first.
    pub(crate) fn new(headings: &[&'static str], texts: &[&str]) -> Self {
        Table {
            headings: headings.to_vec(),
            texts: headings.iter().map(|heading| texts.contains(heading)).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row, which has a cell for each heading.
    pub(crate) fn push(&mut self, row: Vec<Cell>) {
        debug_assert_eq!(row.len(), self.headings.len());
        self.rows.push(row);
    }

    /// The same with numbers from 1 in front, for the rows that may be chosen.
    pub(crate) fn numbered(mut self, may_be: impl Fn(usize) -> bool) -> Self {
        self.headings.insert(0, "#");
        self.texts.insert(0, false);
        for (index, row) in self.rows.iter_mut().enumerate() {
            let number = if may_be(index) { (index + 1).to_string() } else { String::new() };
            row.insert(0, Cell::safe(number));
        }
        self
    }

    /// All lines. On a narrow terminal texts are cut first, and then the ends of lines.
    pub(crate) fn drawn(&self, sheet: Sheet) -> String {
        let headings = self.headings.iter().map(|heading| Cell::safe(*heading).ink(Ink::Bold)).collect();
        let widths = self.widths(sheet);
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            draw(&mut text, row, &widths, sheet);
        }
        text
    }

    /// How wide each column is.
    fn widths(&self, sheet: Sheet) -> Vec<usize> {
        let mut widths: Vec<usize> = self.headings.iter().map(|heading| width(heading)).collect();
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = width(&cell.text).max(*widest);
            }
        }
        let Some(room) = sheet.width else { return widths };
        let gaps = GAP * widths.len().saturating_sub(1);
        let mut over = (widths.iter().sum::<usize>() + gaps).saturating_sub(room);
        while over > 0 {
            let texts = widths.iter_mut().zip(&self.texts).filter(|(width, text)| **text && **width > LEAST);
            let Some((widest, _)) = texts.max_by_key(|(width, _)| **width) else { break };
            *widest -= 1;
            over -= 1;
        }
        widths
    }
}

fn draw(text: &mut String, row: &[Cell], widths: &[usize], sheet: Sheet) {
    let mut left = sheet.width.unwrap_or(usize::MAX);
    for (index, (cell, column)) in row.iter().zip(widths).enumerate() {
        let column = (*column).min(left);
        let shown = cut(&cell.text, column);
        match cell.ink.code().filter(|_| sheet.coloured) {
            Some(code) => drop(write!(text, "\u{1b}[{code}m{shown}\u{1b}[0m")),
            None => text.push_str(&shown),
        }
        left -= column;
        let gap = GAP.min(left);
        left -= gap;
        // Nothing stands at the end of a line.
        if index + 1 < row.len() && left > 0 {
            text.extend(std::iter::repeat_n(' ', column - width(&shown) + gap));
        } else {
            break;
        }
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIPE: Sheet = Sheet { width: None, coloured: false };

    fn table() -> Table {
        let mut table = Table::new(&["NAME", "N", "HOLDER"], &["NAME", "HOLDER"]);
        for (name, number, holder) in
            [("名前", "1", "a"), ("b\n\u{202e}", "22", "somebody on a host"), ("c", "3", "")]
        {
            table.push(vec![Cell::of(name), Cell::safe(number), Cell::of(holder).ink(Ink::Red)]);
        }
        table
    }

    #[test]
    fn columns_stand_below_each_other_whatever_the_texts_are() {
        assert_eq!(
            table().drawn(PIPE),
            "NAME         N   HOLDER\n\
             名前         1   a\n\
             b\\n\\u{202e}  22  somebody on a host\n\
             c            3   \n"
        );
    }

    #[test]
    fn a_narrow_terminal_cuts_texts_first_and_then_lines() {
        let at = |width| table().drawn(Sheet { width: Some(width), coloured: false });
        assert_eq!(at(80), table().drawn(PIPE));
        assert_eq!(at(30).lines().nth(2), Some("b\\n\\u{202e}  22  somebody on …"));
        assert_eq!(at(20).lines().nth(2), Some("b\\n\\u{202e}  22  so…"));
        for width in 0..40 {
            assert!(at(width).lines().all(|line| super::width(line) <= width), "{width}: {}", at(width));
        }
    }

    #[test]
    fn colours_end_where_their_cell_ends() {
        let drawn = table().drawn(Sheet { width: Some(80), coloured: true });
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(lines[0].starts_with("\u{1b}[1mNAME\u{1b}[0m         "), "{drawn:?}");
        assert_eq!(lines[1], "名前         1   \u{1b}[31ma\u{1b}[0m");
    }
}
