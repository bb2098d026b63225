//! What a coroutine acquires or releases, if an exception interrupts it at any instruction.
//!
//! It is the `Shield` for asyncio: what awaits is driven from here, so nothing of Python runs between its end
//! and the block of its user.

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyTuple};

use crate::shield::{Hold, foremost, interrupted, let_go, surely};

/// Drives a coroutine that notes in a list what it holds.
#[pyclass(module = "globallock._rust")]
pub(crate) struct Shielded {
    /// `None` once it has ended.
    coroutine: Option<Py<PyAny>>,
    /// Whose `_undo` and `_find` are called with the frame and the list.
    object: Py<PyAny>,
    frame: Option<Py<PyAny>>,
    noted: Py<PyList>,
    hold: Hold,
    /// What is returned in place of the coroutine's own result.
    result: Option<Py<PyAny>>,
}

impl Shielded {
    fn step(
        &mut self,
        python: Python<'_>,
        method: &str,
        arguments: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        let Some(coroutine) = self.coroutine.as_ref().map(|coroutine| coroutine.clone_ref(python)) else {
            return Err(PyStopIteration::new_err(()));
        };
        let error = match coroutine.bind(python).call_method1(method, arguments) {
            Ok(waits) => return Ok(waits.unbind()),
            Err(error) => error,
        };
        self.coroutine = None;
        if error.is_instance_of::<PyStopIteration>(python) {
            let Some(result) = self.result.take() else { return Err(error) };
            return Err(PyStopIteration::new_err((result,)));
        }
        Err(self.undo(python, error))
    }

    /// Releases what was noted.
    fn undo(&self, python: Python<'_>, error: PyErr) -> PyErr {
        let noted = self.noted.bind(python);
        let object = self.object.bind(python);
        let frame = self.frame.as_ref().map(|frame| frame.bind(python).clone());
        let Ok(arguments) = (frame, noted).into_pyobject(python) else { return error };
        if self.hold == Hold::Undone {
            let_go(noted, Hold::Undone);
            let interruption = surely(object, "_undo", &arguments);
            // What is granted from now on is let go at once.
            let _ = noted.append(python.None());
            foremost(python, error, interruption)
        } else {
            interrupted(object, noted, &arguments, error)
        }
    }
}

#[pymethods]
impl Shielded {
    /// Keeps what is needed; nothing runs yet.
    ///
    /// `acquires`: what is noted was not known to its caller before, so it keeps nobody out when it is undone.
    #[new]
    fn new(
        coroutine: Py<PyAny>,
        object: Py<PyAny>,
        frame: Option<Py<PyAny>>,
        noted: Py<PyList>,
        acquires: bool,
        result: Option<Py<PyAny>>,
    ) -> Self {
        let hold = if acquires { Hold::Undone } else { Hold::Ended };
        Shielded { coroutine: Some(coroutine), object, frame, noted, hold, result }
    }

    fn __await__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&mut self, python: Python<'_>) -> PyResult<Py<PyAny>> {
        self.step(python, "send", &(python.None(),).into_pyobject(python)?)
    }

    fn send(&mut self, python: Python<'_>, value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.step(python, "send", &(value,).into_pyobject(python)?)
    }

    #[pyo3(signature = (*exception))]
    fn throw(&mut self, python: Python<'_>, exception: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        self.step(python, "throw", exception)
    }

    /// Ends it where it stands, and releases what it has noted.
    fn close(&mut self, python: Python<'_>) -> PyResult<()> {
        let Some(coroutine) = self.coroutine.take() else { return Ok(()) };
        let closed = coroutine.bind(python).call_method0("close").map(drop);
        let noted = self.noted.bind(python);
        if !noted.is_empty() {
            let_go(noted, self.hold);
            let frame = self.frame.as_ref().map(|frame| frame.bind(python).clone());
            surely(self.object.bind(python), "_undo", &(frame, noted).into_pyobject(python)?);
        }
        noted.append(python.None())?;
        closed
    }
}
