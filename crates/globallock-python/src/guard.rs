//! A held lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use globallock::backend::Instant;
use globallock::internals::{Began, keep_nobody_out, sleep_until_some};
use globallock::{Release, ValueWrite};
use pyo3::prelude::*;
use tokio::select;

use crate::bridge::{Bridge, Outcome};
use crate::driver::WaitKind;
use crate::failure::{GlobalLockError, LockLost, raise, seconds};
use crate::process::{ForkGuarded, Process};

/// A lock that is held until it is released, lost, or garbage-collected.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct Guard {
    #[pyo3(get)]
    fencing_token: u64,
    guard: Arc<ForkGuarded<Mutex<Option<globallock::Guard>>>>,
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
    pub(crate) fn new(guard: globallock::Guard, ask_at: Option<Instant>, began: Option<Began>) -> Self {
        let fencing_token = guard.fencing_token();
        let guard = Arc::new(ForkGuarded::new(Mutex::new(Some(guard))));
        Guard { fencing_token, guard, ask_at, began, has_owner: AtomicBool::new(false) }
    }

    fn with<T>(&self, use_it: impl FnOnce(&globallock::Guard) -> T) -> Option<T> {
        let guard = self.guard.get()?.lock().unwrap_or_else(PoisonError::into_inner);
        guard.as_ref().map(use_it)
    }

    fn take(&self) -> Option<globallock::Guard> {
        self.guard.get()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes the run that the lock was acquired for.
    fn run(&self) -> PyResult<(Began, globallock::Guard)> {
        let error = || GlobalLockError::new_err("this run belongs to another process, or has ended");
        self.began.zip(self.take()).ok_or_else(error)
    }

    fn write(
        &self,
        bytes: Vec<u8>,
        keep: f64,
    ) -> PyResult<impl Future<Output = globallock::Result<bool>> + Send + use<>> {
        let keep = seconds("keep", keep)?;
        let write = self.with(|guard| guard.set_value(bytes, keep));
        write
            .map(written)
            .ok_or_else(|| LockLost::new_err("this lock belongs to another process, or was released"))
    }

    /// Tells why the owner is asked to end, `after` seconds after it was; `None` if the lock was released.
    fn asked(&self, after: f64) -> Option<impl Future<Output = Option<String>> + Send + use<>> {
        let after = Duration::from_secs_f64(after.clamp(0.0, FOREVER));
        let at = self.ask_at.map(|at| at + after);
        let loss = self.with(globallock::Guard::ended)?;
        Some(async move {
            select! {
                biased;
                loss = loss => loss.map(|loss| loss.to_string()),
                () = sleep_until_some(at) => Some(ASKED.to_owned()),
            }
        })
    }
}

/// A lock that nobody owned keeps nobody out when it is released with this.
impl Drop for Guard {
    fn drop(&mut self) {
        if !*self.has_owner.get_mut() {
            self.with(keep_nobody_out);
        }
    }
}

/// What a release in a forked child warns of.
const FOREIGN: &str = "belongs to another process: it is not released here";

/// What the owner is told that is asked to end.
const ASKED: &str = "its max hold time has passed: it is kept for its grace";

/// Writes a value: false if a holder with a higher fencing token has written one.
async fn written(write: impl Future<Output = globallock::Result<ValueWrite>>) -> globallock::Result<bool> {
    Ok(write.await? == ValueWrite::Written)
}

/// The longest limit in seconds, so that every sum with it is a moment.
const FOREVER: f64 = 1e9;

