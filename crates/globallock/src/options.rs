//! What can be set for a lock and for a manager.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{DEFAULT_LEASE, WaitMode};
use crate::duration::Shown;
use crate::error::{Error, Result};
use crate::observe::Observer;

/// The shortest lease and max hold time that are accepted: below it, ordinary delays would lose locks.
pub const MIN_LEASE: Duration = Duration::from_millis(100);
/// The longest lease, hold and wait that are accepted.
pub const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);

/// How a lock is acquired and kept.
///
/// ```
/// use std::time::Duration;
/// use globallock::{LockManager, Options};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let options = Options::new().lease(Duration::from_secs(30)).wait(Duration::from_secs(5));
/// let manager = LockManager::connect_with("memory:example", options).await?;
/// // Each lock starts from its manager's options.
/// let lock = manager.mutex("nightly-report").max_hold(Duration::from_secs(3600));
/// assert_eq!(lock.options().lease, Duration::from_secs(30));
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How long a claim outlives its owner's last sign of life. It is renewed at a third of that. A shorter
    /// lease frees the lock of a dead owner sooner; a longer one survives longer outages of the store. From
    /// 100 ms to a year. Default: 10 s.
    pub lease: Duration,
    /// The longest that the lock is held, owner alive or not: it is lost at this time. From 100 ms to a year.
    /// Default: no limit.
    pub max_hold: Option<Duration>,
    /// The shortest time from the grant for which others are kept out, whether the owner holds the lock that
    /// long or not. Where the store [can keep it](crate::backend::Capabilities::keeps_after_owner), nothing
    /// that becomes of the owner lets others in earlier; elsewhere the manager keeps a lock that is released
    /// earlier, while its process lives. From 1 ms to a year, and no longer than the max hold time. Default:
    /// none.
    pub hold_at_least: Option<Duration>,
    /// The longest that `acquire` waits to be granted. Zero asks once. Default: no limit.
    pub wait: Option<Duration>,
    /// How long the store may be silent, or not be there, before a call gives up on it, though its wait has
    /// not ended. From 100 ms to a year. Default: the wait, or the lease where there is no wait or no limit
    /// to it.
    pub store_timeout: Option<Duration>,
}

impl Default for Options {
    fn default() -> Self {
        Options { lease: DEFAULT_LEASE, max_hold: None, hold_at_least: None, wait: None, store_timeout: None }
    }
}

impl Options {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Options::default()
    }

    /// Sets [`Options::lease`].
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Options { lease, ..self }
    }

    /// Sets [`Options::max_hold`]; `None` is no limit.
    #[must_use]
    pub fn max_hold(self, max_hold: impl Into<Option<Duration>>) -> Self {
        Options { max_hold: max_hold.into(), ..self }
    }

    /// Sets [`Options::hold_at_least`]; `None` is no such time.
    ///
    /// ```
    /// use std::time::Duration;
    /// use globallock::LockManager;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let manager = LockManager::connect("memory:held-at-least").await?;
    /// // The clocks of the hosts may be this far apart, and still only one of them does the work.
    /// let lock = manager.mutex("nightly-report").hold_at_least(Duration::from_secs(60));
    /// let guard = lock.acquire().await?;
    /// assert!(guard.kept_for() > Some(Duration::from_secs(50)));
    /// guard.release().await?;
    /// assert!(lock.try_acquire().await?.is_none(), "others are kept out");
    /// # Ok::<(), globallock::Error>(()) }).unwrap();
    /// ```
    #[must_use]
    pub fn hold_at_least(self, hold_at_least: impl Into<Option<Duration>>) -> Self {
        Options { hold_at_least: hold_at_least.into(), ..self }
    }

    /// Sets [`Options::wait`]; `None` is no limit.
    #[must_use]
    pub fn wait(self, wait: impl Into<Option<Duration>>) -> Self {
        Options { wait: wait.into(), ..self }
    }

    /// Sets [`Options::store_timeout`]; `None` is the wait, or the lease without one.
    #[must_use]
    pub fn store_timeout(self, store_timeout: impl Into<Option<Duration>>) -> Self {
        Options { store_timeout: store_timeout.into(), ..self }
    }

    /// Checks that every duration is in its range.
    pub(crate) fn check(&self) -> Result<()> {
        let in_range = |option: &str, value: Option<Duration>, shortest: Duration| match value {
            Some(value) if value < shortest || value > MAX_DURATION => Err(Error::invalid_option(
                option,
                format!("{} is not between {} and one year", Shown(value), Shown(shortest)),
            )),
            _ => Ok(()),
        };
        in_range("lease", Some(self.lease), MIN_LEASE)?;
        in_range("max_hold", self.max_hold, MIN_LEASE)?;
        in_range("hold_at_least", self.hold_at_least, Duration::from_millis(1))?;
        if let (Some(least), Some(most)) = (self.hold_at_least, self.max_hold)
            && least > most
        {
            let reason =
                format!("{} is longer than the max hold time, which is {}", Shown(least), Shown(most));
            return Err(Error::invalid_option("hold_at_least", reason));
        }
        in_range("wait", self.wait, Duration::ZERO)?;
        in_range("store_timeout", self.store_timeout, MIN_LEASE)
    }

    /// How long the store may be silent while a claim of this wait mode is acquired.
    pub(crate) fn silence_limit(&self, wait_mode: WaitMode) -> Duration {
        let wait = self.wait.filter(|wait| wait_mode == WaitMode::Wait && !wait.is_zero());
        self.store_timeout.or(wait).unwrap_or(self.lease)
    }
}

