//! Who holds what by one lock object: a record for each acquisition, found by thread, task or greenlet.
//!
//! Each method is one step for Python, which nothing interrupts. No Python code runs while the records are
//! locked: a signal handler or a finalizer may itself use the lock.

use std::collections::{BTreeMap, HashMap};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyWeakrefMethods, PyWeakrefReference};

use crate::caller::caller;
use crate::guard::Guard;

/// One acquisition: who made it, and what it was granted. It was refused if that is `None`.
#[pyclass(weakref, module = "globallock._rust")]
pub(crate) struct Acquisition {
    number: u64,
    #[pyo3(get)]
    owner: Py<PyAny>,
    #[pyo3(get)]
    granted: Option<Py<PyAny>>,
    /// Whether its owner has asked whether it was granted. A log line that shows the lock has not.
    #[pyo3(get, set)]
    is_known: bool,
    /// What cancels its block when its lock ends.
    #[pyo3(get, set)]
    ending: Option<Py<PyAny>>,
    /// What was asked for, of one lock.
    #[pyo3(get)]
    request: Option<Py<PyAny>>,
    /// Whether anybody may release it (`thread_local=False`).
    #[pyo3(get)]
    is_anyones: bool,
    /// The task whose work it was acquired for, if that is not its owner.
    #[pyo3(get, set)]
    body: Option<Py<PyAny>>,
    /// The frame or `ExitStack` of its `with`, while that is not left.
    #[pyo3(get, set)]
    block: Option<Py<PyAny>>,
}

/// Of the acquisitions of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

impl Acquisition {
    fn made<'py>(
        owner: &Bound<'py, PyAny>,
        granted: Option<Py<PyAny>>,
        request: Option<Py<PyAny>>,
        is_anyones: bool,
    ) -> PyResult<Bound<'py, Self>> {
        let acquisition = Acquisition {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            owner: owner.clone().unbind(),
            granted,
            is_known: false,
            ending: None,
            request,
            is_anyones,
            body: None,
            block: None,
        };
        Bound::new(owner.py(), acquisition)
    }
}

#[pymethods]
impl Acquisition {
    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.owner)?;
        visit.call(&self.granted)?;
        visit.call(&self.ending)?;
        visit.call(&self.request)?;
        visit.call(&self.body)?;
        visit.call(&self.block)
    }

    fn __clear__(&mut self) {
        (self.granted, self.ending, self.request) = (None, None, None);
        (self.body, self.block) = (None, None);
    }
}

/// What one caller has acquired and not released, oldest first, and the blocks that it was refused.
struct Own {
    caller: Py<PyWeakrefReference>,
    held: Vec<Py<Acquisition>>,
    /// Whether its last try was refused, or has not ended.
    was_refused: bool,
}

impl Own {
    fn is_of(&self, caller: &Bound<'_, PyAny>) -> bool {
        self.caller.bind(caller.py()).upgrade().is_some_and(|known| known.is(caller))
    }

    fn is_dead(&self, python: Python<'_>) -> bool {
        self.caller.bind(python).upgrade().is_none()
    }
}

#[derive(Default)]
struct Records {
    /// All that are not released, by their numbers, so the oldest first.
    held: BTreeMap<u64, Py<Acquisition>>,
    /// By the address of the caller. Also of one that holds nothing now, until it has gone.
    own: HashMap<usize, Own>,
    /// With how many callers it is looked next which of them have gone.
    sweep_at: usize,
}

impl Records {
    fn own(&mut self, caller: &Bound<'_, PyAny>) -> Option<&mut Own> {
        self.own.get_mut(&address(caller)).filter(|own| own.is_of(caller))
    }

    /// Takes out those whose callers have gone. They are dropped by whoever called, unlocked.
    fn sweep(&mut self, python: Python<'_>) -> Vec<Own> {
        let dead: Vec<usize> =
            self.own.iter().filter(|(_, own)| own.is_dead(python)).map(|(&address, _)| address).collect();
        let swept = dead.iter().filter_map(|address| self.own.remove(address)).collect();
        self.sweep_at = 2 * self.own.len() + 8;
        swept
    }
}

fn address(caller: &Bound<'_, PyAny>) -> usize {
    caller.as_ptr() as usize
}

/// The acquisitions of one lock object that are not released.
#[pyclass(subclass, frozen, generic, module = "globallock._rust")]
pub(crate) struct Holdings {
    records: Mutex<Records>,
}

impl Holdings {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is known of a caller.
    fn with<T>(&self, caller: &Bound<'_, PyAny>, change: impl Fn(&mut Own) -> T) -> PyResult<T> {
        if let Some(own) = self.records().own(caller) {
            return Ok(change(own));
        }
        // While nothing is locked, because it may run the garbage collector, and so anything.
        let reference = PyWeakrefReference::new(caller)?.unbind();
        let mut own = Own { caller: reference, held: Vec::new(), was_refused: false };
        let mut records = self.records();
        if let Some(own) = records.own(caller) {
            return Ok(change(own));
        }
        let changed = change(&mut own);
        let is_many = records.own.len() >= records.sweep_at;
        let swept = if is_many { records.sweep(caller.py()) } else { Vec::new() };
        let replaced = records.own.insert(address(caller), own);
        drop(records);
        drop((swept, replaced));
        Ok(changed)
    }
}

