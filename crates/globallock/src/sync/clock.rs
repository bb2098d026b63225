//! The clock, and sleeping until a moment of it.
//!
//! tokio's clock and its timers stand still while the host is suspended. So another clock is read, except
//! where a test may have paused tokio's; and when the host wakes, every sleep is timed anew.

use std::pin::pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

use super::Instant;
use super::waking::woken;

/// For how long the host has been suspended since [`BEGIN`], in nanoseconds, as far as it has been noticed.
static SUSPENDED: AtomicU64 = AtomicU64::new(0);

/// What both clocks showed when the first of them was read.
static BEGIN: LazyLock<Reading> = LazyLock::new(Reading::take);

/// From how much on a difference counts as a suspension, in nanoseconds. It is longer than two clocks take to
/// be read, and shorter than any margin of a deadline.
const NOTICED: u64 = 500_000;

/// How close together the two clocks should be read.
const CLOSE: Duration = Duration::from_micros(20);
/// How often that is tried: a thread may be interrupted in between.
const TRIES: usize = 8;

/// What the clock that goes on shows, in nanoseconds; `None` where the standard library's goes on too, or
/// where no other is known.
#[inline]
fn going_on() -> Option<u64> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Boottime;
    // The standard library reads CLOCK_UPTIME_RAW here.
    #[cfg(target_vendor = "apple")]
    const CLOCK: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
    #[cfg(any(target_os = "linux", target_os = "android", target_vendor = "apple"))]
    {
        let time = rustix::time::clock_gettime(CLOCK);
        Some(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
    }
    #[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
    None
}

/// What two clocks show at the same time.
#[derive(Clone, Copy, Debug)]
struct Reading {
    /// The standard library's.
    here: std::time::Instant,
    going_on: u64,
}

impl Reading {
    /// Reads both clocks as close together as possible, the standard library's last: what is found by it has
    /// not been longer.
    fn take() -> Self {
        let mut closest = Duration::MAX;
        let mut taken = Reading { here: std::time::Instant::now(), going_on: 0 };
        for _ in 0..TRIES {
            let before = std::time::Instant::now();
            let going_on = going_on().unwrap_or_default();
            let here = std::time::Instant::now();
            if here - before < closest {
                (closest, taken) = (here - before, Reading { here, going_on });
            }
            if closest < CLOSE {
                break;
            }
        }
        taken
    }
}

/// How much has passed on the clock that goes on since the beginning.
#[inline]
fn passed(going_on: u64) -> u64 {
    going_on.saturating_sub(BEGIN.going_on)
}

/// How much has passed on the standard library's clock since the beginning, when it shows `here`.
#[inline]
fn awake(here: std::time::Instant) -> u64 {
    u64::try_from(here.saturating_duration_since(BEGIN.here).as_nanos()).unwrap_or(u64::MAX)
}

/// Notices for how long the host has been suspended, in nanoseconds.
///
/// tokio's clock does not tell, because where a test has paused it, it seems to stand still as well.
#[cold]
pub(super) fn notice() -> u64 {
    LazyLock::force(&BEGIN);
    let reading = Reading::take();
    let suspended = passed(reading.going_on).saturating_sub(awake(reading.here));
    if suspended > SUSPENDED.load(Ordering::Relaxed) + NOTICED {
        SUSPENDED.fetch_max(suspended, Ordering::Relaxed);
    }
    SUSPENDED.load(Ordering::Relaxed)
}

/// The moment by tokio's clock, which a test may have paused.
fn by_tokio(going_on: u64) -> Instant {
    let here = tokio::time::Instant::now().into_std();
    let known = SUSPENDED.load(Ordering::Relaxed);
    // Nearly always it is what is known already. Otherwise the host was suspended, or this thread interrupted
    // between the two clocks, or a test has paused tokio's.
    let is_known = passed(going_on).abs_diff(awake(here).saturating_add(known)) < NOTICED;
    Instant::at(here, Duration::from_nanos(if is_known { known } else { notice() }))
}

