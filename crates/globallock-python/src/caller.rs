//! Who calls: the greenlet, the task or the thread that runs now.

use std::cell::RefCell;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyModule};

/// Stands for one thread: its number would be used again after its end.
#[pyclass(frozen, weakref, module = "globallock._rust")]
pub(crate) struct Thread;

thread_local! {
    static HERE: RefCell<Option<Py<Thread>>> = const { RefCell::new(None) };
}

/// The modules that are imported.
static MODULES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
static ASYNCIO: PyOnceLock<Py<PyModule>> = PyOnceLock::new();

fn modules(python: Python<'_>) -> PyResult<&Bound<'_, PyDict>> {
    let modules = MODULES.get_or_try_init(python, || {
        PyResult::Ok(python.import("sys")?.getattr("modules")?.cast_into::<PyDict>()?.unbind())
    })?;
    Ok(modules.bind(python))
}

/// The running event loop, if there is one.
pub(crate) fn running_loop(python: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let asyncio = ASYNCIO.get_or_try_init(python, || python.import("asyncio").map(Bound::unbind))?;
    let running = asyncio.bind(python).call_method0(intern!(python, "_get_running_loop"))?;
    Ok(Some(running).filter(|running| !running.is_none()))
}

/// The running task of the running event loop, if there is one.
fn running_task(python: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let Some(running) = running_loop(python)? else { return Ok(None) };
    let Some(asyncio) = ASYNCIO.get(python) else { return Ok(None) };
    let task = asyncio.bind(python).call_method1(intern!(python, "current_task"), (running,))?;
    Ok(Some(task).filter(|task| !task.is_none()))
}

/// The running greenlet, unless that is the thread itself, as the first one of each thread is.
fn running_greenlet(python: Python<'_>) -> PyResult<Option<Bound<'_, PyAny>>> {
    let Some(greenlets) = modules(python)?.get_item(intern!(python, "greenlet"))? else { return Ok(None) };
    if greenlets.is_none() {
        return Ok(None);
    }
    let greenlet = greenlets.call_method0(intern!(python, "getcurrent"))?;
    let is_first = greenlet.getattr(intern!(python, "parent"))?.is_none();
    Ok(Some(greenlet).filter(|_| !is_first))
}

/// Who calls: the greenlet, the task or the thread that runs now.
#[pyfunction]
pub(crate) fn caller(python: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    let greenlet = running_greenlet(python)?;
    let is_patched = match &greenlet {
        Some(_) => python.import("globallock.greenlets")?.call_method0("is_patched")?.is_truthy()?,
        None => false,
    };
    let task = if is_patched { None } else { running_task(python)? };
    match task.or(greenlet) {
        Some(caller) => Ok(caller),
        None => Ok(this_thread(python)?.into_any()),
    }
}

/// The thread that runs now.
#[pyfunction]
pub(crate) fn this_thread(python: Python<'_>) -> PyResult<Bound<'_, Thread>> {
    let known = HERE.try_with(|here| here.borrow().as_ref().map(|thread| thread.clone_ref(python)));
    if let Some(thread) = known.ok().flatten() {
        return Ok(thread.into_bound(python));
    }
    // Made while nothing is borrowed: it may run the garbage collector, and so anything.
    let made = Py::new(python, Thread)?;
    let noted = HERE.try_with(|here| here.borrow_mut().get_or_insert(made).clone_ref(python));
    match noted {
        Ok(thread) => Ok(thread.into_bound(python)),
        // The thread is about to end.
        Err(_) => Bound::new(python, Thread),
    }
}
