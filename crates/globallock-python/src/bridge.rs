//! From the runtime to an event loop: outcomes are put into a list, and a byte in a socket wakes the loop,
//! unless the loop polls.
//!
//! So the runtime's threads never wait for Python's global lock, and one wake-up serves all outcomes in the
//! list.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::AbortHandle;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use crate::driver::WaitKind;
use crate::failure::raise;
use crate::guard::{Guard, Reason};
use crate::manager::EntryFields;
use crate::process::{ForkGuarded, Process};
use crate::shield::TRIES;
use crate::watch::SummaryFields;

/// The outcome of a request.
pub(crate) enum Outcome {
    Granted(Option<Guard>),
    /// How many seconds ago the last success began, that still counts.
    Skipped(f64),
    Flag(Option<bool>),
    Text(Option<String>),
    /// Why the owner must end its work, or has lost its lock; `None` if it was released.
    Ended(Option<Reason>),
    Entries(Vec<EntryFields>),
    Names(Vec<String>),
    Summaries(Vec<SummaryFields>),
    Failed(globallock::Error),
    Raised(PyErr),
}

impl Outcome {
    pub(crate) fn into_python(self, python: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Outcome::Granted(guard) => guard.into_py_any(python),
            Outcome::Skipped(began) => began.into_py_any(python),
            Outcome::Flag(flag) => flag.into_py_any(python),
            Outcome::Text(text) => text.into_py_any(python),
            Outcome::Ended(reason) => reason.into_py_any(python),
            Outcome::Entries(entries) => entries.into_py_any(python),
            Outcome::Names(names) => names.into_py_any(python),
            Outcome::Summaries(summaries) => summaries.into_py_any(python),
            Outcome::Failed(error) => Err(raise(&error)),
            Outcome::Raised(error) => Err(error),
        }
    }
}

/// The outcomes that the loop has not taken yet, and the socket that wakes it.
struct Inbox {
    outcomes: Mutex<Outcomes>,
    wake: UnixStream,
}

#[derive(Default)]
struct Outcomes {
    list: Vec<(u64, Outcome)>,
    /// Whether the loop polls for them, so that no byte need wake it.
    polling: bool,
}

impl Inbox {
    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, number: u64, outcome: Outcome) {
        let mut outcomes = self.outcomes();
        outcomes.list.push((number, outcome));
        if outcomes.list.len() == 1 && !outcomes.polling {
            // This fails where the loop has been closed: its outcomes are dropped with the bridge.
            let _ = (&self.wake).write(&[1]);
        }
    }

    /// Takes out one that nobody waits for.
    fn take(&self, number: u64) -> Option<Outcome> {
        let mut outcomes = self.outcomes();
        let position = outcomes.list.iter().position(|(each, _)| *each == number)?;
        Some(outcomes.list.remove(position).1)
    }

    /// Lets the loop poll, or has it woken. True if outcomes are there already: then the loop must take them,
    /// and does not poll.
    fn allow_polling(&self, polling: bool) -> bool {
        let mut outcomes = self.outcomes();
        outcomes.polling = polling && outcomes.list.is_empty();
        !outcomes.list.is_empty()
    }

    /// Does the same when a request begins, while another task of the loop may be polling. The outcomes that
    /// arrived during that polling have sent no byte. The other task may not poll again, so the byte is sent
    /// now.
    fn begin_polling(&self, polling: bool) -> bool {
        let was_polling = self.outcomes().polling;
        let has_outcomes = self.allow_polling(polling);
        if was_polling && has_outcomes {
            let _ = (&self.wake).write(&[1]);
        }
        has_outcomes
    }
}

/// Connects one event loop to the runtime, in one process.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct Bridge {
    next: AtomicU64,
    inner: ForkGuarded<Inner>,
}

struct Inner {
    woken: UnixStream,
    inbox: Arc<Inbox>,
    in_flight: Arc<Mutex<HashMap<u64, AbortHandle>>>,
    /// The lists into which what is granted is put. One that ends with `None` belongs to nobody any more.
    taken: Mutex<HashMap<u64, Py<PyList>>>,
}

