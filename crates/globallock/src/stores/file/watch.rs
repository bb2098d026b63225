//! The kernel wakes a waiter when a claim's file changes, so that nobody polls.

use crate::backend::StoreNoticeKind;
use crate::stores::notices::StoreNotices;
use crate::sync::{Mutex, MutexGuard};
use std::collections::HashMap;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Which event of a file wakes the waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WakeOn {
    /// The file of the waiter's own claim gets another name, because the claim is granted, or none, because
    /// it is evicted.
    Decided,
    /// The owner closes the file: it released the claim, or it died.
    Closed,
    /// The same, or the file gets another name.
    RenamedOrClosed,
}

impl WakeOn {
    fn flags(self) -> WatchFlags {
        let closed = WatchFlags::CLOSE_WRITE | WatchFlags::DELETE_SELF;
        match self {
            // A deletion of a file that its owner has open is reported as a change of its attributes.
            WakeOn::Decided => WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF | WatchFlags::ATTRIB,
            WakeOn::Closed => closed,
            WakeOn::RenamedOrClosed => closed | WatchFlags::MOVE_SELF,
        }
    }
}

/// The watched files of one store: one inotify instance and one thread, for any number of waiters.
#[derive(Default)]
pub(super) struct Watches {
    /// The inner `None`: the kernel's limit of instances for this user is reached.
    instance: OnceLock<Option<Arc<Instance>>>,
    /// The watch of the file that evictors touch, once there was one.
    touched: Mutex<Option<i32>>,
    /// Notified when that file is touched.
    evictions: Arc<Notify>,
    /// Where it is said that events cannot be read.
    notices: StoreNotices,
}

struct Instance {
    inotify: Arc<OwnedFd>,
    files: Arc<Mutex<Files>>,
    /// A watch of the root directory. Its only use is that its removal ends the thread.
    end: i32,
}

/// The waiters of each watch.
type Files = HashMap<i32, Vec<Waiter>>;

struct Waiter {
    flags: WatchFlags,
    notify: Arc<Notify>,
    /// Whether any number of tasks wait, and not one.
    many: bool,
}

impl Waiter {
    fn wake(&self) {
        if self.many {
            self.notify.notify_waiters();
        } else {
            self.notify.notify_one();
        }
    }
}

/// Wakes its waiter when a watched file changes, until it is dropped.
pub(super) struct Subscription {
    notify: Arc<Notify>,
    watched: Vec<(Arc<Instance>, i32)>,
}

impl Watches {
    pub(super) fn new(notices: StoreNotices) -> Self {
        Watches { notices, ..Watches::default() }
    }

    fn instance(&self) -> Option<&Arc<Instance>> {
        self.instance.get_or_init(|| Instance::start(self.notices.clone()).ok()).as_ref()
    }

    /// Notifies the subscription when one of the files changes; `None` if one of them does not exist.
    ///
    /// If the kernel's limit of inotify instances or watches is reached, one thread for each file waits for
    /// the file's lock instead. The kernel wakes that thread too, but the thread lasts until the file's owner
    /// closes the file, even if the subscription is dropped earlier.
    pub(super) fn subscribe<'a>(
        &self,
        files: impl IntoIterator<Item = (&'a Path, WakeOn)>,
    ) -> Result<Option<Subscription>, Errno> {
        let mut subscription = Subscription { notify: Arc::default(), watched: Vec::new() };
        let instance = self.instance();
        for (path, wake_on) in files {
            let watched = match instance {
                Some(instance) => instance.watch(path, wake_on, &subscription.notify),
                None => Err(Errno::NOSPC),
            };
            match (watched, instance) {
                (Ok(watch), Some(instance)) => subscription.watched.push((Arc::clone(instance), watch)),
                (Err(Errno::NOENT), _) => return Ok(None),
                _ if wake_on == WakeOn::Decided => {}
                _ => wait_on_thread(path, &subscription.notify)?,
            }
        }
        Ok(Some(subscription))
    }

    /// Watches the file that evictors touch, unless it is watched already. Says whether it is watched: it is
    /// not if it does not exist, or if the kernel's limit of inotify instances or watches is reached.
    pub(super) fn watch_evictions(&self, path: &Path) -> bool {
        let Some(instance) = self.instance() else { return false };
        let mut touched = self.touched.lock();
        if !touched.is_some_and(|watch| instance.files().contains_key(&watch)) {
            let (flags, many) = (WatchFlags::ATTRIB, true);
            let waiter = Waiter { flags, notify: Arc::clone(&self.evictions), many };
            *touched = instance.add(path, waiter).ok();
        }
        touched.is_some()
    }

    /// Whether [`Watches::watch_evictions`] may change something.
    pub(super) fn should_watch_evictions(&self) -> bool {
        match self.instance.get() {
            None => true,
            Some(None) => false,
            Some(Some(instance)) => {
                !self.touched.lock().is_some_and(|watch| instance.files().contains_key(&watch))
            }
        }
    }

