//! The store in a directory of one Linux host: the queue is a directory listing, and a claim is a locked
//! file.
//!
//! Each name has a directory, and each claim is a file in it. The owner keeps that file open and locked;
//! however its process ends, the kernel closes the file and so frees the claim at once. The name of the file
//! says all that a decision needs. Decisions are made in a critical section, while the directory is locked:
//! that takes microseconds. A waiter sleeps until the kernel reports that a file in front of its own was
//! closed, or that its own file was renamed, which marks a grant. The recipe is that of `ZooKeeper`'s locks,
//! with open files instead of sessions.
//!
//! Whoever evicts a claim deletes its file and then writes a notice into it. The owner still has the file
//! open, and finds the notice there once it sees that its claim is not in the queue any more. To make it
//! look, the evictor touches a file that all stores of the directory watch. Nothing of it is left, because
//! the kernel frees the deleted file when the owner closes it.
//!
//! File system calls are made in the async task, not on a blocking thread, for two reasons: the directory is
//! local, so that each call takes microseconds; and a call on another thread could outlast its dropped future
//! and leave a claim behind.

mod claim_file;
mod container;
mod critical_section;
mod directory;
mod examine;
mod onlooker;
mod open_files;
mod spare;
mod turns;
mod values;
mod watch;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::time::sleep;

use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, EntryKey, Eviction, Finding,
    Grant, Release, StoreNotice, StoreNoticeKind, Summary, ValueWrite, WaitMode,
};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stores::address::Address;
use crate::sync::{Instant, sleep_until_some};

use claim_file::ClaimFile;
use critical_section::{CriticalSection, Enter, Entered};
use directory::Directory;
use onlooker::Owners;
use open_files::{OpenFile, OpenFiles};
use turns::Turns;
use watch::{Subscription, WakeOn, Watches};

/// How long a critical section may be busy. It takes microseconds, unless the process inside was stopped.
const BUSY_LIMIT: Duration = Duration::from_secs(2);
/// The bounds of the pause before a busy critical section is tried again. One task of a process tries for
/// all.
const BUSY_PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(2));
/// When a waiter reads the queue again after its watch began, in case that a file was closed just then. The
/// kernel reports the closing of a file a moment before it drops the file's lock, so that the first read may
/// have found the file still locked.
const RECHECK: Duration = Duration::from_millis(20);

/// A waiter with more than this many claims of its process in front of it stays out of the critical section:
/// it waits until the nearest of those claims is released.
const MANY_AHEAD: usize = 16;

/// A store in a directory of this host.
#[derive(Debug)]
pub(crate) struct File {
    address: String,
    directory: Directory,
    open_files: OpenFiles,
    turns: Turns,
    watches: Watches,
}

/// What the attempt to watch a claim's blockers found.
enum Watch {
    /// The claim does not wait.
    Decided(ClaimStatus),
    /// It waits for the watched files.
    Blocked {
        subscription: Subscription,
        /// When the first max hold time of a blocker ends, if any.
        recheck_at: Option<Instant>,
    },
    /// A file was removed meanwhile: the queue must be read again.
    Changed,
}

impl File {
    /// Opens the directory that an address names, or creates it.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`]; [`Error::FailedPrecondition`] and [`Error::PermissionDenied`] if the
    /// directory cannot be used.
    pub(crate) fn open(address: Address) -> Result<Arc<Self>> {
        let directory = Directory::open(address)?;
        let watches = Watches::new(directory.notices.clone());
        let (address, open_files, turns) = (directory.shown(), OpenFiles::default(), Turns::default());
        Ok(Arc::new(File { address, directory, open_files, turns, watches }))
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.directory.path().join(claim_file::directory_of(name))
    }

