//! What the keys do.

use ratatui::buffer::Buffer;

use super::{Theme, put};

/// The columns of one entry, and of its keys.
const ENTRY: u16 = 39;
const KEYS: u16 = 11;

const ENTRIES: [(&str, &str); 24] = [
    ("j k ↓ ↑", "choose"),
    ("PgDn PgUp", "a screen on, back"),
    ("g G", "the first, the last"),
    ("Enter d", "its queue, and back"),
    ("Esc", "back"),
    ("u", "break a claim"),
    ("space", "stop, and go on"),
    ("r", "look now"),
    ("/", "find in names"),
    ("h", "only held"),
    ("w", "only waited for"),
    ("f", "only foreign: marked +"),
    ("s", "only stale: marked !"),
    ("c", "show all"),
    ("a", "longest held first"),
    ("t", "longest wait first"),
    ("n", "most waiters first"),
    ("l", "shortest lease first"),
    ("o", "by name"),
    ("x", "deadlocks, on a page"),
    ("Ctrl-L", "draw anew"),
    ("Ctrl-Z", "stop this job"),
    ("?", "this help"),
    ("q Ctrl-C", "quit"),
];

pub(super) fn draw(buffer: &mut Buffer, (columns, rows): (u16, u16), theme: Theme) {
    put(buffer, (1, 0), columns - 2, "Keys of globallock top. Any key goes back.", theme.strong());
    let lines = usize::from(rows - 2);
    let beside = usize::from((columns / ENTRY).max(1));
    let room = lines * beside;
    for (index, (keys, what)) in ENTRIES.into_iter().enumerate().take(room) {
        let at = (index / lines, index % lines);
        let Ok((column, line)) = u16::try_from(at.0).and_then(|column| Ok((column, u16::try_from(at.1)?)))
        else {
            return;
        };
        let (x, y) = (1 + column * ENTRY, 2 + line);
        put(buffer, (x, y), KEYS + 2, keys, theme.strong());
        put(buffer, (x + KEYS + 3, y), ENTRY - KEYS - 4, what, theme.plain());
    }
    if ENTRIES.len() > room {
        put(buffer, (1, 1), columns - 2, "A larger screen has room for all of them.", theme.dim());
    }
}
