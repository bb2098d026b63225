//! Failures of one kind that come again and again, told as one.

use std::fmt::Display;
use std::time::Duration;

use globallock::backend::Instant;
use globallock::internals::duration::Shown;

/// How many causes of one outage are told. Those that come after them are only counted.
const CAUSES: usize = 3;

/// A time in which the store does not answer, or answers nothing but errors.
#[derive(Debug, Default)]
pub(super) struct Outage {
    causes: Vec<String>,
    failures: u32,
    /// When the first and the last renewal of this outage failed.
    failed: Option<(Instant, Instant)>,
}

impl Outage {
    /// Takes note of a cause. Returns true if it is to be told.
    pub(super) fn is_new(&mut self, cause: &impl Display) -> bool {
        let cause = cause.to_string();
        let is_new = self.causes.len() < CAUSES && !self.causes.contains(&cause);
        if is_new {
            self.causes.push(cause);
        }
        is_new
    }

    /// Counts a renewal that has failed.
    pub(super) fn count(&mut self, now: Instant) {
        self.failures += 1;
        let first = self.failed.map_or(now, |(first, _)| first);
        self.failed = Some((first, now));
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// How often renewals have failed, in how long, and why.
    pub(super) fn sum(&self) -> Option<String> {
        let (first, last) = self.failed?;
        let times = match self.failures {
            1 => "once".to_owned(),
            times => format!("{times} times in {}", Shown(last.saturating_duration_since(first))),
        };
        let cause = self.causes.last().map(|cause| format!(": {cause}")).unwrap_or_default();
        Some(format!("renewal failed {times}{cause}"))
    }

    /// The end of the outage, after so long.
    pub(super) fn back(&self, away: Duration) -> String {
        let failed = self.sum().map(|sum| format!(" ({sum})")).unwrap_or_default();
        format!("the store answers again after {}{failed}", Shown(away))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_once_a_cause_and_counted() {
        let start = Instant::now();
        let mut outage = Outage::default();
        assert!(outage.is_new(&"refused") && !outage.is_new(&"refused"));
        assert_eq!(outage.back(Duration::from_secs(2)), "the store answers again after 2 s");
        for second in 0..9 {
            outage.count(start + Duration::from_secs(2 * second));
        }
        assert_eq!(outage.sum().unwrap(), "renewal failed 9 times in 16 s: refused");
        assert_eq!(
            outage.back(Duration::from_secs(17)),
            "the store answers again after 17 s (renewal failed 9 times in 16 s: refused)"
        );
        let told = (0..10).filter(|number| outage.is_new(number)).count();
        assert_eq!(told, CAUSES - 1, "no more than that");
    }

    #[test]
    fn one_failure_has_no_length() {
        let mut outage = Outage::default();
        assert_eq!(outage.sum(), None);
        outage.count(Instant::now());
        assert_eq!(outage.sum().unwrap(), "renewal failed once");
    }
}
