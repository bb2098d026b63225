//! Colours, and what stands for them where there are none.

use ratatui::style::{Color, Modifier, Style};

/// How texts look.
#[derive(Clone, Copy, Debug)]
pub(in crate::top) struct Theme {
    has_colours: bool,
}

impl Theme {
    pub(in crate::top) fn new(has_colours: bool) -> Self {
        Theme { has_colours }
    }

    /// The colours of the terminal: 16 of them are readable on dark and on light ones.
    fn coloured(self, style: Style, colour: Color) -> Style {
        if self.has_colours { style.fg(colour) } else { style }
    }

    pub(super) fn plain(self) -> Style {
        Style::new()
    }

    pub(super) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn title(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) fn heading(self, is_sorted: bool) -> Style {
        let style = self.strong();
        if is_sorted { style.add_modifier(Modifier::UNDERLINED) } else { style }
    }

    pub(super) fn chosen(self) -> Style {
        // One colour from the first column to the last.
        Style::reset().add_modifier(Modifier::REVERSED)
    }

    pub(super) fn field(self) -> Style {
        Style::new().add_modifier(Modifier::UNDERLINED)
    }

    /// Of what somebody waits for.
    pub(super) fn waited(self) -> Style {
        self.coloured(Style::new(), Color::Yellow)
    }

    /// Of what seems to be wrong.
    pub(super) fn stale(self) -> Style {
        self.coloured(self.strong(), Color::Red)
    }

    pub(super) fn warning(self) -> Style {
        self.coloured(self.strong().add_modifier(Modifier::REVERSED), Color::Yellow)
    }

    pub(super) fn danger_line(self) -> Style {
        self.coloured(Style::new(), Color::Red)
    }

    pub(super) fn danger(self) -> Style {
        self.coloured(self.strong().add_modifier(Modifier::REVERSED), Color::Red)
    }
}
