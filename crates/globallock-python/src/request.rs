//! What Python asks of the core: a thread waits for it, or an event loop is told.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use globallock::Result;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use tokio::time::timeout;

use crate::answer::Answer;
use crate::bridge::{self, Bridge, Outcome};
use crate::driver::WaitKind;
use crate::guard::Guard;
use crate::process::Process;

/// The longest limit in seconds, so that every sum with it is a moment.
pub(crate) const FOREVER: f64 = 1e9;

/// A request that is made when somebody waits for its outcome, and at most once. One that is dropped before
/// has done nothing.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct Request {
    kind: WaitKind,
    make: Mutex<Option<Make>>,
}

/// Begins a request. What is waited for may be dropped at any moment from then on.
type Make = Box<dyn FnOnce(u32) -> BoxFuture<'static, Outcome> + Send>;

impl Request {
    pub(crate) fn new(kind: WaitKind, outcome: impl Future<Output = Outcome> + Send + 'static) -> Self {
        Request::begun(kind, move |_| outcome)
    }

    /// What takes something as soon as it is begun, such as the guard that it releases. It is told the number
    /// of the process.
    pub(crate) fn begun<F>(kind: WaitKind, make: impl FnOnce(u32) -> F + Send + 'static) -> Self
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        Request { kind, make: Mutex::new(Some(Box::new(move |process| make(process).boxed()))) }
    }

    /// What the store answers soon.
    pub(crate) fn answered(outcome: impl Future<Output = Result<Outcome>> + Send + 'static) -> Self {
        Request::fallible(WaitKind::Answer, outcome)
    }

    pub(crate) fn fallible(
        kind: WaitKind,
        outcome: impl Future<Output = Result<Outcome>> + Send + 'static,
    ) -> Self {
        Request::new(kind, outcome.map(|outcome| outcome.unwrap_or_else(Outcome::Failed)))
    }

    fn made(&self, process: &Process) -> PyResult<BoxFuture<'static, Outcome>> {
        let make = self.make.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(make.ok_or_else(|| PyRuntimeError::new_err("this request was made already"))?(process.id))
    }
}

/// What Python gets of an outcome. What is granted is in the list `taken` as well, before Python code can be
/// interrupted.
pub(crate) fn noted_in(
    python: Python<'_>,
    outcome: Outcome,
    taken: Option<&Bound<'_, PyList>>,
) -> PyResult<Py<PyAny>> {
    let outcome = outcome.into_python(python)?;
    if let Some(taken) = taken
        && outcome.bind(python).is_instance_of::<Guard>()
    {
        taken.append(&outcome)?;
    }
    Ok(outcome)
}

#[pymethods]
impl Request {
    /// Waits for the outcome, `limit` seconds at most; `None` if that was not enough.
    ///
    /// Puts what is granted into `taken` as well, before Python code can be interrupted.
    #[pyo3(signature = (limit=None, taken=None))]
    fn wait(
        &self,
        python: Python<'_>,
        limit: Option<f64>,
        taken: Option<&Bound<'_, PyList>>,
    ) -> PyResult<Py<PyAny>> {
        let process = Process::current()?;
        let asked = self.made(&process)?;
        let outcome = match limit.map(|limit| Duration::from_secs_f64(limit.clamp(0.0, FOREVER))) {
            None => process.block_on(python, self.kind, asked)?,
            Some(limit) => process.block_on(python, self.kind, async move {
                timeout(limit, asked).await.unwrap_or(Outcome::Flag(None))
            })?,
        };
        noted_in(python, outcome, taken)
    }

    /// Starts it for an event loop, and returns the number under which the bridge gives its outcome.
    ///
    /// Puts what is granted into `taken` as well, when the loop takes the outcome.
    #[pyo3(signature = (bridge, taken=None))]
    fn start(&self, bridge: &Bridge, taken: Option<Py<PyList>>) -> PyResult<u64> {
        let process = Process::current()?;
        let asked = self.made(&process)?;
        match self.kind {
            // It may never come.
            WaitKind::Notification => bridge.watch(&process, asked, taken),
            kind => bridge.start(&process, kind, asked, taken),
        }
    }

    /// What a task awaits for the outcome, which begins the request. The future of each is in `waiting` by
    /// its number.
    #[pyo3(signature = (bridge, r#loop, waiting, taken=None))]
    fn awaited(
        slf: Py<Self>,
        bridge: Py<Bridge>,
        r#loop: Py<PyAny>,
        waiting: Py<PyDict>,
        taken: Option<Py<PyList>>,
    ) -> Answer {
        Answer::new(slf, bridge, r#loop, waiting, taken)
    }
}

impl Request {
    /// Starts it for asyncio: the future gets the outcome, and is in `waiting` by the number until then.
    pub(crate) fn begin_for(
        &self,
        bridge: &Bound<'_, Bridge>,
        r#loop: &Bound<'_, PyAny>,
        waiting: &Bound<'_, PyDict>,
        future: &Bound<'_, PyAny>,
        taken: Option<Py<PyList>>,
    ) -> PyResult<u64> {
        let number = self.start(bridge.get(), taken)?;
        waiting.set_item(number, future)?;
        if bridge.get().polling() {
            bridge::poll_soon(bridge, r#loop, waiting)?;
        }
        Ok(number)
    }
}
