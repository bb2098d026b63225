//! A request that a task awaits.

use std::mem;

use pyo3::exceptions::{PyRuntimeError, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::bridge::Bridge;
use crate::request::Request;

/// Begins a request when it is awaited, and gives its outcome. If it is cancelled, so is the request.
///
/// It is no coroutine of Python, so no exception arises within.
#[pyclass(module = "globallock._rust")]
pub(crate) struct Answer(State);

enum State {
    New {
        request: Py<Request>,
        to: To,
        taken: Option<Py<PyList>>,
    },
    /// The future gets the outcome of this number.
    Waits {
        to: To,
        number: u64,
        future: Py<PyAny>,
    },
    Ended,
}

/// Where the outcome arrives: at an event loop, whose futures are in `waiting` by their numbers.
struct To {
    bridge: Py<Bridge>,
    r#loop: Py<PyAny>,
    waiting: Py<PyDict>,
}

impl Answer {
    pub(crate) fn new(
        request: Py<Request>,
        bridge: Py<Bridge>,
        r#loop: Py<PyAny>,
        waiting: Py<PyDict>,
        taken: Option<Py<PyList>>,
    ) -> Self {
        Answer(State::New { request, to: To { bridge, r#loop, waiting }, taken })
    }

    /// Has nobody wait for the outcome any more.
    fn end(&mut self, python: Python<'_>) -> PyResult<()> {
        let State::Waits { to, number, .. } = mem::replace(&mut self.0, State::Ended) else { return Ok(()) };
        let waiting = to.waiting.bind(python);
        if waiting.contains(number)? {
            waiting.del_item(number)?;
            to.bridge.get().cancel(number);
        }
        Ok(())
    }

    fn begin(&mut self, python: Python<'_>) -> PyResult<Py<PyAny>> {
        let State::New { request, to, taken } = mem::replace(&mut self.0, State::Ended) else {
            return Err(PyRuntimeError::new_err("this is awaited already"));
        };
        let future = to.r#loop.bind(python).call_method0(intern!(python, "create_future"))?;
        // As the future's own iterator tells the task that it may wait for it.
        future.setattr(intern!(python, "_asyncio_future_blocking"), true)?;
        let (event_loop, waiting) = (to.r#loop.bind(python), to.waiting.bind(python));
        let number = request.get().begin_for(to.bridge.bind(python), event_loop, waiting, &future, taken)?;
        let future = future.unbind();
        self.0 = State::Waits { to, number, future: future.clone_ref(python) };
        Ok(future)
    }

    fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        let to = match &self.0 {
            State::New { request, to, taken } => {
                visit.call(request)?;
                visit.call(taken)?;
                to
            }
            State::Waits { to, future, .. } => {
                visit.call(future)?;
                to
            }
            State::Ended => return Ok(()),
        };
        visit.call(&to.bridge)?;
        visit.call(&to.r#loop)?;
        visit.call(&to.waiting)
    }
}

#[pymethods]
impl Answer {
    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&mut self, python: Python<'_>) -> PyResult<Py<PyAny>> {
        let State::Waits { future, .. } = &self.0 else { return self.begin(python) };
        let future = future.clone_ref(python);
        let future = future.bind(python);
        if !future.call_method0(intern!(python, "done"))?.is_truthy()? {
            return Err(PyRuntimeError::new_err("await wasn't used with future"));
        }
        let result = future.call_method0(intern!(python, "result"));
        self.end(python)?;
        Err(PyStopIteration::new_err((result?.unbind(),)))
    }

    fn send(&mut self, python: Python<'_>, _value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.__next__(python)
    }

    #[pyo3(signature = (*exception))]
    fn throw(&mut self, python: Python<'_>, exception: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        self.end(python)?;
        let given: Vec<Bound<'_, PyAny>> = exception.iter().filter(|each| !each.is_none()).take(2).collect();
        Err(match given.as_slice() {
            // Of the two, the second is the exception; or the arguments of one that is to be made.
            [_, error] if error.is_instance_of::<pyo3::exceptions::PyBaseException>() => {
                PyErr::from_value(error.clone())
            }
            [kind, argument] => PyErr::from_value(kind.call1((argument,))?),
            [error] => PyErr::from_value(error.clone()),
            _ => PyRuntimeError::new_err("nothing is thrown"),
        })
    }

    /// Ends it where it stands.
    fn close(&mut self, python: Python<'_>) -> PyResult<()> {
        self.end(python)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        self.traverse(&visit)
    }

    fn __clear__(&mut self, python: Python<'_>) {
        let _ = self.end(python);
    }
}

/// One that is dropped while it waits, with its task.
impl Drop for Answer {
    fn drop(&mut self) {
        if matches!(self.0, State::Waits { .. }) {
            let _ = Python::try_attach(|python| self.end(python));
        }
    }
}
