//! The short critical section in which all decisions about one lock are made.

use std::collections::{HashSet, VecDeque};
use std::io::Read;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RawDir, flock, openat, renameat, unlinkat};
use rustix::io::{Errno, write};

use super::directory::{Directory, OPEN, is_at, try_lock};
use super::places::Places;
use super::slot::Slot;
use crate::backend::{Claim, ClaimId, WaitMode};
use crate::error::Result;
use crate::name::Name;
use crate::queue::{admit, blockers};

/// How much of a claim's file is read: an owner, a newline and a name are no longer.
const LONGEST_TEXT: u64 = 4096;

/// How many of the dead are dropped at once: others want to enter too.
const MOST_DEAD: usize = 4000;

/// The queue of one lock, read while nobody else can change it.
///
/// The lock's own directory is locked meanwhile. A claim's life is a lock of its own file, which its owner keeps.
pub(super) struct Section<'a> {
    directory: &'a Directory,
    path: PathBuf,
    opened: OwnedFd,
    /// In the order of joining; of one that is not read, those who joined here.
    pub(super) queue: VecDeque<Slot>,
    /// The claims whose files this very store keeps open.
    ours: &'a Places,
    now: u64,
}

/// How a section is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enter {
    /// To read the queue.
    Read,
    /// To read it, where the lock's directory is made if need be.
    Make,
    /// Without reading the queue, which costs the more the longer that is.
    Unread,
}

/// What came of the wish to enter a section.
pub(super) enum Entered<'a> {
    Inside(Section<'a>),
    /// The lock has no directory, and so no claims.
    Absent,
    /// Somebody else is inside, or makes the lock's directory.
    Busy,
}

