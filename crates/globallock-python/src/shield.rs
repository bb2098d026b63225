//! What no asynchronous exception comes through: the beginning and the end of holding a lock.
//!
//! An exception of a signal handler, of another thread or of a debugger may arise between any two
//! instructions of Python code. A method in Python could lose a lock that way even before its first `try`.
//! The methods here are one instruction for Python: the Python code that they call may be interrupted, and
//! then they release what it was about to hand over or to give back.

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyList, PyString, PyTuple};

use crate::failure::GlobalLockError;
use crate::guard::Guard;
use crate::shielded::{self, Shielded};

/// How often the bookkeeping of Python is tried again that further exceptions have interrupted.
pub(crate) const TRIES: usize = 16;

/// The base of what is held for a `with` block. Python's half of each method gets a list, into which it puts
/// what it holds before it does anything that might be interrupted.
#[pyclass(subclass, frozen, module = "globallock._rust")]
pub(crate) struct Block;

/// The base of what is also acquired and released by calls.
#[pyclass(extends = Block, subclass, frozen, module = "globallock._rust")]
pub(crate) struct Shield;

/// Whether an interrupted owner would have kept others out (`hold_at_least`).
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Hold {
    /// It has never known that it was granted the lock.
    Undone,
    /// It was about to release it.
    Ended,
}

/// Releases all guards in what Python has noted, in the background, and runs no Python code.
pub(crate) fn let_go(noted: &Bound<'_, PyAny>, hold: Hold) {
    if let Ok(guard) = noted.cast::<Guard>() {
        if hold == Hold::Undone {
            guard.get().keep_nobody_out();
        }
        guard.get().let_go();
    } else if let Ok(list) = noted.cast::<PyList>() {
        list.iter().for_each(|each| let_go(&each, hold));
    } else if let Ok(tuple) = noted.cast::<PyTuple>() {
        tuple.iter().for_each(|each| let_go(&each, hold));
    } else if let Ok(granted) = noted.getattr("granted") {
        let_go(&granted, hold);
    }
}

/// Calls a method of Python until nothing interrupts it, and returns what has interrupted it last.
pub(crate) fn surely(
    object: &Bound<'_, PyAny>,
    method: &str,
    arguments: &Bound<'_, PyTuple>,
) -> Option<PyErr> {
    let mut interruption = None;
    for _ in 0..TRIES {
        match object.call_method1(method, arguments) {
            Ok(_) => break,
            Err(error) => interruption = Some(error),
        }
    }
    interruption
}

/// Which of two exceptions arrives: an interruption, and not the refusal during which it arose.
pub(crate) fn foremost(python: Python<'_>, error: PyErr, interruption: Option<PyErr>) -> PyErr {
    match interruption {
        Some(interruption) if error.is_instance_of::<GlobalLockError>(python) => interruption,
        _ => error,
    }
}

pub(crate) fn caller(python: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    static GET_FRAME: PyOnceLock<Py<PyAny>> = PyOnceLock::new();
    GET_FRAME.import(python, "sys", "_getframe")?.call0()
}

/// Calls what acquires. If that is interrupted, what it was granted is released.
fn begin<'py>(
    object: &Bound<'py, PyAny>,
    method: &Bound<'py, PyString>,
    frame: Option<Bound<'py, PyAny>>,
) -> PyResult<Bound<'py, PyAny>> {
    let python = object.py();
    let taken = PyList::empty(python);
    let arguments = (frame, &taken).into_pyobject(python)?;
    object.call_method1(method, &arguments).map_err(|error| {
        let_go(&taken, Hold::Undone);
        let interruption = surely(object, "_undo", &arguments);
        foremost(python, error, interruption)
    })
}

/// Calls what releases. If that is interrupted, what it was to release is released all the same.
fn end<'py>(
    object: &Bound<'py, PyAny>,
    method: &Bound<'py, PyString>,
    frame: Option<Bound<'py, PyAny>>,
    exception: &Bound<'py, PyTuple>,
) -> PyResult<()> {
    let python = object.py();
    let leaving = PyList::empty(python);
    let Err(error) = object.call_method1(method, (&frame, &leaving, exception)) else {
        return Ok(());
    };
    let arguments = (frame, &leaving).into_pyobject(python)?;
    Err(interrupted(object, &leaving, &arguments, error))
}

