//! Who took a claim out of its queue, and why.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::owner::Owner;

/// The longest reason of an eviction, in bytes.
const MAX_REASON_BYTES: usize = 256;

/// Who took a claim out of its queue, and why.
///
/// ```
/// use globallock::{Eviction, Owner};
///
/// let eviction = Eviction::new(Owner::current().with_label("alice"), "it hangs since noon");
/// assert!(eviction.to_string().starts_with("alice (pid "));
/// assert!(eviction.to_string().ends_with(": it hangs since noon"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Eviction {
    /// Who did it.
    pub by: Owner,
    /// Why, in the words of who did it; empty if nothing was said. Untrusted text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Eviction {
    /// Says who and why. A reason beyond 256 bytes is cut.
    #[must_use]
    pub fn new(by: Owner, reason: impl Into<String>) -> Self {
        let mut reason = reason.into();
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        Eviction { by, reason }
    }

    /// The text that stores keep for the evicted owner: JSON on one line.
    #[must_use]
    pub fn to_text(&self) -> String {
        let by = Owner::from_text(&self.by.to_text());
        serde_json::to_string(&Eviction::new(by, self.reason.as_str())).unwrap_or_default()
    }

    /// Reads what a store kept; text of another program becomes the reason.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        match serde_json::from_str::<Eviction>(text) {
            Ok(read) => Eviction::new(Owner::from_text(&read.by.to_text()), read.reason),
            Err(_) => Eviction::new(Owner::default(), text),
        }
    }
}

/// Writes `alice (pid 12 on host): reason`, with control characters escaped.
impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.by)?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason.escape_debug()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_eviction_is_read_back_from_its_text_and_bounded(
            host in ".*", label in any::<Option<String>>(), reason in ".*",
        ) {
            let by = Owner { host, pid: Some(7), label };
            let kept = Owner::from_text(&by.to_text());
            let text = Eviction::new(by, reason.repeat(3)).to_text();
            prop_assert!(!text.contains('\n') && text.len() < 3000, "{} bytes", text.len());
            let read = Eviction::from_text(&text);
            prop_assert_eq!(read.to_text(), text);
            prop_assert_eq!(&read.by, &kept);
            prop_assert_eq!(read.reason.is_empty(), reason.is_empty());
            prop_assert!(reason.repeat(3).starts_with(&read.reason));
        }

        #[test]
        fn any_text_of_an_eviction_is_shown_without_control_characters(text in ".*") {
            for text in [&text, &text.repeat(2000), &format!("{{\"by\": {{}}, \"reason\": {text:?}}}")] {
                let shown = Eviction::from_text(text).to_string();
                prop_assert!(!shown.contains(char::is_control), "{shown}");
                prop_assert!(shown.len() < 10 * (MAX_REASON_BYTES + 1024));
            }
        }
    }
}
