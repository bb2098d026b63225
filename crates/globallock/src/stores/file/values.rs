//! The values of the names: a file each, in a directory beside those of the locks.
//!
//! They are not in those directories, because an empty one is moved to become that of another lock. Theirs is
//! made like the directory of a lock. So every user who shares the locks may replace and delete them, also
//! where only the owner of a file may in the directory above (its sticky bit is set, as in `/tmp`). Its name
//! begins with a dot, so that no version takes it for a lock. They are read and written in the critical
//! section of their lock. So whoever writes one still holds when it is written.

use std::fs::read_dir;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::File;
use super::claim_file::{directory_of, name_of};
use super::critical_section::{CriticalSection, Enter, write_all};
use super::directory::OPEN;
use crate::backend::{Claim, ClaimStatus, Value, ValueWrite};
use crate::error::Result;
use crate::stores::record::{MAX_RECORD, Record, wall_clock};

/// The directory of the values. A file in it has the name of the lock's directory.
pub(super) const VALUES: &str = ".values";
/// What is behind the name while the file is written. No lock's directory has such a name.
const NEW: &str = "~";

impl File {
    /// The status with the value, if it is a grant of a claim that asks for it.
    pub(super) fn with_value(
        &self,
        claim: &Claim,
        section: &CriticalSection<'_>,
        status: ClaimStatus,
    ) -> ClaimStatus {
        match status {
            ClaimStatus::Held(grant) if claim.wants_value => {
                ClaimStatus::Held(grant.with_value(section.value(&self.value_of(section.path()))))
            }
            status => status,
        }
    }

    /// Writes the value of a claim's name, if the claim holds.
    pub(super) async fn write_value(
        &self,
        claim: &Claim,
        bytes: &[u8],
        keep: Duration,
    ) -> Result<ValueWrite> {
        Value::check(bytes, keep)?;
        let Some(open_file) = self.open_files.get(claim.id) else { return Ok(ValueWrite::NotHeld) };
        let at = self.value_of(&open_file.directory);
        self.inside(&open_file.directory, Enter::Read, |section| {
            let Some(section) = section else { return Ok(Some(ValueWrite::NotHeld)) };
            let Some(mine) = section.find(claim.id).filter(|file| file.granted.is_some()) else {
                return Ok(Some(ValueWrite::NotHeld));
            };
            if section.value(&at).is_some_and(|value| value.fencing_token() > mine.number) {
                return Ok(Some(ValueWrite::Outranked));
            }
            // If another user is just creating it, again.
            let Some(_) = self.directory.open_lock(&self.values(), true)? else { return Ok(None) };
            self.replace(&at, &Record::now(mine.number, keep, bytes).to_bytes())?;
            Ok(Some(ValueWrite::Written))
        })
        .await
    }

    /// Deletes the values that have ended. What cannot be read or deleted stays.
    pub(super) async fn delete_ended(&self) {
        let Ok(listed) = read_dir(self.values()) else { return };
        for entry in listed.flatten() {
            let _ = self.delete_if_ended(&entry.path()).await;
        }
    }

    /// Deletes the file at `listed` if it is that of a value that has ended.
    async fn delete_if_ended(&self, listed: &Path) -> Result<()> {
        let Some(lock) = listed.file_name().and_then(|name| name.to_str()) else { return Ok(()) };
        let (lock, is_new) = lock.strip_suffix(NEW).map_or((lock, false), |lock| (lock, true));
        // Others may have put files there that belong to no lock.
        let is_of_lock = lock.contains("%%") || name_of(lock).is_some_and(|name| directory_of(&name) == lock);
        if lock.starts_with('.') || !is_of_lock || !is_new && !has_ended(listed) {
            return Ok(());
        }
        // A holder may just write it again. Inside, nobody does, and nobody writes a new one.
        let path = self.directory.path().join(lock);
        self.inside(&path, Enter::Make, |section| {
            let Some(_) = section else { return Ok(None) };
            if is_new || has_ended(listed) {
                let _ = unlinkat(CWD, listed, AtFlags::empty());
            }
            Ok(Some(()))
        })
        .await
    }

    fn values(&self) -> PathBuf {
        self.directory.path().join(VALUES)
    }

    /// The file of the value of the lock whose directory is at `path`.
    fn value_of(&self, path: &Path) -> PathBuf {
        let lock = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        self.values().join(lock)
    }

    /// Gives a value's file another content, all at once: a reader or a crash never sees half of it.
    fn replace(&self, at: &Path, content: &[u8]) -> Result<()> {
        let mut new = at.as_os_str().to_owned();
        new.push(NEW);
        let fails = |error| self.directory.failure_within("cannot be written to", error);
        match unlinkat(CWD, &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(fails(error)),
        }
        let opened = self.directory.create(CWD, &new)?;
        let written = write_all(&opened, content).and_then(|()| renameat(CWD, &new, CWD, at));
        written.map_err(|error| {
            let _ = unlinkat(CWD, &new, AtFlags::empty());
            fails(error)
        })
    }
}

impl CriticalSection<'_> {
    /// The value in a file, unless it has ended: then the file is deleted.
    fn value(&self, at: &Path) -> Option<Value> {
        let content = read(at)?;
        let record = Record::parse(&content)?;
        let now = wall_clock();
        if record.has_ended(now) {
            let _ = unlinkat(CWD, at, AtFlags::empty());
            return None;
        }
        Some(record.value(record.age(now)))
    }
}

fn has_ended(at: &Path) -> bool {
    read(at).is_some_and(|content| Record::parse(&content).is_some_and(|it| it.has_ended(wall_clock())))
}

/// What is in a file; `None` if it is not there, or is none. Users who share the directory may have put a
/// link or a pipe in its place: the flags keep a link from being followed and a pipe from blocking.
fn read(at: &Path) -> Option<Vec<u8>> {
    let opened = openat(CWD, at, OPEN | OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).ok()?;
    let opened = std::fs::File::from(opened);
    let mut content = Vec::new();
    // The limit is for a file that another user made huge.
    opened.metadata().ok().filter(std::fs::Metadata::is_file)?;
    opened.take(MAX_RECORD as u64 + 1).read_to_end(&mut content).ok()?;
    Some(content)
}
