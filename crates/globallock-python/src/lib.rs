//! The Rust half of the Python package: one manager, one guard, one watch, what is asked of
//! them, and the bridge to event loops.
//!
//! Everything that users see is in Python. This half has only what needs the store or the runtime.

mod bridge;
mod driver;
mod failure;
mod guard;
mod log;
mod manager;
mod process;
mod request;
mod shield;
mod watch;

use pyo3::prelude::*;

/// The private module below the Python package; not for users.
#[pymodule]
fn _rust(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<bridge::Bridge>()?;
    module.add_class::<guard::Guard>()?;
    module.add_class::<manager::Manager>()?;
    module.add_class::<request::Request>()?;
    module.add_class::<shield::Block>()?;
    module.add_class::<shield::Shield>()?;
    module.add_class::<watch::Watch>()?;
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
