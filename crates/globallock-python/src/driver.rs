//! Who drives the runtime: the thread that calls, as long as it is alone, and a thread in the background otherwise.
//!
//! A request on the calling thread needs no other thread to be woken, which costs more than the request itself where
//! processors sleep. But locks must be renewed while nobody calls, and many callers at once are served better by one
//! thread that stays. An event loop cannot stay in a call: while it waits for one answer that comes soon, it polls between
//! its other callbacks.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::yield_now;

use crate::process::Process;

/// How long after the last call the background takes over: a fraction of the shortest renewal's interval.
const IDLE: Duration = Duration::from_millis(10);

/// How long it sleeps while a call goes on, whose end wakes it: in case that a thread ended within a call.
const LONG: Duration = Duration::from_secs(1);

/// How long an answer usually takes: less than it takes to wake a processor that sleeps.
const USUAL: Duration = Duration::from_micros(100);

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// A lock, which somebody else may have.
    Granted,
    /// The store's answer.
    Answered,
    /// Something that may never come.
    Told,
}

/// What callers and the background know of each other.
#[derive(Default)]
pub(crate) struct Driver {
    /// How many calls are under way.
    calls: AtomicUsize,
    /// How many requests of event loops are.
    requests: AtomicUsize,
    /// When, in microseconds since the beginning, a call ended last, and when two were last seen at once.
    called_at: AtomicU64,
    crowded_at: AtomicU64,
    /// How many microseconds the last call took that waited for a grant, and the last that waited for an answer.
    took: [AtomicU64; 2],
    /// Until when the event loop of the only request polls for its answer.
    polled_until: AtomicU64,
    /// Whether the next answers are worth to stay awake for.
    is_soon: AtomicBool,
    /// Whether the background drives.
    drives: AtomicBool,
    /// Whether the background sleeps until a call ends, or another begins.
    rests: AtomicBool,
    /// Tells the background that it may not be needed any more.
    leave: Notify,
    background: OnceLock<(Thread, Instant)>,
}

/// A call under way.
pub(crate) struct Calling<'a>(&'a Driver);

impl Driver {
    /// Starts the background.
    pub(crate) fn start(process: &Arc<Process>) -> std::io::Result<()> {
        let driven = Arc::clone(process);
        let thread =
            thread::Builder::new().name("globallock".to_owned()).spawn(move || driven.driver.run(&driven))?;
        let _ = process.driver.background.set((thread.thread().clone(), Instant::now()));
        Ok(())
    }

    fn run(&self, process: &Process) {
        loop {
            self.drives.store(true, Ordering::SeqCst);
            if self.is_needed() {
                process.runtime.block_on(async {
                    if self.is_soon.swap(false, Ordering::Relaxed) {
                        stay_awake(|| self.requests.load(Ordering::SeqCst) > 0).await;
                    }
                    while self.is_needed() {
                        self.leave.notified().await;
                    }
                });
            }
            self.drives.store(false, Ordering::SeqCst);
            while !self.is_needed() {
                self.rest();
            }
        }
    }

    /// Sleeps while the background is not needed: who waits for a lock for hours is not to be woken by it all the time.
    fn rest(&self) {
        let is_quiet = !self.lately(&self.called_at);
        self.rests.store(is_quiet, Ordering::SeqCst);
        // Looked at after saying so, as whoever ends a call looks at that after having ended it.
        let goes_on = is_quiet && self.calls.load(Ordering::SeqCst) == 1;
        thread::park_timeout(if goes_on { LONG } else { IDLE });
        self.rests.store(false, Ordering::SeqCst);
    }

