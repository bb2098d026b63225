//! Whether a store tells what it is asked, said once for each change.

use std::time::Duration;

use globallock::Error;
use globallock::internals::duration::Shown;

use crate::log::{self, Line};

/// What was said last of why not all locks can be listed; none where they can be.
#[derive(Debug, Default)]
pub(crate) struct Away(Option<&'static str>);

impl Away {
    /// Says what has changed since the last call: why a look told nothing or not all, and how long ago one
    /// told all.
    pub(crate) fn tell(&mut self, failure: Option<&Error>, age: Option<Duration>) {
        if let Some((line, text)) = self.changed(failure, age) {
            line.say(text);
        }
    }

    fn changed(&mut self, failure: Option<&Error>, age: Option<Duration>) -> Option<(Line, String)> {
        let now = failure.map(|error| if error.is_retryable() { "store_lost" } else { "not_listed" });
        if std::mem::replace(&mut self.0, now) == now {
            return None;
        }
        let (Some(what), Some(error)) = (now, failure) else {
            return Some((log::warning("store_back"), "all locks can be listed again".to_owned()));
        };
        let since = age.map(|age| format!("for {} ", Shown(age))).unwrap_or_default();
        let line = log::warning(what).with("error", error.to_string());
        Some((line, format!("{since}not all locks can be listed: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_said_once() {
        let (mut away, lost) = (Away::default(), Error::unavailable("redis://db", "it is refused"));
        let mut said = |error: Option<&Error>, age| away.changed(error, age).map(|(_, text)| text);
        assert_eq!(said(None, Some(Duration::ZERO)), None, "it is well from the beginning");
        let told = "not all locks can be listed: redis://db is unavailable: it is refused";
        assert_eq!(said(Some(&lost), None).as_deref(), Some(told));
        assert_eq!(said(Some(&lost), None), None);
        assert!(said(Some(&Error::Closed), None).is_some(), "another kind of failure");
        assert_eq!(said(None, None).as_deref(), Some("all locks can be listed again"));
        let told = format!("for 5 s {told}");
        assert_eq!(said(Some(&lost), Some(Duration::from_secs(5))), Some(told));
    }
}
