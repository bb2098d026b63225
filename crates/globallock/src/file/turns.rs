//! Whose turn it is, in this process, to enter the section of a lock.
//!
//! The kernel's lock of a directory is tried and not waited for. Many tasks that try it at the same time would keep each
//! other, and other processes, from it: so one tries at a time, in the order of asking.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

/// Since when the section has been found busy, each time that it was tried.
type Busy = Option<Instant>;

/// The locks whose sections somebody of this process wants to enter.
#[derive(Debug, Default)]
pub(super) struct Turns {
    by_lock: Mutex<HashMap<PathBuf, Arc<Queue<Busy>>>>,
}

/// The turn of one task, until it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    path: &'a Path,
    guard: Option<OwnedMutexGuard<Busy>>,
}

impl Turns {
    fn by_lock(&self) -> MutexGuard<'_, HashMap<PathBuf, Arc<Queue<Busy>>>> {
        // No code panics while it holds the lock, so a poisoned map is still whole.
        self.by_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of the caller.
    ///
    /// # Cancel safety
    /// The place among those who wait is lost.
    pub(super) async fn take<'a>(&'a self, path: &'a Path) -> Turn<'a> {
        let queue = Arc::clone(self.by_lock().entry(path.to_owned()).or_default());
        let mut turn = Turn { turns: self, path, guard: None };
        turn.guard = Some(queue.lock_owned().await);
        turn
    }
}

impl Turn<'_> {
    /// Takes note that the section is busy, and says since when.
    pub(super) fn busy(&mut self, now: Instant) -> Instant {
        self.guard.as_mut().map_or(now, |guard| *guard.get_or_insert(now))
    }

    /// Takes note that it is not.
    pub(super) fn entered(&mut self) {
        if let Some(guard) = &mut self.guard {
            **guard = None;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        let mut by_lock = self.turns.by_lock();
        if by_lock.get(self.path).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            by_lock.remove(self.path);
        }
    }
}
