//! The claims of this store: each lives as long as its file is open here.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustix::fs::fstat;
use rustix::io::pread;
use tokio::sync::Notify;

use super::claim_file::ClaimFile;
use super::critical_section::MAX_TEXT;
use crate::backend::{Claim, ClaimId, Eviction};
use crate::stores::evictions::{Evictions, KEPT};
use crate::sync::{Mutex, MutexGuard};

/// A claim's file, locked as long as it is open.
pub(super) struct OpenFile {
    pub(super) opened: OwnedFd,
    /// The directory of the claim's lock.
    pub(super) directory: PathBuf,
    /// The name of the file when it was created.
    pub(super) created: ClaimFile,
    /// The name of the file since the claim's grant; nothing renames it after that.
    pub(super) granted: OnceLock<ClaimFile>,
    /// Notified when the claim is removed from [`OpenFiles`].
    pub(super) removed: Arc<Notify>,
    /// How many bytes its owner wrote into the file.
    length: usize,
}

impl OpenFile {
    pub(super) fn new(opened: OwnedFd, directory: PathBuf, created: ClaimFile, length: usize) -> Self {
        OpenFile { opened, directory, created, granted: OnceLock::new(), removed: Arc::default(), length }
    }

    /// Whether its file surely is in the queue: it is still in a directory, and nobody has written into it.
    ///
    /// A network file system may say that a deleted file is still in a directory, as long as the file is
    /// open. So a notice of an eviction is noticed by the file's length too.
    pub(super) fn is_untouched(&self) -> bool {
        let written = |found: &rustix::fs::Stat| usize::try_from(found.st_size) == Ok(self.length);
        fstat(&self.opened).is_ok_and(|found| found.st_nlink > 0 && written(&found))
    }

    /// What the evictor of the claim wrote into its file. Counts only if the file is not in the queue, and is
    /// complete only once the evictor has left the critical section.
    fn notice(&self) -> Option<Eviction> {
        let mut text = vec![0; 2 * MAX_TEXT];
        let read = pread(&self.opened, &mut text, 0).ok()?;
        let text = &text[..read];
        match text.iter().rposition(|byte| *byte == 0) {
            Some(end) => Some(Eviction::from_text(&String::from_utf8_lossy(&text[end + 1..]))),
            // The evictor had no room for a notice.
            None if text.is_empty() && self.length > 0 => Some(Eviction::from_text("")),
            None => None,
        }
    }
}

/// The claims of one store that are in a queue.
#[derive(Default)]
pub(super) struct OpenFiles {
    claims: Mutex<Claims>,
    /// Notified when the first claim joins.
    first: Notify,
}

#[derive(Default)]
struct Claims {
    by_id: HashMap<ClaimId, Arc<OpenFile>>,
    /// The claims of each lock's directory, by their numbers.
    by_lock: HashMap<OsString, BTreeMap<u64, ClaimId>>,
    evicted: Evictions,
}

impl Claims {
    fn remove(&mut self, id: ClaimId) -> Option<Arc<OpenFile>> {
        let file = self.by_id.remove(&id)?;
        if let Some(queue) = self.by_lock.get_mut(file.directory.as_os_str()) {
            queue.remove(&file.created.number);
            if queue.is_empty() {
                self.by_lock.remove(file.directory.as_os_str());
            }
        }
        file.removed.notify_waiters();
        Some(file)
    }

    fn open_file(&self, (_, id): (&u64, &ClaimId)) -> Option<(ClaimId, Arc<OpenFile>)> {
        Some((*id, Arc::clone(self.by_id.get(id)?)))
    }
}

