//! What the core takes from the standard library and tokio to share state between threads and to wait.
//!
//! Where schedules are searched (`make schedules`), these are counterparts whose every switch between
//! threads, and whose time, the search decides.

mod instant;

#[cfg(not(all(test, globallock_schedules)))]
mod clock;
#[cfg(not(all(test, globallock_schedules)))]
mod waking;

#[cfg(not(all(test, globallock_schedules)))]
mod outside {
    pub(crate) use std::sync::{Mutex, MutexGuard};

    pub(crate) use tokio::runtime::Handle;
    pub(crate) use tokio::sync::{Notify, watch};

    pub(crate) use super::clock::{now, sleep_until, timeout_at};
    pub(crate) use super::waking::watch_suspensions;
}

#[cfg(all(test, globallock_schedules))]
#[path = "schedules/counterparts.rs"]
mod outside;

pub use instant::Instant;
#[cfg(all(test, globallock_schedules))]
pub(crate) use outside::pass;
pub(crate) use outside::{
    Handle, MutexGuard, Notify, now, sleep_until, timeout_at, watch, watch_suspensions,
};

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A mutex that a panic does not poison. No code of this crate panics while it holds one, so what it guards
/// is whole.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(outside::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Mutex(outside::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asks for something: a task, or a thread outside of tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    Task(tokio::task::Id),
    Thread(std::thread::ThreadId),
}

impl Asker {
    /// Who runs this.
    #[inline]
    pub(crate) fn current() -> Self {
        let thread = || Asker::Thread(std::thread::current().id());
        tokio::task::try_id().map_or_else(thread, Asker::Task)
    }
}

/// Sleeps until `end`; for ever without one.
///
/// # Cancel safety
/// Nothing is lost.
pub async fn sleep_until_some(end: Option<Instant>) {
    match end {
        Some(end) => sleep_until(end).await,
        None => std::future::pending().await,
    }
}

/// The bounds of the pause between two tries of a store that failed to answer, whatever was asked.
pub(crate) const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// The pauses between tries of what has failed. Each is twice as long as the one before, up to a bound, and
/// shorter by a random part, so that a fleet that has lost its store does not come back in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    first: Duration,
    next: Duration,
    max: Duration,
}

impl Backoff {
    /// Pauses from `first` to `max`.
    pub(crate) const fn new((first, max): (Duration, Duration)) -> Self {
        Backoff { first, next: first, max }
    }

    /// The next pause: from three quarters of it to all of it, by chance.
    pub(crate) fn pause(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        jittered(whole)
    }

    /// The next pause, where `left` is what is left for tries; `None` when that has ended.
    ///
    /// A pause that would leave no time for another try is cut to half of what is left. So a store that comes
    /// back shortly before the end is found.
    pub(crate) fn pause_within(&mut self, left: Option<Duration>) -> Option<Duration> {
        match (self.pause(), left) {
            (_, Some(left)) if left <= self.first => None,
            (pause, Some(left)) if pause >= left => Some(left / 2),
            (pause, _) => Some(pause),
        }
    }

    /// Begins with the first pause again.
    pub(crate) fn reset(&mut self) {
        self.next = self.first;
    }
}

/// A pause that is shorter than `whole` by up to a quarter, at random.
pub(crate) fn jittered(whole: Duration) -> Duration {
    whole - whole.mul_f64(random_fraction() / 4.0)
}

/// Whether pauses are shorter by a random part.
static JITTER: AtomicBool = AtomicBool::new(true);

/// Makes all pauses of this process whole from now on, so that a benchmark can show what the random part is
/// good for.
pub fn stop_jitter() {
    JITTER.store(false, Ordering::Relaxed);
}

/// From 0 to 1. Always 0 where schedules are searched, so that what fails there fails again.
fn random_fraction() -> f64 {
    if cfg!(all(test, globallock_schedules)) || !JITTER.load(Ordering::Relaxed) {
        return 0.0;
    }
    getrandom::u32().map_or(0.0, |random| f64::from(random) / f64::from(u32::MAX))
}

#[cfg(all(test, not(globallock_schedules)))]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_no_two_clients_pause_alike() {
        let bounds = (Duration::from_millis(20), Duration::from_millis(500));
        let mut clients: Vec<Backoff> = (0..20).map(|_| Backoff::new(bounds)).collect();
        for whole in [20, 40, 80, 160, 320, 500, 500].map(Duration::from_millis) {
            let mut pauses: Vec<Duration> = clients.iter_mut().map(Backoff::pause).collect();
            assert!(
                pauses.iter().all(|pause| whole * 3 / 4 <= *pause && *pause <= whole),
                "{whole:?}: {pauses:?}"
            );
            pauses.sort_unstable();
            pauses.dedup();
            assert!(pauses.len() > 15, "{pauses:?}");
        }
        clients[0].reset();
        assert!(clients[0].pause() <= bounds.0);
    }
}
