//! The short critical section in which all decisions about one lock are made.

use std::cell::Cell;
use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, RawDir, Stat, flock, fstat, ftruncate, openat, renameat,
    statat, unlinkat,
};
use rustix::io::{Errno, retry_on_intr, write};

use super::claim_file::ClaimFile;
use super::directory::{Directory, Locked, OPEN, is_at, try_lock};
use super::open_files::OpenFiles;
use super::spare::SPARE_FILE;
use crate::backend::{Claim, ClaimId, StoreNoticeKind, WaitMode};
use crate::error::Result;
use crate::name::Name;
use crate::queue::{admit, blockers};

/// How many bytes of a claim's file are read: an owner, a newline and a name are never longer.
pub(super) const MAX_TEXT: usize = 4096;

/// How many dead claims are removed in one critical section, because others want to enter too.
const MAX_DEAD: usize = 4000;

/// The queue of one lock, while nobody else can change it because this locks the lock's directory.
///
/// A claim is alive as long as its owner keeps the claim's own file locked.
pub(super) struct CriticalSection<'a> {
    pub(super) directory: &'a Directory,
    path: PathBuf,
    pub(super) locked: Locked,
    /// In the order of joining. If the queue was not read, only the claims that were appended here.
    pub(super) queue: VecDeque<ClaimFile>,
    /// Whether it may have files that are not in `queue`.
    pub(super) has_others: Cell<bool>,
    /// Whether it has a [`SPARE_FILE`], which is none of those.
    pub(super) has_spare_file: bool,
    /// The claims whose files this store keeps open.
    pub(super) ours: &'a OpenFiles,
    now: u64,
}

/// How a critical section is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enter {
    /// To read the queue.
    Read,
    /// To read it; creates the lock's directory if there is none.
    Make,
    /// Without reading the queue: reading costs more the longer the queue is.
    Unread,
    /// To read it and to release a claim that is likely to be in it.
    Release(ClaimId),
}

/// What the attempt to enter a critical section found.
pub(super) enum Entered<'a> {
    Inside(CriticalSection<'a>),
    /// The lock has no directory, and so no claims.
    Absent,
    /// Another is inside, or is just creating the lock's directory.
    Busy,
}