/// Waits for `limit` seconds at most; `None` if that was not enough.
async fn within<T>(limit: Option<f64>, waits: impl Future<Output = Option<T>>) -> Option<T> {
    match limit {
        None => waits.await,
        Some(limit) => {
            let limit = Duration::from_secs_f64(limit.clamp(0.0, FOREVER));
            tokio::time::timeout(limit, waits).await.unwrap_or(None)
        }
    }
}

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

    /// Notes that a lock of Python has it, so that others are kept out for as long as was asked for.
    fn own(&self) {
        self.has_owner.store(true, Ordering::Relaxed);
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
        if let (Some(guard), Ok(process)) = (self.take(), Process::current()) {
            let _entered = process.runtime.enter();
            drop(guard);
        }
    }

    /// Releases the lock, and says what to warn of, if anything. That the store fails is no exception, so
    /// that one of a signal handler is not taken for it.
    fn release(&self, python: Python<'_>) -> PyResult<Option<String>> {
        if self.guard.get().is_none() {
            return Ok(Some(FOREIGN.to_owned()));
        }
        let Some(guard) = self.take() else { return Ok(None) };
        Process::current()?.block_on(python, WaitKind::Answer, release(guard))
    }

    /// Does the same for an event loop.
    fn release_on(&self, bridge: &Bridge) -> PyResult<u64> {
        let (is_here, guard) = (self.guard.get().is_some(), self.take());
        bridge.start(WaitKind::Answer, async move {
            Outcome::Text(match guard {
                None if !is_here => Some(FOREIGN.to_owned()),
                None => None,
                Some(guard) => release(guard).await,
            })
        })
    }

    /// Records the success of the run that the lock was acquired for, and releases the lock.
    fn succeed(&self, python: Python<'_>) -> PyResult<()> {
        let (began, guard) = self.run()?;
        let recorded = Process::current()?.block_on(python, WaitKind::Answer, began.succeed(guard))?;
        recorded.map_err(|error| raise(&error))
    }

    /// Does the same for an event loop.
    fn succeed_on(&self, bridge: &Bridge) -> PyResult<u64> {
        let (began, guard) = self.run()?;
        bridge.start(WaitKind::Answer, async move {
            match began.succeed(guard).await {
                Ok(()) => Outcome::Flag(true),
                Err(error) => Outcome::Failed(error),
            }
        })
    }

    /// The value of the lock's name, as it was at the grant or as it was set since.
    fn value(&self) -> Option<ValueFields> {
        let value = self.with(globallock::Guard::value)??;
        Some((value.bytes().to_vec(), value.fencing_token(), value.age().as_secs_f64()))
    }

    /// Sets the value, for `keep` seconds; false if a holder with a higher fencing token has set it.
    fn set_value(&self, python: Python<'_>, bytes: Vec<u8>, keep: f64) -> PyResult<bool> {
        let write = self.write(bytes, keep)?;
        Process::current()?.block_on(python, WaitKind::Answer, write)?.map_err(|error| raise(&error))
    }

    /// Does the same for an event loop.
    fn set_value_on(&self, bridge: &Bridge, bytes: Vec<u8>, keep: f64) -> PyResult<u64> {
        let write = self.write(bytes, keep)?;
        bridge.start(WaitKind::Answer, async move {
            match write.await {
                Ok(is_written) => Outcome::Flag(is_written),
                Err(error) => Outcome::Failed(error),
            }
        })
    }

    /// Whether the owner is asked to end: its max hold time has passed, or the lock is lost.
    fn is_asked_to_end(&self) -> bool {
        let is_due = self.ask_at.is_some_and(|at| at <= Instant::now());
        self.with(|guard| is_due || !guard.is_held()).unwrap_or(false)
    }

    /// Waits until the owner is asked to end, `limit` seconds at most, and says why; `None` if it was not by
    /// then, or if the lock was released.
    fn wait_asked(&self, python: Python<'_>, limit: Option<f64>) -> PyResult<Option<String>> {
        let Some(asked) = self.asked(0.0) else { return Ok(None) };
        Process::current()?.block_on(python, WaitKind::Notification, within(limit, asked))
    }

    /// Waits for an event loop, without a limit, until the owner was asked to end `after` seconds ago.
    fn asked_on(&self, bridge: &Bridge, after: f64) -> PyResult<u64> {
        let asked = self.asked(after);
        bridge.watch(async move {
            match asked {
                None => Outcome::Text(None),
                Some(asked) => Outcome::Text(asked.await),
            }
        })
    }

    /// Asks the store now whether the lock is still held, and renews it for a whole lease if so.
    fn renew(&self, python: Python<'_>) -> PyResult<bool> {
        let Some(renewal) = self.with(globallock::Guard::renew) else { return Ok(false) };
        Process::current()?.block_on(python, WaitKind::Answer, renewal)?.map_err(|error| raise(&error))
    }

    /// Does the same for an event loop.
    fn renew_on(&self, bridge: &Bridge) -> PyResult<u64> {
        let renewal = self.with(globallock::Guard::renew);
        bridge.start(WaitKind::Answer, async move {
            match renewal {
                None => Outcome::Flag(false),
                Some(renewal) => match renewal.await {
                    Ok(is_held) => Outcome::Flag(is_held),
                    Err(error) => Outcome::Failed(error),
                },
            }
        })
    }

    /// Waits until the lock is lost, `limit` seconds at most, and says why; `None` if it was not lost by
    /// then, or was released.
    fn wait_lost(&self, python: Python<'_>, limit: Option<f64>) -> PyResult<Option<String>> {
        let Some(loss) = self.with(globallock::Guard::ended) else { return Ok(None) };
        let lost = within(limit, loss);
        Ok(Process::current()?.block_on(python, WaitKind::Notification, lost)?.map(|loss| loss.to_string()))
    }

    /// Waits for the loss for an event loop, without a limit.
    fn lost_on(&self, bridge: &Bridge) -> PyResult<u64> {
        let loss = self.with(globallock::Guard::ended);
        bridge.watch(async move {
            match loss {
                None => Outcome::Text(None),
                Some(loss) => Outcome::Text(loss.await.map(|loss| loss.to_string())),
            }
        })
    }
}
