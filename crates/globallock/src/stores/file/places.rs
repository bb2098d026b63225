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

#[cfg(test)]
mod tests {
    use std::fs;

    use futures_util::FutureExt;
    use tempfile::{NamedTempFile, tempfile};

    use super::*;

    const HERE: &str = "/locks/a";

    fn id(number: u64) -> ClaimId {
        ClaimId::new(7, number)
    }

    fn slot(number: u64) -> Slot {
        Slot::parse(&format!("{number:020}.{}.1.1.0.0", id(number))).unwrap()
    }

    fn place(directory: &str, number: u64) -> Place {
        Place::new(tempfile().unwrap().into(), directory.into(), slot(number))
    }

    /// Claims of one lock, and one of another in front of and behind them.
    fn places(numbers: &[u64]) -> Places {
        let places = Places::default();
        for number in [1, 99] {
            places.insert(id(number), place("/locks/b", number));
        }
        for &number in numbers {
            places.insert(id(number), place(HERE, number));
        }
        places
    }

    fn number(place: Option<Arc<Place>>) -> Option<u64> {
        place.map(|place| place.made.number)
    }

    #[test]
    fn a_claim_is_known_from_its_joining_until_it_is_forgotten() {
        let places = places(&[10]);
        assert!(places.has(id(10)) && !places.has(id(11)));
        assert_eq!(number(places.get(id(10))), Some(10));
        assert_eq!(number(places.get(id(11))), None);
        let mut all: Vec<ClaimId> = places.all().into_iter().map(|(id, _)| id).collect();
        all.sort_unstable();
        assert_eq!(all, [id(1), id(10), id(99)]);
        assert_eq!(format!("{places:?}"), "Places { claims: 3 }");
        assert_eq!(number(places.remove(id(10))), Some(10));
        assert!(!places.has(id(10)) && places.get(id(10)).is_none() && places.remove(id(10)).is_none());
        assert_eq!(places.all().len(), 2);
    }

    #[test]
    fn the_file_of_a_claim_that_is_forgotten_closes_and_those_behind_it_are_told() {
        let places = places(&[10]);
        let left = Arc::clone(&places.get(id(10)).unwrap().left);
        let mut told = Box::pin(left.notified());
        assert!(told.as_mut().now_or_never().is_none());
        let place = places.remove(id(10)).unwrap();
        assert_eq!(Arc::strong_count(&place), 1, "nothing else keeps it open");
        assert!(told.now_or_never().is_some());
    }

    #[test]
    fn a_claim_is_in_its_lock_as_long_as_nobody_deletes_its_file() {
        let file = NamedTempFile::new().unwrap();
        let other_name = file.path().with_extension("renamed");
        let place = Place::new(fs::File::open(file.path()).unwrap().into(), HERE.into(), slot(1));
        assert!(place.is_linked());
        fs::rename(file.path(), &other_name).unwrap();
        assert!(place.is_linked(), "it was granted");
        fs::remove_file(&other_name).unwrap();
        assert!(!place.is_linked());
    }

    #[test]
    fn the_last_of_a_lock_is_the_one_that_joined_last() {
        let last = |places: &Places| number(places.last(Path::new(HERE)));
        let places = places(&[20, 10]);
        assert_eq!(last(&places), Some(20));
        places.remove(id(20));
        assert_eq!(last(&places), Some(10));
        places.remove(id(10));
        assert_eq!(last(&places), None);
        assert_eq!(number(places.last(Path::new("/locks/b"))), Some(99));
    }

    #[test]
    fn the_next_in_front_is_named_where_enough_others_are_in_front_of_it() {
        let places = places(&[10, 20, 30]);
        for (mine, few, before) in [
            (30, 1, Some(20)),
            (30, 2, None),
            (20, 1, None),
            (40, 1, Some(30)),
            (40, 2, Some(30)),
            (40, 3, None),
            (10, 1, None),
            (5, 1, None),
        ] {
            let found = places.before(&place(HERE, mine), few);
            assert_eq!(found.as_ref().map(|(id, _)| *id), before.map(id), "{mine} behind {few}");
            assert_eq!(number(found.map(|(_, place)| place)), before);
        }
        assert!(places.before(&place("/locks/c", 40), 1).is_none());
    }

    #[test]
    fn whoever_has_nobody_waiting_in_front_of_it_is_the_first_who_waits() {
        let places = places(&[10, 20, 30]);
        let is_first = |number| places.is_first_waiting(&place(HERE, number));
        assert_eq!([5, 10, 20, 30].map(is_first), [true, true, false, false]);
        // The one in front holds, so that the next is the first.
        assert!(places.get(id(10)).unwrap().granted.set(slot(10).granted_at(1)).is_ok());
        assert_eq!([20, 30].map(is_first), [true, false]);
        places.remove(id(20));
        assert!(is_first(30));
        assert!(places.is_first_waiting(&place("/locks/c", 1)), "nobody is there");
    }
}
