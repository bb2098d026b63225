//! The Rust half of the Python package: one manager, one guard, one watch, what is asked of
//! them, and the bridge to event loops.
//!
//! Everything that users see is in Python. This half has only what needs the store or the runtime.

mod acquisitions;
mod answer;
mod bridge;
mod caller;
mod driver;
mod failure;
mod guard;
mod holds;
mod lock_request;
mod log;
mod manager;
mod process;
mod request;
mod shield;
mod shielded;
mod watch;

use pyo3::exceptions::PyImportError;
use pyo3::ffi;
use pyo3::prelude::*;

/// The private module below the Python package; not for users.
///
/// It needs Python's global lock: the bookkeeping of acquisitions in Python relies on single steps of dicts
/// and lists, also in signal handlers. A free-threaded build would turn its global lock on for it.
#[pymodule(gil_used = true)]
fn _rust(module: &Bound<'_, PyModule>) -> PyResult<()> {
    // The runtime, and the thread that logs, belong to the process: they would call into whichever
    // interpreter came first, also after its end.
    //
    // SAFETY: the token of `module` shows that an interpreter is attached to this thread. The first call
    // returns that interpreter, which the second only reads.
    if unsafe { ffi::PyInterpreterState_GetID(ffi::PyInterpreterState_Get()) } != 0 {
        // `globallock/_interpreter.py` says it in the user's words, as where Python itself refuses.
        return Err(PyImportError::new_err("globallock._rust does not support subinterpreters"));
    }
    module.add_class::<acquisitions::Acquisition>()?;
    module.add_class::<acquisitions::Holdings>()?;
    module.add_class::<answer::Answer>()?;
    module.add_class::<bridge::Bridge>()?;
    module.add_class::<caller::Thread>()?;
    module.add_class::<guard::Guard>()?;
    module.add_class::<lock_request::LockRequest>()?;
    module.add_class::<manager::Manager>()?;
    module.add_class::<request::Request>()?;
    module.add_class::<shield::Block>()?;
    module.add_class::<shield::Shield>()?;
    module.add_class::<shielded::AsyncBlock>()?;
    module.add_class::<shielded::AsyncShield>()?;
    module.add_class::<shielded::Shielded>()?;
    module.add_class::<watch::Watch>()?;
    module.add_function(wrap_pyfunction!(caller::caller, module)?)?;
    module.add_function(wrap_pyfunction!(caller::this_thread, module)?)?;
    module.add_function(wrap_pyfunction!(log::listen, module)?)?;
    // As Python writes versions, and as the wheel's metadata has it.
    module.add("__version__", env!("CARGO_PKG_VERSION").replace("-rc.", "rc"))
}
