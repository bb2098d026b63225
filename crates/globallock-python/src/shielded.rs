//! What a coroutine acquires or releases, if an exception interrupts it at any instruction.
//!
//! It is the `Shield` for asyncio: what awaits is driven from here, so nothing of Python runs between its end
//! and the block of its user.

use pyo3::exceptions::{PyAttributeError, PyGeneratorExit, PyRuntimeError, PyStopIteration};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use crate::shield::{Hold, caller, foremost, interrupted, let_go, surely};

/// Drives a coroutine that notes in a list what it holds.
#[pyclass(module = "globallock._rust")]
pub(crate) struct Shielded {
    /// `None` once it has ended.
    coroutine: Option<Py<PyAny>>,
    /// Whose `_undo` and `_find` are called with the frame and the list; `None` once it has ended.
    object: Option<Py<PyAny>>,
    frame: Option<Py<PyAny>>,
    noted: Py<PyList>,
    hold: Hold,
    /// What is returned in place of the coroutine's own result.
    result: Option<Py<PyAny>>,
    is_begun: bool,
}

/// The coroutine of what acquires, as `begin` is for threads. A block gets the object.
pub(crate) fn begin<'py>(
    object: &Bound<'py, PyAny>,
    method: &Bound<'py, PyString>,
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
    method: &Bound<'py, PyString>,
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
        Shielded {
            coroutine: Some(coroutine.unbind()),
            object: Some(object.clone().unbind()),
            frame: frame.map(Bound::unbind),
            noted: noted.unbind(),
            hold,
            result,
            is_begun: false,
        }
    }

    fn step(
        &mut self,
        python: Python<'_>,
        method: &Bound<'_, PyString>,
        arguments: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        let Some(coroutine) = self.coroutine.as_ref().map(|coroutine| coroutine.clone_ref(python)) else {
            return Err(PyRuntimeError::new_err("cannot reuse already awaited coroutine"));
        };
        self.is_begun = true;
        let error = match coroutine.bind(python).call_method1(method, arguments) {
            Ok(waits) => return Ok(waits.unbind()),
            Err(error) => error,
        };
        self.coroutine = None;
        let (object, frame, result) = (self.object.take(), self.frame.take(), self.result.take());
        if error.is_instance_of::<PyStopIteration>(python) {
            let Some(result) = result else { return Err(error) };
            return Err(PyStopIteration::new_err((result,)));
        }
        Err(match object {
            Some(object) => self.undo(object.bind(python), frame, error),
            None => error,
        })
    }

    /// Releases what was noted.
    fn undo(&self, object: &Bound<'_, PyAny>, frame: Option<Py<PyAny>>, error: PyErr) -> PyErr {
        let python = object.py();
        let noted = self.noted.bind(python);
        let Ok(arguments) = (frame, noted).into_pyobject(python) else { return error };
        if self.hold == Hold::Ended {
            return interrupted(object, noted, &arguments, error);
        }
        let_go(noted, Hold::Undone);
        let interruption = surely(object, "_undo", &arguments);
        // What is granted from now on is let go at once.
        let _ = noted.append(python.None());
        foremost(python, error, interruption)
    }

    /// Ends it where it stands. What was to be released is, also if it has not begun: nobody else will.
    fn end(&mut self, python: Python<'_>) -> PyResult<()> {
        let Some(coroutine) = self.coroutine.take() else { return Ok(()) };
        let closed = coroutine.bind(python).call_method0("close").map(drop);
        if let Some(object) = self.object.take() {
            let frame = self.frame.take();
            self.undo(object.bind(python), frame, PyGeneratorExit::new_err(()));
        }
        closed
    }
}

/// One that has not ended is dropped where its task is destroyed, or if an exception comes before it begins.
impl Drop for Shielded {
    fn drop(&mut self) {
        if self.coroutine.is_some() {
            Python::try_attach(|python| self.end(python));
        }
    }
}

#[pymethods]
impl Shielded {
    fn __await__(slf: PyRef<'_, Self>) -> PyResult<PyRef<'_, Self>> {
        if slf.is_begun && slf.coroutine.is_some() {
            return Err(PyRuntimeError::new_err("coroutine is being awaited already"));
        }
        Ok(slf)
    }

    /// What tells of a coroutine, such as its name and its frame.
    fn __getattr__(&self, python: Python<'_>, name: &str) -> PyResult<Py<PyAny>> {
        match &self.coroutine {
            Some(coroutine) => Ok(coroutine.bind(python).getattr(name)?.unbind()),
            None => Err(PyAttributeError::new_err(name.to_owned())),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.coroutine)?;
        visit.call(&self.object)?;
        visit.call(&self.frame)?;
        visit.call(&self.noted)?;
        visit.call(&self.result)
    }

    fn __clear__(&mut self, python: Python<'_>) {
        let _ = self.end(python);
        (self.object, self.frame, self.result) = (None, None, None);
    }

    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&mut self, python: Python<'_>) -> PyResult<Py<PyAny>> {
        self.step(python, intern!(python, "send"), &(python.None(),).into_pyobject(python)?)
    }

    fn send(&mut self, python: Python<'_>, value: Py<PyAny>) -> PyResult<Py<PyAny>> {
        self.step(python, intern!(python, "send"), &(value,).into_pyobject(python)?)
    }

    #[pyo3(signature = (*exception))]
    fn throw(&mut self, python: Python<'_>, exception: &Bound<'_, PyTuple>) -> PyResult<Py<PyAny>> {
        self.step(python, intern!(python, "throw"), exception)
    }

    /// Ends it where it stands, and releases what it has noted.
    fn close(&mut self, python: Python<'_>) -> PyResult<()> {
        self.end(python)
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
        begin(slf, intern!(slf.py(), "_aenter"), Some(caller(slf.py())?), true)
    }

    /// Releases what the `async with` block has acquired.
    #[pyo3(signature = (*exception))]
    fn __aexit__(slf: &Bound<'_, Self>, exception: &Bound<'_, PyTuple>) -> PyResult<Shielded> {
        end(slf, intern!(slf.py(), "_aexit"), Some(caller(slf.py())?), exception)
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
        begin(slf, intern!(slf.py(), "_aacquire"), None, false)
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
        end(slf, intern!(slf.py(), "_arelease"), None, &PyTuple::empty(slf.py()))
    }
}
