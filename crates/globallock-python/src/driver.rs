//! Which thread drives the runtime: the calling thread while it is alone, a background thread otherwise.
//!
//! A request on the calling thread need not wake another thread. On a machine whose processors sleep, waking
//! one costs more than the request itself. But locks must be renewed while nobody calls, and many concurrent
//! callers are served better by one thread that stays. An event loop cannot block in a call: while it waits
//! for one answer that is due soon, it polls between its other callbacks.
//!
//! | calls | requests of event loops | driven by |
//! |---|---|---|
//! | none | none | the background, once the last call is `IDLE` ago |
//! | one | none | the calling thread, unless two calls were in progress less than `IDLE` ago |
//! | several | none | the background |
//! | any | some | the background, unless the event loop of the only request polls |

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;

use crate::process::Process;

/// How long after the last call the background takes over: a fraction of the shortest renewal interval.
const IDLE: Duration = Duration::from_millis(10);

/// How long the background sleeps while a call is in progress. The end of that call wakes it; the limit is
/// for a thread that ended within a call.
const PARK_LIMIT: Duration = Duration::from_secs(1);

/// How long an answer usually takes: less than it takes to wake a sleeping processor.
const TYPICAL_ANSWER: Duration = Duration::from_micros(100);

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitKind {
    /// A lock, which another owner may hold.
    Grant,
    /// The store's answer.
    Answer,
    /// Something that may never come.
    Notification,
}

/// The state that callers and the background share.
#[derive(Default)]
pub(crate) struct Driver {
    /// How many calls are in progress.
    calls: AtomicUsize,
    /// How many requests of event loops are in flight.
    requests: AtomicUsize,
    /// When the last call ended, in microseconds since the driver's start.
    last_call_at: AtomicU64,
    /// When a call that was answered at once last let the other tasks run, likewise.
    others_ran_at: AtomicU64,
    /// When two calls were last in progress at once, likewise.
    concurrent_at: AtomicU64,
    /// How many microseconds the last wait for a grant took.
    last_grant: AtomicU64,
    /// How many microseconds the last wait for an answer took.
    last_answer: AtomicU64,
    /// Until when the event loop of the only request polls for its answer.
    polling_until: AtomicU64,
    /// Whether the background should spin for the next answers, because they are due soon.
    is_soon: AtomicBool,
    /// Whether the background drives.
    background_drives: AtomicBool,
    /// Whether the background sleeps until a call ends or another begins.
    parked: AtomicBool,
    /// Notifies the background that it may not be needed any more.
    recheck: Notify,
    background: OnceLock<(Thread, Instant)>,
}

/// A call in progress.
pub(crate) struct CallInProgress<'a>(&'a Driver);

impl Driver {
    /// Starts the background thread.
    pub(crate) fn start(process: &Arc<Process>) -> std::io::Result<()> {
        let driven = Arc::clone(process);
        let thread =
            thread::Builder::new().name("globallock".to_owned()).spawn(move || driven.driver.run(&driven))?;
        let _ = process.driver.background.set((thread.thread().clone(), Instant::now()));
        Ok(())
    }

    fn run(&self, process: &Process) {
        loop {
            self.background_drives.store(true, Ordering::SeqCst);
            if self.is_needed() {
                process.runtime.block_on(async {
                    if self.is_soon.swap(false, Ordering::Relaxed) {
                        spin(|| self.requests.load(Ordering::SeqCst) > 0).await;
                    }
                    while self.is_needed() {
                        self.recheck.notified().await;
                    }
                });
            }
            self.background_drives.store(false, Ordering::SeqCst);
            while !self.is_needed() {
                self.park();
            }
        }
    }

    /// Sleeps while the background is not needed. A call that waits for a lock for hours must not wake it
    /// every [`IDLE`], hence the longer sleep.
    fn park(&self) {
        let is_quiet = !self.lately(&self.last_call_at);
        self.parked.store(is_quiet, Ordering::SeqCst);
        // Read after `parked` is set, because the end of a call reads `parked` after it has lowered `calls`.
        // In the other order the two could miss each other.
        let in_call = is_quiet && self.calls.load(Ordering::SeqCst) == 1;
        thread::park_timeout(if in_call { PARK_LIMIT } else { IDLE });
        self.parked.store(false, Ordering::SeqCst);
    }

    /// Wakes the background if it sleeps until a call ends or begins.
    fn unpark(&self) {
        if self.parked.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some((thread, _)) = self.background.get() {
            thread.unpark();
        }
    }

    /// Microseconds since the driver's start.
    pub(crate) fn now(&self) -> u64 {
        self.background.get().map_or(0, |(_, began)| microseconds(began.elapsed()))
    }

    fn lately(&self, at: &AtomicU64) -> bool {
        self.now() < at.load(Ordering::SeqCst) + microseconds(IDLE)
    }

