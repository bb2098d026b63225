//! A lock that is held.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use globallock::Release;
use pyo3::prelude::*;

use crate::bridge::{Bridge, Outcome};
use crate::driver::Until;
use crate::failure::raise;
use crate::process::{Owned, Process};

/// A lock that is held, until it is released, lost, or collected.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct Guard {
    #[pyo3(get)]
    fencing_token: u64,
    held: Arc<Owned<Mutex<Option<globallock::Guard>>>>,
}

impl Guard {
    pub(crate) fn new(guard: globallock::Guard) -> Self {
        let fencing_token = guard.fencing_token();
        Guard { fencing_token, held: Arc::new(Owned::new(Mutex::new(Some(guard)))) }
    }

    fn with<T>(&self, use_it: impl FnOnce(&globallock::Guard) -> T) -> Option<T> {
        let held = self.held.get()?.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().map(use_it)
    }

    fn take(&self) -> Option<globallock::Guard> {
        self.held.get()?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[pymethods]
impl Guard {
    /// Whether the lock is held at this moment, in this process, as far as can be known here.
    fn is_held(&self) -> bool {
        self.with(globallock::Guard::is_held).unwrap_or(false)
    }

    /// How many seconds the lock stays held without another renewal; `None` where only the process's end ends it.
    fn remaining(&self) -> Option<f64> {
        self.with(globallock::Guard::remaining).map_or(Some(0.0), |left| left.map(|left| left.as_secs_f64()))
    }

    /// Releases the lock and says whether it was still held; `None` in another process than the one that took it.
    fn release(&self, python: Python<'_>) -> PyResult<Option<bool>> {
        if self.held.get().is_none() {
            return Ok(None);
        }
        let Some(guard) = self.take() else { return Ok(Some(false)) };
        let left = Process::current()?.block_on(python, Until::Answered, guard.release())?;
        left.map(|left| Some(left == Release::Released)).map_err(|error| raise(&error))
    }

    /// Does the same for an event loop.
    fn release_on(&self, bridge: &Bridge) -> PyResult<u64> {
        let (is_here, guard) = (self.held.get().is_some(), self.take());
        bridge.start(Until::Answered, async move {
            match guard {
                None if !is_here => Outcome::Text(None),
                None => Outcome::Flag(false),
                Some(guard) => match guard.release().await {
                    Ok(left) => Outcome::Flag(left == Release::Released),
                    Err(error) => Outcome::Failed(error),
                },
            }
        })
    }

    /// Asks the store now whether the lock is still held, and gives it a whole lease if so.
    fn renew(&self, python: Python<'_>) -> PyResult<bool> {
        let Some(renewal) = self.with(globallock::Guard::renew) else { return Ok(false) };
        Process::current()?.block_on(python, Until::Answered, renewal)?.map_err(|error| raise(&error))
    }

    /// Does the same for an event loop.
    fn renew_on(&self, bridge: &Bridge) -> PyResult<u64> {
        let renewal = self.with(globallock::Guard::renew);
        bridge.start(Until::Answered, async move {
            match renewal {
                None => Outcome::Flag(false),
                Some(renewal) => match renewal.await {
                    Ok(is_held) => Outcome::Flag(is_held),
                    Err(error) => Outcome::Failed(error),
                },
            }
        })
    }

    /// Waits at most so many seconds until the lock is lost, and says why; `None` if it is not, or was released.
    fn wait_lost(&self, python: Python<'_>, limit: Option<f64>) -> PyResult<Option<String>> {
        let Some(loss) = self.with(globallock::Guard::ended) else { return Ok(None) };
        let limit = limit.map(|limit| Duration::from_secs_f64(limit.clamp(0.0, 1e9)));
        let waited = async move {
            match limit {
                None => loss.await,
                Some(limit) => tokio::time::timeout(limit, loss).await.unwrap_or(None),
            }
        };
        Ok(Process::current()?.block_on(python, Until::Told, waited)?.map(|loss| loss.to_string()))
    }

    /// Waits for the same for an event loop.
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
