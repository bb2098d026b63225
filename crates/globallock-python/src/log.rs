//! What the core tells, for Python's logger `globallock` and for metrics.
//!
//! The core's tasks must not wait for Python's global lock, nor for a handler that is slow. So they put
//! events into a queue, and one thread of this process hands them to Python (`globallock/events.py`). The
//! thread starts with the first event that anybody wants, so a process whose stores are well has none.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvError, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use globallock::backend::{Capabilities, Claim};
use globallock::{Event, LockKind, NotGranted, Observer, StoreNoticeKind};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::guard::word;
use crate::manager::shown;

/// How many events wait for Python. Of more, the newest are left out, since the core must not wait.
const KEPT: usize = 8192;

/// How long the thread lets events gather while metrics want them all: to wake it for each would cost more
/// than the event.
const GATHERING: Duration = Duration::from_millis(20);

/// How long the end of a manager waits for the events that Python has not heard of yet.
const FLUSHING: Duration = Duration::from_secs(1);

/// The levels of Python's `logging`.
const DEBUG: u8 = 10;
const INFO: u8 = 20;
const WARNING: u8 = 30;
const ERROR: u8 = 40;

/// Whether what happens to every lock is logged: Python's logger is at level DEBUG.
static DEBUGGING: AtomicBool = AtomicBool::new(false);
/// Whether metrics count what happens to every lock.
static COUNTING: AtomicBool = AtomicBool::new(false);

static CURRENT: ArcSwapOption<Log> = ArcSwapOption::const_empty();

/// The queue of one process. A forked child makes one of its own, and never touches its parent's.
struct Log {
    process: u32,
    messages: SyncSender<Message>,
    left_out: AtomicU64,
}

enum Message {
    Told(Box<Told>),
    /// Everything before it has been handed over once this is dropped.
    Flush(SyncSender<()>),
}

/// An event, with what Python must know of it.
#[derive(Default)]
struct Told {
    /// At which level it is logged, and as what; `None` if it is only counted.
    line: Option<(u8, String)>,
    event: &'static str,
    lock: Option<String>,
    mode: Option<&'static str>,
    claim: Option<String>,
    outcome: Option<&'static str>,
    place: Option<usize>,
    fencing_token: Option<u64>,
    waited: Option<Duration>,
    held: Option<Duration>,
    margin: Option<Duration>,
    away: Option<Duration>,
    handed_over: Option<Duration>,
    reason: Option<String>,
    store: Option<Arc<str>>,
    kind: &'static str,
}

/// Sets who wants to hear of every lock.
#[pyfunction]
pub(crate) fn listen(debugging: bool, counting: bool) {
    DEBUGGING.store(debugging, Ordering::Relaxed);
    COUNTING.store(counting, Ordering::Relaxed);
}

/// Tells Python what happens to the claims of a manager and to its store.
#[derive(Debug)]
pub(crate) struct Logging {
    /// The address of the store, without secrets.
    store: Arc<str>,
    /// Its kind, such as `redis`.
    kind: &'static str,
}

impl Logging {
    pub(crate) fn of(address: &str) -> Self {
        Logging { store: shown(address).into(), kind: "" }
    }
}

impl Observer for Logging {
    fn event(&self, event: &Event<'_>) {
        // What follows it is told.
        if let Event::Asked { .. } = event {
            return;
        }
        let level = level(event)
            .filter(|level| *level > DEBUG || is_rare(event) || DEBUGGING.load(Ordering::Relaxed));
        if level.is_some() || COUNTING.load(Ordering::Relaxed) {
            Log::current().put(Told::new(level, event, self));
        }
    }

    fn wants_deadlocks(&self) -> bool {
        DEBUGGING.load(Ordering::Relaxed)
    }

