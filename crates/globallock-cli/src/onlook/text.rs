//! Text that others have written, made fit for a terminal, and text in columns.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::time::Duration;

use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// The text with everything escaped that a terminal may obey, that is invisible, or that changes the order of
/// what stands around it. A backslash is doubled, so that the text can be told from its escapes.
///
/// ```text
/// "a\u{1b}[2J" is shown as a\u{1b}[2J, and a line break as \n.
/// ```
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut marks = 0;
    for (index, character) in text.chars().enumerate() {
        marks = if character.width() == Some(0) { marks + 1 } else { 0 };
        match character {
            '\'' | '"' => shown.push(character),
            _ if is_hidden(character) || marks > MOST_MARKS => shown.extend(character.escape_unicode()),
            // A mark belongs to the letter in front of it. Where there is none, it is escaped.
            _ if index > 0 && character.len_utf8() > 1 => {
                let mut pair = String::from("a");
                pair.push(character);
                shown.extend(pair.escape_debug().skip(1));
            }
            _ => shown.extend(character.escape_debug()),
        }
    }
    shown
}

/// How many marks may stand on one letter: more of them paint over the lines above and below.
const MOST_MARKS: usize = 3;

/// What is invisible, or of a width that terminals do not agree on, though Unicode counts it as printable.
fn is_hidden(character: char) -> bool {
    matches!(character,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
}

/// How many columns of a terminal a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

/// The longest beginning of a text that takes at most so many columns, with `…` at its end if it is not the
/// whole.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    if width(text) <= columns {
        return text.to_owned();
    }
    let mut beginning = String::new();
    for character in text.chars() {
        beginning.push(character);
        if width(&beginning) + 1 > columns {
            beginning.pop();
            break;
        }
    }
    if columns > 0 {
        beginning.push('…');
    }
    beginning
}

/// A time in a column: `0s`, `12s`, `4m12s`, `2h10m`, `3d4h`. Nothing smaller than a second is told.
pub(crate) fn brief(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes}m"),
        _ => format!("{days}d{hours}h"),
    }
}

/// Seconds as [`brief`] tells them, or `-` where they are not known.
pub(crate) fn brief_seconds(seconds: Option<f64>) -> String {
    // What a foreign clock says may be no time.
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.map_or_else(|| "-".to_owned(), brief)
}

/// A line of JSON in which everything is escaped that [`shown`] escapes, so that it may go to a terminal. It
/// is read as the same value.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    let mut line = String::new();
    for character in serde_json::to_string(value).unwrap_or_default().chars() {
        // Outside of strings, all is printable ASCII.
        if character.is_ascii_graphic() || character == ' ' {
            line.push(character);
        } else if shown(&format!("a{character}")).contains('\\') {
            for unit in character.encode_utf16(&mut [0; 2]) {
                let _ = write!(line, "\\u{unit:04x}");
            }
        } else {
            line.push(character);
        }
    }
    line.push('\n');
    line
}

/// Writes to standard output. Returns false when nobody reads it any more, which is no failure.
pub(crate) fn print(text: &str) -> std::io::Result<bool> {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_terminal_may_obey_is_escaped_and_all_else_is_kept() {
        for (text, expected) in [
            ("nightly/report 7", "nightly/report 7"),
            ("it's \"so\"", "it's \"so\""),
            ("a\u{1b}[2J\n\u{7}\u{7f}", "a\\u{1b}[2J\\n\\u{7}\\u{7f}"),
            ("\u{9b}31m", "\\u{9b}31m"),
            ("a\u{202e}b\u{2066}c\u{200b}", "a\\u{202e}b\\u{2066}c\\u{200b}"),
            ("a\\nb", "a\\\\nb"),
            ("☃ 名前 e\u{301}", "☃ 名前 e\u{301}"),
            ("\u{301}", "\\u{301}"),
            ("e\u{301}\u{302}\u{303}\u{304}", "e\u{301}\u{302}\u{303}\\u{304}"),
            ("❤\u{fe0f}\u{3164}x ไม้ לעברית", "❤\\u{fe0f}\\u{3164}x ไม้ לעברית"),
        ] {
            assert_eq!(shown(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_text_is_cut_where_its_columns_end() {
        assert_eq!(cut("abcdef", 6), "abcdef");
        assert_eq!(cut("abcdef", 5), "abcd…");
        assert_eq!(cut("名前名前", 5), "名前…");
        assert_eq!(cut("名前名前", 4), "名…");
        assert_eq!(cut("abc", 1), "…");
        assert_eq!(cut("abc", 0), "");
    }

    #[test]
    fn a_time_is_told_by_its_two_largest_units() {
        for (seconds, expected) in
            [(0, "0s"), (59, "59s"), (60, "1m0s"), (252, "4m12s"), (7800, "2h10m"), (273_700, "3d4h")]
        {
            assert_eq!(brief(Duration::from_secs(seconds)), expected);
        }
        assert_eq!(brief_seconds(None), "-");
        assert_eq!(brief_seconds(Some(-1.0)), "-");
        assert_eq!(brief_seconds(Some(1.9)), "1s");
    }

    proptest! {
        #[test]
        fn no_text_reaches_a_terminal_that_it_may_obey(text in any::<String>(), columns in 0..40_usize) {
            let line = json_line(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text.clone());
            for shown in [shown(&text), cut(&shown(&text), columns), line.trim_end().to_owned()] {
                let bad = |c: char| c.is_control() || ('\u{200b}'..='\u{200f}').contains(&c)
                    || ('\u{2028}'..='\u{202e}').contains(&c) || ('\u{2060}'..='\u{206f}').contains(&c);
                prop_assert!(!shown.contains(bad), "{shown:?}");
            }
            prop_assert!(width(&cut(&shown(&text), columns)) <= columns);
        }
    }
}