#[pymethods]
impl Holdings {
    #[new]
    fn new() -> Self {
        Holdings { records: Mutex::default() }
    }

    /// Notes that the caller tries to acquire, and returns what it holds already; `None` if that is nothing.
    fn begin(&self, python: Python<'_>) -> PyResult<Option<Vec<Py<Acquisition>>>> {
        self.with(&caller(python)?, |own| {
            own.was_refused = true;
            let held = || own.held.iter().map(|each| each.clone_ref(python)).collect();
            (!own.held.is_empty()).then(held)
        })
    }

    /// Notes what was granted to the caller, and tells a guard whose it is.
    #[pyo3(signature = (granted, request=None, is_anyones=false))]
    fn add<'py>(
        &self,
        granted: &Bound<'py, PyAny>,
        request: Option<Py<PyAny>>,
        is_anyones: bool,
    ) -> PyResult<Bound<'py, Acquisition>> {
        let python = granted.py();
        let owner = caller(python)?;
        let acquisition = Acquisition::made(&owner, Some(granted.clone().unbind()), request, is_anyones)?;
        let number = acquisition.borrow().number;
        self.with(&owner, |own| {
            own.held.push(acquisition.clone().unbind());
            own.was_refused = false;
        })?;
        self.records().held.insert(number, acquisition.clone().unbind());
        if let Ok(guard) = granted.cast::<Guard>() {
            guard.get().own(Some(acquisition.as_any()))?;
        }
        Ok(acquisition)
    }

    /// Notes that the caller was refused in a block, whatever it holds besides.
    fn refuse<'py>(&self, noted: &Bound<'py, PyList>) -> PyResult<Bound<'py, Acquisition>> {
        let owner = caller(noted.py())?;
        let refused = Acquisition::made(&owner, None, None, false)?;
        self.with(&owner, |own| own.held.push(refused.clone().unbind()))?;
        noted.append(&refused)?;
        Ok(refused)
    }

    /// Forgets an acquisition. True for one caller only, who then releases what it was granted.
    fn remove(&self, acquisition: &Bound<'_, Acquisition>) -> bool {
        let (number, owner) = {
            let acquisition = acquisition.borrow();
            (acquisition.number, acquisition.owner.clone_ref(acquisition.py()))
        };
        let owner = owner.bind(acquisition.py());
        let mut records = self.records();
        let own = records.own(owner).and_then(|own| {
            let position = own.held.iter().position(|each| each.is(acquisition))?;
            Some(own.held.remove(position))
        });
        let held = records.held.remove(&number);
        drop(records);
        drop(own);
        held.is_some()
    }

    /// All acquisitions, oldest first.
    fn all(&self, python: Python<'_>) -> Vec<Py<Acquisition>> {
        self.records().held.values().map(|each| each.clone_ref(python)).collect()
    }

    /// Whether an acquisition is not released.
    fn has(&self, acquisition: &Bound<'_, Acquisition>) -> bool {
        let number = acquisition.borrow().number;
        self.records().held.contains_key(&number)
    }

    /// The caller's latest acquisition, or refused block.
    fn latest(&self, python: Python<'_>) -> PyResult<Option<Py<Acquisition>>> {
        let caller = caller(python)?;
        let mut records = self.records();
        let latest = records.own(&caller).and_then(|own| own.held.last());
        Ok(latest.map(|latest| latest.clone_ref(python)))
    }

    /// Whether the caller's last try to acquire was refused, or has not ended; `None` if it has never tried.
    fn was_refused(&self, python: Python<'_>) -> PyResult<Option<bool>> {
        let caller = caller(python)?;
        Ok(self.records().own(&caller).map(|own| own.was_refused))
    }

    /// Of each caller that has tried to acquire, what it holds, and the blocks that it was refused.
    fn by_callers(&self, python: Python<'_>) -> Vec<Vec<Py<Acquisition>>> {
        let mut records = self.records();
        let swept = records.sweep(python);
        let own = |own: &Own| own.held.iter().map(|each| each.clone_ref(python)).collect();
        let by_callers = records.own.values().map(own).collect();
        drop(records);
        drop(swept);
        by_callers
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // They are locked only while no garbage is collected.
        let Ok(records) = self.records.try_lock() else { return Ok(()) };
        for acquisition in records.held.values() {
            visit.call(acquisition)?;
        }
        for own in records.own.values() {
            visit.call(&own.caller)?;
            for acquisition in &own.held {
                visit.call(acquisition)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let cleared = mem::take(&mut *self.records());
        drop(cleared);
    }
}