impl<'a> CriticalSection<'a> {
    /// Enters the critical section of a lock. Unless `enter` is [`Enter::Unread`], it reads the queue,
    /// removes dead claims at its front, and grants the claims that fit.
    pub(super) fn enter(
        directory: &'a Directory,
        path: &Path,
        enter: Enter,
        ours: &'a OpenFiles,
    ) -> Result<Entered<'a>> {
        let make = enter == Enter::Make;
        loop {
            let Some(opened) = directory.open_lock(path, make)? else {
                return Ok(if make { Entered::Busy } else { Entered::Absent });
            };
            let locked = try_lock(opened).map_err(|error| directory.failure("cannot be locked", error))?;
            let Some(locked) = locked else { return Ok(Entered::Busy) };
            // Another may have removed the directory after it was opened and before it was locked.
            let is_current = || is_at(&locked.0, path);
            let Listed { queue, has_others, has_spare_file } = match enter {
                // Nobody removes or moves a directory that has a claim.
                Enter::Release(id) => {
                    let found = list(directory, &locked.0)?;
                    if !found.queue.iter().any(|file| file.id == id) && !is_current() {
                        continue;
                    }
                    found
                }
                _ if !is_current() => continue,
                Enter::Unread => Listed { has_others: true, ..Listed::default() },
                Enter::Read | Enter::Make => list(directory, &locked.0)?,
            };
            let (path, has_others) = (path.to_owned(), Cell::new(has_others));
            let now = now();
            let mut section =
                CriticalSection { directory, path, locked, queue, has_others, has_spare_file, ours, now };
            if enter != Enter::Unread {
                section.settle()?;
            }
            return Ok(Entered::Inside(section));
        }
    }

    /// Removes dead claims from the front of the queue, and grants the claims that fit.
    ///
    /// It stops at the first live claim that does not fit: the claims behind it cannot hold, so whether they
    /// are alive does not matter.
    fn settle(&mut self) -> Result<()> {
        while !self.try_settle()? {}
        Ok(())
    }

    /// The same. False if a claim's file had been deleted when it was to be granted: others may fit then.
    fn try_settle(&mut self) -> Result<bool> {
        let mut checked = 0;
        let holding = loop {
            let holding = admit(self.queue.iter().map(ClaimFile::permits));
            let decisive = (holding + 1).min(self.queue.len());
            let Some(dead) = (checked..decisive).find(|&position| !self.is_alive(&self.queue[position]))
            else {
                break holding;
            };
            checked = dead;
            if let Some(file) = self.queue.remove(dead) {
                self.unlink(&file)?;
            }
        };
        for position in 0..holding {
            let file = self.queue[position];
            if file.granted.is_none() {
                let granted = file.granted_at(self.now);
                match renameat(&self.locked.0, file.file_name(), &self.locked.0, granted.file_name()) {
                    Ok(()) => self.queue[position] = granted,
                    Err(Errno::NOENT) => {
                        self.queue.remove(position);
                        return Ok(false);
                    }
                    Err(error) => return Err(self.directory.failure_within("cannot be written to", error)),
                }
            }
        }
        Ok(true)
    }

    pub(super) fn is_alive(&self, file: &ClaimFile) -> bool {
        if file.hold_ends().is_some_and(|end| end <= self.now) {
            return false;
        }
        if self.ours.contains(file.id) {
            return true;
        }
        match self.open(file) {
            Ok(opened) => flock(&opened, FlockOperation::NonBlockingLockShared).is_err(),
            // A file that cannot be opened may be locked by its owner, so it counts as alive unless it is
            // gone.
            Err(error) => error != Errno::NOENT,
        }
    }

    /// Opens a claim's file to check it. Users who share the directory may have put a link or a pipe in its
    /// place: the flags keep a link from being followed and a pipe from blocking.
    fn open(&self, file: &ClaimFile) -> Result<OwnedFd, Errno> {
        openat(&self.locked.0, file.file_name(), OPEN | OFlags::NONBLOCK, Mode::empty())
    }

    pub(super) fn unlink(&self, file: &ClaimFile) -> Result<bool> {
        match unlinkat(&self.locked.0, file.file_name(), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => {
                self.has_others.set(true);
                Err(self.directory.failure_within("cannot be written to", error))
            }
        }
    }

    pub(super) fn find(&self, id: ClaimId) -> Option<ClaimFile> {
        self.queue.iter().find(|file| file.id == id).copied()
    }

    /// Puts the claim at the end of the queue.
    ///
    /// | result | meaning |
    /// |---|---|
    /// | `None` | the counter of fencing tokens is in use: try again |
    /// | `Some(None)` | the claim does not fit and may not wait |
    /// | `Some(Some(_))` | it is in the queue |
    pub(super) fn enqueue(
        &mut self,
        claim: &Claim,
        owner: &str,
    ) -> Result<Option<Option<(ClaimFile, OwnedFd)>>> {
        let permits = self.queue.iter().map(ClaimFile::permits).chain([claim.permits]);
        let holds = admit(permits) > self.queue.len();
        if !holds && claim.wait_mode == WaitMode::Try {
            return Ok(Some(None));
        }
        Ok(self.append(claim, owner, holds)?.map(Some))
    }

    /// Puts the claim behind all others; `None` if the counter of fencing tokens is in use.
    pub(super) fn append(
        &mut self,
        claim: &Claim,
        owner: &str,
        holds: bool,
    ) -> Result<Option<(ClaimFile, OwnedFd)>> {
        let last_of_ours = self.ours.last(&self.path).map(|place| place.created.number);
        let last = self.queue.back().map(|file| file.number).max(last_of_ours);
        let Some(number) = self.directory.next_number(last)? else {
            return Ok(None);
        };
        let file = ClaimFile::new(claim, number, holds.then_some(self.now));
        // If this fails, the file may be there all the same.
        let has_others = self.has_others.replace(true);
        let opened = match self.reuse(&file, owner.as_bytes()) {
            Some(opened) => opened,
            None => self.create(&file, owner)?,
        };
        self.has_others.set(has_others);
        self.queue.push_back(file);
        Ok(Some((file, opened)))
    }

    /// Makes the file of a claim, locks it and writes its text.
    fn create(&self, file: &ClaimFile, text: &str) -> Result<OwnedFd> {
        let opened = self.directory.create(&self.locked.0, file.file_name())?;
        let locked = flock(&opened, FlockOperation::NonBlockingLockExclusive)
            .and_then(|()| write_all(&opened, text.as_bytes()));
        if let Err(error) = locked {
            self.unlink(file)?;
            return Err(self.directory.failure_within("cannot be written to", error));
        }
        Ok(opened)
    }

    /// Removes a claim from the queue and grants the claims that fit then; false if it was not there.
    pub(super) fn release(&mut self, id: ClaimId) -> Result<bool> {
        let Some(position) = self.queue.iter().position(|file| file.id == id) else {
            return Ok(false);
        };
        if let Some(file) = self.queue.remove(position) {
            self.remove_file(&file)?;
        }
        self.settle()?;
        Ok(true)
    }

    /// Removes a live claim from the queue, whoever its owner is, and grants the claims that fit then; false
    /// if it was not there. The owner is told by the notice, which is written into the claim's file.
    ///
    /// The file is deleted first: its owner still has it open, and reads what is written into it later. So no
    /// owner is told of an eviction that did not happen, whenever this process dies.
    ///
    /// The file is opened before that, because without the right to write nothing may change. Its closing is
    /// the event that wakes the waiters that watch the file: its owner, which may be stopped, keeps it open.
    pub(super) fn evict(&mut self, id: ClaimId, notice: &str) -> Result<bool> {
        let Some(position) = self.queue.iter().position(|file| file.id == id) else {
            return Ok(false);
        };
        let file = self.queue[position];
        let is_alive = self.is_alive(&file);
        let flags = OPEN | OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK;
        let opened = match openat(&self.locked.0, file.file_name(), flags, Mode::empty()) {
            Ok(opened) => Some(opened),
            // What another user has put in the file's place has no owner to be told: a link, a pipe, or
            // nothing at all.
            Err(Errno::LOOP | Errno::NXIO | Errno::NOENT) => None,
            Err(error) => return Err(self.directory.failure_within("cannot be written to", error)),
        };
        let was_there = self.unlink(&file)?;
        self.queue.remove(position);
        if let Some(opened) = opened.filter(|_| was_there && is_alive)
            && let Err(error) = write_notice(&opened, notice)
        {
            self.directory.notices.say(StoreNoticeKind::EvictionNotTold, &error);
        }
        self.settle()?;
        Ok(was_there && is_alive)
    }

    /// Removes a waiting claim without the queue; false if its file is gone or was renamed by a grant.
    ///
    /// A claim that fits only then watches the file, so that it wakes up and reads the queue itself.
    pub(super) fn release_waiting(&self, file: &ClaimFile) -> Result<bool> {
        self.unlink(file)
    }

    /// Lets others enter; the queue that was read can still be used, but may be outdated.
    pub(super) fn unlock(&self) {
        self.has_others.set(true);
        // If this fails, the drop unlocks it.
        let _ = flock(&self.locked.0, FlockOperation::Unlock);
    }

    /// The claims that keep a claim waiting.
    pub(super) fn blockers(&self, file: &ClaimFile) -> Vec<ClaimFile> {
        let ahead: Vec<ClaimFile> =
            self.queue.iter().copied().take_while(|other| other.id != file.id).collect();
        let permits: Vec<_> = ahead.iter().map(ClaimFile::permits).collect();
        blockers(&permits, file.permits()).into_iter().map(|position| ahead[position]).collect()
    }

    /// Whether all `blockers` of `mine` are alive. If not, it removes the dead ones, and also the dead claims
    /// directly in front of `mine`. Those may be many, if many owners died together. A new read of the queue
    /// for each of them would cost quadratic time.
    pub(super) fn confirm_alive(&mut self, blockers: &[ClaimFile], mine: &ClaimFile) -> Result<bool> {
        let mut dead: Vec<ClaimFile> = blockers.iter().filter(|file| !self.is_alive(file)).copied().collect();
        if dead.is_empty() {
            return Ok(true);
        }
        let position = self.queue.partition_point(|file| file < mine);
        let ahead = self.queue.range(..position).rev().take(MAX_DEAD);
        dead.extend(ahead.take_while(|file| !self.is_alive(file)));
        for file in &dead {
            self.unlink(file)?;
        }
        let dead: HashSet<u64> = dead.into_iter().map(|file| file.number).collect();
        self.queue.retain(|file| !dead.contains(&file.number));
        self.settle()?;
        Ok(false)
    }

    /// The lock's directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn path_of(&self, file: &ClaimFile) -> PathBuf {
        self.path.join(file.file_name())
    }

    /// What the owner of a claim wrote into its file.
    pub(super) fn text(&self, file: &ClaimFile) -> (String, Option<SystemTime>) {
        let Ok(opened) = self.open(file) else {
            return (String::new(), None);
        };
        let opened = std::fs::File::from(opened);
        let found = opened.metadata().ok().filter(std::fs::Metadata::is_file);
        let mut text = Vec::new();
        if found.is_some() {
            // A text that cannot be read is not shown. The limit is for a file that another user made huge.
            let _ = opened.take(MAX_TEXT as u64).read_to_end(&mut text);
        }
        (String::from_utf8_lossy(&text).into_owned(), found.and_then(|found| found.modified().ok()))
    }

    /// When the owner of a claim wrote its file, without reading it.
    pub(super) fn written(&self, file: &ClaimFile) -> Option<SystemTime> {
        let found = statat(&self.locked.0, file.file_name(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let seconds = u64::try_from(found.st_mtime).ok().filter(|_| is_file(&found))?;
        let nanoseconds = u32::try_from(found.st_mtime_nsec).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// The lock's directory once more, as a forked child has it.
    #[cfg(test)]
    pub(super) fn duplicate(&self) -> OwnedFd {
        rustix::io::dup(&self.locked.0).unwrap()
    }
}

/// Removes the lock's directory after its last claim.
impl Drop for CriticalSection<'_> {
    fn drop(&mut self) {
        if self.queue.is_empty() {
            let is_empty = !self.has_others.get();
            self.directory.remove_lock(&self.path, &self.locked.0, is_empty, self.has_spare_file);
        }
    }
}

pub(super) fn is_file(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
}

pub(super) fn write_all(file: &OwnedFd, text: &[u8]) -> Result<(), Errno> {
    match retry_on_intr(|| write(file, text))? {
        written if written < text.len() => Err(Errno::NOSPC),
        _ => Ok(()),
    }
}

/// Tells the owner of a claim, who has the deleted file open, of its eviction.
fn write_notice(opened: &OwnedFd, notice: &str) -> Result<(), Errno> {
    let told = match fstat(opened) {
        Ok(found) if !is_file(&found) => return Ok(()),
        Ok(_) => write_all(opened, format!("\0{notice}").as_bytes()),
        Err(error) => Err(error),
    };
    // If there is no room to say who and why, an empty file says that the claim was evicted.
    told.or_else(|_| ftruncate(opened, 0))
}

/// The text in a claim's file: the owner on the first line, the lock's name in the rest.
pub(super) fn text_of(claim: &Claim) -> String {
    format!("{}\n{}", claim.owner, claim.name.as_str())
}

/// Splits a text of [`text_of`].
pub(super) fn owner_and_name(text: &str) -> (&str, Option<Name>) {
    let (owner, name) = text.split_once('\n').unwrap_or((text, ""));
    (owner, Name::new(name).ok())
}

/// What is in a lock's directory.
#[derive(Default)]
struct Listed {
    /// The claims, in the order of joining.
    queue: VecDeque<ClaimFile>,
    has_spare_file: bool,
    has_others: bool,
}

fn list(directory: &Directory, opened: &OwnedFd) -> Result<Listed> {
    let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
    let mut entries = RawDir::new(opened, &mut buffer);
    let mut listed = Listed::default();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // The directory was deleted meanwhile: it has no claims.
            Err(Errno::NOENT) => break,
            entry => entry.map_err(|error| directory.failure("cannot be read", error))?,
        };
        match entry.file_name().to_str() {
            Ok("." | "..") => {}
            Ok(SPARE_FILE) => listed.has_spare_file = true,
            name => match name.ok().and_then(ClaimFile::parse) {
                Some(file) => listed.queue.push_back(file),
                None => listed.has_others = true,
            },
        }
    }
    listed.queue.make_contiguous().sort_unstable();
    Ok(listed)
}

/// The milliseconds of the clock that all processes of the host share and that goes on while it is suspended,
/// as [`Instant`](crate::sync::Instant)s do.
pub(super) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    // Never 0, which means "not granted" in a file's name.
    (seconds * 1000 + nanoseconds / 1_000_000).max(1)
}

#[cfg(test)]
mod tests;
