//! Work that is done once in a while, for threads.

use std::time::Duration;

use super::{Guard, block_on};
use crate::error::Result;
use crate::once::{Ran, Running, Turn};
use crate::options::Options;

/// Work that is done once in a while; see [`crate::Once`].
///
/// ```
/// use std::time::Duration;
/// use globallock::Ran;
///
/// # fn send_the_report() -> std::io::Result<u32> { Ok(7) }
/// let manager = globallock::blocking::LockManager::connect("memory:once-example")?;
/// let report = manager.once("weekly-report").every(Duration::from_secs(6 * 24 * 3600));
/// match report.run(|_guard| send_the_report())? {
///     Ran::Done(pages) => println!("sent {pages} pages"),
///     Ran::Failed(error) => eprintln!("not sent, so the next host tries: {error}"),
///     Ran::Skipped { began } => println!("a host has begun to send it {began:?} ago"),
/// }
/// # assert!(matches!(report.run(|_guard| send_the_report())?, Ran::Skipped { .. }));
/// # Ok::<(), globallock::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Once(pub(super) crate::Once);

impl Once {
    /// Sets for how long after the beginning of a success the work is not done again; see
    /// [`crate::Once::every`].
    #[must_use]
    pub fn every(self, every: Duration) -> Self {
        Once(self.0.every(every))
    }

    /// The same work with other options of its lock.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Once(self.0.with_options(options))
    }

    /// Acquires the lock, and does `work` under it, unless the last success is too recent; see
    /// [`crate::Once::run`]. Nothing stops the work when the lock is lost: it should look at its guard.
    ///
    /// # Errors
    /// As [`crate::Once::run`].
    pub fn run<T, E>(&self, work: impl FnOnce(&Guard) -> Result<T, E>) -> Result<Ran<T, E>> {
        let running = match block_on(self.0.begin())? {
            Turn::Skip { began } => return Ok(Ran::Skipped { began }),
            Turn::Run(running) => running,
        };
        let Running { began, guard } = running;
        let guard = Guard(guard);
        let done = {
            let _entered = guard.0.enter();
            work(&guard)
        };
        block_on(began.finish(guard.0, done))
    }
}
