//! The moments by which everything ends.

use std::fmt;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::time::Duration;

/// A moment of the clock by which leases, max hold times and waits end.
///
/// It goes on while the host is suspended, which [`std::time::Instant`] does not on Linux and macOS. By that
/// one, an owner would believe in its lock for too long once the host has woken. It is a type of its own so
/// that moments of the two clocks cannot be compared. Where tests pause tokio's time, it is paused too.
///
/// ```
/// use std::time::Duration;
/// use globallock::backend::Instant;
///
/// let sent = Instant::now();
/// let expires = sent + Duration::from_secs(10);
/// assert!(expires.saturating_duration_since(Instant::now()) <= Duration::from_secs(10));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(std::time::Instant);

impl Instant {
    /// Reads the clock.
    #[must_use]
    #[inline]
    pub fn now() -> Self {
        super::outside::now()
    }

    /// How long ago this was; zero if it is yet to come.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Self::now().duration_since(*self)
    }

    /// The time from an earlier moment to this; zero if that is later.
    #[must_use]
    pub fn duration_since(&self, earlier: Self) -> Duration {
        self.0.duration_since(earlier.0)
    }

    /// The same, by the name that says so.
    #[must_use]
    pub fn saturating_duration_since(&self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }

    /// The moment so much later; `None` if the clock cannot show it.
    #[must_use]
    pub fn checked_add(&self, span: Duration) -> Option<Self> {
        self.0.checked_add(span).map(Instant)
    }

    /// The moment so much earlier; `None` if the clock cannot show it.
    #[must_use]
    pub fn checked_sub(&self, span: Duration) -> Option<Self> {
        self.0.checked_sub(span).map(Instant)
    }

    /// A moment `later` than the standard library's.
    #[inline]
    pub(super) fn at(moment: std::time::Instant, later: Duration) -> Self {
        Instant(moment + later)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Instant(self.0 + span)
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, span: Duration) {
        self.0 += span;
    }
}

impl Sub<Duration> for Instant {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Instant(self.0 - span)
    }
}

impl SubAssign<Duration> for Instant {
    fn sub_assign(&mut self, span: Duration) {
        self.0 -= span;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.duration_since(earlier)
    }
}

impl fmt::Debug for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