impl<'a> Section<'a> {
    /// Enters the section of a lock, reads its queue and drops the dead in front, unless it is not to be read.
    pub(super) fn enter(
        directory: &'a Directory,
        path: &Path,
        enter: Enter,
        ours: &'a Places,
    ) -> Result<Entered<'a>> {
        let mut entered = Self::lock(directory, path, enter == Enter::Make, ours)?;
        if let Entered::Inside(section) = &mut entered
            && enter != Enter::Unread
        {
            section.queue = list(directory, &section.opened)?;
            section.settle()?;
        }
        Ok(entered)
    }

    fn lock(directory: &'a Directory, path: &Path, make: bool, ours: &'a Places) -> Result<Entered<'a>> {
        loop {
            let Some(opened) = directory.open_lock(path, make)? else {
                return Ok(if make { Entered::Busy } else { Entered::Absent });
            };
            if !try_lock(&opened).map_err(|error| directory.failure("cannot be locked", error))? {
                return Ok(Entered::Busy);
            }
            // Somebody may have removed the directory between the opening and the locking.
            if !is_at(&opened, path) {
                continue;
            }
            let (path, queue) = (path.to_owned(), VecDeque::new());
            return Ok(Entered::Inside(Section { directory, path, opened, queue, ours, now: now() }));
        }
    }

    /// Drops the dead among those who decide what holds, and marks whom there is room for as granted.
    ///
    /// Those behind the first live claim that does not fit can hold on no account, so nobody looks at them.
    fn settle(&mut self) -> Result<()> {
        while !self.try_settle()? {}
        Ok(())
    }

    /// The same; false where one of those was found deleted, so that there may be room for others.
    fn try_settle(&mut self) -> Result<bool> {
        let mut checked = 0;
        let holding = loop {
            let holding = admit(self.queue.iter().map(Slot::permits));
            let decisive = (holding + 1).min(self.queue.len());
            let Some(dead) = (checked..decisive).find(|&position| !self.is_alive(&self.queue[position]))
            else {
                break holding;
            };
            checked = dead;
            if let Some(slot) = self.queue.remove(dead) {
                self.unlink(&slot)?;
            }
        };
        for position in 0..holding {
            let slot = self.queue[position];
            if slot.granted.is_none() {
                let granted = slot.granted_at(self.now);
                match renameat(&self.opened, slot.file(), &self.opened, granted.file()) {
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

    pub(super) fn is_alive(&self, slot: &Slot) -> bool {
        if slot.hold_ends().is_some_and(|end| end <= self.now) {
            return false;
        }
        if self.ours.has(slot.id) {
            return true;
        }
        match self.open(slot) {
            Ok(file) => flock(&file, FlockOperation::NonBlockingLockShared).is_err(),
            // A file that cannot be looked at is better taken for alive, unless it is not there.
            Err(error) => error != Errno::NOENT,
        }
    }

    /// Opens a claim's file to look at it: whoever shares the directory may have put a link or a pipe in its place.
    fn open(&self, slot: &Slot) -> Result<OwnedFd, Errno> {
        openat(&self.opened, slot.file(), OPEN | OFlags::NONBLOCK, Mode::empty())
    }

    fn unlink(&self, slot: &Slot) -> Result<bool> {
        match unlinkat(&self.opened, slot.file(), AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.directory.failure_within("cannot be written to", error)),
        }
    }

    pub(super) fn find(&self, id: ClaimId) -> Option<Slot> {
        self.queue.iter().find(|slot| slot.id == id).copied()
    }

    /// Puts the claim at the end of the queue; `None` if it is one that does not wait and would have to. The outer
    /// `None` says that the counter is in use.
    pub(super) fn enqueue(&mut self, claim: &Claim, owner: &str) -> Result<Option<Option<(Slot, OwnedFd)>>> {
        let shares = self.queue.iter().map(Slot::permits).chain([claim.permits]);
        let holds = admit(shares) > self.queue.len();
        if !holds && claim.wait_mode == WaitMode::Try {
            return Ok(Some(None));
        }
        Ok(self.append(claim, owner, holds)?.map(Some))
    }

    /// Puts the claim behind whoever is there; `None` says that the counter is in use.
    pub(super) fn append(
        &mut self,
        claim: &Claim,
        owner: &str,
        holds: bool,
    ) -> Result<Option<(Slot, OwnedFd)>> {
        let last_of_ours = self.ours.last(&self.path).map(|place| place.made.number);
        let last = self.queue.back().map(|slot| slot.number).max(last_of_ours);
        let Some(number) = self.directory.next_number(last)? else {
            return Ok(None);
        };
        let slot = Slot::new(claim, number, holds.then_some(self.now));
        let file = self.directory.create(&self.opened, &slot.file())?;
        let kept = flock(&file, FlockOperation::NonBlockingLockExclusive)
            .and_then(|()| write(&file, owner.as_bytes()));
        if let Err(error) = kept {
            self.unlink(&slot)?;
            return Err(self.directory.failure_within("cannot be written to", error));
        }
        self.queue.push_back(slot);
        Ok(Some((slot, file)))
    }

    /// Takes a claim out of the queue and lets in whom there is room for then; false if it was not there.
    pub(super) fn release(&mut self, id: ClaimId) -> Result<bool> {
        let Some(position) = self.queue.iter().position(|slot| slot.id == id) else {
            return Ok(false);
        };
        if let Some(slot) = self.queue.remove(position) {
            self.unlink(&slot)?;
        }
        self.settle()?;
        Ok(true)
    }

    /// Takes out a waiting claim without looking at the queue; false if its file is not called so any more.
    ///
    /// Whoever could hold by that watches its file, and looks.
    pub(super) fn leave_waiting(&self, slot: &Slot) -> Result<bool> {
        self.unlink(slot)
    }

    /// Lets others in while this goes on to look at what it has read.
    pub(super) fn unlock(&self) {
        // What cannot be unlocked is unlocked when this is dropped.
        let _ = flock(&self.opened, FlockOperation::Unlock);
    }

    /// Those who keep a claim waiting.
    pub(super) fn blockers(&self, slot: &Slot) -> Vec<Slot> {
        let ahead: Vec<Slot> = self.queue.iter().copied().take_while(|other| other.id != slot.id).collect();
        let shares: Vec<_> = ahead.iter().map(Slot::permits).collect();
        blockers(&shares, slot.permits()).into_iter().map(|position| ahead[position]).collect()
    }

    /// Whether all of the claims are alive. The dead are dropped, and so are those next in front of `mine`, up to the first
    /// that lives: many may have died together, and to look again after each would cost the square of that.
    pub(super) fn still_there(&mut self, slots: &[Slot], mine: &Slot) -> Result<bool> {
        let mut dead: Vec<Slot> = slots.iter().filter(|slot| !self.is_alive(slot)).copied().collect();
        if dead.is_empty() {
            return Ok(true);
        }
        let position = self.queue.partition_point(|slot| slot < mine);
        let ahead = self.queue.range(..position).rev().take(MOST_DEAD);
        dead.extend(ahead.take_while(|slot| !self.is_alive(slot)));
        for slot in &dead {
            self.unlink(slot)?;
        }
        let dead: HashSet<u64> = dead.into_iter().map(|slot| slot.number).collect();
        self.queue.retain(|slot| !dead.contains(&slot.number));
        self.settle()?;
        Ok(false)
    }

    pub(super) fn path_of(&self, slot: &Slot) -> PathBuf {
        self.path.join(slot.file())
    }

    /// What the owner of a claim wrote into its file.
    pub(super) fn text(&self, slot: &Slot) -> (String, Option<std::time::SystemTime>) {
        let Ok(opened) = self.open(slot) else {
            return (String::new(), None);
        };
        let file = std::fs::File::from(opened);
        let found = file.metadata().ok().filter(std::fs::Metadata::is_file);
        let mut text = Vec::new();
        if found.is_some() {
            // What cannot be read is not shown, and bytes without end are not read.
            let _ = file.take(LONGEST_TEXT).read_to_end(&mut text);
        }
        (String::from_utf8_lossy(&text).into_owned(), found.and_then(|found| found.modified().ok()))
    }

    pub(super) fn now(&self) -> u64 {
        self.now
    }
}

/// An empty directory goes with the last claim.
impl Drop for Section<'_> {
    fn drop(&mut self) {
        if self.queue.is_empty() {
            // Fails where the queue was not read and has others, or where something is in it that is no claim: that
            // is not ours to remove.
            let _ = unlinkat(CWD, &self.path, AtFlags::REMOVEDIR);
        }
    }
}

/// The text that a claim's file holds: the owner on the first line, the whole name behind it.
pub(super) fn text_of(claim: &Claim) -> String {
    format!("{}\n{}", claim.owner, claim.name.as_str())
}

/// Takes a text of [`text_of`] apart.
pub(super) fn owner_and_name(text: &str) -> (&str, Option<Name>) {
    let (owner, name) = text.split_once('\n').unwrap_or((text, ""));
    (owner, Name::new(name).ok())
}

fn list(directory: &Directory, opened: &OwnedFd) -> Result<VecDeque<Slot>> {
    let mut buffer = [MaybeUninit::uninit(); 32 * 1024];
    let mut entries = RawDir::new(opened, &mut buffer);
    let mut queue = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // The directory was deleted meanwhile: nobody is in it.
            Err(Errno::NOENT) => break,
            entry => entry.map_err(|error| directory.failure("cannot be read", error))?,
        };
        queue.extend(entry.file_name().to_str().ok().and_then(Slot::parse));
    }
    queue.sort_unstable();
    Ok(queue.into())
}

/// Milliseconds of the clock that all processes of the host share and that [`std::time::Instant`] reads.
pub(super) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (seconds, nanoseconds) = (time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs());
    // Never 0, which stands for "not granted".
    (seconds * 1000 + nanoseconds / 1_000_000).max(1)
}

#[cfg(test)]
mod tests;
