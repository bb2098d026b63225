//! Work that many hosts start and one does: once in a while, by a record of the last success.
//!
//! The record is the value of the lock's name: `globallock-once:<version>:<milliseconds>`, where the number
//! says how long before the writing of the value the successful run began. This is version 1. Later versions
//! keep the number, and may append to it after another colon, so that hosts of several versions share a
//! record. A value that is no record counts as none.

use std::fmt;
use std::time::Duration;

use crate::backend::{Value, ValueWrite, WaitMode};
use crate::duration::Shown;
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::locks::Lock;
use crate::loss::Loss;
use crate::options::Options;
use crate::sync::{Backoff, Instant, RETRY, now, sleep_until};

/// How a record begins.
const BEGIN: &str = "globallock-once:";
/// The version of the records that are written.
const VERSION: u32 = 1;

/// Work that is done once in a while, however many hosts ask for it: see [`Once::run`].
///
/// ```
/// use std::time::Duration;
/// use globallock::{LockManager, Ran};
///
/// # async fn send_the_report() -> std::io::Result<u32> { Ok(7) }
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let manager = LockManager::connect("memory:once-example").await?;
/// // Six hosts have this in their crontab, for two o'clock.
/// let report = manager.once("nightly-report").every(Duration::from_secs(20 * 3600));
/// match report.run(async |_guard| send_the_report().await).await? {
///     Ran::Done(pages) => println!("sent {pages} pages"),
///     Ran::Failed(error) => eprintln!("not sent, so the next host tries: {error}"),
///     Ran::Skipped { began } => println!("a host has begun to send it {began:?} ago"),
/// }
/// # assert!(matches!(report.run(async |_guard| send_the_report().await).await?, Ran::Skipped { .. }));
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Once {
    lock: Lock,
    every: Option<Duration>,
}

/// What came of a call of [`Once::run`].
///
/// Exhaustive on purpose: the work was done, or was tried, or was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the work may have failed, or may not have been done"]
pub enum Ran<T, E> {
    /// The work was done here, and this is what it returned.
    Done(T),
    /// The work was tried here and has failed: nothing is recorded, so that the next host tries it.
    Failed(E),
    /// The work was not tried, because it was done before.
    Skipped {
        /// How long ago the last success began.
        began: Duration,
    },
}

/// What is to be done under a lock that was acquired.
#[derive(Debug)]
pub enum Turn {
    /// The work is to be done.
    Run(Running),
    /// The last success began so long ago, and still counts.
    Skip {
        /// How long ago.
        began: Duration,
    },
}

/// A run that has begun under a lock.
#[derive(Debug)]
pub struct Running {
    /// What its success is recorded with.
    pub began: Began,
    /// The lock.
    pub guard: Guard,
}

/// When a run began, and for how long its success counts.
#[derive(Clone, Copy, Debug)]
pub struct Began {
    at: Instant,
    every: Duration,
    /// For how long the writing of its record is repeated.
    patience: Duration,
}

impl Once {
    pub(crate) fn new(lock: Lock) -> Self {
        Once { lock: lock.with_value(), every: None }
    }

    /// Sets for how long after the beginning of a success the work is not done again: from 1 ms to a year.
    ///
    /// Choose it shorter than the period of the schedule that starts the work, for example 20 hours for each
    /// night: runs do not begin at the same moment every time, and one that begins a little earlier than the
    /// last one would be skipped. Longer than the clocks of the hosts are apart and than the work takes, or
    /// the next host does the work again.
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Once { every: Some(every), ..self }
    }

    /// The same work with other options of its lock.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Once { lock: self.lock.with_options(options), ..self }
    }

    /// Acquires the lock, and does `work` under it, unless the last success began less than
    /// [`every`](Once::every) ago. The work is dropped, wherever it is, as soon as the lock is lost.
    ///
    /// Hosts that ask at the same time wait for each other, as long as the options say, and all but the first
    /// to succeed skip the work. A success is recorded in the store under the fencing token, and how long ago
    /// it was is told by the store's clock where it has one.
    ///
    /// # Errors
    /// As [`Lock::acquire`]; [`Error::InvalidOption`] without [`every`](Once::every), and where the store
    /// keeps no values. [`Error::Lost`] when the lock was lost before the work had ended and was recorded: it
    /// may then have been done, and is done again. The work has also succeeded where its record could not be
    /// written: then the error is the store's, such as [`Error::PermissionDenied`] at once, or
    /// [`Error::Unavailable`] after tries for the [store timeout](Options::store_timeout), for example of a
    /// store without room. The lock is released, and the work is done again.
    ///
    /// # Cancel safety
    /// A dropped call drops the work, and releases the lock in the background. It records nothing, unless the
    /// work had succeeded already.
    pub async fn run<T, E>(&self, work: impl AsyncFnOnce(&Guard) -> Result<T, E>) -> Result<Ran<T, E>> {
        let Running { began, guard } = match self.begin().await? {
            Turn::Skip { began } => return Ok(Ran::Skipped { began }),
            Turn::Run(running) => running,
        };
        let done = guard.while_held(None, work(&guard)).await?;
        began.finish(guard, done).await
    }

    /// Acquires the lock, and says whether the work is to be done.
    pub(crate) async fn begin(&self) -> Result<Turn> {
        let every = self.checked_every()?;
        Ok(self.turn(every, self.lock.acquire().await?).await)
    }

    fn checked_every(&self) -> Result<Duration> {
        let every = self.every.ok_or_else(|| {
            Error::invalid_option("every", "it is not set: say for how long a success counts")
        })?;
        Value::check(&[], every).map_err(|_| {
            Error::invalid_option("every", format!("{} is not between 1 ms and one year", Shown(every)))
        })?;
        Ok(every)
    }

    /// Says whether the work is to be done under a lock that was acquired.
    async fn turn(&self, every: Duration, guard: Guard) -> Turn {
        match guard.value().as_ref().and_then(began) {
            Some(began) if began < every => {
                // The time for which the lock is held at least is meant for the work.
                guard.keep_nobody_out();
                // The observers have heard of a release that failed, and it goes on in the background.
                let _ = guard.release().await;
                Turn::Skip { began }
            }
            _ => {
                let patience = self.lock.options().silence_limit(WaitMode::Wait);
                Turn::Run(Running { began: Began { at: now(), every, patience }, guard })
            }
        }
    }
}