    /// Waits until claims may have been evicted since this call, if evictions are watched.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) fn evicted(&self) -> Notified<'_> {
        self.evictions.notified()
    }
}

impl Instance {
    fn start(notices: StoreNotices) -> std::io::Result<Arc<Self>> {
        let inotify = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
        let end = inotify::add_watch(&inotify, "/", WatchFlags::DELETE_SELF)?;
        let files = Arc::default();
        let (read, shared) = (Arc::clone(&inotify), Arc::clone(&files));
        let run = move || {
            if let Err(error) = dispatch(&read, &shared, end) {
                notices.say(StoreNoticeKind::NotWatched, &error);
            }
        };
        std::thread::Builder::new().name("globallock-watch".to_owned()).spawn(run)?;
        Ok(Arc::new(Instance { inotify, files, end }))
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        locked(&self.files)
    }

    fn watch(&self, path: &Path, wake_on: WakeOn, notify: &Arc<Notify>) -> Result<i32, Errno> {
        self.add(path, Waiter { flags: wake_on.flags(), notify: Arc::clone(notify), many: false })
    }

    fn add(&self, path: &Path, waiter: Waiter) -> Result<i32, Errno> {
        // Added while the map is locked, so that the first event already finds the waiter.
        let mut files = self.files();
        let added = waiter.flags | WatchFlags::MASK_ADD | WatchFlags::DONT_FOLLOW;
        let watch = inotify::add_watch(&self.inotify, path, added)?;
        files.entry(watch).or_default().push(waiter);
        Ok(watch)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The removal causes an event, which ends the thread.
        let _ = inotify::remove_watch(&self.inotify, self.end);
    }
}

fn locked(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    files.lock()
}

/// Wakes the waiters of each event's watch, until the watch `end` is removed.
///
/// It runs on its own thread, because waiting for a file descriptor in the async runtime needs unsafe code.
fn dispatch(inotify: &OwnedFd, files: &Mutex<Files>, end: i32) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify.as_fd(), &mut buffer);
    loop {
        let event = match events.next() {
            Err(Errno::INTR) => continue,
            event => event?,
        };
        let mut files = locked(files);
        let overflow = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
        let removed = event.events().contains(ReadFlags::IGNORED);
        let wake = |waiter: &Waiter| {
            // A wait for evictions must also end with the watch, so that a new watch begins.
            let ended = removed && waiter.many;
            if overflow || ended || waiter.flags.bits() & event.events().bits() != 0 {
                waiter.wake();
            }
        };
        if overflow || (removed && event.wd() == end) {
            files.values().flatten().for_each(wake);
        } else if let Some(waiters) = files.get(&event.wd()) {
            waiters.iter().for_each(wake);
        }
        if removed {
            files.remove(&event.wd());
            if event.wd() == end {
                return Ok(());
            }
        }
    }
}

impl Subscription {
    /// Waits for the next change.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn notified(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for (instance, watch) in &self.watched {
            let mut files = instance.files();
            let Some(waiters) = files.get_mut(watch) else {
                continue;
            };
            waiters.retain(|waiter| !Arc::ptr_eq(&waiter.notify, &self.notify));
            if waiters.is_empty() {
                files.remove(watch);
                // Fails if the file was deleted, because its watch ended with it.
                let _ = inotify::remove_watch(&instance.inotify, *watch);
            }
        }
    }
}

/// Wakes the subscription when the file's owner no longer has the file locked.
fn wait_on_thread(path: &Path, notify: &Arc<Notify>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            notify.notify_one();
            return Ok(());
        }
        opened => opened?,
    };
    let notify = Arc::clone(notify);
    let wait = move || {
        while flock(&file, FlockOperation::LockShared) == Err(Errno::INTR) {}
        notify.notify_one();
    };
    let name = "globallock-wait".to_owned();
    std::thread::Builder::new().name(name).spawn(wait).map(drop).map_err(|_| Errno::AGAIN)
}

impl fmt::Debug for Watches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files = self.instance.get().and_then(Option::as_ref).map_or(0, |instance| instance.files().len());
        f.debug_struct("Watches").field("files", &files).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_inotify_a_waiter_is_woken_when_the_owner_closes_the_file() {
        let path = std::env::temp_dir().join(format!("globallock-watch-{}", std::process::id()));
        let owner = std::fs::File::create(&path).unwrap();
        flock(&owner, FlockOperation::LockExclusive).unwrap();
        let watches = Watches { instance: OnceLock::from(None), ..Watches::default() };
        let files = [(path.as_path(), WakeOn::Decided), (path.as_path(), WakeOn::Closed)];
        let subscription = watches.subscribe(files).unwrap().unwrap();
        assert!(futures_util::FutureExt::now_or_never(subscription.notified()).is_none());
        drop(owner);
        subscription.notified().await;
        std::fs::remove_file(&path).unwrap();
    }
}
