//! The Rust half of the Python package: one manager, one guard, and the bridge to event loops.
//!
//! All that users see is in Python; this half keeps to what needs the store or the runtime.

mod bridge;
mod driver;
mod failure;
mod guard;
mod manager;
mod process;

use pyo3::prelude::*;

/// What `globallock` in Python stands on; not for users.
#[pymodule]
fn _rust(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<bridge::Bridge>()?;
    module.add_class::<guard::Guard>()?;
    module.add_class::<manager::Manager>()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
