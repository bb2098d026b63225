//! The names of locks, and the rules that hold for them in every store.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, Result};

/// The longest name, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 512;

/// What the user calls a lock: 1 to 512 bytes of UTF-8 without a NUL.
///
/// Cheap to clone. Each backend maps it to a key of its store, one to one.
///
/// ```
/// use globallock::Name;
///
/// let name = Name::new("reports/nightly")?;
/// assert_eq!((name.as_str(), name.to_string()), ("reports/nightly", "\"reports/nightly\"".to_owned()));
/// assert!(Name::new("").unwrap_err().to_string().contains("empty"));
/// # Ok::<(), globallock::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Checks `name` and keeps it.
    ///
    /// # Errors
    /// [`Error::InvalidName`] when it is empty, longer than [`MAX_NAME_BYTES`], or has a NUL in it.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        Self::from_shared(Arc::from(name.as_ref()))
    }

    /// As [`Name::new`], without a copy of the text.
    pub(crate) fn from_shared(name: Arc<str>) -> Result<Self> {
        let reason = if name.is_empty() {
            "it is empty".to_owned()
        } else if name.len() > MAX_NAME_BYTES {
            format!("it has {} bytes, the limit is {MAX_NAME_BYTES}", name.len())
        } else if name.contains('\0') {
            "it contains a NUL character".to_owned()
        } else {
            return Ok(Name(name));
        };
        Err(Error::InvalidName { name: shown(&name), reason })
    }

    /// The name as given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name in quotes, with control characters escaped, cut after 64 characters.
pub(crate) fn shown(name: &str) -> String {
    let mut quoted: String = name.chars().take(64).flat_map(char::escape_debug).collect();
    if name.chars().nth(64).is_some() {
        quoted.push('…');
    }
    format!("\"{quoted}\"")
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

/// Shows the name in quotes with control characters escaped, so that a foreign name cannot drive a terminal.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_kept_as_given() {
        for name in ["a", "a/b", "..", "{a}b", "naïve ☃", " ", &"x".repeat(MAX_NAME_BYTES)] {
            assert_eq!(Name::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn a_name_that_breaks_a_rule_is_refused_with_the_rule() {
        let too_long = "x".repeat(MAX_NAME_BYTES + 1);
        for (name, rule) in [("", "empty"), ("a\0b", "NUL"), (&*too_long, "limit is 512")] {
            let error = Name::new(name).unwrap_err().to_string();
            assert!(error.contains(rule), "{error}");
            assert!(error.len() < 200, "{error}");
        }
    }

    #[test]
    fn a_shown_name_has_no_control_characters() {
        let shown = Name::new("\x1b]0;x\x07\u{202e}").unwrap().to_string();
        assert!(!shown.contains(|c: char| c.is_control() || c == '\u{202e}'), "{shown:?}");
    }

    #[test]
    fn a_long_name_is_shown_cut_and_one_within_the_limit_whole() {
        let shown = |length| Name::new("x".repeat(length)).unwrap().to_string();
        assert_eq!(shown(64), format!("\"{}\"", "x".repeat(64)));
        assert_eq!(shown(65), format!("\"{}…\"", "x".repeat(64)));
    }

    #[test]
    fn a_name_is_its_text_in_quotes_to_those_who_debug() {
        let name = Name::new("a\nb").unwrap();
        assert_eq!(format!("{name:?}"), "\"a\\nb\"");
        assert_eq!(name.as_ref() as &str, "a\nb");
    }
}
