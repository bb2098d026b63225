//! A held lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use globallock::backend::Instant;
use globallock::internals::{Began, keep_nobody_out, sleep_until_some};
use globallock::{Loss, Release, ValueWrite};
use pyo3::prelude::*;
use pyo3::types::PyWeakrefReference;
use tokio::select;

use crate::bridge::Outcome;
use crate::driver::WaitKind;
use crate::failure::{GlobalLockError, LockLost, seconds};
use crate::holds::{Noted, Place};
use crate::process::{ForkGuarded, Process};
use crate::request::{FOREVER, Request};

/// A lock that is held until it is released, lost, or garbage-collected.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct Guard {
    #[pyo3(get)]
    fencing_token: u64,
    guard: Arc<Held>,
    /// Where it is noted for the callers of this process once a lock of Python has it.
    place: Place,
    /// When the owner is asked to end, if its end is planned.
    ask_at: Option<Instant>,
    /// Which run it is that the lock was acquired for, if any.
    began: Option<Began>,
    /// Whether a lock of Python has it. Until then its caller may have gone: a task that was cancelled, or a
    /// call that Ctrl-C has ended.
    has_owner: AtomicBool,
}

/// A value's bytes, fencing token, and age in seconds; Python makes a `Value` of them.
type ValueFields = (Vec<u8>, u64, f64);

impl Guard {
    pub(crate) fn new(
        guard: globallock::Guard,
        process: u32,
        place: Place,
        ask_at: Option<Instant>,
        began: Option<Began>,
    ) -> Self {
        let fencing_token = guard.fencing_token();
        let guard = Arc::new(ForkGuarded::of(process, Mutex::new(Some((guard, None)))));
        Guard { fencing_token, guard, place, ask_at, began, has_owner: AtomicBool::new(false) }
    }

    fn with<T>(&self, use_it: impl FnOnce(&globallock::Guard) -> T) -> Option<T> {
        with(&self.guard, use_it)
    }

    fn write(
        &self,
        bytes: Vec<u8>,
        keep: f64,
    ) -> PyResult<impl Future<Output = globallock::Result<ValueWrite>> + Send + use<>> {
        let keep = seconds("keep", keep)?;
        let write = self.with(|guard| guard.set_value(bytes, keep));
        write.ok_or_else(|| LockLost::new_err("this lock belongs to another process, or was released"))
    }
}

/// The guard of the core until it is released, and the note of who has it.
type Held = ForkGuarded<Mutex<Option<(globallock::Guard, Option<Noted>)>>>;

fn with<T>(held: &Held, use_it: impl FnOnce(&globallock::Guard) -> T) -> Option<T> {
    let guard = held.get()?.lock().unwrap_or_else(PoisonError::into_inner);
    guard.as_ref().map(|(guard, _)| use_it(guard))
}

fn take(held: &Held) -> Option<globallock::Guard> {
    taken(held.get()?)
}

fn taken(held: &Mutex<Option<(globallock::Guard, Option<Noted>)>>) -> Option<globallock::Guard> {
    held.lock().unwrap_or_else(PoisonError::into_inner).take().map(|(guard, _)| guard)
}

/// Why the owner must end its work: which kind of loss, or `asked`, and a sentence. Python makes a `Reason`
/// of them.
pub(crate) type Reason = (&'static str, String);

fn reason(loss: &Loss) -> Reason {
    (word(loss), loss.to_string())
}

/// A word for why a lock was lost, of which there are few: the values of Python's `Loss`.
pub(crate) fn word(loss: &Loss) -> &'static str {
    match loss {
        Loss::Expired => "expired",
        Loss::MaxHold => "held_too_long",
        Loss::Evicted(_) => "evicted",
        _ => "revoked",
    }
}

/// A lock that nobody owned keeps nobody out when it is released with this.
impl Drop for Guard {
    fn drop(&mut self) {
        if !*self.has_owner.get_mut() {
            self.with(keep_nobody_out);
        }
        // Mostly it was released, so that nothing is left.
        if let Some(held) = Arc::get_mut(&mut self.guard) {
            held.drop_if(|held| held.get_mut().unwrap_or_else(PoisonError::into_inner).is_none());
        }
    }
}

/// What a release in a forked child warns of.
const FOREIGN: &str = "belongs to another process: it is not released here";

/// What the owner is told that is asked to end.
const ASKED: &str = "its max hold time has passed: it is kept for its grace";

/// Releases a lock, and says what to warn of. A loss that the core has told already is logged already.
async fn release(guard: globallock::Guard) -> Option<String> {
    let loss = guard.ended();
    match guard.release().await {
        Ok(release) => {
            let is_told = loss.now_or_never().flatten().is_some();
            let is_news = release == Release::NotHeld && !is_told;
            is_news.then(|| "had been lost before it was released".to_owned())
        }
        Err(error) => Some(format!("could not be released yet, which goes on in the background: {error}")),
    }
}

/// Takes the guard at once, and releases it once this is awaited, or dropped.
fn released(held: &Held, process: u32) -> impl Future<Output = Option<String>> + Send + use<> {
    let here = held.get_in(process);
    let (is_here, guard) = (here.is_some(), here.and_then(taken));
    async move {
        match guard {
            None if !is_here => Some(FOREIGN.to_owned()),
            None => None,
            Some(guard) => release(guard).await,
        }
    }
}

#[pymethods]
impl Guard {
    /// Whether this process holds the lock at this moment, as far as it can know.
    fn is_held(&self) -> bool {
        self.with(globallock::Guard::is_held).unwrap_or(false)
    }

