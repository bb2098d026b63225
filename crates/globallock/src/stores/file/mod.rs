//! The store in a directory of one Linux host: the queue is a directory listing, a claim's life is a locked file.
//!
//! A name has a directory, and a claim is a file in it that its owner keeps open and locked, so that the kernel frees
//! the claim of a process that ends in any way, at once. The file's name says all that decisions need; they are made
//! while the directory is locked, which takes microseconds. Waiters sleep until the kernel tells them that the file of
//! one who is in front of them was closed, or their own was marked as granted. The recipe is that of `ZooKeeper`'s
//! locks, with open files in place of sessions.
//!
//! File system calls are made in place, not on a blocking thread: the directory is local, they take microseconds each, and
//! a call that is not handed over cannot leave a claim behind when its future is dropped.

mod directory;
mod places;
mod section;
mod slot;
mod turns;
mod watch;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt};
use tokio::time::sleep;

use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, Grant, Release, WaitMode,
};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::owner::Owner;
use crate::stores::address::Address;

use directory::Directory;
use places::{Place, Places};
use section::{Enter, Entered, Section};
use slot::Slot;
use turns::Turns;
use watch::{Subscription, Until, Watches};

/// How long a section may be busy: it takes microseconds, unless its process has been stopped inside.
const BUSY: Duration = Duration::from_secs(2);
/// The bounds of the pause before a busy section is tried again: one task of a process does that, for all.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(2));
/// When a waiter looks once more after it has begun to watch, in case that a file was closed just then: the kernel
/// announces the closing of a file a moment before it drops the lock.
const LOOK_ONCE_MORE: Duration = Duration::from_millis(20);

/// How many claims of this store in front of one are not looked at one by one; and how many claims are listed while
/// nobody else may enter.
const FEW: usize = 16;

/// A store in a directory of this host.
#[derive(Debug)]
pub(crate) struct File {
    directory: Directory,
    places: Places,
    turns: Turns,
    watches: Watches,
}

/// Where a waiting claim stands, and what wakes it.
enum Look {
    ClaimStatus(ClaimStatus),
    Wait {
        subscription: Subscription,
        look_again: Option<Instant>,
    },
    /// A file went away meanwhile.
    Again,
}

impl File {
    /// Finds or makes the directory that an address names.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`]; [`Error::FailedPrecondition`] and [`Error::PermissionDenied`] when the directory cannot serve.
    pub(crate) fn connect(address: Address) -> Result<Arc<Self>> {
        let directory = Directory::open(address)?;
        Ok(Arc::new(File {
            directory,
            places: Places::default(),
            turns: Turns::default(),
            watches: Watches::default(),
        }))
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.directory.path().join(slot::directory(name))
    }

