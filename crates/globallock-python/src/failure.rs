//! Turns errors into Python's exceptions.

use std::time::Duration;

use globallock::Error;
use pyo3::{PyErr, PyResult};

pyo3::import_exception!(globallock.exceptions, Evicted);
pyo3::import_exception!(globallock.exceptions, GlobalLockError);
pyo3::import_exception!(globallock.exceptions, InvalidAddress);
pyo3::import_exception!(globallock.exceptions, InvalidName);
pyo3::import_exception!(globallock.exceptions, InvalidOption);
pyo3::import_exception!(globallock.exceptions, LockLost);
pyo3::import_exception!(globallock.exceptions, StoreDenied);
pyo3::import_exception!(globallock.exceptions, StoreUnavailable);
pyo3::import_exception!(globallock.exceptions, StoreUnfit);

pub(crate) fn raise(error: &Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::InvalidAddress { .. } => InvalidAddress::new_err(text),
        Error::InvalidName { .. } => InvalidName::new_err(text),
        Error::InvalidOption { .. } => InvalidOption::new_err(text),
        Error::PermissionDenied { .. } => StoreDenied::new_err(text),
        Error::Unavailable { .. } => StoreUnavailable::new_err(text),
        Error::Evicted { .. } => Evicted::new_err(text),
        Error::Lost { .. } => LockLost::new_err(text),
        Error::FailedPrecondition { .. } => StoreUnfit::new_err(text),
        _ => GlobalLockError::new_err(text),
    }
}

/// Reads a time that Python has checked already.
pub(crate) fn seconds(option: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| InvalidOption::new_err(format!("{option} is {value}, which is not a number of seconds")))
}