/// What one manager's locks have in common.
///
/// ```
/// use globallock::{LockManager, ManagerOptions, Options};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let locks = Options::new().lease(std::time::Duration::from_secs(30));
/// let options = ManagerOptions::new().label("billing").locks(locks);
/// let manager = LockManager::connect_with("memory:example", options).await?;
/// let guard = manager.mutex("invoices").acquire().await?;
/// assert_eq!(manager.inspect("invoices").await?[0].owner.label.as_deref(), Some("billing"));
/// # guard.release().await?;
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ManagerOptions {
    /// What its locks start from. Default: [`Options::default`].
    pub locks: Options,
    /// What `inspect` shows of this owner besides host and process, such as the job's name. Default: nothing.
    pub label: Option<String>,
    /// The process that `inspect` shows of this owner, for a program whose users know another of its
    /// processes than the one that has the locks. Default: this one.
    pub process: Option<u32>,
    /// Who hears what happens to its claims. Default: nobody but [`tracing`].
    pub observers: Vec<Arc<dyn Observer>>,
}

impl ManagerOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        ManagerOptions::default()
    }

    /// Sets [`ManagerOptions::locks`].
    #[must_use]
    pub fn locks(self, locks: Options) -> Self {
        ManagerOptions { locks, ..self }
    }

    /// Sets [`ManagerOptions::label`].
    #[must_use]
    pub fn label(self, label: impl Into<String>) -> Self {
        ManagerOptions { label: Some(label.into()), ..self }
    }

    /// Sets [`ManagerOptions::process`].
    #[must_use]
    pub fn process(self, process: u32) -> Self {
        ManagerOptions { process: Some(process), ..self }
    }

    /// Adds one of [`ManagerOptions::observers`].
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observers.push(observer);
        self
    }
}

/// A manager with these options for its locks, and no label.
impl From<Options> for ManagerOptions {
    fn from(locks: Options) -> Self {
        ManagerOptions { locks, ..ManagerOptions::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sets one option.
    type With = fn(Duration) -> Options;

    #[test]
    fn the_bounds_of_a_range_are_in_it_and_what_is_beyond_is_not() {
        let little = Duration::from_nanos(1);
        let sets: [(&str, With, Duration); 5] = [
            ("lease", |lease| Options { lease, ..Options::default() }, MIN_LEASE),
            ("max_hold", |hold| Options { max_hold: Some(hold), ..Options::default() }, MIN_LEASE),
            (
                "hold_at_least",
                |hold| Options { hold_at_least: Some(hold), ..Options::default() },
                Duration::from_millis(1),
            ),
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
    fn a_lock_cannot_be_held_at_least_for_longer_than_its_max_hold() {
        let (hold, little) = (Duration::from_secs(3), Duration::from_nanos(1));
        Options::new().hold_at_least(hold).max_hold(hold).check().unwrap();
        Options::new().hold_at_least(hold).max_hold(None).check().unwrap();
        let error = Options::new().hold_at_least(hold + little).max_hold(hold).check().unwrap_err();
        let shown = error.to_string();
        assert!(shown.contains("hold_at_least") && shown.contains("max hold time"), "{shown}");
    }

    #[test]
    fn the_store_may_be_silent_for_the_wait_or_a_lease_unless_told_otherwise() {
        let lease = Duration::from_secs(3);
        let (wait, store_timeout) = (Duration::from_secs(40), Duration::from_secs(1));
        let options = Options::new().lease(lease);
        for (options, waiting, trying) in [
            (options.clone(), lease, lease),
            (options.clone().wait(Duration::ZERO), lease, lease),
            (options.clone().wait(wait), wait, lease),
            (options.clone().wait(wait).store_timeout(store_timeout), store_timeout, store_timeout),
        ] {
            assert_eq!(options.silence_limit(WaitMode::Wait), waiting);
            assert_eq!(options.silence_limit(WaitMode::Try), trying);
        }
    }

    #[test]
    fn the_options_of_locks_are_those_of_a_manager() {
        let locks = Options::new().lease(Duration::from_secs(3));
        assert_eq!(ManagerOptions::from(locks.clone()).locks, locks);
    }

    #[test]
    fn the_documented_defaults_hold() {
        let options = Options::default();
        assert_eq!(options.lease, Duration::from_secs(10));
        assert_eq!((options.max_hold, options.wait, options.store_timeout), (None, None, None));
        assert_eq!(options.hold_at_least, None);
        assert_eq!((MIN_LEASE, MAX_DURATION), (Duration::from_millis(100), Duration::from_secs(31_536_000)));
    }
}
