//! Turns errors into Python's exceptions.

use globallock::Error;
use pyo3::PyErr;

pyo3::import_exception!(globallock.exceptions, Evicted);
pyo3::import_exception!(globallock.exceptions, GlobalLockError);
pyo3::import_exception!(globallock.exceptions, InvalidAddress);
pyo3::import_exception!(globallock.exceptions, InvalidName);
pyo3::import_exception!(globallock.exceptions, InvalidOption);
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
        Error::FailedPrecondition { .. } => StoreUnfit::new_err(text),
        _ => GlobalLockError::new_err(text),
    }
}
