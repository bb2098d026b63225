//! Good addresses, each with a password of many `Q`, and what becomes of them by one slip of the hand.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// What keyboards, copies and templates put between.
const STRAY: &[char] = &[
    '@', ':', '/', '?', '#', '&', '=', '%', ',', '[', ']', '\\', '"', ' ', '\0', '\n', '\u{1b}', '☃', '7',
    'x',
];

#[derive(Clone, Debug)]
enum Slip {
    None,
    Insert(char),
    Replace(char),
    Delete,
    Swap,
    CutScheme,
    CutEnd,
}

/// One of `good` after at most one slip.
pub(crate) fn slipped(good: &'static [&'static str]) -> impl Strategy<Value = String> {
    let stray = select(STRAY);
    let slip = prop_oneof![
        Just(Slip::None),
        stray.clone().prop_map(Slip::Insert),
        stray.prop_map(Slip::Replace),
        Just(Slip::Delete),
        Just(Slip::Swap),
        Just(Slip::CutScheme),
        Just(Slip::CutEnd),
    ];
    (select(good), any::<Index>(), slip).prop_map(|(text, at, slip)| slipped_at(text, at, &slip))
}

fn slipped_at(text: &str, at: Index, slip: &Slip) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let at = at.index(characters.len());
    match slip {
        Slip::None => {}
        Slip::Insert(stray) => characters.insert(at, *stray),
        Slip::Replace(stray) => characters[at] = *stray,
        Slip::Delete => drop(characters.remove(at)),
        Slip::Swap => characters.swap(at, (at + 1) % text.chars().count()),
        Slip::CutScheme => drop(characters.drain(..at % 12)),
        Slip::CutEnd => characters.truncate(at),
    }
    characters.into_iter().collect()
}

/// Checks that what is made of an address shows no password, whether that is an error or not.
pub(crate) fn shows_no_password<T>(text: &str, made: crate::Result<T>, shown: impl Fn(&T) -> String) {
    let shown = match made {
        Ok(made) => shown(&made),
        Err(error) => format!("{error} {error:?}"),
    };
    assert!(!shown.contains("QQQ"), "{text:?}: {shown}");
}