    /// Does `act` inside the section of the lock at `path`, as soon as that is free. `act` is given `None` where the
    /// lock has no claims, and answers `None` to be called again.
    async fn inside<T>(
        &self,
        path: &Path,
        enter: Enter,
        mut act: impl FnMut(Option<&mut Section<'_>>) -> Result<Option<T>>,
    ) -> Result<T> {
        let mut turn = self.turns.take(path).await;
        let mut pause = PAUSE.0;
        loop {
            let done = match Section::enter(&self.directory, path, enter, &self.places)? {
                Entered::Inside(mut section) => act(Some(&mut section))?,
                Entered::Absent => act(None)?,
                Entered::Busy => None,
            };
            if let Some(done) = done {
                turn.entered();
                return Ok(done);
            }
            let now = Instant::now();
            if now >= turn.busy(now) + BUSY {
                return Err(Error::unavailable(
                    self.directory.shown(),
                    format!(
                        "a process has been inside {} for {BUSY:?}; `fuser -v` on it names that process, which may \
                         have been stopped: continue or end it",
                        path.display().to_string().escape_debug()
                    ),
                ));
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// The standing of a claim of this store, found in the section or not.
    fn status(&self, id: ClaimId, found: Option<Slot>) -> ClaimStatus {
        match found {
            Some(slot) if slot.granted.is_some() => {
                if let Some(place) = self.places.get(id) {
                    place.granted.get_or_init(|| slot);
                }
                ClaimStatus::Held(grant(&slot))
            }
            Some(_) => ClaimStatus::Waiting,
            None => {
                self.places.remove(id);
                ClaimStatus::Gone
            }
        }
    }

    /// Looks where a waiting claim stands, and begins to watch those in front of it.
    fn look(&self, claim: &Claim, section: Option<&mut Section<'_>>) -> Result<Look> {
        let Some(section) = section else {
            return Ok(Look::ClaimStatus(self.status(claim.id, None)));
        };
        let found = section.find(claim.id);
        let Some(mine) = found.filter(|slot| slot.granted.is_none()) else {
            return Ok(Look::ClaimStatus(self.status(claim.id, found)));
        };
        let blockers = section.blockers(&mine);
        let paths: Vec<_> = blockers.iter().map(|slot| (section.path_of(slot), until(slot))).collect();
        let own = section.path_of(&mine);
        let files = paths.iter().map(|(path, until)| (path.as_path(), *until));
        let subscribed = self
            .watches
            .subscribe(files.chain([(own.as_path(), Until::Renamed)]))
            .map_err(|error| self.directory.failure_within("cannot be watched", error))?;
        let Some(subscription) = subscribed else {
            return Ok(Look::Again);
        };
        // Looked at after the watch began, so that a death in between is seen by one or the other.
        if !section.still_there(&blockers, &mine)? {
            return Ok(Look::Again);
        }
        let first_end = blockers.iter().filter_map(Slot::hold_ends).min();
        let look_again = first_end.map(|end| instant(end) + Duration::from_millis(1));
        Ok(Look::Wait { subscription, look_again })
    }

    /// Takes a claim out unless its section is busy.
    fn leave_now(&self, id: ClaimId, place: &Place) -> Result<bool> {
        let left = match Section::enter(&self.directory, &place.directory, Enter::Read, &self.places)? {
            Entered::Inside(mut section) => section.release(id)?,
            Entered::Absent | Entered::Busy => false,
        };
        Ok(left)
    }
}

/// What a waiter has to know of one in front of it: when it leaves and, if it will have a longest hold, when that starts.
fn until(slot: &Slot) -> Until {
    if slot.will_end() && slot.granted.is_none() { Until::RenamedOrClosed } else { Until::Closed }
}

/// The moment at which the host's clock shows `milliseconds`, rounded to the early side.
fn instant(milliseconds: u64) -> Instant {
    let here = Instant::now();
    let now = section::now() + 1;
    let from_now = Duration::from_millis(milliseconds.abs_diff(now));
    let moved = if milliseconds >= now { here.checked_add(from_now) } else { here.checked_sub(from_now) };
    moved.unwrap_or(here)
}

fn grant(slot: &Slot) -> Grant {
    Grant { fencing_token: slot.number, expires: None, hold_ends: slot.hold_ends().map(instant) }
}

#[async_trait]
impl Backend for File {
    fn capabilities(&self) -> Capabilities {
        Capabilities::new("file", CrashRelease::ProcessEnd)
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        let path = self.path(&claim.name);
        let text = section::text_of(claim);
        if let Some(status) = self.join_behind_ours(claim, &path, &text).await? {
            return Ok(status);
        }
        self.inside(&path, Enter::Make, |section| {
            let Some(section) = section else {
                return Ok(None);
            };
            if let Some(found) = section.find(claim.id) {
                return Ok(Some(self.status(claim.id, Some(found))));
            }
            let Some(joined) = section.enqueue(claim, &text)? else {
                return Ok(None);
            };
            Ok(Some(match joined {
                Some((slot, file)) => {
                    self.places.insert(claim.id, Place::new(file, path.clone(), slot));
                    self.status(claim.id, Some(slot))
                }
                None => self.status(claim.id, None),
            }))
        })
        .await
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        let path = self.path(&claim.name);
        let mut recheck = Some(LOOK_ONCE_MORE);
        loop {
            if self.behind_ours(claim).await {
                continue;
            }
            let look = self.inside(&path, Enter::Read, |section| self.look(claim, section).map(Some)).await?;
            let (subscription, look_again) = match look {
                Look::ClaimStatus(status) => return Ok(Some(status)),
                Look::Again => continue,
                Look::Wait { subscription, look_again } => (subscription, look_again),
            };
            let timer = [look_again, recheck.map(|pause| Instant::now() + pause)].into_iter().flatten().min();
            let timer = async {
                match timer {
                    Some(instant) => tokio::time::sleep_until(instant.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The file that was closed may seem locked for another moment.
                () = subscription.told() => recheck = Some(PAUSE.0),
                () = timer => {
                    recheck = recheck.map(|pause| pause * 2).filter(|pause| *pause <= LOOK_ONCE_MORE);
                }
            }
        }
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let mut answers = Vec::with_capacity(claims.len());
        for claim in claims {
            answers.push(match self.places.get(claim.id) {
                None => Ok(ClaimStatus::Gone),
                Some(place) => self.renew_one(claim, &place).await,
            });
        }
        answers
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let Some(place) = self.places.get(claim.id) else {
            return Ok(Release::NotHeld);
        };
        if let Ok(Some(left)) = self.leave_waiting(&place).await {
            self.places.remove(claim.id);
            return Ok(left);
        }
        let left = self.inside(&place.directory, Enter::Read, |section| {
            let left = section.map_or(Ok(false), |section| section.release(claim.id))?;
            Ok(Some(if left { Release::Released } else { Release::NotHeld }))
        });
        let left = left.await;
        // Even where nothing could be written, closing the file is enough: it wakes whoever watches it, and the next
        // who looks finds it dead.
        self.places.remove(claim.id);
        left.or_else(|error| {
            tracing::warn!(name = %claim.name, %error, "a claim is left to be found dead");
            Ok(Release::Released)
        })
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        let path = self.path(name);
        let listed = self.inside(&path, Enter::Read, |section| {
            let Some(section) = section else {
                return Ok(Some((Vec::new(), HashSet::new())));
            };
            if section.queue.len() > FEW {
                section.unlock();
            }
            let alive = |slot: &&Slot| section.is_alive(slot);
            let (alive, missing): (Vec<&Slot>, Vec<&Slot>) = section.queue.iter().partition(alive);
            let entries: Vec<Entry> = alive.into_iter().map(|slot| entry(section, slot)).collect();
            Ok(Some((entries, missing.into_iter().map(|slot| slot.id).collect::<HashSet<ClaimId>>())))
        });
        let (mut entries, missing) = listed.await?;
        if !missing.is_empty() {
            // A claim that was granted while others could enter has another file name.
            let renamed = self.inside(&path, Enter::Read, |section| {
                let Some(section) = section else { return Ok(Some(Vec::new())) };
                let renamed = section.queue.iter().filter(|slot| missing.contains(&slot.id));
                let alive = renamed.filter(|slot| section.is_alive(slot));
                Ok(Some(alive.map(|slot| entry(section, slot)).collect()))
            });
            entries.extend(renamed.await?);
            entries.sort_by_key(|entry| entry.fencing_token);
        }
        Ok(entries)
    }

    fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>> {
        let listed = std::fs::read_dir(self.directory.path());
        let is_lock = |entry: &std::fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
        let all: Vec<_> =
            listed.into_iter().flatten().flatten().filter(is_lock).map(|entry| entry.path()).collect();
        stream::iter(all)
            .filter_map(move |path| async move {
                let directory = path.file_name()?.to_str()?.to_owned();
                if directory.starts_with('.') {
                    return None;
                }
                let found = self.inside(&path, Enter::Read, |section| {
                    let first =
                        section.as_ref().and_then(|section| Some(section.text(section.queue.front()?).0));
                    Ok(Some(first))
                });
                let named =
                    |text: String| slot::name_of(&directory).or_else(|| section::owner_and_name(&text).1);
                match found.await {
                    Ok(text) => text.and_then(named).filter(|name| name.as_str().starts_with(prefix)).map(Ok),
                    Err(error) => Some(Err(error)),
                }
            })
            .boxed()
    }
}

impl File {
    /// Puts a claim that excludes all others behind one of this store, which is enough to know that it waits: so the queue
    /// need not be read. `None` where it has to be.
    async fn join_behind_ours(&self, claim: &Claim, path: &Path, text: &str) -> Result<Option<ClaimStatus>> {
        let excludes = claim.permits.count == claim.permits.capacity;
        // One with a longest hold may be dead already.
        let ours = || self.places.last(path).filter(|ours| !ours.made.will_end() && ours.is_linked());
        if !excludes || self.places.has(claim.id) || ours().is_none() {
            return Ok(None);
        }
        if claim.wait_mode == WaitMode::Try {
            return Ok(Some(ClaimStatus::Gone));
        }
        self.inside(path, Enter::Unread, |section| {
            let Some(section) = section.filter(|_| ours().is_some()) else { return Ok(Some(None)) };
            Ok(section.append(claim, text, false)?.map(|(slot, file)| {
                self.places.insert(claim.id, Place::new(file, path.to_owned(), slot));
                Some(ClaimStatus::Waiting)
            }))
        })
        .await
    }

    /// Waits until the claim of this store next in front has left, if there are many in front that it has to wait for
    /// anyhow; false if there are not.
    async fn behind_ours(&self, claim: &Claim) -> bool {
        let excludes = claim.permits.count == claim.permits.capacity;
        let Some(mine) = self.places.get(claim.id).filter(|_| excludes) else { return false };
        let Some((id, ahead)) = self.places.before(&mine, FEW) else { return false };
        if mine.granted.get().is_some() || ahead.made.will_end() || !ahead.is_linked() {
            return false;
        }
        // A file that is kept open would be a claim that goes on.
        let left = Arc::clone(&ahead.left);
        drop((mine, ahead));
        let left = left.notified();
        tokio::pin!(left);
        left.as_mut().enable();
        if self.places.has(id) {
            left.await;
        }
        true
    }

    /// Takes a claim out that waits behind others of this store; `None` where the queue has to be read for that.
    async fn leave_waiting(&self, place: &Place) -> Result<Option<Release>> {
        if place.granted.get().is_some() || self.places.is_first_waiting(place) {
            return Ok(None);
        }
        let left = self.inside(&place.directory, Enter::Unread, |section| {
            section.map_or(Ok(false), |section| section.leave_waiting(&place.made)).map(Some)
        });
        Ok(left.await?.then_some(Release::Released))
    }

    /// A claim whose file has its name is there. One that waits looks after those in front of it, since their owners
    /// may have been stopped.
    async fn renew_one(&self, claim: &Claim, place: &Place) -> Result<ClaimStatus> {
        if !place.is_linked() {
            return Ok(self.status(claim.id, None));
        }
        if let Some(slot) = place.granted.get() {
            return Ok(ClaimStatus::Held(grant(slot)));
        }
        // Nobody holds behind one who waits.
        if !self.places.is_first_waiting(place) {
            return Ok(ClaimStatus::Waiting);
        }
        self.inside(&place.directory, Enter::Read, |section| {
            let found = section.and_then(|section| section.find(claim.id));
            Ok(Some(self.status(claim.id, found)))
        })
        .await
    }
}

fn entry(section: &Section<'_>, slot: &Slot) -> Entry {
    let (text, written) = section.text(slot);
    let (owner, _) = section::owner_and_name(&text);
    let since = |milliseconds: u64| Duration::from_millis(section.now().saturating_sub(milliseconds));
    let waiting = written.and_then(|written| SystemTime::now().duration_since(written).ok());
    Entry {
        fencing_token: slot.number,
        age: slot.granted.map(since).or(waiting),
        expires_in: slot.hold_ends().map(|end| Duration::from_millis(end.saturating_sub(section.now()))),
        ..Entry::new(Some(slot.id), slot.granted.is_some(), slot.permits(), Owner::from_text(owner))
    }
}

/// Takes out what is left, so that nobody has to find it dead.
impl Drop for File {
    fn drop(&mut self) {
        for (id, place) in self.places.all() {
            if let Err(error) = self.leave_now(id, &place) {
                tracing::debug!(%error, "a claim is left to be found dead");
            }
        }
    }
}
