//! From the runtime to an event loop: what is done is put into a list, and the loop is woken by a byte in a socket, unless
//! it looks by itself.
//!
//! The runtime's threads never wait for Python's lock, and one wake-up serves all that is done by then.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use tokio::task::AbortHandle;

use crate::driver::Until;
use crate::failure::raise;
use crate::guard::Guard;
use crate::manager::Seen;
use crate::process::{Owned, Process};

/// What became of a request.
pub(crate) enum Outcome {
    Granted(Option<globallock::Guard>),
    Flag(bool),
    Text(Option<String>),
    Seen(Vec<Seen>),
    Names(Vec<String>),
    Failed(globallock::Error),
}

impl Outcome {
    pub(crate) fn into_python(self, python: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Outcome::Granted(guard) => guard.map(Guard::new).into_py_any(python),
            Outcome::Flag(flag) => flag.into_py_any(python),
            Outcome::Text(text) => text.into_py_any(python),
            Outcome::Seen(seen) => seen.into_py_any(python),
            Outcome::Names(names) => names.into_py_any(python),
            Outcome::Failed(error) => Err(raise(&error)),
        }
    }
}

/// What is done, and the byte that says so.
struct Done {
    outcomes: Mutex<Outcomes>,
    wake: UnixStream,
}

#[derive(Default)]
struct Outcomes {
    list: Vec<(u64, Outcome)>,
    /// Whether the loop looks by itself.
    polls: bool,
}

impl Done {
    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, number: u64, outcome: Outcome) {
        let mut outcomes = self.outcomes();
        outcomes.list.push((number, outcome));
        if outcomes.list.len() == 1 && !outcomes.polls {
            // A loop that has been closed is woken by nothing; its outcomes are dropped with the bridge.
            let _ = (&self.wake).write(&[1]);
        }
    }

    /// Has the loop look by itself, or be woken; true if there is something for it already, which it is to take then.
    fn let_poll(&self, polls: bool) -> bool {
        let mut outcomes = self.outcomes();
        outcomes.polls = polls && outcomes.list.is_empty();
        !outcomes.list.is_empty()
    }

    /// As `let_poll`, for a loop of which another part may be polling: what was done meanwhile has woken nobody, and
    /// that part may look no more.
    fn begin_to_poll(&self, polls: bool) -> bool {
        let polled = self.outcomes().polls;
        let is_done = self.let_poll(polls);
        if polled && is_done {
            let _ = (&self.wake).write(&[1]);
        }
        is_done
    }
}

/// One event loop's way to the runtime, in one process.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct Bridge {
    next: AtomicU64,
    here: Owned<Here>,
}

struct Here {
    woken: UnixStream,
    done: Arc<Done>,
    under_way: Arc<Mutex<HashMap<u64, AbortHandle>>>,
}

impl Bridge {
    /// Starts a request that is answered soon; the number is that of its outcome.
    pub(crate) fn start(
        &self,
        until: Until,
        request: impl Future<Output = Outcome> + Send + 'static,
    ) -> PyResult<u64> {
        let process = Process::current()?;
        let requested = process.requested(until);
        let number = self.watch(async move {
            let _until_answered = requested;
            request.await
        })?;
        if let Some(here) = self.here.get() {
            let polls = process.begin(until);
            if here.done.begin_to_poll(polls) && polls {
                // The loop drains first, and polls no more.
                process.driver.take_over(until);
            }
        }
        Ok(number)
    }

    /// Starts to wait for something that may never come; the number is that of its outcome.
    pub(crate) fn watch(&self, request: impl Future<Output = Outcome> + Send + 'static) -> PyResult<u64> {
        let process = Process::current()?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(here) = self.here.get() else {
            return Err(pyo3::exceptions::PyRuntimeError::new_err("this event loop is another process's"));
        };
        let (done, under_way) = (Arc::clone(&here.done), Arc::clone(&here.under_way));
        // Held until the task is known, so that it cannot be done before.
        let mut known = here.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let task = process.runtime.spawn(async move {
            let outcome = request.await;
            under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
            done.push(number, outcome);
        });
        known.insert(number, task.abort_handle());
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
        let done = Arc::new(Done { outcomes: Mutex::default(), wake });
        let here = Owned::new(Here { woken, done, under_way: Arc::default() });
        Ok(Bridge { next: AtomicU64::new(1), here })
    }

    /// What the loop is to watch for reading.
    fn fileno(&self) -> i32 {
        self.here.get().map_or(-1, |here| here.woken.as_raw_fd())
    }

    /// Whether it belongs to this process.
    fn is_here(&self) -> bool {
        self.here.get().is_some()
    }

    /// Whether the loop is to call `poll` between its other callbacks.
    fn polls(&self) -> bool {
        self.here.get().is_some_and(|here| here.done.outcomes().polls)
    }

    /// Does what can be done without waiting; false when there is something to drain, or the loop will be woken.
    fn poll(&self) -> PyResult<bool> {
        let Some(here) = self.here.get() else { return Ok(false) };
        let goes_on = Process::current()?.poll();
        Ok(!here.done.let_poll(goes_on) && goes_on)
    }

    /// Takes what is done: a number, whether it went well, and the value or the exception.
    fn drain(&self, python: Python<'_>) -> PyResult<Vec<(u64, bool, Py<PyAny>)>> {
        let Some(here) = self.here.get() else { return Ok(Vec::new()) };
        let mut bytes = [0; 64];
        while matches!((&here.woken).read(&mut bytes), Ok(64)) {}
        let outcomes = std::mem::take(&mut here.done.outcomes().list);
        let told = outcomes.into_iter().map(|(number, outcome)| match outcome.into_python(python) {
            Ok(value) => Ok((number, true, value)),
            Err(error) => Ok((number, false, error.into_py_any(python)?)),
        });
        told.collect()
    }

    /// Drops a request that nobody waits for any more.
    fn cancel(&self, number: u64) {
        if let Some(here) = self.here.get()
            && let Some(task) = here.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
        {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done() -> (Done, UnixStream) {
        let (woken, wake) = UnixStream::pair().unwrap();
        woken.set_nonblocking(true).unwrap();
        (Done { outcomes: Mutex::default(), wake }, woken)
    }

    fn is_woken(woken: &UnixStream) -> bool {
        let mut woken = woken;
        matches!(woken.read(&mut [0; 8]), Ok(1..))
    }

    #[test]
    fn what_was_done_while_one_part_of_a_loop_polled_wakes_it_when_another_begins() {
        for polls in [true, false] {
            let (done, woken) = done();
            assert!(!done.begin_to_poll(true));
            done.push(1, Outcome::Flag(true));
            assert!(!is_woken(&woken), "the loop looks by itself");
            assert!(done.begin_to_poll(polls));
            assert!(is_woken(&woken) && !done.outcomes().polls);
        }
    }

    #[test]
    fn a_loop_that_does_not_poll_is_woken_once_for_all_that_is_done() {
        let (done, woken) = done();
        assert!(!done.begin_to_poll(false));
        done.push(1, Outcome::Flag(true));
        done.push(2, Outcome::Flag(true));
        assert!(is_woken(&woken) && !is_woken(&woken));
        assert!(done.begin_to_poll(true), "it is to take what is done first");
        assert!(!is_woken(&woken));
    }
}