    /// Runs `act` inside the critical section of the lock at `path`, once that is free. `act` gets `None` if
    /// the lock has no directory, and so no claims. If `act` returns `None`, it is called again.
    async fn inside<T>(
        &self,
        path: &Path,
        enter: Enter,
        mut act: impl FnMut(Option<&mut CriticalSection<'_>>) -> Result<Option<T>>,
    ) -> Result<T> {
        let mut turn = self.turns.take(path).await;
        let mut pause = BUSY_PAUSE.0;
        loop {
            let done = match CriticalSection::enter(&self.directory, path, enter, &self.open_files)? {
                Entered::Inside(mut section) => act(Some(&mut section))?,
                Entered::Absent => act(None)?,
                Entered::Busy => None,
            };
            if let Some(done) = done {
                turn.entered();
                return Ok(done);
            }
            let now = Instant::now();
            if now >= turn.busy(now) + BUSY_LIMIT {
                return Err(Error::unavailable(
                    self.directory.shown(),
                    format!(
                        "a process has kept {} locked for {BUSY_LIMIT:?}; `fuser -v` on it names that \
                         process, which may have been stopped: continue or end it",
                        path.display().to_string().escape_debug()
                    ),
                ));
            }
            sleep(pause).await;
            pause = (pause * 2).min(BUSY_PAUSE.1);
        }
    }

    /// The status of a claim of this store, from its file in the queue, if there is one.
    fn status(&self, claim: &Claim, found: Option<ClaimFile>) -> ClaimStatus {
        match found {
            Some(file) if file.granted.is_some() => {
                if let Some(open_file) = self.open_files.get(claim.id) {
                    open_file.granted.get_or_init(|| file);
                }
                ClaimStatus::Held(grant(&file))
            }
            Some(_) => ClaimStatus::Waiting,
            None => self.open_files.leave(claim).map_or(ClaimStatus::Gone, ClaimStatus::Evicted),
        }
    }

    /// Begins to watch the file that evictors touch, if that is possible, and says whether it is watched.
    fn watch_evictions(&self) -> bool {
        self.watches.watch_evictions(&self.directory.counter())
    }

    /// Begins to watch the blockers of a claim, if it waits.
    fn watch_blockers(&self, claim: &Claim, section: Option<&mut CriticalSection<'_>>) -> Result<Watch> {
        let Some(section) = section else {
            return Ok(Watch::Decided(self.status(claim, None)));
        };
        let found = section.find(claim.id);
        let Some(mine) = found.filter(|file| file.granted.is_none()) else {
            let status = self.status(claim, found);
            return Ok(Watch::Decided(self.with_value(claim, section, status)));
        };
        let blockers = section.blockers(&mine);
        let paths: Vec<_> = blockers.iter().map(|file| (section.path_of(file), wake_on(file))).collect();
        let own = section.path_of(&mine);
        let files = paths.iter().map(|(path, wake_on)| (path.as_path(), *wake_on));
        let subscribed = self
            .watches
            .subscribe(files.chain([(own.as_path(), WakeOn::Decided)]))
            .map_err(|error| self.directory.failure_within("cannot be watched", error))?;
        let Some(subscription) = subscribed else {
            return Ok(Watch::Changed);
        };
        // Checked after the watch began: a death before the watch is seen here, a later one by the watch.
        if !section.confirm_alive(&blockers, &mine)? {
            return Ok(Watch::Changed);
        }
        let first_end = blockers.iter().filter_map(ClaimFile::hold_ends).min();
        let recheck_at = first_end.map(|end| instant(end) + Duration::from_millis(1));
        Ok(Watch::Blocked { subscription, recheck_at })
    }

    /// Releases a claim, unless its critical section is busy. Says whether it did.
    fn try_release(&self, id: ClaimId, open_file: &OpenFile) -> Result<bool> {
        let released = match CriticalSection::enter(
            &self.directory,
            &open_file.directory,
            Enter::Release(id),
            &self.open_files,
        )? {
            Entered::Inside(mut section) => section.release(id)?,
            Entered::Absent | Entered::Busy => false,
        };
        Ok(released)
    }
}

/// Which event of a blocker's file wakes the waiter.
///
/// A blocker that waits and has a max hold time also wakes it by its grant, because its time starts then and
/// the waiter needs a timer for the end of it.
fn wake_on(file: &ClaimFile) -> WakeOn {
    if file.has_max_hold() && file.granted.is_none() { WakeOn::RenamedOrClosed } else { WakeOn::Closed }
}

/// The moment at which the host's clock shows `milliseconds`, rounded down.
fn instant(milliseconds: u64) -> Instant {
    let here = Instant::now();
    let now = critical_section::now() + 1;
    let from_now = Duration::from_millis(milliseconds.abs_diff(now));
    let moved = if milliseconds >= now { here.checked_add(from_now) } else { here.checked_sub(from_now) };
    moved.unwrap_or(here)
}

fn grant(file: &ClaimFile) -> Grant {
    Grant::new(file.number).with_hold_ends(file.hold_ends().map(instant))
}

#[async_trait]
impl Backend for File {
    fn address(&self) -> &str {
        &self.address
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("file", CrashRelease::ProcessEnd).with_values()
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        if let Some(eviction) = self.open_files.eviction(claim.id) {
            return Ok(ClaimStatus::Evicted(eviction));
        }
        let path = self.path(&claim.name);
        let text = critical_section::text_of(claim);
        if let Some(status) = self.enqueue_behind_ours(claim, &path, &text).await? {
            return Ok(status);
        }
        self.inside(&path, Enter::Make, |section| {
            let Some(section) = section else {
                return Ok(None);
            };
            if let Some(found) = section.find(claim.id) {
                let status = self.status(claim, Some(found));
                return Ok(Some(self.with_value(claim, section, status)));
            }
            if let evicted @ ClaimStatus::Evicted(_) = self.status(claim, None) {
                return Ok(Some(evicted));
            }
            let Some(joined) = section.enqueue(claim, &text)? else {
                return Ok(None);
            };
            Ok(Some(match joined {
                Some((file, opened)) => {
                    self.open_files.insert(claim.id, OpenFile::new(opened, path.clone(), file, text.len()));
                    let status = self.status(claim, Some(file));
                    self.with_value(claim, section, status)
                }
                None => self.status(claim, None),
            }))
        })
        .await
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        let path = self.path(&claim.name);
        let mut recheck = Some(RECHECK);
        loop {
            if self.wait_behind_ours(claim).await {
                continue;
            }
            let watch = self
                .inside(&path, Enter::Read, |section| self.watch_blockers(claim, section).map(Some))
                .await?;
            let (subscription, recheck_at) = match watch {
                Watch::Decided(status) => return Ok(Some(status)),
                Watch::Changed => continue,
                Watch::Blocked { subscription, recheck_at } => (subscription, recheck_at),
            };
            let timer = [recheck_at, recheck.map(|pause| Instant::now() + pause)].into_iter().flatten().min();
            tokio::select! {
                // The kernel may not have dropped the lock of the closed file yet.
                () = subscription.notified() => recheck = Some(BUSY_PAUSE.0),
                () = sleep_until_some(timer) => {
                    recheck = recheck.map(|pause| pause * 2).filter(|pause| *pause <= RECHECK);
                }
            }
        }
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let mut answers = Vec::with_capacity(claims.len());
        for claim in claims {
            answers.push(match self.open_files.get(claim.id) {
                None => Ok(self.status(claim, None)),
                Some(open_file) => self.renew_one(claim, &open_file).await,
            });
        }
        answers
    }

