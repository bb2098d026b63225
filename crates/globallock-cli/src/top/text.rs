//! Texts in lines, as they may reach the terminal.

use unicode_width::UnicodeWidthStr;

pub(super) use crate::onlook::text::{brief as time, cut, shown as clean, width};

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

/// `1 name`, `2 names`.
pub(super) fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn texts_are_broken_into_lines_by_the_columns_that_they_take() {
        assert_eq!((tail("abcd", 2), tail("日本", 3), tail("a", 4)), ("cd".into(), "本".into(), "a".into()));
        assert_eq!(wrap("one two  three", 7), ["one two", "three"]);
        assert_eq!(wrap("abcdefg hi", 4), ["abcd", "efg", "hi"]);
        assert_eq!(wrap("", 4), [""]);
    }

    proptest! {
        #[test]
        fn any_text_fits(text in any::<String>(), columns in 0..40_usize) {
            let clean = clean(&text);
            prop_assert!(tail(&clean, columns).width() <= columns);
            for line in wrap(&clean, columns) {
                prop_assert!(line.width() <= columns.max(3), "{line:?}");
            }
        }
    }
}
