//! Typos in valid addresses, none of which may show the password. The password is of many `Q`.

use proptest::prelude::*;
use proptest::sample::{Index, select};

/// The characters that a typo puts into an address.
const STRAY: &[char] = &[
    '@', ':', '/', '?', '#', '&', '=', '%', ',', '[', ']', '\\', '"', ' ', '\0', '\n', '\u{1b}', '☃', '7',
    'x',
];

#[derive(Clone, Debug)]
enum Typo {
    None,
    Insert(char),
    Replace(char),
    Delete,
    Swap,
    CutScheme,
    CutEnd,
}

/// One of the `good` addresses with at most one typo.
pub(crate) fn with_typo(good: &'static [&'static str]) -> impl Strategy<Value = String> {
    let stray = select(STRAY);
    let typo = prop_oneof![
        Just(Typo::None),
        stray.clone().prop_map(Typo::Insert),
        stray.prop_map(Typo::Replace),
        Just(Typo::Delete),
        Just(Typo::Swap),
        Just(Typo::CutScheme),
        Just(Typo::CutEnd),
    ];
    (select(good), any::<Index>(), typo).prop_map(|(text, at, typo)| with_typo_at(text, at, &typo))
}

fn with_typo_at(text: &str, at: Index, typo: &Typo) -> String {
    let mut characters: Vec<char> = text.chars().collect();
    let at = at.index(characters.len());
    match typo {
        Typo::None => {}
        Typo::Insert(stray) => characters.insert(at, *stray),
        Typo::Replace(stray) => characters[at] = *stray,
        Typo::Delete => drop(characters.remove(at)),
        Typo::Swap => characters.swap(at, (at + 1) % text.chars().count()),
        Typo::CutScheme => drop(characters.drain(..at % 12)),
        Typo::CutEnd => characters.truncate(at),
    }
    characters.into_iter().collect()
}

/// Asserts that the result of parsing an address shows no password, be it an error or not.
pub(crate) fn shows_no_password<T>(text: &str, made: crate::Result<T>, shown: impl Fn(&T) -> String) {
    let shown = match made {
        Ok(made) => shown(&made),
        Err(error) => format!("{error} {error:?}"),
    };
    assert!(!shown.contains("QQQ"), "{text:?}: {shown}");
}
