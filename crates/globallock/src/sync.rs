//! What the core takes from the standard library and tokio to share state between threads and to wait.
//!
//! Where schedules are searched (`make schedules`), these are counterparts whose every switch between threads, and whose
//! time, the search decides.

#[cfg(not(all(test, globallock_schedules)))]
mod outside {
    pub(crate) use std::sync::{Mutex, MutexGuard};
    use std::time::Instant;

    pub(crate) use tokio::runtime::Handle;
    pub(crate) use tokio::sync::{Notify, watch};
    pub(crate) use tokio::time::{sleep_until, timeout_at};

    #[cfg(not(test))]
    #[inline]
    pub(crate) fn now() -> Instant {
        Instant::now()
    }

    // What is virtual time to the timers must be so to who looks at the clock.
    #[cfg(test)]
    #[inline]
    pub(crate) fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

#[cfg(all(test, globallock_schedules))]
#[path = "schedules/counterparts.rs"]
mod outside;

#[cfg(all(test, globallock_schedules))]
pub(crate) use outside::pass;
pub(crate) use outside::{Handle, Mutex, MutexGuard, Notify, now, sleep_until, timeout_at, watch};
