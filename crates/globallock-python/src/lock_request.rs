//! What a lock asks for, read once and used for each acquisition until an option is changed.

use std::sync::Arc;
use std::time::Duration;

use globallock::backend::Instant;
use globallock::internals::Began;
use globallock::{Guard, Lock, LockKind, LockManager, Options};
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::failure::{raise, seconds};
use crate::guard;
use crate::holds::{Names, Place};

/// Which lock to acquire, and how. Times are in seconds. The kind is `mutex`, `read`, `write`, or `permits`
/// of a semaphore.
#[pyclass(frozen, module = "globallock._rust")]
pub(crate) struct LockRequest {
    fields: Fields,
    asked: Arc<Asked>,
    /// What it was made of.
    made_of: Option<Py<PyTuple>>,
}

/// As Python gave them.
#[derive(Clone, PartialEq)]
struct Fields {
    kind: String,
    permits: u32,
    capacity: u32,
    /// `None` waits for ever, zero tries once.
    wait: Option<f64>,
    max_hold: Option<f64>,
    lease: Option<f64>,
    /// After how long the owner is asked to end, if its end is planned.
    ask_after: Option<f64>,
    wants_value: bool,
    /// For how long others are kept out, whatever becomes of the owner.
    hold_at_least: Option<f64>,
}

/// The same for the core.
pub(crate) struct Asked {
    pub(crate) name: Arc<str>,
    kind: LockKind,
    wait: Option<Duration>,
    max_hold: Option<Duration>,
    lease: Option<Duration>,
    ask_after: Option<Duration>,
    wants_value: bool,
    hold_at_least: Option<Duration>,
}

impl Asked {
    pub(crate) fn options(&self, defaults: &Options) -> Options {
        let options = defaults.clone().lease(self.lease.unwrap_or(defaults.lease));
        options.max_hold(self.max_hold).hold_at_least(self.hold_at_least).wait(self.wait)
    }

    pub(crate) fn lock(&self, manager: &LockManager, defaults: &Options) -> Lock {
        let lock = manager.lock(&self.name, self.kind).with_options(self.options(defaults));
        if self.wants_value { lock.with_value() } else { lock }
    }

    /// What Python gets of a lock that has just been acquired.
    pub(crate) fn granted(
        self: &Arc<Self>,
        guard: Guard,
        process: u32,
        names: &Arc<Names>,
        began: Option<Began>,
    ) -> guard::Guard {
        let ask_at = self.ask_after.and_then(|after| Instant::now().checked_add(after));
        guard::Guard::new(guard, process, Place::new(names, &self.name), ask_at, began)
    }
}

impl Fields {
    fn asked(&self, name: Arc<str>) -> PyResult<Asked> {
        let time = |option, value: Option<f64>| value.map(|value| seconds(option, value)).transpose();
        let kind = match self.kind.as_str() {
            "permits" => LockKind::Permits { count: self.permits, capacity: self.capacity },
            kind => kind.parse().map_err(|error| raise(&error))?,
        };
        Ok(Asked {
            name,
            kind,
            wait: time("the wait", self.wait)?,
            max_hold: time("the max hold time", self.max_hold)?,
            lease: time("the lease", self.lease)?,
            ask_after: time("the time until the owner is asked to end", self.ask_after)?,
            wants_value: self.wants_value,
            hold_at_least: time("hold_at_least", self.hold_at_least)?,
        })
    }
}

impl LockRequest {
    pub(crate) fn asked(&self) -> Arc<Asked> {
        Arc::clone(&self.asked)
    }

    pub(crate) fn waits_for_ever(&self) -> bool {
        self.asked.wait.is_none()
    }

    fn changed(&self, fields: Fields) -> PyResult<Self> {
        let asked = fields.asked(Arc::clone(&self.asked.name))?;
        Ok(LockRequest { fields, asked: Arc::new(asked), made_of: None })
    }
}

#[pymethods]
impl LockRequest {
    #[new]
    #[pyo3(signature = (
        name, kind, permits, capacity, wait, max_hold, lease, ask_after=None, wants_value=false,
        hold_at_least=None, made_of=None,
    ))]
    #[allow(clippy::too_many_arguments, reason = "these are a lock's options, which Python has checked")]
    fn new(
        name: &str,
        kind: String,
        permits: u32,
        capacity: u32,
        wait: Option<f64>,
        max_hold: Option<f64>,
        lease: Option<f64>,
        ask_after: Option<f64>,
        wants_value: bool,
        hold_at_least: Option<f64>,
        made_of: Option<Py<PyTuple>>,
    ) -> PyResult<Self> {
        let fields =
            Fields { kind, permits, capacity, wait, max_hold, lease, ask_after, wants_value, hold_at_least };
        let asked = Arc::new(fields.asked(name.into())?);
        Ok(LockRequest { fields, asked, made_of })
    }

    fn __eq__(&self, other: &Bound<'_, PyAny>) -> bool {
        let same = |other: &Self| self.asked.name == other.asked.name && self.fields == other.fields;
        other.cast::<Self>().is_ok_and(|other| same(other.get()))
    }

    /// Whether it was made of these very objects.
    fn is_of(&self, objects: &Bound<'_, PyTuple>) -> bool {
        let python = objects.py();
        let Some(made_of) = self.made_of.as_ref().map(|made_of| made_of.bind(python)) else { return false };
        let mut both = made_of.iter_borrowed().zip(objects.iter_borrowed());
        made_of.len() == objects.len() && both.all(|(one, other)| one.is(&*other))
    }

    /// The same with another wait.
    fn with_wait(&self, wait: Option<f64>) -> PyResult<Self> {
        self.changed(Fields { wait, ..self.fields.clone() })
    }

    /// The same with another max hold time.
    fn with_max_hold(&self, max_hold: Option<f64>) -> PyResult<Self> {
        self.changed(Fields { max_hold, ..self.fields.clone() })
    }

    #[getter]
    pub(crate) fn name(&self) -> &str {
        &self.asked.name
    }

    #[getter]
    fn kind(&self) -> &str {
        &self.fields.kind
    }

    #[getter]
    fn permits(&self) -> u32 {
        self.fields.permits
    }

    #[getter]
    fn capacity(&self) -> u32 {
        self.fields.capacity
    }

    #[getter]
    fn wait(&self) -> Option<f64> {
        self.fields.wait
    }

    #[getter]
    fn max_hold(&self) -> Option<f64> {
        self.fields.max_hold
    }

    #[getter]
    fn ask_after(&self) -> Option<f64> {
        self.fields.ask_after
    }
}
