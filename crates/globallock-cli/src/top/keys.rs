//! Keys, from the bytes that a terminal sends for them.
//!
//! The forms are those of ECMA-48 as xterm and its kin use them: `ESC [ … letter`, `ESC O letter`, and
//! `ESC [ number ~`. What has no meaning here is skipped as a whole.

/// What was pressed, or pasted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Ctrl(char),
    Enter,
    Tab,
    Backspace,
    Escape,
    Up,
    Down,
    Home,
    End,
    PageUp,
    PageDown,
    /// A text that was pasted in one piece: no keys, whatever it contains.
    Pasted(String),
}

const ESCAPE: u8 = 0x1b;
/// The longest sequence that is no key.
const LONGEST: usize = 64;
/// The longest pasted text, in bytes.
const MOST_PASTED: usize = 4096;
const PASTE_BEGINS: &[u8] = b"\x1b[200~";
const PASTE_ENDS: &[u8] = b"\x1b[201~";

/// Bytes that have come, as far as they are no keys yet.
#[derive(Debug, Default)]
pub(super) struct Keys {
    bytes: Vec<u8>,
    /// What has been pasted until now, while the end of it has not come.
    pasted: Option<Vec<u8>>,
}

/// What the first bytes are.
enum First {
    Key(Key, usize),
    /// Nothing that has a meaning here.
    Nothing(usize),
    /// More must come before that is known.
    Unfinished,
}

impl Keys {
    /// Takes bytes, and returns the keys that are complete by them.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.bytes.extend_from_slice(bytes);
        self.take(false)
    }

    /// Whether a key may have begun: it may also be the key Escape, if no more comes.
    pub(super) fn is_unfinished(&self) -> bool {
        !self.bytes.is_empty() && self.pasted.is_none()
    }

    /// The keys that the bytes are if no more come.
    pub(super) fn finish(&mut self) -> Vec<Key> {
        self.take(true)
    }

    fn take(&mut self, is_all: bool) -> Vec<Key> {
        let mut keys = Vec::new();
        loop {
            if let Some(pasted) = &mut self.pasted {
                let end = self.bytes.windows(PASTE_ENDS.len()).position(|bytes| bytes == PASTE_ENDS);
                // The beginning of the end may be the last that has come.
                let kept = end.unwrap_or(self.bytes.len().saturating_sub(PASTE_ENDS.len() - 1));
                let room = MOST_PASTED.saturating_sub(pasted.len());
                pasted.extend(self.bytes.drain(..kept).take(room));
                if end.is_none() {
                    return keys;
                }
                self.bytes.drain(..PASTE_ENDS.len());
                let text =
                    String::from_utf8_lossy(self.pasted.take().as_deref().unwrap_or_default()).into_owned();
                keys.push(Key::Pasted(text));
            }
            if self.bytes.is_empty() {
                return keys;
            }
            if self.bytes.starts_with(PASTE_BEGINS) {
                self.bytes.drain(..PASTE_BEGINS.len());
                self.pasted = Some(Vec::new());
                continue;
            }
            match first(&self.bytes) {
                First::Key(key, length) => {
                    self.bytes.drain(..length);
                    keys.push(key);
                }
                First::Nothing(length) => drop(self.bytes.drain(..length)),
                First::Unfinished if !is_all => return keys,
                First::Unfinished if self.bytes.len() == 1 && self.bytes[0] == ESCAPE => {
                    self.bytes.clear();
                    keys.push(Key::Escape);
                }
                First::Unfinished => self.bytes.clear(),
            }
        }
    }
}

fn first(bytes: &[u8]) -> First {
    match bytes[0] {
        ESCAPE => sequence(bytes),
        b'\r' | b'\n' => First::Key(Key::Enter, 1),
        b'\t' => First::Key(Key::Tab, 1),
        0x7f | 0x08 => First::Key(Key::Backspace, 1),
        control @ 1..=26 => First::Key(Key::Ctrl(char::from(control - 1 + b'a')), 1),
        0..=31 => First::Nothing(1),
        _ => letter(bytes),
    }
}

fn letter(bytes: &[u8]) -> First {
    let length = match bytes[0] {
        0..=0x7f => 1,
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return First::Nothing(1),
    };
    let there = &bytes[..length.min(bytes.len())];
    match std::str::from_utf8(there) {
        // The controls of the eighth bit are no keys.
        Ok(text) => match text.chars().next().filter(|letter| !letter.is_control()) {
            Some(letter) => First::Key(Key::Char(letter), length),
            None => First::Nothing(length),
        },
        Err(error) if error.error_len().is_none() => First::Unfinished,
        Err(_) => First::Nothing(1),
    }
}

