//! Being told that the host has woken.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, futures::Notified};

/// The sleepers of one process. A fork has its own, because a thread of its parent may have held the lock of
/// these at that moment.
struct Sleepers {
    woken: Notify,
    in_fork: OnceLock<Box<Sleepers>>,
}

impl Sleepers {
    const fn new() -> Self {
        Sleepers { woken: Notify::const_new(), in_fork: OnceLock::new() }
    }
}

static SLEEPERS: Sleepers = Sleepers::new();

/// In which process the watch was begun: its id, and above 32 bits, how many forks lie between it and the
/// first that began one. 0 before the first.
static BEGUN: AtomicU64 = AtomicU64::new(0);

/// Those of this process.
fn sleepers() -> &'static Sleepers {
    let mut sleepers = &SLEEPERS;
    for _ in 0..BEGUN.load(Ordering::Acquire) >> 32 {
        sleepers = sleepers.in_fork.get_or_init(|| Box::new(Sleepers::new()));
    }
    sleepers
}

/// Waits until the host wakes from a suspension, after this call.
pub(super) fn woken() -> Notified<'static> {
    sleepers().woken.notified()
}

/// Wakes all that sleep in this process.
#[cfg(any(test, target_os = "linux", target_os = "android"))]
pub(super) fn wake_all() {
    sleepers().woken.notify_waiters();
}

/// What [`BEGUN`] is once a process has begun the watch; `None` if it has.
fn begin(begun: u64, process: u32) -> Option<u64> {
    let (forks, by) = (begun >> 32, begun & u64::from(u32::MAX));
    match by {
        0 => Some(process.into()),
        by if by == u64::from(process) => None,
        _ => Some((forks + 1) << 32 | u64::from(process)),
    }
}

/// Begins to watch for suspensions in this process, once. Without it, what sleeps is not told early, but the
/// clock shows the suspension all the same.
pub(crate) fn watch_suspensions() {
    let before = BEGUN.load(Ordering::Acquire);
    let Some(begun) = begin(before, std::process::id()) else { return };
    if BEGUN.compare_exchange(before, begun, Ordering::AcqRel, Ordering::Acquire).is_ok() {
        // Where the kernel or a limit does not allow it, sleepers wait for their timers.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        drop(linux::watch());
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod linux {
    use std::fs::File;
    use std::io::{ErrorKind, Read, Result};
    use std::thread;

    use rustix::io::Errno;
    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };

    use super::wake_all;
    use crate::sync::clock::notice;

    /// How much stack the thread needs at most.
    const STACK: usize = 128 * 1024;

    /// Starts a thread that sleeps until the host's clock is set. The kernel tells a timer of that clock so,
    /// also when the host wakes. No timer of another clock can tell it without being set for each deadline.
    pub(super) fn watch() -> Result<()> {
        let mut timer = File::from(timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC)?);
        let thread = thread::Builder::new().name("globallock-wake".to_owned()).stack_size(STACK);
        // Before the thread runs, which may take so long on a busy host that a suspension comes in between.
        let mut known = notice();
        thread.spawn(move || {
            while set(&timer).is_ok() {
                // After the timer was set, because nobody would tell of a suspension from before that.
                let suspended = notice();
                if suspended > known {
                    known = suspended;
                    wake_all();
                }
                match timer.read(&mut [0; 8]) {
                    Err(error) if error.raw_os_error() == Some(Errno::CANCELED.raw_os_error()) => {}
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // It has never been seen to fail, and must not be tried without a pause.
                    Err(_) => return,
                    Ok(_) => {}
                }
            }
        })?;
        Ok(())
    }

    /// Sets the timer to a moment that is never reached.
    fn set(timer: &File) -> Result<()> {
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let never = Itimerspec { it_interval: zero, it_value: Timespec { tv_sec: i64::MAX, tv_nsec: 0 } };
        let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
        timerfd_settime(timer, flags, &never)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_process_begins_the_watch_once_and_a_fork_has_sleepers_of_its_own() {
        let depth = |begun: u64| begun >> 32;
        let first = begin(0, 7).unwrap();
        assert_eq!((begin(first, 7), depth(first)), (None, 0));
        let child = begin(first, 8).unwrap();
        assert_eq!((begin(child, 8), depth(child)), (None, 1));
        let grandchild = begin(child, 7).unwrap();
        assert_eq!((begin(grandchild, 7), depth(grandchild)), (None, 2));
        assert!(begin(grandchild, u32::MAX).is_some_and(|begun| begin(begun, u32::MAX).is_none()));
    }
}