impl Inner {
    /// What a loop gets of an outcome. What is granted is in its list before Python code can be interrupted.
    fn noted(&self, python: Python<'_>, number: u64, outcome: Outcome) -> PyResult<Py<PyAny>> {
        let taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        let value = outcome.into_python(python)?;
        let Some(taken) = taken else { return Ok(value) };
        let Ok(guard) = value.bind(python).cast::<Guard>() else { return Ok(value) };
        let taken = taken.bind(python);
        if taken.iter().last().is_some_and(|last| last.is_none()) {
            guard.get().keep_nobody_out();
            guard.get().let_go();
        } else {
            taken.append(guard)?;
        }
        Ok(value)
    }
}

impl Bridge {
    /// Starts a request that the store answers soon. Returns the number under which [`drain`](Self::drain)
    /// gives its outcome.
    pub(crate) fn start(
        &self,
        process: &Arc<Process>,
        kind: WaitKind,
        request: impl Future<Output = Outcome> + Send + 'static,
        taken: Option<Py<PyList>>,
    ) -> PyResult<u64> {
        let pending = process.begin_request(kind);
        let request = async move {
            let _until_answered = pending;
            request.await
        };
        let number = self.watch(process, request, taken)?;
        if let Some(inner) = self.inner.get_in(process.id) {
            let polling = process.send(kind);
            if inner.inbox.begin_polling(polling) && polling {
                // The loop must take outcomes first, and so does not poll.
                process.driver.hand_over(kind);
            }
        }
        Ok(number)
    }

    /// Starts to wait for something that may never come. Returns the number of its outcome, as
    /// [`start`](Self::start).
    pub(crate) fn watch(
        &self,
        process: &Arc<Process>,
        request: impl Future<Output = Outcome> + Send + 'static,
        taken: Option<Py<PyList>>,
    ) -> PyResult<u64> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(inner) = self.inner.get_in(process.id) else {
            return Err(PyRuntimeError::new_err("this event loop is another process's"));
        };
        let (inbox, in_flight) = (Arc::clone(&inner.inbox), Arc::clone(&inner.in_flight));
        if let Some(taken) = taken {
            inner.taken.lock().unwrap_or_else(PoisonError::into_inner).insert(number, taken);
        }
        // Locked until the task is in the map, so that the task cannot remove itself before.
        let mut tasks = inner.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        let task = process.run(async move {
            let outcome = request.await;
            let mut in_flight = in_flight.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody waits any more if it is not there. The loop might never take the outcome.
            let is_awaited = in_flight.remove(&number).is_some();
            if is_awaited {
                inbox.push(number, outcome);
            }
        });
        tasks.insert(number, task);
        Ok(number)
    }
}

#[pymethods]
impl Bridge {
    #[new]
    fn new() -> PyResult<Self> {
        let (woken, wake) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        wake.set_nonblocking(true)?;
        let inbox = Arc::new(Inbox { outcomes: Mutex::default(), wake });
        let inner = Inner { woken, inbox, in_flight: Arc::default(), taken: Mutex::default() };
        let inner = ForkGuarded::new(inner);
        Ok(Bridge { next: AtomicU64::new(1), inner })
    }

    /// The descriptor that the loop must watch for reading.
    fn fileno(&self) -> i32 {
        self.inner.get().map_or(-1, |inner| inner.woken.as_raw_fd())
    }

    /// Whether this process made the bridge.
    fn is_here(&self) -> bool {
        self.inner.get().is_some()
    }

    /// Whether the loop must call `poll` between its other callbacks.
    pub(crate) fn polling(&self) -> bool {
        self.inner.get().is_some_and(|inner| inner.inbox.outcomes().polling)
    }

    /// Runs what can run without waiting. False when there are outcomes to drain, or when the loop will be
    /// woken.
    fn poll(&self) -> PyResult<bool> {
        let process = Process::current()?;
        let Some(inner) = self.inner.get_in(process.id) else { return Ok(false) };
        let polling = process.poll();
        Ok(!inner.inbox.allow_polling(polling) && polling)
    }

    /// Takes the outcomes: the number of the request, whether it succeeded, and its value or exception.
    fn drain(&self, python: Python<'_>) -> PyResult<Vec<(u64, bool, Py<PyAny>)>> {
        let Some(inner) = self.inner.get() else { return Ok(Vec::new()) };
        let mut bytes = [0; 64];
        while matches!((&inner.woken).read(&mut bytes), Ok(64)) {}
        let outcomes = std::mem::take(&mut inner.inbox.outcomes().list);
        let converted =
            outcomes.into_iter().map(|(number, outcome)| match inner.noted(python, number, outcome) {
                Ok(value) => Ok((number, true, value)),
                Err(error) => Ok((number, false, error.into_py_any(python)?)),
            });
        converted.collect()
    }

