//! A held lock.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use globallock::Release;
use pyo3::prelude::*;

use crate::bridge::{Bridge, Outcome};
use crate::driver::WaitKind;
use crate::failure::raise;
use crate::process::{ForkGuarded, Process};

/// A lock that is held until it is released, lost, or garbage-collected.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct Guard {
    #[pyo3(get)]
    fencing_token: u64,
    guard: Arc<ForkGuarded<Mutex<Option<globallock::Guard>>>>,
}

impl Guard {
    pub(crate) fn new(guard: globallock::Guard) -> Self {
        let fencing_token = guard.fencing_token();
        Guard { fencing_token, guard: Arc::new(ForkGuarded::new(Mutex::new(Some(guard)))) }
    }

    fn with<T>(&self, use_it: impl FnOnce(&globallock::Guard) -> T) -> Option<T> {
        let guard = self.guard.get()?.lock().unwrap_or_else(PoisonError::into_inner);
        guard.as_ref().map(use_it)
    }

    fn take(&self) -> Option<globallock::Guard> {
        self.guard.get()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a release in a forked child warns of.
const FOREIGN: &str = "belongs to another process: it is not released here";

/// Releases a lock, and says what to warn of. A loss that the core has told already is logged already.
async fn release(guard: globallock::Guard) -> globallock::Result<Option<&'static str>> {
    let loss = guard.ended();
    let release = guard.release().await?;
    let is_told = loss.now_or_never().flatten().is_some();
    let is_news = release == Release::NotHeld && !is_told;
    Ok(is_news.then_some("had been lost before it was released"))
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

    /// Releases the lock, and says what to warn of, if anything.
    fn release(&self, python: Python<'_>) -> PyResult<Option<&'static str>> {
        if self.guard.get().is_none() {
            return Ok(Some(FOREIGN));
        }
        let Some(guard) = self.take() else { return Ok(None) };
        let released = Process::current()?.block_on(python, WaitKind::Answer, release(guard))?;
        released.map_err(|error| raise(&error))
    }

    /// Does the same for an event loop.
    fn release_on(&self, bridge: &Bridge) -> PyResult<u64> {
        let (is_here, guard) = (self.guard.get().is_some(), self.take());
        bridge.start(WaitKind::Answer, async move {
            let warning = match guard {
                None if !is_here => Ok(Some(FOREIGN)),
                None => Ok(None),
                Some(guard) => release(guard).await,
            };
            match warning {
                Ok(warning) => Outcome::Text(warning.map(str::to_owned)),
                Err(error) => Outcome::Failed(error),
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
        let limit = limit.map(|limit| Duration::from_secs_f64(limit.clamp(0.0, 1e9)));
        let waited = async move {
            match limit {
                None => loss.await,
                Some(limit) => tokio::time::timeout(limit, loss).await.unwrap_or(None),
            }
        };
        Ok(Process::current()?.block_on(python, WaitKind::Notification, waited)?.map(|loss| loss.to_string()))
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
