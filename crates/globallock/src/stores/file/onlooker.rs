//! What onlookers see of the directory: the queue of one lock, and a summary of each; and how they take a
//! claim out.

use std::collections::HashSet;
use std::fs::{DirEntry, read_dir};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use futures_util::stream::{self, BoxStream, StreamExt};
use rustix::io::Errno;
use tokio::sync::futures::Notified;
use tokio::time::sleep;

use super::File;
use super::claim_file::{ClaimFile, directory_of, name_of};
use super::critical_section::{CriticalSection, Enter, owner_and_name};
use super::values::VALUES;
use crate::backend::{ClaimId, Entry, EntryKey, Eviction, Release, StoreNoticeKind, Summary};
use crate::error::Result;
use crate::name::Name;
use crate::owner::Owner;

/// The longest queue that is looked at inside the critical section. A longer one is looked at after others
/// may enter again.
const LISTED_INSIDE: usize = 16;

/// A process that has had claims for this long is told of evictions at once. Others need not be, and are
/// spared what that costs: an inotify instance, whose end takes the kernel some milliseconds.
const LONG: Duration = Duration::from_secs(1);

/// Of which claims the owners are shown: that needs the contents of their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owners {
    OfAll,
    OfFirst,
}

impl File {
    /// The queue of the lock at `path`.
    pub(super) async fn entries(&self, path: &Path, owners: Owners) -> Result<Vec<Entry>> {
        let listed = self.inside(path, Enter::Read, |section| {
            let Some(section) = section else {
                return Ok(Some((Vec::new(), HashSet::new())));
            };
            if section.queue.len() > LISTED_INSIDE {
                section.unlock();
            }
            let alive = |file: &&ClaimFile| section.is_alive(file);
            let (alive, missing): (Vec<&ClaimFile>, Vec<&ClaimFile>) = section.queue.iter().partition(alive);
            let shown = |index| owners == Owners::OfAll || index == 0;
            let alive = alive.into_iter().enumerate();
            let entries: Vec<Entry> = alive.map(|(index, file)| entry(section, file, shown(index))).collect();
            Ok(Some((entries, missing.into_iter().map(|file| file.id).collect::<HashSet<ClaimId>>())))
        });
        let (mut entries, missing) = listed.await?;
        if !missing.is_empty() {
            // A claim that was granted while others could enter has got another file name.
            let renamed = self.inside(path, Enter::Read, |section| {
                let Some(section) = section else { return Ok(Some(Vec::new())) };
                let renamed = section.queue.iter().filter(|file| missing.contains(&file.id));
                let alive = renamed.filter(|file| section.is_alive(file));
                Ok(Some(alive.map(|file| entry(section, file, true)).collect()))
            });
            entries.extend(renamed.await?);
            entries.sort_by_key(|entry| entry.fencing_token);
        }
        Ok(entries)
    }

    /// Sums up the locks whose names begin with `prefix`. The directory is read as the stream is polled.
    pub(super) fn summaries<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        let fails = |error: &io::Error| {
            self.directory.failure("cannot be read", Errno::from_io_error(error).unwrap_or(Errno::IO))
        };
        let listed = match read_dir(self.directory.path()) {
            // It was deleted: it has no claims.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return stream::empty().boxed(),
            Err(error) => return stream::iter([Err(fails(&error))]).boxed(),
            Ok(listed) => listed,
        };
        stream::iter(listed)
            .filter_map(move |listed| async move {
                match listed {
                    Ok(entry) => self.summary(&entry, prefix).await.transpose(),
                    Err(error) => Some(Err(fails(&error))),
                }
            })
            .boxed()
    }

    /// Sums up the lock of a directory; `None` if it is not the directory of a lock with this prefix, or if
    /// the lock has no claims.
    async fn summary(&self, listed: &DirEntry, prefix: &str) -> Result<Option<Summary>> {
        let is_lock = listed.file_type().is_ok_and(|kind| kind.is_dir());
        let file_name = listed.file_name();
        if is_lock && file_name == VALUES {
            self.delete_ended().await;
        }
        let Some(directory) = file_name.to_str().filter(|_| is_lock) else { return Ok(None) };
        let path = listed.path();
        let name = match name_of(directory) {
            None if directory.contains("%%") => self.name_in(&path).await?,
            name => name,
        };
        // Others may have put directories there that are no lock's.
        let name = name.filter(|name| name.as_str().starts_with(prefix) && directory_of(name) == directory);
        let Some(name) = name else { return Ok(None) };
        Ok(Summary::of(&name, &self.entries(&path, Owners::OfFirst).await?))
    }

    /// The lock's name as its first claim's file has it.
    async fn name_in(&self, path: &Path) -> Result<Option<Name>> {
        let first = self.inside(path, Enter::Read, |section| {
            let first = section.as_ref().and_then(|section| Some(section.text(section.queue.front()?).0));
            Ok(Some(first))
        });
        Ok(first.await?.and_then(|text| owner_and_name(&text).1))
    }

    /// Evicts a claim.
    pub(super) async fn take_out(&self, name: &Name, key: &EntryKey, eviction: &Eviction) -> Result<Release> {
        let Some(id) = key.claim_id() else { return Ok(Release::NotHeld) };
        let (path, notice) = (self.path(name), eviction.to_text());
        let evicted = self.inside(&path, Enter::Read, |section| {
            section.map_or(Ok(false), |section| section.evict(id, &notice)).map(Some)
        });
        if !evicted.await? {
            return Ok(Release::NotHeld);
        }
        // Its owner need not watch its own file for that, which every acquire would pay for.
        if let Err(error) = self.directory.touch_counter() {
            self.directory.notices.say(StoreNoticeKind::EvictionToldLate, &error);
        }
        Ok(Release::Released)
    }

    /// Waits until claims of this store may have been evicted. `evicted` is the wait for the first eviction.
    ///
    /// # Cancel safety
    /// Nothing is lost but what has happened since `evicted` was made.
    pub(super) async fn until_evicted(&self, evicted: Notified<'_>) {
        tokio::pin!(evicted);
        loop {
            tokio::select! {
                () = &mut evicted => {}
                () = self.long_hold(), if self.watches.should_watch_evictions() => {
                    if !self.watch_evictions() {
                        continue;
                    }
                }
            }
            // Made before the claims are looked at, so that no eviction is missed.
            evicted.set(self.watches.evicted());
            // Only claims of others may have been evicted.
            if self.open_files.all().iter().any(|(_, file)| !file.is_untouched()) {
                return;
            }
        }
    }

    /// Waits until the store has had claims for long.
    async fn long_hold(&self) {
        loop {
            self.open_files.any().await;
            sleep(LONG).await;
            if !self.open_files.is_empty() {
                return;
            }
        }
    }
}

fn entry(section: &CriticalSection<'_>, file: &ClaimFile, with_owner: bool) -> Entry {
    let (owner, written) = match with_owner {
        true => {
            let (text, written) = section.text(file);
            (Owner::from_text(owner_and_name(&text).0), written)
        }
        false if file.granted.is_some() => (Owner::default(), None),
        false => (Owner::default(), section.written(file)),
    };
    let since = |milliseconds: u64| Duration::from_millis(section.now().saturating_sub(milliseconds));
    let waiting = written.and_then(|written| SystemTime::now().duration_since(written).ok());
    Entry {
        fencing_token: file.number,
        age: file.granted.map(since).or(waiting),
        expires_in: file.hold_ends().map(|end| Duration::from_millis(end.saturating_sub(section.now()))),
        ..Entry::new(file.id.into(), file.granted.is_some(), file.permits(), owner)
    }
}

#[cfg(test)]
mod tests;
