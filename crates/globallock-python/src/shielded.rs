//! What a coroutine acquires or releases, if an exception interrupts it at any instruction.
//!
//! It is the `Shield` for asyncio: what awaits is driven from here, so nothing of Python runs between its end
//! and the block of its user.

use pyo3::exceptions::PyStopIteration;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use crate::shield::{Hold, caller, foremost, interrupted, let_go, surely};

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

/// The coroutine of what acquires, as `begin` is for threads. A block gets the object.
pub(crate) fn begin<'py>(
    object: &Bound<'py, PyAny>,
    method: &str,
    frame: Option<Bound<'py, PyAny>>,
    is_block: bool,
) -> PyResult<Shielded> {
    let noted = PyList::empty(object.py());
    let coroutine = object.call_method1(method, (frame.clone(), &noted))?;
    let result = is_block.then(|| object.clone().unbind());
    Ok(Shielded::new(coroutine, object, frame, noted, Hold::Undone, result))
}

/// The coroutine of what releases, as `end` is for threads.
pub(crate) fn end<'py>(
    object: &Bound<'py, PyAny>,
    method: &str,
    frame: Option<Bound<'py, PyAny>>,
    exception: &Bound<'py, PyTuple>,
) -> PyResult<Shielded> {
    let noted = PyList::empty(object.py());
    match object.call_method1(method, (frame.clone(), &noted, exception)) {
        Ok(coroutine) => Ok(Shielded::new(coroutine, object, frame, noted, Hold::Ended, None)),
        Err(error) => {
            let arguments = (frame, &noted).into_pyobject(object.py())?;
            Err(interrupted(object, &noted, &arguments, error))
        }
    }
}

impl Shielded {
    fn new(
        coroutine: Bound<'_, PyAny>,
        object: &Bound<'_, PyAny>,
        frame: Option<Bound<'_, PyAny>>,
        noted: Bound<'_, PyList>,
        hold: Hold,
        result: Option<Py<PyAny>>,
    ) -> Self {
        let (coroutine, object) = (Some(coroutine.unbind()), object.clone().unbind());
        Shielded { coroutine, object, frame: frame.map(Bound::unbind), noted: noted.unbind(), hold, result }
    }

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

/// The base of what is held for an `async with` block.
#[pyclass(subclass, frozen, module = "globallock._rust")]
pub(crate) struct AsyncBlock;

/// The base of what is also acquired and released by calls that are awaited.
#[pyclass(extends = AsyncBlock, subclass, frozen, module = "globallock._rust")]
pub(crate) struct AsyncShield;

#[pymethods]
impl AsyncBlock {
    #[new]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(_arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> Self {
        AsyncBlock
    }

    /// Acquires for an `async with` block, which must look whether it was granted.
    fn __aenter__(slf: &Bound<'_, Self>) -> PyResult<Shielded> {
        begin(slf, "_aenter", Some(caller(slf.py())?), true)
    }

    /// Releases what the `async with` block has acquired.
    #[pyo3(signature = (*exception))]
    fn __aexit__(slf: &Bound<'_, Self>, exception: &Bound<'_, PyTuple>) -> PyResult<Shielded> {
        end(slf, "_aexit", Some(caller(slf.py())?), exception)
    }
}

#[pymethods]
impl AsyncShield {
    #[new]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(
        _arguments: &Bound<'_, PyTuple>,
        _options: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(AsyncBlock).add_subclass(AsyncShield)
    }

    /// Acquires it and says whether it was granted; to be awaited.
    ///
    /// If cancelled, it leaves nothing in the store. Raises the same errors as the ``acquire()`` for threads.
    ///
    /// >>> async def main():
    /// ...     lock = lockman.aio.lock("orders/7", blocking_timeout=5)
    /// ...     if await lock.acquire():
    /// ...         print("ships the order")
    /// ...         await lock.release()
    /// >>> asyncio.run(main())
    /// ships the order
    fn acquire(slf: &Bound<'_, Self>) -> PyResult<Shielded> {
        begin(slf, "_aacquire", None, false)
    }

    /// Releases the task's latest acquisition, as the ``release()`` for threads; to be awaited.
    ///
    /// If cancelled, it goes on in the background.
    ///
    /// >>> async def main():
    /// ...     lock = lockman.aio.lock("orders/7")
    /// ...     acquired = await lock.acquire()
    /// ...     await lock.release()
    /// ...     return acquired, lock.is_locked
    /// >>> asyncio.run(main())
    /// (True, False)
    fn release(slf: &Bound<'_, Self>) -> PyResult<Shielded> {
        end(slf, "_arelease", None, &PyTuple::empty(slf.py()))
    }
}
