//! What an examination of a store finds: see [`Backend::examine`](super::Backend::examine).

use std::fmt;

/// How a store does in one respect, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Nothing that can be found out: the server does not tell, or not this user.
    Unknown,
    /// Worth knowing before the store is trusted with locks. Many such stores serve well.
    Note,
    /// Locks do not work, or may be lost or held twice, before somebody has changed something.
    Bad,
    /// The user lacks a right that locks need.
    Denied,
}

impl Verdict {
    /// The word for it: `ok`, `unknown`, `note`, `bad` or `denied`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verdict::Good => "ok",
            Verdict::Unknown => "unknown",
            Verdict::Note => "note",
            Verdict::Bad => "bad",
            Verdict::Denied => "denied",
        }
    }

    /// Whether locks in this store are not to be relied on before somebody has changed something.
    #[must_use]
    pub fn is_bad(self) -> bool {
        matches!(self, Verdict::Bad | Verdict::Denied)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One thing that an examination has found out about a store. No finding ever carries a password.
///
/// ```
/// use globallock::{Finding, Verdict};
///
/// let finding = Finding::note("persistence", "a restart forgets all locks").remedy("set appendonly yes");
/// assert_eq!((finding.subject, finding.verdict), ("persistence", Verdict::Note));
/// assert_eq!(finding.to_string(), "note persistence: a restart forgets all locks; set appendonly yes");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about, in a word or two: `version`, `persistence`, `rights`, …
    pub subject: &'static str,
    /// How the store does in this respect.
    pub verdict: Verdict,
    /// What was found, and what it means for locks.
    pub text: String,
    /// What somebody can do about it.
    pub remedy: Option<String>,
}

impl Finding {
    /// A finding of this verdict.
    #[must_use]
    pub fn new(subject: &'static str, verdict: Verdict, text: impl Into<String>) -> Self {
        Finding { subject, verdict, text: text.into(), remedy: None }
    }

    /// What is as it should be.
    #[must_use]
    pub fn good(subject: &'static str, text: impl Into<String>) -> Self {
        Finding::new(subject, Verdict::Good, text)
    }

    /// What cannot be found out, and why not.
    #[must_use]
    pub fn unknown(subject: &'static str, text: impl Into<String>) -> Self {
        Finding::new(subject, Verdict::Unknown, text)
    }

    /// What is worth knowing.
    #[must_use]
    pub fn note(subject: &'static str, text: impl Into<String>) -> Self {
        Finding::new(subject, Verdict::Note, text)
    }

    /// What somebody must change.
    #[must_use]
    pub fn bad(subject: &'static str, text: impl Into<String>) -> Self {
        Finding::new(subject, Verdict::Bad, text)
    }

    /// The right that the user lacks.
    #[must_use]
    pub fn denied(subject: &'static str, text: impl Into<String>) -> Self {
        Finding::new(subject, Verdict::Denied, text)
    }

    /// Sets [`Finding::remedy`].
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> Self {
        Finding { remedy: Some(remedy.into()), ..self }
    }
}

/// Writes all of it on one line.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { subject, verdict, text, remedy } = self;
        write!(f, "{verdict} {subject}: {text}")?;
        match remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_go_from_the_best_to_the_worst() {
        let all = [Verdict::Good, Verdict::Unknown, Verdict::Note, Verdict::Bad, Verdict::Denied];
        assert!(all.is_sorted());
        assert_eq!(all.map(Verdict::is_bad), [false, false, false, true, true]);
        assert_eq!(all.map(Verdict::as_str), ["ok", "unknown", "note", "bad", "denied"]);
        assert_eq!(format!("{:7}|", Verdict::Good), "ok     |");
    }
}