/// Releases what was to be released, unless that was refused, and returns the exception that arrives.
pub(crate) fn interrupted<'py>(
    object: &Bound<'py, PyAny>,
    leaving: &Bound<'py, PyList>,
    arguments: &Bound<'py, PyTuple>,
    error: PyErr,
) -> PyErr {
    let python = object.py();
    // A refusal is no interruption.
    if leaving.is_empty() && error.is_instance_of::<GlobalLockError>(python) {
        return error;
    }
    let found = if leaving.is_empty() { surely(object, "_find", arguments) } else { None };
    let_go(leaving, Hold::Ended);
    let undone = surely(object, "_undo", arguments);
    foremost(python, error, undone.or(found))
}

#[pymethods]
impl Block {
    #[new]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(_arguments: &Bound<'_, PyTuple>, _options: Option<&Bound<'_, PyDict>>) -> Self {
        Block
    }

    /// Acquires for a `with` block, which must look whether it was granted.
    fn __enter__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, Self>> {
        begin(slf, intern!(slf.py(), "_enter"), Some(caller(slf.py())?))?;
        Ok(slf.clone())
    }

    /// Releases what the `with` block has acquired.
    #[pyo3(signature = (*exception))]
    fn __exit__(slf: &Bound<'_, Self>, exception: &Bound<'_, PyTuple>) -> PyResult<()> {
        end(slf, intern!(slf.py(), "_exit"), Some(caller(slf.py())?), exception)
    }
}

#[pymethods]
impl Shield {
    #[new]
    #[pyo3(signature = (*_arguments, **_options))]
    fn new(
        _arguments: &Bound<'_, PyTuple>,
        _options: Option<&Bound<'_, PyDict>>,
    ) -> PyClassInitializer<Self> {
        PyClassInitializer::from(Block).add_subclass(Shield)
    }

    /// Acquires the lock and says whether it was granted; never raises because another owner has it.
    ///
    /// Threads, tasks and greenlets may share this object: each acquires for itself.
    ///
    /// >>> lock = lockman.lock("orders/7", blocking_timeout=5)
    /// >>> lock.acquire()
    /// True
    /// >>> lock.release()
    ///
    /// :raises `Evicted`: somebody took it out of the queue while it waited.
    /// :raises `NotLocked`: the caller holds it already, and would wait for itself for ever.
    /// :raises `StoreUnavailable`: the store does not answer.
    /// :raises `StoreDenied`: it refuses the user.
    /// :raises `StoreUnfit`: it cannot serve locks as it is.
    #[allow(clippy::doc_lazy_continuation, reason = "Python's examples are not Markdown")]
    fn acquire(slf: &Bound<'_, Self>) -> PyResult<bool> {
        begin(slf, intern!(slf.py(), "_acquire"), None)?.is_truthy()
    }

    /// Releases the caller's latest acquisition, if there is one. The log says so if it was lost before.
    ///
    /// With ``hold_at_least``, others are kept out until that time has passed. A lock that one thread, task
    /// or greenlet has acquired may be released by another one that has never acquired by this object.
    ///
    /// >>> lock = lockman.lock("orders/7")
    /// >>> lock.acquire()
    /// True
    /// >>> lock.release()
    /// >>> lock.is_locked
    /// False
    ///
    /// :raises `NotLocked`: only others hold it by this object, and it is not certain which one is meant.
    #[allow(clippy::doc_lazy_continuation, reason = "Python's examples are not Markdown")]
    fn release(slf: &Bound<'_, Self>) -> PyResult<()> {
        end(slf, intern!(slf.py(), "_release"), None, &PyTuple::empty(slf.py()))
    }

    /// Acquires for an `async with` block, which must look whether it was granted.
    fn __aenter__(slf: &Bound<'_, Self>) -> PyResult<Shielded> {
        if !slf.hasattr(intern!(slf.py(), "_aenter"))? {
            return Err(PyTypeError::new_err("this is for with: use lockman.aio for async with"));
        }
        shielded::begin(slf, intern!(slf.py(), "_aenter"), Some(caller(slf.py())?), true)
    }

    /// Releases what the `async with` block has acquired.
    #[pyo3(signature = (*exception))]
    fn __aexit__(slf: &Bound<'_, Self>, exception: &Bound<'_, PyTuple>) -> PyResult<Shielded> {
        shielded::end(slf, intern!(slf.py(), "_aexit"), Some(caller(slf.py())?), exception)
    }
}
