//! A line at the bottom of a terminal that is drawn again as things change.

use super::{is_terminal, is_text, log};

/// Narrower terminals are written to as if they were so wide.
const NARROWEST: usize = 20;

/// The status line of a terminal. It is erased when this is dropped.
#[derive(Debug)]
pub(crate) struct Status(());

impl Status {
    /// The status line of standard error, if that is a terminal on which the cursor can be moved.
    pub(crate) fn on_terminal() -> Option<Self> {
        let moves = std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb");
        (moves && is_text() && is_terminal()).then_some(Status(()))
    }

    /// Shows this text, cut to the width of the terminal.
    pub(crate) fn show(&self, text: &str) {
        let width =
            terminal_size::terminal_size_of(std::io::stderr()).map_or(80, |(width, _)| width.0.into());
        log().show(Some(cut(&format!("globallock: {text}"), width)));
    }

    /// Erases the line.
    pub(crate) fn hide(&self) {
        log().show(None);
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.hide();
    }
}

/// The beginning of a text that leaves the last column free: a line that fills it may scroll the terminal.
fn cut(text: &str, width: usize) -> String {
    let room = width.max(NARROWEST) - 1;
    if text.chars().count() <= room {
        return text.to_owned();
    }
    text.chars().take(room - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_leaves_the_last_column_free() {
        let text = "0123456789012345678901234";
        assert_eq!(cut(text, 26), text);
        assert_eq!(cut(text, 25), "01234567890123456789012…");
        assert_eq!(cut("äöü", 80), "äöü");
        assert_eq!(cut(text, 0).chars().count(), NARROWEST - 1);
    }
}