    /// Wakes the background if it rests.
    fn rouse(&self) {
        if self.rests.swap(false, Ordering::SeqCst) {
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some((thread, _)) = self.background.get() {
            thread.unpark();
        }
    }

    /// Microseconds since the beginning.
    pub(crate) fn now(&self) -> u64 {
        self.background.get().map_or(0, |(_, began)| microseconds(began.elapsed()))
    }

    fn lately(&self, at: &AtomicU64) -> bool {
        self.now() < at.load(Ordering::SeqCst) + microseconds(IDLE)
    }

    fn is_needed(&self) -> bool {
        if self.requests.load(Ordering::SeqCst) > 0 {
            return !self.is_polled();
        }
        match self.calls.load(Ordering::SeqCst) {
            0 => !self.lately(&self.called_at),
            1 => self.lately(&self.crowded_at),
            _ => true,
        }
    }

    /// Whether the background drives.
    pub(crate) fn drives(&self) -> bool {
        self.drives.load(Ordering::SeqCst)
    }

    /// Has the calling thread drive, if nobody else needs the background.
    pub(crate) fn calling(&self) -> Calling<'_> {
        if self.calls.fetch_add(1, Ordering::SeqCst) > 0 {
            self.crowded_at.store(self.now(), Ordering::SeqCst);
            self.rouse();
        }
        if self.drives() && !self.is_needed() {
            self.leave.notify_one();
        }
        Calling(self)
    }

    /// Takes note of a request that no call waits for.
    pub(crate) fn requested(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether the event loop of a request that was just sent is to poll for the answer, which it may do for a while.
    pub(crate) fn is_to_poll(&self, until: Until) -> bool {
        let is_alone = self.requests.load(Ordering::SeqCst) == 1 && self.calls.load(Ordering::SeqCst) == 0;
        let polls = is_alone && self.is_soon(until);
        if polls {
            self.polled_until.store(self.now() + microseconds(USUAL), Ordering::SeqCst);
        }
        polls
    }

    /// Whether an event loop polls.
    pub(crate) fn is_polled(&self) -> bool {
        self.now() < self.polled_until.load(Ordering::SeqCst)
    }

    /// Has the background drive now, for a request that was sent.
    pub(crate) fn take_over(&self, until: Until) {
        self.polled_until.store(0, Ordering::SeqCst);
        if self.requests.load(Ordering::SeqCst) == 0 {
            // Answered already.
            return;
        }
        self.is_soon.store(self.is_soon(until), Ordering::Relaxed);
        self.wake();
    }

    /// Takes note that such a request has been answered.
    pub(crate) fn answered(&self) {
        self.called_at.store(self.now(), Ordering::SeqCst);
        if self.requests.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.leave.notify_one();
        }
    }

    /// Whether what is waited for comes soon, sleep included, if it takes as long as last time.
    fn is_soon(&self, until: Until) -> bool {
        let took = match until {
            Until::Granted => &self.took[0],
            Until::Answered => &self.took[1],
            Until::Told => return false,
        };
        took.load(Ordering::Relaxed) < 4 * microseconds(USUAL)
    }

    /// Takes note of how long it took.
    pub(crate) fn took(&self, until: Until, since: u64) {
        let took = self.now().saturating_sub(since);
        match until {
            Until::Granted => self.took[0].store(took, Ordering::Relaxed),
            Until::Answered => self.took[1].store(took, Ordering::Relaxed),
            Until::Told => {}
        }
    }

    /// Keeps the calling thread awake while it drives and what it waits for may come soon.
    pub(crate) async fn stay_awake(&self, until: Until) {
        if self.is_soon(until) {
            stay_awake(|| self.calls.load(Ordering::SeqCst) == 1 && !self.drives()).await;
        }
    }
}

async fn stay_awake(while_so: impl Fn() -> bool) {
    let until = Instant::now() + USUAL;
    while while_so() && Instant::now() < until {
        yield_now().await;
    }
}

fn microseconds(span: Duration) -> u64 {
    span.as_micros().try_into().unwrap_or(u64::MAX)
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.0.called_at.store(self.0.now(), Ordering::SeqCst);
        self.0.calls.fetch_sub(1, Ordering::SeqCst);
        self.0.rouse();
    }
}
