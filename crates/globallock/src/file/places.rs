//! The claims of this store: the open files that are their lives.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::fstat;
use tokio::sync::Notify;

use super::slot::Slot;
use crate::backend::ClaimId;

/// A claim's file, locked as long as it is open.
pub(super) struct Place {
    pub(super) file: OwnedFd,
    /// The directory of the claim's lock.
    pub(super) directory: PathBuf,
    /// What the claim's file was named when it was made.
    pub(super) made: Slot,
    /// What the claim's file is named since its grant; nothing renames it after that.
    pub(super) granted: OnceLock<Slot>,
    /// Told when the claim is forgotten.
    pub(super) left: Arc<Notify>,
}

impl Place {
    pub(super) fn new(file: OwnedFd, directory: PathBuf, made: Slot) -> Self {
        Place { file, directory, made, granted: OnceLock::new(), left: Arc::default() }
    }

    /// Whether its file is still in a directory: nobody has deleted it.
    pub(super) fn is_linked(&self) -> bool {
        fstat(&self.file).is_ok_and(|found| found.st_nlink > 0)
    }
}

/// The claims of one store that are in a queue.
#[derive(Default)]
pub(super) struct Places {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    by_id: HashMap<ClaimId, Arc<Place>>,
    /// The claims of each lock by their numbers.
    lines: HashMap<PathBuf, BTreeMap<u64, ClaimId>>,
}

impl Known {
    fn place(&self, (_, id): (&u64, &ClaimId)) -> Option<(ClaimId, Arc<Place>)> {
        Some((*id, Arc::clone(self.by_id.get(id)?)))
    }
}

impl Places {
    fn known(&self) -> MutexGuard<'_, Known> {
        // No code panics while it holds the lock, so a poisoned map is still whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn has(&self, id: ClaimId) -> bool {
        self.known().by_id.contains_key(&id)
    }

    pub(super) fn get(&self, id: ClaimId) -> Option<Arc<Place>> {
        self.known().by_id.get(&id).cloned()
    }

    pub(super) fn insert(&self, id: ClaimId, place: Place) {
        let mut known = self.known();
        known.lines.entry(place.directory.clone()).or_default().insert(place.made.number, id);
        known.by_id.insert(id, Arc::new(place));
    }

    /// Forgets a claim; its file closes with the last use of what is returned.
    pub(super) fn remove(&self, id: ClaimId) -> Option<Arc<Place>> {
        let mut known = self.known();
        let place = known.by_id.remove(&id)?;
        if let Some(line) = known.lines.get_mut(&place.directory) {
            line.remove(&place.made.number);
            if line.is_empty() {
                known.lines.remove(&place.directory);
            }
        }
        drop(known);
        place.left.notify_waiters();
        Some(place)
    }

    /// The last claim of this store in a lock's queue.
    pub(super) fn last(&self, directory: &Path) -> Option<Arc<Place>> {
        let known = self.known();
        Some(known.place(known.lines.get(directory)?.last_key_value()?)?.1)
    }

    /// The claim of this store next in front of a claim, if there are `few` more.
    pub(super) fn before(&self, place: &Place, few: usize) -> Option<(ClaimId, Arc<Place>)> {
        let known = self.known();
        let mut ahead = known.lines.get(&place.directory)?.range(..place.made.number).rev();
        let next = ahead.next()?;
        ahead.nth(few.checked_sub(1)?)?;
        known.place(next)
    }

    /// Whether no claim of this store waits in front of a claim, as far as is known.
    pub(super) fn is_first_waiting(&self, place: &Place) -> bool {
        let known = self.known();
        let line = known.lines.get(&place.directory).into_iter().flatten();
        let waits = |id: &ClaimId| known.by_id.get(id).is_some_and(|place| place.granted.get().is_none());
        let first = line.into_iter().find(|(_, id)| waits(id));
        first.is_none_or(|(number, _)| *number >= place.made.number)
    }

    pub(super) fn all(&self) -> Vec<(ClaimId, Arc<Place>)> {
        self.known().by_id.iter().map(|(id, place)| (*id, Arc::clone(place))).collect()
    }
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("claims", &self.known().by_id.len()).finish()
    }
}