fn sequence(bytes: &[u8]) -> First {
    match bytes.get(1) {
        None => First::Unfinished,
        Some(b'[') => {
            let Some(end) = bytes[2..].iter().position(|byte| !(0x20..=0x3f).contains(byte)) else {
                return if bytes.len() > LONGEST { First::Nothing(bytes.len()) } else { First::Unfinished };
            };
            let (parameters, last, length) = (&bytes[2..2 + end], bytes[2 + end], end + 3);
            if last == ESCAPE {
                // The sequence was cut off by another one.
                return First::Nothing(length - 1);
            }
            // Behind a semicolon is which keys were held beside it.
            let number = parameters.split(|byte| *byte == b';').next().unwrap_or_default();
            named(number, last).map_or(First::Nothing(length), |key| First::Key(key, length))
        }
        Some(b'O') => match bytes.get(2) {
            None => First::Unfinished,
            Some(&ESCAPE) => First::Nothing(2),
            Some(&last) => named(b"", last).map_or(First::Nothing(3), |key| First::Key(key, 3)),
        },
        Some(&ESCAPE) => First::Key(Key::Escape, 1),
        // A key with Alt has no meaning here, and it must not do what the key alone does.
        Some(_) => match letter(&bytes[1..]) {
            First::Key(_, length) | First::Nothing(length) => First::Nothing(1 + length),
            First::Unfinished => First::Unfinished,
        },
    }
}

fn named(number: &[u8], last: u8) -> Option<Key> {
    Some(match (number, last) {
        (_, b'A') => Key::Up,
        (_, b'B') => Key::Down,
        (_, b'H') | (b"1" | b"7", b'~') => Key::Home,
        (_, b'F') | (b"4" | b"8", b'~') => Key::End,
        (b"5", b'~') => Key::PageUp,
        (b"6", b'~') => Key::PageDown,
        (b"", b'M') => Key::Enter,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).collect()
    }

    #[test]
    fn the_bytes_of_terminals_are_keys() {
        for (bytes, expected) in [
            (&b"q"[..], keys("q")),
            ("aé日😀".as_bytes(), keys("aé日😀")),
            (b"\r\t\x7f\x08", vec![Key::Enter, Key::Tab, Key::Backspace, Key::Backspace]),
            (b"\x03\x1a\x0c", vec![Key::Ctrl('c'), Key::Ctrl('z'), Key::Ctrl('l')]),
            (b"\x1b[A\x1bOB\x1b[1;5A", vec![Key::Up, Key::Down, Key::Up]),
            (b"\x1b[5~\x1b[6~", vec![Key::PageUp, Key::PageDown]),
            (b"\x1b[H\x1bOF\x1b[1~\x1b[4~", vec![Key::Home, Key::End, Key::Home, Key::End]),
            (b"\x1b\x1b[A", vec![Key::Escape, Key::Up]),
            // Nothing: a function key, a report of the mouse, a key with Alt, a broken letter.
            (b"\x1b[15~\x1b[<0;1;1Ma\x1bq\xff\xc3(\x1b[?1;2c", keys("a(")),
            (b"\x1b[1\x1b[A", vec![Key::Up]),
        ] {
            assert_eq!(Keys::default().feed(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn an_escape_alone_is_a_key_once_nothing_follows_it() {
        let mut some = Keys::default();
        assert!(some.feed(b"\x1b").is_empty() && some.is_unfinished());
        assert_eq!(some.finish(), [Key::Escape]);
        assert!(!some.is_unfinished() && some.finish().is_empty());
        assert!(some.feed(b"\x1b[").is_empty());
        assert_eq!(some.feed(b"A"), [Key::Up]);
        assert!(some.feed(b"\xe6\x97").is_empty() && some.is_unfinished());
        assert_eq!(some.feed(b"\xa5"), keys("日"));
    }

    #[test]
    fn a_pasted_text_is_one_thing_and_its_letters_are_no_keys() {
        let mut some = Keys::default();
        assert_eq!(
            some.feed(b"a\x1b[200~u\ny\x1b[A\n\x1b[201~b"),
            [Key::Char('a'), Key::Pasted("u\ny\x1b[A\n".into()), Key::Char('b')]
        );
        assert!(some.feed(b"\x1b[200~one\x1b[20").is_empty() && !some.is_unfinished());
        assert_eq!(some.feed(b"1~"), [Key::Pasted("one".into())]);
        let long = [b"\x1b[200~", &b"x".repeat(10_000)[..], b"\x1b[201~q"].concat();
        let [Key::Pasted(text), Key::Char('q')] = &some.feed(&long)[..] else { panic!("{some:?}") };
        assert_eq!(text.len(), MOST_PASTED);
    }

    fn byte() -> impl Strategy<Value = u8> {
        prop_oneof![any::<u8>(), Just(0x1b), Just(b'['), 0x20..0x7f_u8]
    }

    proptest! {
        #[test]
        fn any_bytes_are_keys_or_nothing_however_they_come(
            bytes in prop::collection::vec(byte(), 0..60),
            at in 0..60_usize,
        ) {
            let mut whole = Keys::default();
            let at = at.min(bytes.len());
            let mut keys = whole.feed(&bytes);
            let mut parts = Keys::default();
            let mut others = parts.feed(&bytes[..at]);
            others.extend(parts.feed(&bytes[at..]));
            prop_assert_eq!(&keys, &others);
            keys.extend(whole.finish());
            prop_assert!(keys.len() <= bytes.len());
            prop_assert!(whole.bytes.is_empty() || whole.pasted.is_some());
            let bad = |key: &Key| matches!(key, Key::Char(letter) if letter.is_control());
            prop_assert!(!keys.iter().any(bad));
        }
    }
}