impl OpenFiles {
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock()
    }

    pub(super) fn contains(&self, id: ClaimId) -> bool {
        self.claims().by_id.contains_key(&id)
    }

    /// Whether the claim is in a queue, or was evicted.
    pub(super) fn knows(&self, id: ClaimId) -> bool {
        let claims = self.claims();
        claims.by_id.contains_key(&id) || claims.evicted.get(&id).is_some()
    }

    pub(super) fn get(&self, id: ClaimId) -> Option<Arc<OpenFile>> {
        self.claims().by_id.get(&id).cloned()
    }

    pub(super) fn insert(&self, id: ClaimId, file: OpenFile) {
        let mut claims = self.claims();
        let is_first = claims.by_id.is_empty();
        let before = claims.remove(id);
        claims
            .by_lock
            .entry(file.directory.clone().into_os_string())
            .or_default()
            .insert(file.created.number, id);
        claims.by_id.insert(id, Arc::new(file));
        drop(claims);
        drop(before);
        if is_first {
            self.first.notify_one();
        }
    }

    /// Removes a claim. Its file closes when the last reference to the result is dropped.
    pub(super) fn remove(&self, id: ClaimId) -> Option<Arc<OpenFile>> {
        self.claims().remove(id)
    }

    /// Removes a claim that is not in the queue, and says whether it was evicted. If it was, that is
    /// remembered for as long as its owner may ask.
    ///
    /// Called where no evictor of the claim can be in the critical section, so that the notice is complete.
    pub(super) fn leave(&self, claim: &Claim) -> Option<Arc<Eviction>> {
        let notice = self.get(claim.id).and_then(|file| file.notice());
        let mut claims = self.claims();
        let left = claims.remove(claim.id);
        if let Some(eviction) = notice {
            claims.evicted.note(claim.id, Arc::new(eviction), claim.lease.saturating_add(KEPT));
        }
        let eviction = claims.evicted.get(&claim.id);
        drop(claims);
        drop(left);
        eviction
    }

    /// The eviction of a claim that [`OpenFiles::leave`] remembers.
    pub(super) fn eviction(&self, id: ClaimId) -> Option<Arc<Eviction>> {
        self.claims().evicted.get(&id)
    }

    /// Waits until there is a claim.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn any(&self) {
        while self.is_empty() {
            self.first.notified().await;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.claims().by_id.is_empty()
    }

    /// The claim of this store that joined a lock's queue last.
    pub(super) fn last(&self, directory: &Path) -> Option<Arc<OpenFile>> {
        let claims = self.claims();
        Some(claims.open_file(claims.by_lock.get(directory.as_os_str())?.last_key_value()?)?.1)
    }

    /// The nearest claim of this store in front of a claim, if at least `many` more are in front of that one.
    pub(super) fn next_ahead(&self, file: &OpenFile, many: usize) -> Option<(ClaimId, Arc<OpenFile>)> {
        let claims = self.claims();
        let mut ahead = claims.by_lock.get(file.directory.as_os_str())?.range(..file.created.number).rev();
        let next = ahead.next()?;
        ahead.nth(many.checked_sub(1)?)?;
        claims.open_file(next)
    }

    /// Whether no other waiter of this store is in front of a claim, as far as this process knows of grants.
    pub(super) fn is_first_waiter(&self, file: &OpenFile) -> bool {
        let claims = self.claims();
        let queue = claims.by_lock.get(file.directory.as_os_str()).into_iter().flatten();
        let is_waiter = |id: &ClaimId| claims.by_id.get(id).is_some_and(|file| file.granted.get().is_none());
        let first = queue.into_iter().find(|(_, id)| is_waiter(id));
        first.is_none_or(|(number, _)| *number >= file.created.number)
    }

    pub(super) fn all(&self) -> Vec<(ClaimId, Arc<OpenFile>)> {
        self.claims().by_id.iter().map(|(id, file)| (*id, Arc::clone(file))).collect()
    }
}

