//! What the core tells, logged by Python's logger `globallock`.
//!
//! The core's tasks must not wait for Python's global lock, nor for a handler that is slow. So they put lines
//! into a queue, and one thread of this process logs them. The thread starts with the first line, so a
//! process whose stores are well has none.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use globallock::{Event, Observer, StoreNoticeKind};
use pyo3::prelude::*;

/// How many lines wait to be logged. Of more, the newest are left out, since the core must not wait.
const KEPT: usize = 256;

/// How long the end of a manager waits for the lines that are not logged yet.
const FLUSHING: Duration = Duration::from_secs(1);

/// The levels of Python's `logging`.
const DEBUG: u8 = 10;
const INFO: u8 = 20;
const WARNING: u8 = 30;
const ERROR: u8 = 40;

static CURRENT: ArcSwapOption<Log> = ArcSwapOption::const_empty();

/// The queue of one process. A forked child makes one of its own, and never touches its parent's.
struct Log {
    process: u32,
    lines: SyncSender<Message>,
    left_out: AtomicU64,
}

enum Message {
    Line(u8, String),
    /// Everything before it has been logged once this is dropped.
    Flush(SyncSender<()>),
}

/// Logs what happens to the claims of a manager and to its store, apart from what its users ask for and see.
#[derive(Debug)]
pub(crate) struct Logging;

impl Observer for Logging {
    fn event(&self, event: &Event<'_>) {
        if let Some(level) = level(event) {
            Log::current().put(level, event.to_string());
        }
    }
}

/// At which level an event is logged; `None` if it is not. What an owner's `release()` finds is logged by
/// that, in Python.
fn level(event: &Event<'_>) -> Option<u8> {
    match event {
        Event::Lost { .. } => Some(ERROR),
        Event::RenewalFailed { .. }
        | Event::ReleaseUnanswered { .. }
        | Event::CutShort { .. }
        | Event::StoreLost { .. } => Some(WARNING),
        // Its user sees the release, but not that others stay out.
        Event::Kept { .. } => Some(DEBUG),
        Event::StoreBack { .. } => Some(INFO),
        Event::StoreNotice { notice, .. } => match notice.kind {
            StoreNoticeKind::ConnectionLost
            | StoreNoticeKind::NotConnected
            | StoreNoticeKind::NotHandedOver
            | StoreNoticeKind::EvictionToldLate => Some(DEBUG),
            _ => Some(WARNING),
        },
        _ => None,
    }
}

impl Log {
    /// The queue of this process, made for the first line.
    fn current() -> Arc<Self> {
        let process = std::process::id();
        loop {
            let known = CURRENT.load_full();
            if let Some(log) = known.as_ref().filter(|log| log.process == process) {
                return Arc::clone(log);
            }
            let (lines, received) = sync_channel(KEPT);
            let fresh = Arc::new(Log { process, lines, left_out: AtomicU64::new(0) });
            let found = CURRENT.compare_and_swap(&known, Some(Arc::clone(&fresh)));
            if found.as_ref().map(Arc::as_ptr) == known.as_ref().map(Arc::as_ptr) {
                // `known` is the parent's, and one of the parent's threads may have been using it.
                mem::forget(known);
                let logs = Arc::clone(&fresh);
                let thread = thread::Builder::new().name("globallock-log".to_owned());
                // Without a thread, lines are left out: that is no reason to end the task that tells them.
                let _ = thread.spawn(move || logs.run(received));
                return fresh;
            }
        }
    }

    fn put(&self, level: u8, text: String) {
        if let Err(TrySendError::Full(_)) = self.lines.try_send(Message::Line(level, text)) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Logs lines for as long as the process runs. Only a line takes Python's global lock. An interpreter
    /// that has ended is not entered any more.
    fn run(&self, mut received: Receiver<Message>) {
        Python::try_attach(|python| {
            while let Ok(message) = next(python, &mut received) {
                match message {
                    Message::Line(level, text) => log(python, level, &text),
                    Message::Flush(logged) => drop(logged),
                }
                let left_out = self.left_out.swap(0, Ordering::Relaxed);
                if left_out > 0 {
                    log(python, WARNING, &format!("{left_out} lines were left out, because logging is slow"));
                }
            }
        });
    }
}

/// The next message, waited for without Python's global lock.
fn next(python: Python<'_>, received: &mut Receiver<Message>) -> Result<Message, RecvError> {
    python.detach(move || received.recv())
}

fn log(python: Python<'_>, level: u8, text: &str) {
    let logged = || {
        let logger = python.import("logging")?.call_method1("getLogger", ("globallock",))?;
        logger.call_method1("log", (level, "%s", text))
    };
    if let Err(error) = logged() {
        error.write_unraisable(python, None);
    }
}

/// Waits until what was told before this is logged, for a moment at most. Where nothing was told, nothing
/// waits.
pub(crate) fn flush(python: Python<'_>) {
    let process = std::process::id();
    let Some(log) = CURRENT.load_full().filter(|log| log.process == process) else { return };
    let (logged, end) = sync_channel(0);
    if log.lines.try_send(Message::Flush(logged)).is_ok() {
        // It ends without a message, because the other end is dropped.
        let _ = python.detach(move || end.recv_timeout(FLUSHING));
    }
}