    fn for_store(&self, store: &Capabilities) -> Option<Arc<dyn Observer>> {
        Some(Arc::new(Logging { store: Arc::clone(&self.store), kind: store.kind }))
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
        | Event::StoreLost { .. }
        | Event::Deadlock { .. } => Some(WARNING),
        Event::Waiting { .. }
        | Event::WaitsForItself { .. }
        | Event::Granted { .. }
        | Event::GivenUp { .. }
        | Event::Released { .. }
        // Its user sees the release, but not that others stay out.
        | Event::Kept { .. } => Some(DEBUG),
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

/// Whether it is so rare that Python may decide each time whether it is logged.
fn is_rare(event: &Event<'_>) -> bool {
    matches!(event, Event::Kept { .. } | Event::StoreNotice { .. })
}

impl Told {
    fn new(level: Option<u8>, event: &Event<'_>, logging: &Logging) -> Self {
        let line = level.map(|level| (level, event.to_string()));
        let mut told = match event {
            Event::Waiting { claim, place, .. } => Told { place: *place, ..Told::of("waiting", claim) },
            Event::WaitsForItself { claim, .. } => Told::of("waits_for_itself", claim),
            Event::Deadlock { claim, cycle, .. } => {
                let waits: Vec<String> = cycle.iter().map(ToString::to_string).collect();
                Told { reason: Some(waits.join("; ")), ..Told::of("deadlock", claim) }
            }
            Event::Granted { claim, fencing_token, waited, handed_over, .. } => Told {
                fencing_token: Some(*fencing_token),
                waited: Some(*waited),
                handed_over: *handed_over,
                outcome: Some("granted"),
                ..Told::of("granted", claim)
            },
            Event::GivenUp { claim, waited, why, .. } => {
                Told { waited: Some(*waited), outcome: Some(outcome(*why)), ..Told::of("not_granted", claim) }
            }
            Event::Renewed { claim, margin, .. } => Told { margin: *margin, ..Told::of("renewed", claim) },
            Event::RenewalFailed { claims, error, .. } => {
                let names: Vec<&str> = claims.iter().map(|claim| claim.name.as_str()).collect();
                // One request renews all claims of a manager that are due.
                let lock = (!names.is_empty()).then(|| names.join(", "));
                Told { lock, reason: Some(error.to_string()), ..Told::at("renewal_failed") }
            }
            Event::Lost { claim, fencing_token, loss, held, .. } => Told {
                fencing_token: Some(*fencing_token),
                held: Some(*held),
                reason: Some(word(loss).to_owned()),
                ..Told::of("lost", claim)
            },
            Event::Released { claim, fencing_token, held, .. } => {
                Told { fencing_token: Some(*fencing_token), held: Some(*held), ..Told::of("released", claim) }
            }
            Event::Kept { claim, fencing_token, .. } => {
                Told { fencing_token: Some(*fencing_token), ..Told::of("kept", claim) }
            }
            Event::CutShort { claim, fencing_token, .. } => {
                Told { fencing_token: Some(*fencing_token), ..Told::of("cut_short", claim) }
            }
            Event::LostBeforeRelease { claim, fencing_token, .. } => {
                Told { fencing_token: Some(*fencing_token), ..Told::of("lost_before_release", claim) }
            }
            Event::ReleaseFailed { claim, error, .. } => {
                Told { reason: Some(error.to_string()), ..Told::of("release_failed", claim) }
            }
            Event::ReleaseUnanswered { claim, error, .. } => {
                Told { reason: Some(error.to_string()), ..Told::of("release_unanswered", claim) }
            }
            Event::StoreLost { error, .. } => {
                Told { reason: Some(error.to_string()), ..Told::at("store_away") }
            }
            Event::StoreBack { away, .. } => Told { away: Some(*away), ..Told::at("store_back") },
            Event::StoreLeft { away, .. } => Told { away: Some(*away), ..Told::at("store_left") },
            Event::StoreNotice { notice, .. } => Told {
                lock: notice.name.as_ref().map(|name| name.as_str().to_owned()),
                reason: Some(notice.reason.clone()),
                ..Told::at("store_notice")
            },
            _ => Told::at("other"),
        };
        told.line = line;
        told.store = Some(Arc::clone(&logging.store));
        told.kind = logging.kind;
        told
    }

    fn at(event: &'static str) -> Self {
        Told { event, ..Told::default() }
    }

    fn of(event: &'static str, claim: &Claim) -> Self {
        let mode = match LockKind::of(claim.permits) {
            LockKind::Read => "read",
            LockKind::Write => "write",
            LockKind::Permits { .. } => "permits",
            _ => "mutex",
        };
        Told {
            lock: Some(claim.name.as_str().to_owned()),
            mode: Some(mode),
            claim: Some(claim.id.to_string()),
            ..Told::at(event)
        }
    }

    /// What Python's functions take: the same fields with every event.
    fn fields<'py>(&self, python: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let fields = PyDict::new(python);
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        fields.set_item("event", self.event)?;
        fields.set_item("lock", &self.lock)?;
        fields.set_item("mode", self.mode)?;
        fields.set_item("claim", &self.claim)?;
        fields.set_item("outcome", self.outcome)?;
        fields.set_item("place", self.place)?;
        fields.set_item("fencing_token", self.fencing_token)?;
        fields.set_item("waited", seconds(self.waited))?;
        fields.set_item("held", seconds(self.held))?;
        fields.set_item("margin", seconds(self.margin))?;
        fields.set_item("away", seconds(self.away))?;
        fields.set_item("handed_over", seconds(self.handed_over))?;
        fields.set_item("reason", &self.reason)?;
        fields.set_item("store", self.store.as_deref())?;
        fields.set_item("kind", self.kind)?;
        Ok(fields)
    }
}

/// How a lock that was not granted is counted: the words of the library's own metrics.
fn outcome(why: NotGranted<'_>) -> &'static str {
    match why {
        NotGranted::Taken => "taken",
        NotGranted::TimedOut => "timeout",
        NotGranted::Cancelled => "cancelled",
        NotGranted::Evicted(_) => "evicted",
        _ => "error",
    }
}

impl Log {
    /// The queue of this process, made for the first event.
    fn current() -> Arc<Self> {
        let process = std::process::id();
        loop {
            let known = CURRENT.load_full();
            if let Some(log) = known.as_ref().filter(|log| log.process == process) {
                return Arc::clone(log);
            }
            let (messages, received) = sync_channel(KEPT);
            let fresh = Arc::new(Log { process, messages, left_out: AtomicU64::new(0) });
            let found = CURRENT.compare_and_swap(&known, Some(Arc::clone(&fresh)));
            if found.as_ref().map(Arc::as_ptr) == known.as_ref().map(Arc::as_ptr) {
                // `known` is the parent's, and one of the parent's threads may have been using it.
                mem::forget(known);
                let logs = Arc::clone(&fresh);
                let thread = thread::Builder::new().name("globallock-log".to_owned());
                // Without a thread, events are left out: that is no reason to end the task that tells them.
                let _ = thread.spawn(move || logs.run(received));
                return fresh;
            }
        }
    }

    fn put(&self, told: Told) {
        if let Err(TrySendError::Full(_)) = self.messages.try_send(Message::Told(Box::new(told))) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands events to Python for as long as the process runs. Only an event takes Python's global lock. An
    /// interpreter that has ended is not entered any more.
    fn run(&self, mut received: Receiver<Message>) {
        Python::try_attach(|python| {
            while let Ok(message) = next(python, &mut received) {
                match message {
                    Message::Told(told) => hand_over(python, &told, self.left_out.swap(0, Ordering::Relaxed)),
                    Message::Flush(handed_over) => drop(handed_over),
                }
            }
        });
    }
}

/// The next message, waited for without Python's global lock.
fn next(python: Python<'_>, received: &mut Receiver<Message>) -> Result<Message, RecvError> {
    if let Ok(message) = received.try_recv() {
        return Ok(message);
    }
    python.detach(move || {
        if COUNTING.load(Ordering::Relaxed) {
            thread::sleep(GATHERING);
        }
        received.recv()
    })
}

fn hand_over(python: Python<'_>, told: &Told, left_out: u64) {
    let handed_over = || {
        let hear = python.import("globallock.events")?.getattr("hear")?;
        let (level, text) = told.line.as_ref().map_or((0, ""), |(level, text)| (*level, text));
        hear.call1((level, text, told.fields(python)?, left_out))
    };
    if let Err(error) = handed_over() {
        error.write_unraisable(python, None);
    }
}

/// Waits until Python has heard of what was told before this, for a moment at most. Where nothing was told,
/// nothing waits.
pub(crate) fn flush(python: Python<'_>) {
    let process = std::process::id();
    let Some(log) = CURRENT.load_full().filter(|log| log.process == process) else { return };
    let (handed_over, end) = sync_channel(0);
    if log.messages.try_send(Message::Flush(handed_over)).is_ok() {
        // It ends without a message, because the other end is dropped.
        let _ = python.detach(move || end.recv_timeout(FLUSHING));
    }
}
