//! What a lock that is free leaves for the next one: its directory, and in there the file of its last claim.
//!
//! To give them other names takes a fraction of the time in which a file system deletes them and makes
//! others.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, Stat, flock, fstat, ftruncate, openat, renameat,
    renameat_with, unlinkat,
};
use rustix::io::{Errno, pwrite, retry_on_intr};

use super::claim_file::ClaimFile;
use super::critical_section::{CriticalSection, is_file};
use super::directory::OPEN;
use crate::error::Result;

/// The file of the last claim, in the directory of a lock that has no claims.
pub(super) const SPARE_FILE: &str = ".spare";

/// The directory of a lock that is free, for the next lock. It may have a [`SPARE_FILE`] and nothing else.
#[derive(Debug)]
pub(super) struct Spare {
    /// Its path. Its owner and its mode are parts of it.
    pub(super) path: PathBuf,
    /// The user and the group who own the directory of a lock, unless somebody has changed that.
    owner: (u32, u32),
    /// The modes of a lock's directory and of a claim's file.
    modes: (Mode, Mode),
    /// Whether the last lock that was to be created had no directory. Then the next one is likely to have
    /// none either, and the spare directory is moved there without looking first.
    was_absent: AtomicBool,
    /// Whether there was one already when the last lock became free.
    is_there: AtomicBool,
}

impl Spare {
    pub(super) fn new(locks: &Path, owner: (u32, u32), modes: (Mode, Mode)) -> Self {
        let path = locks.join(format!(".spare-{:o}-{}-{}", modes.0.bits(), owner.0, owner.1));
        let (was_absent, is_there) = (AtomicBool::new(false), AtomicBool::new(false));
        Spare { path, owner, modes, was_absent, is_there }
    }

    /// Whether the spare directory should be moved to a lock's place without looking first.
    pub(super) fn comes_first(&self) -> bool {
        self.was_absent.load(Ordering::Relaxed)
    }

    /// Remembers whether a lock that was to be created had no directory.
    pub(super) fn note_absent(&self, was_absent: bool) {
        self.was_absent.store(was_absent, Ordering::Relaxed);
    }

    /// Makes the spare directory that of a lock, unless the lock has one.
    pub(super) fn give(&self, path: &Path) -> bool {
        let given = move_directory(&self.path, path);
        if given {
            self.is_there.store(false, Ordering::Relaxed);
        }
        given
    }

    /// Keeps the directory of a lock, which is `opened` and locked and has no claims; false if it cannot be
    /// used, or if there is a spare one already.
    pub(super) fn keep(&self, path: &Path, opened: &OwnedFd) -> bool {
        let Ok(found) = fstat(opened) else { return false };
        let is_like_new = self.is_owned(&found) && Mode::from_raw_mode(found.st_mode) == self.modes.0;
        if !is_like_new || !is_there(&found) {
            return false;
        }
        let kept = move_directory(path, &self.path);
        self.is_there.store(!kept, Ordering::Relaxed);
        // A cleaner of files may have deleted it meanwhile. Then another one was moved, with its claims.
        // Where it is now says nothing: another lock may have taken it already.
        if kept && !fstat(opened).is_ok_and(|found| is_there(&found)) {
            move_directory(&self.path, path);
        }
        kept
    }

    fn is_owned(&self, found: &Stat) -> bool {
        (found.st_uid, found.st_gid) == self.owner
    }
}

impl CriticalSection<'_> {
    /// Removes the file of a claim that has just left the queue. That of the last claim is kept, if it can
    /// be.
    pub(super) fn remove_file(&mut self, file: &ClaimFile) -> Result<()> {
        let is_alone = self.queue.is_empty() && !self.has_others.get() && !self.has_spare_file;
        let is_wanted = is_alone && !self.directory.spare.is_there.load(Ordering::Relaxed);
        // Something else may have taken the place of the file.
        let open_file = self.ours.get(file.id).filter(|file| is_wanted && file.is_untouched());
        let Some(open_file) = open_file else { return self.unlink(file).map(drop) };
        let (from, to) = (&self.locked.0, &self.locked.0);
        if renameat(from, file.file_name(), to, SPARE_FILE).is_err() {
            return self.unlink(file).map(drop);
        }
        self.has_spare_file = true;
        // A child that was forked meanwhile has it open too, and would keep it locked for its life.
        let _ = flock(&open_file.opened, FlockOperation::Unlock);
        // The file will be that of another claim.
        self.ours.remove(file.id);
        Ok(())
    }

    /// Makes the spare file that of a claim, locks it and writes its text; `None` if there is none that can
    /// be used.
    pub(super) fn reuse(&mut self, file: &ClaimFile, text: &[u8]) -> Option<OwnedFd> {
        if !std::mem::take(&mut self.has_spare_file) {
            return None;
        }
        let reused = self.try_reuse(file, text);
        if reused.is_err() {
            let _ = unlinkat(&self.locked.0, SPARE_FILE, AtFlags::empty());
        }
        reused.ok()
    }

    fn try_reuse(&self, file: &ClaimFile, text: &[u8]) -> Result<OwnedFd, Errno> {
        let at = &self.locked.0;
        // Users who share the directory may have put a link or a pipe in its place: the flags keep a link
        // from being followed and a pipe from blocking.
        let opened = openat(at, SPARE_FILE, OPEN | OFlags::RDWR | OFlags::NONBLOCK, Mode::empty())?;
        let found = fstat(&opened)?;
        let spare = &self.directory.spare;
        let is_like_new = Mode::from_raw_mode(found.st_mode) == spare.modes.1 && spare.is_owned(&found);
        // What has another name elsewhere may be changed by others.
        if !is_file(&found) || !is_like_new || found.st_nlink != 1 {
            return Err(Errno::PERM);
        }
        flock(&opened, FlockOperation::NonBlockingLockExclusive)?;
        if retry_on_intr(|| pwrite(&opened, text, 0))? < text.len() {
            return Err(Errno::NOSPC);
        }
        if usize::try_from(found.st_size) != Ok(text.len()) {
            ftruncate(&opened, text.len() as u64)?;
        }
        renameat(at, SPARE_FILE, at, file.file_name())?;
        Ok(opened)
    }
}

/// Whether a directory was not deleted.
fn is_there(found: &Stat) -> bool {
    found.st_nlink > 0
}

/// Gives a directory another name, unless something has that name. False where the file system cannot promise
/// that, and on any other failure.
fn move_directory(from: &Path, to: &Path) -> bool {
    renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE).is_ok()
}

#[cfg(test)]
mod tests;
