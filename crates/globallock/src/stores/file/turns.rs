//! The tasks of this process take turns to enter the critical section of a lock.
//!
//! A task tries to lock the directory, and does not block on it. Many tasks that try at the same time would
//! keep each other, and other processes, out of the critical section. So one task tries at a time, first
//! come, first served.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{Mutex as Queue, OwnedMutexGuard};

use crate::sync::{Instant, Mutex, MutexGuard};

/// Since when every attempt has found the critical section busy.
type Busy = Option<Instant>;

/// The locks whose critical sections tasks of this process try to enter.
#[derive(Debug, Default)]
pub(super) struct Turns {
    by_lock: Mutex<HashMap<OsString, Arc<Queue<Busy>>>>,
}

/// The turn of one task, until it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    path: &'a Path,
    guard: Option<OwnedMutexGuard<Busy>>,
}

impl Turns {
    fn by_lock(&self) -> MutexGuard<'_, HashMap<OsString, Arc<Queue<Busy>>>> {
        self.by_lock.lock()
    }

    /// Waits for the caller's turn.
    ///
    /// # Cancel safety
    /// The position among the waiting tasks is lost.
    pub(super) async fn take<'a>(&'a self, path: &'a Path) -> Turn<'a> {
        let queue = Arc::clone(self.by_lock().entry(path.as_os_str().to_owned()).or_default());
        let mut turn = Turn { turns: self, path, guard: None };
        turn.guard = Some(queue.lock_owned().await);
        turn
    }
}

impl Turn<'_> {
    /// Records that the critical section is busy, and says since when.
    pub(super) fn busy(&mut self, now: Instant) -> Instant {
        self.guard.as_mut().map_or(now, |guard| *guard.get_or_insert(now))
    }

    /// Records that the critical section was entered.
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
        if by_lock.get(self.path.as_os_str()).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            by_lock.remove(self.path.as_os_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::*;

    fn take<'a>(turns: &'a Turns, path: &'a str) -> Option<Turn<'a>> {
        turns.take(Path::new(path)).now_or_never()
    }

    #[test]
    fn one_task_tries_at_a_time_first_come_first_served() {
        let turns = Turns::default();
        let path = Path::new("/locks/a");
        let first = take(&turns, "/locks/a").expect("no other task wants it");
        let (mut second, mut third) = (Box::pin(turns.take(path)), Box::pin(turns.take(path)));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        assert!(take(&turns, "/locks/b").is_some(), "another lock is another queue");
        drop(first);
        assert!(third.as_mut().now_or_never().is_none());
        let second = second.now_or_never().expect("it is its turn");
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn a_critical_section_is_busy_from_the_first_failed_attempt_until_a_task_enters() {
        let turns = Turns::default();
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let path = Path::new("/locks/a");
        let mut first = take(&turns, "/locks/a").unwrap();
        let next = turns.take(path);
        tokio::pin!(next);
        assert!(next.as_mut().now_or_never().is_none());
        assert_eq!([first.busy(at(1)), first.busy(at(2))], [at(1), at(1)]);
        // The next task counts from the same moment.
        drop(first);
        let mut next = next.now_or_never().unwrap();
        assert_eq!(next.busy(at(3)), at(1));
        next.entered();
        assert_eq!(next.busy(at(4)), at(4));
    }

    #[test]
    fn a_lock_that_no_task_tries_to_enter_is_forgotten() {
        let turns = Turns::default();
        let now = Instant::now();
        let path = Path::new("/locks/a");
        let mut first = take(&turns, "/locks/a").unwrap();
        first.busy(now);
        let mut next = Box::pin(turns.take(path));
        assert!(next.as_mut().now_or_never().is_none());
        drop(first);
        assert_eq!(turns.by_lock().len(), 1, "a task still tries");
        drop(next);
        assert!(turns.by_lock().is_empty());
        let later = now + Duration::from_secs(9);
        assert_eq!(take(&turns, "/locks/a").unwrap().busy(later), later);
    }
}