    /// Whether the background must drive: the table above.
    fn is_needed(&self) -> bool {
        if self.requests.load(Ordering::SeqCst) > 0 {
            return !self.is_polling();
        }
        match self.calls.load(Ordering::SeqCst) {
            0 => !self.lately(&self.last_call_at),
            1 => self.lately(&self.concurrent_at),
            _ => true,
        }
    }

    /// Whether the background drives.
    pub(crate) fn background_drives(&self) -> bool {
        self.background_drives.load(Ordering::SeqCst)
    }

    /// Counts a call, whose thread drives unless the background is needed anyway.
    pub(crate) fn begin_call(&self) -> CallInProgress<'_> {
        if self.calls.fetch_add(1, Ordering::SeqCst) > 0 {
            self.concurrent_at.store(self.now(), Ordering::SeqCst);
            self.unpark();
        }
        if self.background_drives() && !self.is_needed() {
            self.recheck.notify_one();
        }
        CallInProgress(self)
    }

    /// Counts a request of an event loop, which no call waits for.
    pub(crate) fn begin_request(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    /// Decides whether the event loop of a request that was just sent polls for the answer; if so, it may
    /// poll for [`TYPICAL_ANSWER`].
    pub(crate) fn start_polling(&self, kind: WaitKind) -> bool {
        let is_alone = self.requests.load(Ordering::SeqCst) == 1 && self.calls.load(Ordering::SeqCst) == 0;
        let polling = is_alone && self.is_soon(kind);
        if polling {
            self.polling_until.store(self.now() + microseconds(TYPICAL_ANSWER), Ordering::SeqCst);
        }
        polling
    }

    /// Whether an event loop polls.
    pub(crate) fn is_polling(&self) -> bool {
        self.now() < self.polling_until.load(Ordering::SeqCst)
    }

    /// Hands over to the background, for a request that was sent.
    pub(crate) fn hand_over(&self, kind: WaitKind) {
        self.polling_until.store(0, Ordering::SeqCst);
        if self.requests.load(Ordering::SeqCst) == 0 {
            // The answer has arrived already.
            return;
        }
        self.is_soon.store(self.is_soon(kind), Ordering::Relaxed);
        self.wake();
    }

    /// Counts the end of such a request.
    pub(crate) fn end_request(&self) {
        self.last_call_at.store(self.now(), Ordering::SeqCst);
        if self.requests.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.recheck.notify_one();
        }
    }

    fn last_wait(&self, kind: WaitKind) -> Option<&AtomicU64> {
        match kind {
            WaitKind::Grant => Some(&self.last_grant),
            WaitKind::Answer => Some(&self.last_answer),
            WaitKind::Notification => None,
        }
    }

    /// Whether the wait will be short, even with a wake-up added, if it takes as long as the last one of its
    /// kind.
    fn is_soon(&self, kind: WaitKind) -> bool {
        self.last_wait(kind)
            .is_some_and(|took| took.load(Ordering::Relaxed) < 4 * microseconds(TYPICAL_ANSWER))
    }

    /// Records how long a wait took that began at `since`.
    pub(crate) fn record_wait(&self, kind: WaitKind, since: u64) {
        if let Some(took) = self.last_wait(kind) {
            took.store(self.now().saturating_sub(since), Ordering::Relaxed);
        }
    }

    /// Runs the other tasks, such as renewals, unless that was done less than [`IDLE`] ago.
    ///
    /// A call that is answered at once runs nothing else. Many of them, one after the other, would keep the
    /// background from driving as well.
    pub(crate) async fn let_others_run(&self) {
        if !self.lately(&self.others_ran_at) {
            self.others_ran_at.store(self.now(), Ordering::SeqCst);
            // The first yield polls the sockets; the tasks that this wakes run before the second one ends.
            yield_now().await;
            yield_now().await;
        }
    }

    /// Keeps the calling thread awake while it drives and its answer may come soon.
    pub(crate) async fn spin(&self, kind: WaitKind) {
        if self.is_soon(kind) {
            spin(|| self.calls.load(Ordering::SeqCst) == 1 && !self.background_drives()).await;
        }
    }
}

/// Yields without sleeping, for [`TYPICAL_ANSWER`] at most, as long as the condition holds.
async fn spin(condition: impl Fn() -> bool) {
    let until = Instant::now() + TYPICAL_ANSWER;
    while condition() && Instant::now() < until {
        yield_now().await;
    }
}

fn microseconds(span: Duration) -> u64 {
    span.as_micros().try_into().unwrap_or(u64::MAX)
}

impl Drop for CallInProgress<'_> {
    fn drop(&mut self) {
        self.0.last_call_at.store(self.0.now(), Ordering::SeqCst);
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
        self.0.unpark();
    }
}