/// Begins a run as [`Once::run`] does, for work that cannot be given to it, such as that of another language:
/// its success is told by [`Began::succeed`]. `None` if the lock was not granted in time.
///
/// # Errors
/// As [`Once::run`], but never [`Error::TimedOut`].
///
/// # Cancel safety
/// A dropped call gives up the lock in the background.
pub async fn begin_in_time(once: &Once) -> Result<Option<Turn>> {
    let every = once.checked_every()?;
    match once.lock.acquire_in_time().await? {
        Some(guard) => Ok(Some(once.turn(every, guard).await)),
        None => Ok(None),
    }
}

impl Began {
    /// Ends a run: records its success, and releases the lock.
    pub(crate) async fn finish<T, E>(self, guard: Guard, done: Result<T, E>) -> Result<Ran<T, E>> {
        match done {
            Ok(done) => {
                self.succeed(guard).await?;
                Ok(Ran::Done(done))
            }
            Err(error) => {
                let _ = guard.release().await;
                Ok(Ran::Failed(error))
            }
        }
    }

    /// Records a success, and releases the lock.
    ///
    /// # Errors
    /// As [`Once::run`]: then the success is not recorded as far as is known, and the lock is released.
    ///
    /// # Cancel safety
    /// A dropped call may have recorded the success or not, and releases the lock in the background.
    pub async fn succeed(self, guard: Guard) -> Result<()> {
        self.record(&guard).await?;
        let _ = guard.release().await;
        Ok(())
    }

    /// Writes the record, and repeats that as long as the lock is held and the store timeout lasts: a success
    /// that is not recorded would be repeated, but a store without room may stay so.
    async fn record(self, guard: &Guard) -> Result<()> {
        let mut backoff = Backoff::new(RETRY);
        let give_up = now() + self.patience;
        loop {
            let began = now().saturating_duration_since(self.at);
            match guard.set_value(record(began), self.every).await {
                Ok(ValueWrite::Written) => return Ok(()),
                Err(error) if error.is_retryable() && now() < give_up => {
                    sleep_until(now() + backoff.pause()).await;
                }
                // A higher token has written: so this lock, which is exclusive, was another's since.
                Ok(ValueWrite::NotHeld | ValueWrite::Outranked) => {
                    return Err(guard.is_lost(Loss::Revoked));
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// The record of a run that began so long ago.
fn record(began: Duration) -> String {
    format!("{BEGIN}{VERSION}:{}", began.as_millis())
}

/// How long ago the run began that a value records; `None` if it is no record.
fn began(value: &Value) -> Option<Duration> {
    let text = std::str::from_utf8(value.bytes()).ok()?.strip_prefix(BEGIN)?;
    let mut fields = text.split(':');
    let number = |field: Option<&str>| -> Option<u64> {
        field.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()))?.parse().ok()
    };
    number(fields.next()).filter(|version| *version > 0)?;
    Some(value.age().saturating_add(Duration::from_millis(number(fields.next())?)))
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Once").field("lock", &self.lock).field("every", &self.every).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const AGE: Duration = Duration::from_secs(100);

    fn read(text: &[u8]) -> Option<Duration> {
        began(&Value::new(text, 7, AGE))
    }

    #[test]
    fn a_record_looks_like_this() {
        assert_eq!(record(Duration::from_millis(1500)), "globallock-once:1:1500");
        let near = |text: &str| {
            let began = read(text.as_bytes()).unwrap();
            began >= AGE + Duration::from_millis(1500) && began < AGE + Duration::from_secs(9)
        };
        assert!(near("globallock-once:1:1500"));
        assert!(near("globallock-once:22:1500:whatever comes later"), "later versions are understood");
        for other in [
            "",
            "globallock-once:",
            "globallock-once:1",
            "globallock-once:1:",
            "globallock-once:0:1",
            "globallock-once:x:1",
            "globallock-once:1:-1",
            "globallock-once:1:+1",
            "once:1:1",
            "1500",
        ] {
            assert_eq!(read(other.as_bytes()), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn any_value_is_a_record_or_none(
            begin in "(globallock-once:)?[0-9:]{0,50}",
            end in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let _ = read(&[begin.as_bytes(), &end].concat());
        }

        #[test]
        fn what_is_written_is_read_back(milliseconds in 0_u64..1 << 60) {
            let began = Duration::from_millis(milliseconds);
            let read = read(record(began).as_bytes()).unwrap();
            prop_assert!(read >= began + AGE && read < began + AGE + Duration::from_secs(9));
        }
    }
}