/// Whether a test may have paused tokio's clock for this thread. It can in a runtime of one thread only.
#[inline]
fn may_be_paused() -> bool {
    Handle::try_current().is_ok_and(|runtime| !matches!(runtime.runtime_flavor(), RuntimeFlavor::MultiThread))
}

#[inline]
pub(crate) fn now() -> Instant {
    match going_on() {
        Some(going_on) if may_be_paused() => by_tokio(going_on),
        Some(going_on) => Instant::at(BEGIN.here, Duration::from_nanos(passed(going_on))),
        None => Instant::at(tokio::time::Instant::now().into_std(), Duration::ZERO),
    }
}

/// Sleeps until a moment.
///
/// # Cancel safety
/// Nothing is lost.
pub(crate) async fn sleep_until(end: Instant) {
    loop {
        // It must exist before the timer is set, or a suspension in between would be missed.
        let woken = woken();
        // This clock is read first, so that a pause in between makes the timer early and not late.
        let timer = tokio::time::Instant::now();
        let left = end.duration_since(now());
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(timer + left) => {}
            () = woken => {}
        }
        if end <= now() {
            return;
        }
    }
}

/// Awaits a future until a moment at most.
///
/// # Cancel safety
/// That of the future.
pub(crate) async fn timeout_at<F: Future>(end: Instant, future: F) -> Result<F::Output, ()> {
    let mut future = pin!(future);
    tokio::select! {
        biased;
        output = &mut future => Ok(output),
        // A future that is always busy must not keep the timer from being looked at.
        () = tokio::task::coop::unconstrained(sleep_until(end)) => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::waking::wake_all;
    use super::*;
    use futures_util::poll;
    use tokio::runtime::Builder;
    use tokio::time::advance;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Checks that the clock advances like that of the host, for a while.
    fn goes_on(place: &str) {
        let first = (now(), std::time::Instant::now());
        for _ in 0..100_000 {
            let (before, moment, after) = (first.1.elapsed(), now() - first.0, first.1.elapsed());
            // It may differ by how far apart the clocks were read at first.
            let slack = Duration::from_nanos(NOTICED);
            assert!(
                before <= moment + slack && moment <= after + slack,
                "{place}: {before:?} {moment:?} {after:?}"
            );
        }
    }

    #[test]
    fn the_clock_goes_on_like_that_of_the_host() {
        goes_on("outside of a runtime");
        for mut runtime in [Builder::new_current_thread(), Builder::new_multi_thread()] {
            let runtime = runtime.enable_time().build().unwrap();
            runtime.block_on(async { goes_on("inside") });
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_test_has_paused_the_time_the_clock_is_paused() {
        let (began, real) = (now(), std::time::Instant::now());
        while real.elapsed() < Duration::from_nanos(3 * NOTICED) {
            assert_eq!(now(), began);
        }
        advance(HOUR).await;
        assert_eq!(now() - began, HOUR);
        tokio::time::resume();
        assert!(now() - began >= HOUR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sleep_is_timed_anew_when_the_host_wakes() {
        let end = now() + HOUR;
        let mut sleep = pin!(timeout_at(end, sleep_until(end + HOUR)));
        assert!(poll!(&mut sleep).is_pending());
        for _ in 0..2 {
            wake_all();
            assert!(poll!(&mut sleep).is_pending(), "the end is not reached");
            advance(HOUR / 2 - Duration::from_millis(1)).await;
        }
        assert!(poll!(&mut sleep).is_pending());
        advance(Duration::from_millis(2)).await;
        assert_eq!(sleep.await, Err(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_future_that_is_always_busy_ends_at_its_limit() {
        let end = now() + HOUR;
        let busy = async {
            loop {
                tokio::task::consume_budget().await;
            }
        };
        let mut limited = pin!(timeout_at(end, busy));
        assert!(poll!(&mut limited).is_pending());
        advance(HOUR).await;
        assert_eq!(limited.await, Err(()));
    }
}