    /// Polls for asyncio, as a callback of the loop, until the loop is woken.
    fn drive(slf: &Bound<'_, Self>, r#loop: &Bound<'_, PyAny>, waiting: &Bound<'_, PyDict>) -> PyResult<()> {
        // A wake-up by another thread takes longer than an answer that is due soon.
        if slf.get().poll()? { poll_soon(slf, r#loop, waiting) } else { slf.get().settle(waiting) }
    }

    /// Takes the outcomes, and gives each to its future in `waiting`, by number. An exception that interrupts
    /// one keeps none of the others from its waiter.
    fn settle(&self, waiting: &Bound<'_, PyDict>) -> PyResult<()> {
        let python = waiting.py();
        let mut interruption = None;
        for (number, succeeded, value) in self.drain(python)? {
            let Some(future) = waiting.get_item(number)? else {
                // The waiter has gone. A guard that is dropped here releases its lock.
                continue;
            };
            waiting.del_item(number)?;
            let settled = future.call_method0(intern!(python, "done")).and_then(|done| {
                if done.is_truthy()? {
                    return Ok(());
                }
                let method =
                    if succeeded { intern!(python, "set_result") } else { intern!(python, "set_exception") };
                future.call_method1(method, (value,)).map(drop)
            });
            interruption = settled.err().or(interruption);
        }
        interruption.map_or(Ok(()), Err)
    }

    /// Drops a request whose outcome nobody waits for any more.
    pub(crate) fn cancel(&self, number: u64) {
        let Some(inner) = self.inner.get() else { return };
        let task = inner.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        // It may have been answered already, and a loop that has ended takes no outcomes.
        let outcome = task.map_or_else(
            || inner.inbox.take(number),
            |task| {
                task.abort();
                None
            },
        );
        let taken = inner.taken.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        drop((outcome, taken));
    }
}

/// Has the loop poll, whatever interrupts that: without a poll it would not be woken either.
pub(crate) fn poll_soon(
    bridge: &Bound<'_, Bridge>,
    r#loop: &Bound<'_, PyAny>,
    waiting: &Bound<'_, PyDict>,
) -> PyResult<()> {
    let mut interruption = None;
    for _ in 0..TRIES {
        let callback = bridge.getattr(intern!(bridge.py(), "drive"))?;
        match r#loop.call_method1(intern!(bridge.py(), "call_soon"), (callback, r#loop, waiting)) {
            Ok(_) => break,
            // A loop that is closed polls no more.
            Err(error) if error.is_instance_of::<PyRuntimeError>(bridge.py()) => return Err(error),
            Err(error) => interruption = Some(error),
        }
    }
    interruption.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox() -> (Inbox, UnixStream) {
        let (woken, wake) = UnixStream::pair().unwrap();
        woken.set_nonblocking(true).unwrap();
        (Inbox { outcomes: Mutex::default(), wake }, woken)
    }

    fn is_woken(woken: &UnixStream) -> bool {
        let mut woken = woken;
        matches!(woken.read(&mut [0; 8]), Ok(1..))
    }

    #[test]
    fn an_outcome_that_arrives_while_one_task_of_a_loop_polls_wakes_the_loop_when_another_begins() {
        for polling in [true, false] {
            let (inbox, woken) = inbox();
            assert!(!inbox.begin_polling(true));
            inbox.push(1, Outcome::Flag(Some(true)));
            assert!(!is_woken(&woken), "the loop polls");
            assert!(inbox.begin_polling(polling));
            assert!(is_woken(&woken) && !inbox.outcomes().polling);
        }
    }

    #[test]
    fn a_loop_that_does_not_poll_is_woken_once_for_all_outcomes() {
        let (inbox, woken) = inbox();
        assert!(!inbox.begin_polling(false));
        inbox.push(1, Outcome::Flag(Some(true)));
        inbox.push(2, Outcome::Flag(Some(true)));
        assert!(is_woken(&woken) && !is_woken(&woken));
        assert!(inbox.begin_polling(true), "it must take the outcomes first");
        assert!(!is_woken(&woken));
    }
}
