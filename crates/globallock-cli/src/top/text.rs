//! Texts as they may reach the terminal: what others wrote, cut to its columns, and times.

use std::time::Duration;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How many marks may stand on one letter. More of them paint over the lines above and below.
const MARKS: usize = 3;

/// What is invisible, or of a width that terminals do not agree on, though Unicode counts it as printable.
fn is_hidden(letter: char) -> bool {
    matches!(letter,
        '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{2800}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}')
}

/// The text with everything escaped that does something to a terminal or to the reader's eye: control
/// characters, overrides of the direction, and what is invisible.
pub(super) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    // A mark without a letter would stand on what is in front of the text.
    let mut marks = MARKS;
    for letter in text.chars() {
        let is_mark = letter.width() == Some(0);
        marks = if is_mark { marks + 1 } else { 0 };
        if letter == ' ' || letter.is_ascii_graphic() {
            clean.push(letter);
        } else if is_hidden(letter) || marks > MARKS {
            clean.extend(letter.escape_unicode());
        } else if is_mark && is_printable_mark(letter) {
            clean.push(letter);
        } else {
            clean.extend(letter.escape_debug());
        }
    }
    clean
}

/// Whether a letter of no width is a mark upon another one. Alone in a text, it would be escaped as well.
fn is_printable_mark(letter: char) -> bool {
    let mut pair = ['a', letter].iter().collect::<String>();
    pair = pair.escape_debug().collect();
    pair.chars().count() == 2
}

/// How many columns a text takes.
pub(super) fn width(text: &str) -> usize {
    text.width()
}

/// The beginning of a text that fits this many columns, with a sign at its end if that is not all.
pub(super) fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut fits = String::new();
    for letter in text.chars() {
        fits.push(letter);
        if fits.width() >= columns {
            // What is as wide as the room leaves none for the sign.
            fits.pop();
            break;
        }
    }
    if columns > 0 {
        fits.push('…');
    }
    fits
}

/// The end of a text that is being typed, so that its last letters are seen.
pub(super) fn tail(text: &str, columns: usize) -> String {
    let mut from = 0;
    while text[from..].width() > columns {
        from += text[from..].chars().next().map_or(1, char::len_utf8);
    }
    text[from..].to_owned()
}

/// A text in lines of at most so many columns, broken between words where that is possible.
pub(super) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(3);
    let mut lines = vec![String::new()];
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut rest = word;
        while let Some(line) = lines.last_mut() {
            let gap = usize::from(!line.is_empty());
            if line.width() + gap + rest.width() <= columns {
                line.push_str(&" ".repeat(gap));
                line.push_str(rest);
                break;
            }
            if line.is_empty() {
                // One word is longer than a line.
                let end = rest.char_indices().map(|(at, letter)| at + letter.len_utf8());
                let end = end.take_while(|end| rest[..*end].width() <= columns).last();
                let end = end.unwrap_or_else(|| rest.chars().next().map_or(0, char::len_utf8));
                line.push_str(&rest[..end]);
                rest = &rest[end..];
            }
            lines.push(String::new());
        }
    }
    lines
}

/// A time in at most six columns, rounded down: `59s`, `3m05s`, `23h59m`, `4d02h`, `400d`.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{:02}s", seconds % 60),
        3600..86400 => format!("{hours}h{:02}m", minutes % 60),
        86400..8_640_000 => format!("{days}d{:02}h", hours % 24),
        _ => format!("{days}d"),
    }
}

/// `1 name`, `2 names`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_would_act_on_the_terminal_or_deceive_the_eye_is_escaped() {
        for (text, expected) in [
            ("nightly 'report' \"a\" \\ ", "nightly 'report' \"a\" \\ "),
            ("\u{1b}[2J\r\n\t\u{7}\u{9b}31m\0", "\\u{1b}[2J\\r\\n\\t\\u{7}\\u{9b}31m\\0"),
            ("\u{202e}gpj.exe\u{2066}\u{200f}", "\\u{202e}gpj.exe\\u{2066}\\u{200f}"),
            ("a\u{200b}b\u{feff}c\u{ad}\u{3164}", "a\\u{200b}b\\u{feff}c\\u{ad}\\u{3164}"),
            ("❤\u{fe0f}\u{2028}", "❤\\u{fe0f}\\u{2028}"),
            ("日本 e\u{301} ไม้ לעברית", "日本 e\u{301} ไม้ לעברית"),
            ("\u{301}a", "\\u{301}a"),
            ("e\u{301}\u{302}\u{303}\u{304}", "e\u{301}\u{302}\u{303}\\u{304}"),
        ] {
            assert_eq!(clean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn texts_are_cut_by_the_columns_that_they_take() {
        for (text, columns, expected) in [
            ("abc", 3, "abc"),
            ("abcd", 3, "ab…"),
            ("日本語", 6, "日本語"),
            ("日本語", 5, "日本…"),
            ("日本語", 4, "日…"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
        ] {
            assert_eq!(cut(text, columns), expected, "{text} {columns}");
        }
        assert_eq!((tail("abcd", 2), tail("日本", 3), tail("a", 4)), ("cd".into(), "本".into(), "a".into()));
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefg hi", 4), ["abcd", "efg", "hi"]);
        assert_eq!(wrap("", 4), [""]);
    }

    #[test]
    fn times_take_six_columns() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m00s"),
            (3599, "59m59s"),
            (3600, "1h00m"),
            (86399, "23h59m"),
            (86400, "1d00h"),
            (8_639_999, "99d23h"),
            (8_640_000, "100d"),
        ] {
            assert_eq!(time(Duration::from_secs(seconds)), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_becomes_harmless_and_fits(text in any::<String>(), columns in 0..40_usize) {
            let clean = clean(&text);
            prop_assert!(!clean.contains(char::is_control));
            let overrides = |letter| matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            prop_assert!(!clean.contains(overrides));
            prop_assert!(cut(&clean, columns).width() <= columns);
            prop_assert!(tail(&clean, columns).width() <= columns);
            for line in wrap(&clean, columns) {
                prop_assert!(line.width() <= columns.max(3), "{line:?}");
            }
        }
    }
}