    /// How many seconds the lock stays held without another renewal; `None` where it ends only with the
    /// process.
    fn remaining(&self) -> Option<f64> {
        self.with(globallock::Guard::remaining).map_or(Some(0.0), |left| left.map(|left| left.as_secs_f64()))
    }

    /// Notes that Python has it, and for which acquisition, if it is a caller's of this process. So others
    /// are kept out for as long as was asked for.
    #[pyo3(signature = (acquisition=None))]
    pub(crate) fn own(&self, acquisition: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        self.has_owner.store(true, Ordering::Relaxed);
        let Some(acquisition) = acquisition else { return Ok(()) };
        let acquisition = PyWeakrefReference::new(acquisition)?;
        // Not asked which process this is: in a forked child the note has no effect.
        if let Some(held) = self.guard.get_anywhere()
            && let Some((_, noted)) = &mut *held.lock().unwrap_or_else(PoisonError::into_inner)
        {
            *noted = Some(self.place.note(acquisition.unbind()));
        }
        Ok(())
    }

    /// Keeps nobody out any longer than the lock is held, because not all of several locks were granted.
    pub(crate) fn keep_nobody_out(&self) {
        self.with(keep_nobody_out);
    }

    /// For how many seconds others would be kept out if the lock were released now; `None` if they would be
    /// let in.
    fn kept_for(&self) -> Option<f64> {
        self.with(globallock::Guard::kept_for).flatten().map(|left| left.as_secs_f64())
    }

    /// Releases the lock in the background, if it is not released yet.
    pub(crate) fn let_go(&self) {
        if let (Some(guard), Ok(process)) = (take(&self.guard), Process::current()) {
            let _entered = process.runtime.enter();
            drop(guard);
        }
    }

    /// Releases the lock, and says what to warn of, if anything. That the store fails is no exception, so
    /// that one of a signal handler is not taken for it.
    fn release(&self) -> Request {
        let held = Arc::clone(&self.guard);
        // If the wait is cancelled, the guard is dropped, and so released in the background.
        Request::begun(WaitKind::Answer, move |process| {
            let released = released(&held, process);
            async move { Outcome::Text(released.await) }
        })
    }

    /// Does the same for the calling thread, which waits for it: with no request in between, and so cheaper.
    fn give_back(&self, python: Python<'_>) -> PyResult<Option<String>> {
        let process = Process::current()?;
        process.block_on(python, WaitKind::Answer, released(&self.guard, process.id))
    }

    /// Records the success of the run that the lock was acquired for, and releases the lock.
    fn succeed(&self) -> Request {
        let (held, began) = (Arc::clone(&self.guard), self.began);
        Request::begun(WaitKind::Answer, move |_| {
            let run = began.zip(take(&held));
            async move {
                let Some((began, guard)) = run else {
                    let text = "this run belongs to another process, or has ended";
                    return Outcome::Raised(GlobalLockError::new_err(text));
                };
                match began.succeed(guard).await {
                    Ok(()) => Outcome::Flag(Some(true)),
                    Err(error) => Outcome::Failed(error),
                }
            }
        })
    }

    /// The value of the lock's name, as it was at the grant or as it was set since.
    fn value(&self) -> Option<ValueFields> {
        let value = self.with(globallock::Guard::value)??;
        Some((value.bytes().to_vec(), value.fencing_token(), value.age().as_secs_f64()))
    }

    /// Sets the value, for `keep` seconds; false if a holder with a higher fencing token has set it.
    fn set_value(&self, bytes: Vec<u8>, keep: f64) -> PyResult<Request> {
        let write = self.write(bytes, keep)?;
        Ok(Request::answered(async move { Ok(Outcome::Flag(Some(write.await? == ValueWrite::Written))) }))
    }

    /// Whether the owner is asked to end: its max hold time has passed, or the lock is lost.
    fn is_asked_to_end(&self) -> bool {
        let is_due = self.ask_at.is_some_and(|at| at <= Instant::now());
        self.with(|guard| is_due || !guard.is_held()).unwrap_or(false)
    }

    /// Waits until the owner was asked to end `after` seconds ago, and says why; `None` if the lock was
    /// released.
    #[pyo3(signature = (after=0.0))]
    fn asked(&self, after: f64) -> Request {
        let after = Duration::from_secs_f64(after.clamp(0.0, FOREVER));
        let at = self.ask_at.map(|at| at + after);
        let loss = self.with(globallock::Guard::ended);
        Request::new(WaitKind::Notification, async move {
            let Some(loss) = loss else { return Outcome::Ended(None) };
            Outcome::Ended(select! {
                biased;
                loss = loss => loss.as_ref().map(reason),
                () = sleep_until_some(at) => Some(("asked", ASKED.to_owned())),
            })
        })
    }

    /// Asks the store now whether the lock is still held, and renews it for a whole lease if so.
    fn renew(&self) -> Request {
        let renewal = self.with(globallock::Guard::renew);
        Request::answered(async move {
            Ok(Outcome::Flag(Some(match renewal {
                None => false,
                Some(renewal) => renewal.await?,
            })))
        })
    }

    /// Waits until the lock is lost, and says why; `None` if it was released.
    fn lost(&self) -> Request {
        let loss = self.with(globallock::Guard::ended);
        Request::new(WaitKind::Notification, async move {
            Outcome::Ended(match loss {
                None => None,
                Some(loss) => loss.await.as_ref().map(reason),
            })
        })
    }

    /// Why the lock is lost; `None` if it is not, or was released.
    fn loss(&self) -> PyResult<Option<Reason>> {
        let process = Process::current()?;
        let _entered = process.runtime.enter();
        let loss = self.with(globallock::Guard::ended).and_then(FutureExt::now_or_never).flatten();
        Ok(loss.as_ref().map(reason))
    }
}