    // Not an `async fn`, because it tells of the evictions since the call, and not since its first poll.
    fn session_lost_hint<'a, 'b>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'b>>
    where
        'a: 'b,
        Self: 'b,
    {
        Box::pin(self.until_evicted(self.watches.evicted()))
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.directory.notices.stream()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let Some(open_file) = self.open_files.get(claim.id) else {
            return Ok(Release::NotHeld);
        };
        if let Ok(Some(released)) = self.release_waiting(&open_file).await {
            self.open_files.remove(claim.id);
            return Ok(released);
        }
        let released = self.inside(&open_file.directory, Enter::Release(claim.id), |section| {
            if section.map_or(Ok(false), |section| section.release(claim.id))? {
                return Ok(Some(Release::Released));
            }
            // Remembers whether it was evicted.
            self.status(claim, None);
            Ok(Some(Release::NotHeld))
        });
        let released = released.await;
        // If the directory could not be changed, closing the file is enough: it wakes the waiters that watch
        // the file, and the next process that reads the queue finds the claim dead and removes it.
        self.open_files.remove(claim.id);
        released.or_else(|error| {
            let notice = StoreNotice::new(StoreNoticeKind::NotDeleted, error.to_string());
            self.directory.notices.give(notice.with_name(claim.name.clone()));
            Ok(Release::Released)
        })
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        self.write_value(claim, bytes, keep).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.entries(&self.path(name), Owners::OfAll).await
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.take_out(name, entry, eviction).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.summaries(prefix)
    }