impl fmt::Debug for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFiles").field("claims", &self.claims().by_id.len()).finish()
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

    fn claim_file(number: u64) -> ClaimFile {
        ClaimFile::parse(&format!("{number:020}.{}.1.1.0.0", id(number))).unwrap()
    }

    fn open_file(directory: &str, number: u64) -> OpenFile {
        OpenFile::new(tempfile().unwrap().into(), directory.into(), claim_file(number), 0)
    }

    /// Claims of one lock, and two of another lock, with a lower and a higher number.
    fn open_files(numbers: &[u64]) -> OpenFiles {
        let open_files = OpenFiles::default();
        for number in [1, 99] {
            open_files.insert(id(number), open_file("/locks/b", number));
        }
        for &number in numbers {
            open_files.insert(id(number), open_file(HERE, number));
        }
        open_files
    }

    fn number(file: Option<Arc<OpenFile>>) -> Option<u64> {
        file.map(|file| file.created.number)
    }

    #[test]
    fn a_claim_is_known_until_it_is_removed() {
        let open_files = open_files(&[10]);
        assert!(open_files.contains(id(10)) && !open_files.contains(id(11)));
        assert_eq!(number(open_files.get(id(10))), Some(10));
        assert_eq!(number(open_files.get(id(11))), None);
        let mut all: Vec<ClaimId> = open_files.all().into_iter().map(|(id, _)| id).collect();
        all.sort_unstable();
        assert_eq!(all, [id(1), id(10), id(99)]);
        assert_eq!(format!("{open_files:?}"), "OpenFiles { claims: 3 }");
        assert_eq!(number(open_files.remove(id(10))), Some(10));
        assert!(
            !open_files.contains(id(10))
                && open_files.get(id(10)).is_none()
                && open_files.remove(id(10)).is_none()
        );
        assert_eq!(open_files.all().len(), 2);
    }

    #[test]
    fn the_file_of_a_removed_claim_closes_and_its_waiters_are_notified() {
        let open_files = open_files(&[10]);
        let removed = Arc::clone(&open_files.get(id(10)).unwrap().removed);
        let mut notified = Box::pin(removed.notified());
        assert!(notified.as_mut().now_or_never().is_none());
        let file = open_files.remove(id(10)).unwrap();
        assert_eq!(Arc::strong_count(&file), 1, "nothing else keeps the file open");
        assert!(notified.now_or_never().is_some());
    }

    #[test]
    fn a_claims_file_is_linked_until_it_is_deleted() {
        let temporary = NamedTempFile::new().unwrap();
        let other_name = temporary.path().with_extension("renamed");
        let file =
            OpenFile::new(fs::File::open(temporary.path()).unwrap().into(), HERE.into(), claim_file(1), 0);
        assert!(file.is_untouched());
        fs::rename(temporary.path(), &other_name).unwrap();
        assert!(file.is_untouched(), "it was granted");
        fs::remove_file(&other_name).unwrap();
        assert!(!file.is_untouched());
    }

    #[test]
    fn the_last_claim_is_the_one_that_joined_last() {
        let last = |open_files: &OpenFiles| number(open_files.last(Path::new(HERE)));
        let open_files = open_files(&[20, 10]);
        assert_eq!(last(&open_files), Some(20));
        open_files.remove(id(20));
        assert_eq!(last(&open_files), Some(10));
        open_files.remove(id(10));
        assert_eq!(last(&open_files), None);
        assert_eq!(number(open_files.last(Path::new("/locks/b"))), Some(99));
    }

    #[test]
    fn the_next_claim_ahead_is_found_if_enough_others_are_in_front_of_it() {
        let open_files = open_files(&[10, 20, 30]);
        for (mine, many, expected) in [
            (30, 1, Some(20)),
            (30, 2, None),
            (20, 1, None),
            (40, 1, Some(30)),
            (40, 2, Some(30)),
            (40, 3, None),
            (10, 1, None),
            (5, 1, None),
        ] {
            let found = open_files.next_ahead(&open_file(HERE, mine), many);
            assert_eq!(found.as_ref().map(|(id, _)| *id), expected.map(id), "{mine} behind {many}");
            assert_eq!(number(found.map(|(_, file)| file)), expected);
        }
        assert!(open_files.next_ahead(&open_file("/locks/c", 40), 1).is_none());
    }

    #[test]
    fn the_first_waiter_has_no_waiter_in_front_of_it() {
        let open_files = open_files(&[10, 20, 30]);
        let is_first = |number| open_files.is_first_waiter(&open_file(HERE, number));
        assert_eq!([5, 10, 20, 30].map(is_first), [true, true, false, false]);
        // The claim in front is granted, so that the next one is the first waiter.
        assert!(open_files.get(id(10)).unwrap().granted.set(claim_file(10).granted_at(1)).is_ok());
        assert_eq!([20, 30].map(is_first), [true, false]);
        open_files.remove(id(20));
        assert!(is_first(30));
        assert!(open_files.is_first_waiter(&open_file("/locks/c", 1)), "the lock has no claims");
    }
}
