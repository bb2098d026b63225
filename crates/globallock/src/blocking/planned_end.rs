//! Work that is told when to end, for threads.

use std::time::Duration;

use super::{Guard, block_on};
use crate::error::Result;
use crate::locks::finish;

/// A lock whose work is told when to end, made by [`Lock::end_after`](super::Lock::end_after); see
/// [`crate::PlannedEnd`].
///
/// ```
/// use std::time::Duration;
/// use globallock::blocking::LockManager;
///
/// # fn copy_a_row() { std::thread::sleep(Duration::from_millis(10)) }
/// let manager = LockManager::connect("memory:planned-end-example")?;
/// let lock = manager.mutex("copy").end_after(Duration::from_millis(200), Duration::from_secs(10));
/// let rows = lock.run(|guard| {
///     let mut rows = 0;
///     while !guard.asked_to_end() {
///         copy_a_row();
///         rows += 1;
///     }
///     rows
/// })?;
/// assert!(rows > 0);
/// # Ok::<(), globallock::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is acquired until it is run"]
pub struct PlannedEnd(pub(super) crate::PlannedEnd);

impl PlannedEnd {
    /// Acquires the lock, does `work` while it is held, and releases it. When it has been held for the max
    /// hold time, [`Guard::asked_to_end`] is true, and the lock is kept. If the work has not ended after the
    /// grace, the lock is lost.
    ///
    /// Nothing stops the work of a thread: after the grace, others are let in beside it.
    ///
    /// # Errors
    /// As [`crate::PlannedEnd::run`]; [`Error::Lost`](crate::Error::Lost) when the lock was lost before the
    /// work had ended, with [`Loss::MaxHold`](crate::Loss::MaxHold) after the grace.
    pub fn run<T>(&self, work: impl FnOnce(&Guard) -> T) -> Result<T> {
        let guard = Guard(block_on(self.0.acquire(Duration::ZERO))?);
        let done = {
            let _entered = guard.0.enter();
            work(&guard)
        };
        block_on(finish(guard.0, Ok(done)))
    }
}
