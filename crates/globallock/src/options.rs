//! What can be set for a lock and for a manager.

use std::time::Duration;

use crate::error::{Error, Result};

/// The shortest lease and longest hold that are accepted: below it, ordinary delays would lose locks.
pub const MIN_LEASE: Duration = Duration::from_millis(100);
/// The longest lease, hold and wait that are accepted.
pub const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a lock is taken and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How long a claim outlives its owner's last sign of life. It is renewed at a third of it. A shorter lease frees
    /// the lock of a dead owner sooner; a longer one rides out longer outages of the store. 100 ms to a year.
    /// Default: 10 s.
    pub lease: Duration,
    /// The longest that the lock is held, owner alive or not: it is lost at this time. 100 ms to a year.
    /// Default: no limit.
    pub max_hold: Option<Duration>,
    /// The longest that `acquire` waits to be granted. Zero asks once. Default: no limit.
    pub wait: Option<Duration>,
    /// How long the store may be silent before a call gives up on it, though its waiting limit is not over.
    /// 100 ms to a year. Default: the lease.
    pub store_timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options { lease: Duration::from_secs(10), max_hold: None, wait: None, store_timeout: None }
    }
}

impl Options {
    /// Checks that every duration is in its range.
    pub(crate) fn check(&self) -> Result<()> {
        let in_range = |option: &str, value: Option<Duration>, shortest: Duration| match value {
            Some(value) if value < shortest || value > MAX_DURATION => Err(Error::invalid_option(
                option,
                format!("{value:?} is not between {shortest:?} and one year"),
            )),
            _ => Ok(()),
        };
        in_range("lease", Some(self.lease), MIN_LEASE)?;
        in_range("max_hold", self.max_hold, MIN_LEASE)?;
        in_range("wait", self.wait, Duration::ZERO)?;
        in_range("store_timeout", self.store_timeout, MIN_LEASE)
    }

    /// How long the store may be silent.
    pub(crate) fn store_timeout(&self) -> Duration {
        self.store_timeout.unwrap_or(self.lease)
    }
}

/// What one manager's locks have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagerOptions {
    /// What its locks start from. Default: [`Options::default`].
    pub locks: Options,
    /// What `inspect` shows of this owner besides host and process, such as the job's name. Default: nothing.
    pub label: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets one option.
    type With = fn(Duration) -> Options;

    #[test]
    fn the_bounds_of_a_range_are_in_it_and_what_is_beyond_is_not() {
        let little = Duration::from_nanos(1);
        let sets: [(&str, With, Duration); 4] = [
            ("lease", |lease| Options { lease, ..Options::default() }, MIN_LEASE),
            ("max_hold", |hold| Options { max_hold: Some(hold), ..Options::default() }, MIN_LEASE),
            ("wait", |wait| Options { wait: Some(wait), ..Options::default() }, Duration::ZERO),
            (
                "store_timeout",
                |timeout| Options { store_timeout: Some(timeout), ..Options::default() },
                MIN_LEASE,
            ),
        ];
        for (option, with, shortest) in sets {
            for good in [shortest, shortest + little, MAX_DURATION - little, MAX_DURATION] {
                with(good).check().unwrap();
            }
            for bad in [shortest.checked_sub(little), Some(MAX_DURATION + little)].into_iter().flatten() {
                let error = with(bad).check().unwrap_err().to_string();
                assert!(error.contains(option) && error.contains("one year"), "{error}");
            }
        }
    }

    #[test]
    fn the_store_may_be_silent_for_a_lease_unless_told_otherwise() {
        let lease = Duration::from_secs(3);
        assert_eq!(Options { lease, ..Options::default() }.store_timeout(), lease);
        let store_timeout = Some(Duration::from_secs(1));
        assert_eq!(
            Options { lease, store_timeout, ..Options::default() }.store_timeout(),
            Duration::from_secs(1)
        );
    }

    #[test]
    fn the_documented_defaults_hold() {
        let options = Options::default();
        assert_eq!(options.lease, Duration::from_secs(10));
        assert_eq!((options.max_hold, options.wait, options.store_timeout), (None, None, None));
        assert_eq!((MIN_LEASE, MAX_DURATION), (Duration::from_millis(100), Duration::from_secs(31_536_000)));
    }
}
