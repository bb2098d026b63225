//! Who made a claim, for people to read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest text of an owner in a store, in bytes.
const MAX_TEXT_BYTES: usize = 512;

/// Who made a claim: shown by `inspect`, never decided on.
///
/// ```
/// use globallock::Owner;
///
/// let owner = Owner { host: "db1".into(), pid: Some(12), ..Owner::default() }.with_label("nightly");
/// assert_eq!(owner.to_string(), "nightly (pid 12 on db1)");
/// assert_eq!(Owner::from_text(&owner.to_text()), owner);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The name of the host. Default: the host's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The process. Default: this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What the user wants shown, such as the name of the job. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
}

impl Owner {
    /// This process on this host.
    #[must_use]
    pub fn current() -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname")
            .ok()
            .or_else(|| std::env::var("HOSTNAME").ok())
            .unwrap_or_default();
        Owner { host: host.trim().to_owned(), pid: Some(std::process::id()), label: None }
    }

    /// Sets [`Owner::label`].
    #[must_use]
    pub fn with_label(self, label: impl Into<String>) -> Self {
        Owner { label: Some(label.into()), ..self }
    }

    /// The text that stores keep: JSON on one line, cut to the length that every store accepts.
    #[must_use]
    pub fn to_text(&self) -> String {
        let cut = |text: &str, bytes: usize| text[..text.floor_char_boundary(bytes)].to_owned();
        let mut owner = self.clone();
        owner.host = cut(&owner.host, 64);
        let mut room = 256;
        loop {
            let text = serde_json::to_string(&owner).unwrap_or_default();
            if text.len() <= MAX_TEXT_BYTES || room == 0 {
                return text;
            }
            // Escaping can lengthen a label sixfold, so it is cut until the whole fits.
            owner.label = owner.label.map(|label| cut(&label, room));
            room /= 2;
        }
    }

    /// Reads what a store kept, as much of it as [`Owner::to_text`] may have written; text of another program
    /// becomes the label.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut owner = serde_json::from_str(text).unwrap_or_else(|_| Owner {
            label: (!text.is_empty()).then(|| text.to_owned()),
            ..Owner::default()
        });
        let cut = |text: &mut String| text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
        cut(&mut owner.host);
        owner.label.iter_mut().for_each(cut);
        owner
    }
}

/// Writes `label (pid 12 on host)` with control characters escaped.
impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words = Vec::new();
        if let Some(pid) = self.pid {
            words.push(format!("pid {pid}"));
        }
        if !self.host.is_empty() {
            words.push(format!("on {}", self.host.escape_debug()));
        }
        match (&self.label, words.is_empty()) {
            (Some(label), true) => write!(f, "{}", label.escape_debug()),
            (Some(label), false) => write!(f, "{} ({})", label.escape_debug(), words.join(" ")),
            (None, true) => f.write_str("unknown"),
            (None, false) => f.write_str(&words.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_owner_is_shown_by_what_is_known_of_it() {
        let owner = |label: Option<&str>, pid, host: &str| Owner {
            label: label.map(str::to_owned),
            pid,
            host: host.to_owned(),
        };
        for (owner, shown) in [
            (owner(Some("job"), Some(12), "db1"), "job (pid 12 on db1)"),
            (owner(Some("job"), None, "db1"), "job (on db1)"),
            (owner(Some("job"), None, ""), "job"),
            (owner(None, Some(12), "db1"), "pid 12 on db1"),
            (owner(None, Some(12), ""), "pid 12"),
            (owner(None, None, ""), "unknown"),
            (owner(Some("a\nb"), None, "c\td"), "a\\nb (on c\\td)"),
        ] {
            assert_eq!(owner.to_string(), shown);
        }
    }

    #[test]
    fn this_process_is_named_with_its_host() {
        let owner = Owner::current();
        assert_eq!((owner.pid, owner.label.clone()), (Some(std::process::id()), None));
        assert!(!owner.host.is_empty() && owner.host.trim() == owner.host);
        assert_eq!(Owner::from_text(&owner.to_text()), owner);
    }

    #[test]
    fn what_a_store_has_no_room_for_is_cut() {
        let owner = Owner { host: "h".repeat(600), pid: Some(1), label: Some("l".repeat(2_000)) };
        let kept = Owner::from_text(&owner.to_text());
        assert_eq!((kept.host.len(), kept.pid), (64, Some(1)));
        assert_eq!(kept.label.unwrap(), "l".repeat(256));
        // What escapes lengthen is cut further, by halves.
        let label = Some("\u{1}".repeat(256));
        let kept = Owner::from_text(&Owner { label, ..Owner::default() }.to_text());
        assert_eq!(kept.label.unwrap().len(), 64);
    }

    #[test]
    fn what_another_program_wrote_is_the_label() {
        let foreign = Owner::from_text("somebody else");
        assert_eq!(foreign, Owner { label: Some("somebody else".to_owned()), ..Owner::default() });
        assert_eq!(Owner::from_text(""), Owner::default());
    }

    proptest! {
        #[test]
        fn the_text_of_an_owner_is_bounded_and_read_back(
            host in ".*",
            pid in any::<Option<u32>>(),
            label in any::<Option<String>>(),
        ) {
            let text = Owner { host, pid, label }.to_text();
            prop_assert!(text.len() <= MAX_TEXT_BYTES);
            prop_assert!(!text.contains('\n'));
            prop_assert_eq!(Owner::from_text(&text).to_text(), text);
        }

        #[test]
        fn any_text_of_a_foreign_owner_is_shown_without_control_characters(text in ".*") {
            for text in [&text, &format!("{{\"host\": {text:?}}}"), &text.repeat(2_000)] {
                let shown = Owner::from_text(text).to_string();
                prop_assert!(!shown.contains(char::is_control), "{shown}");
                // What is escaped takes up to ten characters.
                prop_assert!(shown.len() <= 10 * 2 * MAX_TEXT_BYTES, "{} bytes", shown.len());
            }
        }
    }
}
