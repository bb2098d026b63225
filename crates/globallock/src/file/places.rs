//! The claims of this store: the open files that are their lives.

use std::collections::HashMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::slot::Slot;
use crate::backend::ClaimId;

/// A claim's file, locked as long as it is open.
pub(super) struct Place {
    pub(super) file: OwnedFd,
    /// The directory of the claim's lock.
    pub(super) directory: PathBuf,
    /// What the claim's file is named since its grant; nothing renames it after that.
    pub(super) granted: OnceLock<Slot>,
}

/// The claims of one store that are in a queue.
#[derive(Default)]
pub(super) struct Places {
    by_id: Mutex<HashMap<ClaimId, Arc<Place>>>,
}

impl Places {
    fn by_id(&self) -> MutexGuard<'_, HashMap<ClaimId, Arc<Place>>> {
        // No code panics while it holds the lock, so a poisoned map is still whole.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, id: ClaimId) -> bool {
        self.by_id().contains_key(&id)
    }

    pub(super) fn get(&self, id: ClaimId) -> Option<Arc<Place>> {
        self.by_id().get(&id).cloned()
    }

    pub(super) fn insert(&self, id: ClaimId, place: Place) {
        self.by_id().insert(id, Arc::new(place));
    }

    /// Forgets a claim; its file closes with the last use of what is returned.
    pub(super) fn remove(&self, id: ClaimId) -> Option<Arc<Place>> {
        self.by_id().remove(&id)
    }

    pub(super) fn all(&self) -> Vec<(ClaimId, Arc<Place>)> {
        self.by_id().iter().map(|(id, place)| (*id, Arc::clone(place))).collect()
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("claims", &self.by_id().len()).finish()
    }
}