    async fn examine(&self, _name: &Name) -> Result<Vec<Finding>> {
        examine::findings(&self.directory)
    }
}

impl File {
    /// Fast path of `enqueue` that does not read the queue: an exclusive claim that joins behind a live claim
    /// of this process waits, whatever else is in the queue. `None` if the queue must be read.
    async fn enqueue_behind_ours(
        &self,
        claim: &Claim,
        path: &Path,
        text: &str,
    ) -> Result<Option<ClaimStatus>> {
        let exclusive = claim.permits.is_exclusive();
        // A claim with a max hold time may have expired already.
        let ours =
            || self.open_files.last(path).filter(|ours| !ours.created.has_max_hold() && ours.is_untouched());
        if !exclusive || self.open_files.knows(claim.id) || ours().is_none() {
            return Ok(None);
        }
        if claim.wait_mode == WaitMode::Try {
            return Ok(Some(ClaimStatus::Gone));
        }
        self.inside(path, Enter::Unread, |section| {
            let Some(section) = section.filter(|_| ours().is_some()) else { return Ok(Some(None)) };
            Ok(section.append(claim, text, false)?.map(|(file, opened)| {
                let open_file = OpenFile::new(opened, path.to_owned(), file, text.len());
                self.open_files.insert(claim.id, open_file);
                Some(ClaimStatus::Waiting)
            }))
        })
        .await
    }

    /// If an exclusive claim has many claims of this process in front of it, waits until the nearest of them
    /// has been released: until then it cannot be granted. False if it does not.
    async fn wait_behind_ours(&self, claim: &Claim) -> bool {
        let exclusive = claim.permits.is_exclusive();
        let Some(mine) = self.open_files.get(claim.id).filter(|_| exclusive) else { return false };
        let Some((id, ahead)) = self.open_files.next_ahead(&mine, MANY_AHEAD) else { return false };
        if mine.granted.get().is_some() || ahead.created.has_max_hold() {
            return false;
        }
        self.watch_evictions();
        let evicted = self.watches.evicted();
        // Checked after the watch began: an eviction before the watch is seen here, a later one by the watch.
        if !mine.is_untouched() || !ahead.is_untouched() {
            return false;
        }
        // Drop these before the wait: a claim lives as long as its file is open.
        let removed = Arc::clone(&ahead.removed);
        drop((mine, ahead));
        let removed = removed.notified();
        tokio::pin!(removed);
        removed.as_mut().enable();
        if self.open_files.contains(id) {
            tokio::select! {
                () = removed => {}
                () = evicted => {}
            }
        }
        true
    }

    /// Fast path of `release` that does not read the queue: for a claim that waits behind another waiter of
    /// this process. `None` if the queue must be read.
    async fn release_waiting(&self, open_file: &OpenFile) -> Result<Option<Release>> {
        if open_file.granted.get().is_some() || self.open_files.is_first_waiter(open_file) {
            return Ok(None);
        }
        let released = self.inside(&open_file.directory, Enter::Unread, |section| {
            section.map_or(Ok(false), |section| section.release_waiting(&open_file.created)).map(Some)
        });
        Ok(released.await?.then_some(Release::Released))
    }

    /// Says what the status of a claim is.
    ///
    /// | its file | the status |
    /// |---|---|
    /// | deleted, or written into by another | read from the queue |
    /// | renamed by its grant | held |
    /// | behind another waiter of this process | waiting |
    /// | the first waiter of this process | read from the queue |
    ///
    /// The read also removes a blocker whose max hold time has passed, whose owner may have been stopped.
    async fn renew_one(&self, claim: &Claim, open_file: &OpenFile) -> Result<ClaimStatus> {
        if open_file.is_untouched() {
            if let Some(file) = open_file.granted.get() {
                return Ok(ClaimStatus::Held(grant(file)));
            }
            // No claim is granted behind a waiter.
            if !self.open_files.is_first_waiter(open_file) {
                return Ok(ClaimStatus::Waiting);
            }
        }
        // An evictor may still be in the critical section. So the notice is looked for in there.
        self.inside(&open_file.directory, Enter::Read, |section| {
            let found = section.and_then(|section| section.find(claim.id));
            Ok(Some(self.status(claim, found)))
        })
        .await
    }
}

/// Releases the remaining claims, so that no other process has to find their files dead.
impl Drop for File {
    fn drop(&mut self) {
        for (id, open_file) in self.open_files.all() {
            // Without the last manager nobody is left to be told that a file was closed but not deleted.
            let _ = self.try_release(id, &open_file);
        }
    }
}
