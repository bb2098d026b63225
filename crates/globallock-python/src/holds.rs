//! Which acquisitions of Python hold which names in this process, so that a caller that would wait for itself
//! is told.
//!
//! The notes are weak: a lock that is dropped without a release is released, whoever else uses its store.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::types::{PyWeakrefMethods, PyWeakrefReference};

/// The names of each store, by its address.
static STORES: LazyLock<Mutex<HashMap<String, Weak<Names>>>> = LazyLock::new(Mutex::default);

/// The names of one store that are held.
#[derive(Default)]
pub(crate) struct Names(Mutex<HashMap<Arc<str>, Vec<Note>>>);

/// One acquisition.
type Note = Arc<Py<PyWeakrefReference>>;

impl Names {
    /// Those of the store at an address, which all managers of this address share.
    pub(crate) fn of(address: &str) -> Arc<Self> {
        let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(names) = stores.get(address).and_then(Weak::upgrade) {
            return names;
        }
        stores.retain(|_, names| names.strong_count() > 0);
        let names = Arc::<Names>::default();
        stores.insert(address.to_owned(), Arc::downgrade(&names));
        names
    }

    /// Nothing of Python may run while this is locked: it might lock it again.
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Vec<Note>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The acquisitions that have a name, oldest first; `None` if there are none.
    pub(crate) fn holds<'py>(&self, python: Python<'py>, name: &str) -> Option<Vec<Bound<'py, PyAny>>> {
        let notes = self.lock().get(name).cloned()?;
        Some(notes.iter().filter_map(|note| note.bind(python).upgrade()).collect())
    }
}

/// A name of a store.
pub(crate) struct Place {
    names: Arc<Names>,
    name: Arc<str>,
}

impl Place {
    pub(crate) fn new(names: &Arc<Names>, name: &Arc<str>) -> Self {
        Place { names: Arc::clone(names), name: Arc::clone(name) }
    }

    /// Notes that an acquisition has this name, until what is returned is dropped.
    pub(crate) fn note(&self, acquisition: Py<PyWeakrefReference>) -> Noted {
        let note = Arc::new(acquisition);
        let mut names = self.names.lock();
        match names.get_mut(&self.name) {
            Some(notes) => notes.push(Arc::clone(&note)),
            None => drop(names.insert(Arc::clone(&self.name), vec![Arc::clone(&note)])),
        }
        drop(names);
        Noted { names: Arc::clone(&self.names), name: Arc::clone(&self.name), note }
    }
}

/// The note of one acquisition, which is there until this is dropped.
pub(crate) struct Noted {
    names: Arc<Names>,
    name: Arc<str>,
    note: Note,
}

impl Drop for Noted {
    fn drop(&mut self) {
        let mut names = self.names.lock();
        let Some(notes) = names.get_mut(&self.name) else { return };
        notes.retain(|note| !Arc::ptr_eq(note, &self.note));
        if notes.is_empty() {
            names.remove(&self.name);
        }
    }
}
