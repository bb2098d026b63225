//! Being woken by the kernel when a claim's file changes: nobody polls.

use std::collections::HashMap;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};
use rustix::io::Errno;
use tokio::sync::Notify;

/// What a waiter is woken by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The file gets another name: its claim is granted.
    Renamed,
    /// The file's owner closes it: its claim has left, or its owner has died.
    Closed,
    /// Either.
    RenamedOrClosed,
}

impl Until {
    fn flags(self) -> WatchFlags {
        let closed = WatchFlags::CLOSE_WRITE | WatchFlags::DELETE_SELF;
        match self {
            Until::Renamed => WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF,
            Until::Closed => closed,
            Until::RenamedOrClosed => closed | WatchFlags::MOVE_SELF,
        }
    }
}

/// The watched files of one store: one inotify instance and one thread, however many waiters.
#[derive(Default)]
pub(super) struct Watches {
    /// `None` inside where the kernel grants this user no further instance.
    instance: OnceLock<Option<Arc<Instance>>>,
}

struct Instance {
    inotify: Arc<OwnedFd>,
    files: Arc<Mutex<Files>>,
    /// A watch of the root directory, for nothing but that its removal ends the thread.
    end: i32,
}

/// Who waits for which watch.
type Files = HashMap<i32, Vec<Waiter>>;

struct Waiter {
    wakes_on: WatchFlags,
    told: Arc<Notify>,
}

/// A wish to be woken, until it is dropped.
pub(super) struct Subscription {
    told: Arc<Notify>,
    watched: Vec<(Arc<Instance>, i32)>,
}

impl Watches {
    /// Wakes whoever waits for the subscription when one of the files changes; `None` if one of them is not there.
    ///
    /// Where the kernel's limit of inotify instances or watches is reached, a thread for each file waits for its lock
    /// instead: that is woken by the kernel too, but lasts until the file's owner closes it.
    pub(super) fn subscribe<'a>(
        &self,
        files: impl IntoIterator<Item = (&'a Path, Until)>,
    ) -> Result<Option<Subscription>, Errno> {
        let mut subscription = Subscription { told: Arc::default(), watched: Vec::new() };
        let instance = self.instance.get_or_init(|| Instance::start().ok());
        for (path, until) in files {
            let watched = match instance {
                Some(instance) => instance.watch(path, until, &subscription.told),
                None => Err(Errno::NOSPC),
            };
            match (watched, instance) {
                (Ok(watch), Some(instance)) => subscription.watched.push((Arc::clone(instance), watch)),
                (Err(Errno::NOENT), _) => return Ok(None),
                _ if until == Until::Renamed => {}
                _ => wait_on_thread(path, &subscription.told)?,
            }
        }
        Ok(Some(subscription))
    }
}

impl Instance {
    fn start() -> std::io::Result<Arc<Self>> {
        let inotify = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
        let end = inotify::add_watch(&inotify, "/", WatchFlags::DELETE_SELF)?;
        let files = Arc::default();
        let (reads, finds) = (Arc::clone(&inotify), Arc::clone(&files));
        let run = move || {
            if let Err(error) = dispatch(&reads, &finds, end) {
                tracing::warn!(%error, "the events of the lock directory cannot be read");
            }
        };
        std::thread::Builder::new().name("globallock-watch".to_owned()).spawn(run)?;
        Ok(Arc::new(Instance { inotify, files, end }))
    }

    fn files(&self) -> MutexGuard<'_, Files> {
        locked(&self.files)
    }

    fn watch(&self, path: &Path, until: Until, told: &Arc<Notify>) -> Result<i32, Errno> {
        let wakes_on = until.flags();
        // Under the map's lock, so that an event finds whom it is for.
        let mut files = self.files();
        let flags = wakes_on | WatchFlags::MASK_ADD | WatchFlags::DONT_FOLLOW;
        let watch = inotify::add_watch(&self.inotify, path, flags)?;
        files.entry(watch).or_default().push(Waiter { wakes_on, told: Arc::clone(told) });
        Ok(watch)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // The kernel confirms the removal by an event, which the thread waits for.
        let _ = inotify::remove_watch(&self.inotify, self.end);
    }
}

fn locked(files: &Mutex<Files>) -> MutexGuard<'_, Files> {
    // No code panics while it holds the lock, so a poisoned map is still whole.
    files.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wakes those whom each event concerns, until the watch `end` goes.
///
/// On a thread of its own: waiting for a file descriptor in the async runtime takes unsafe code.
fn dispatch(inotify: &OwnedFd, files: &Mutex<Files>, end: i32) -> Result<(), Errno> {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(inotify.as_fd(), &mut buffer);
    loop {
        let event = match events.next() {
            Err(Errno::INTR) => continue,
            event => event?,
        };
        let mut files = locked(files);
        let all = event.events().contains(ReadFlags::QUEUE_OVERFLOW);
        let gone = event.events().contains(ReadFlags::IGNORED);
        let wake = |waiter: &Waiter| {
            if all || waiter.wakes_on.bits() & event.events().bits() != 0 {
                waiter.told.notify_one();
            }
        };
        if all || (gone && event.wd() == end) {
            files.values().flatten().for_each(wake);
        } else if let Some(waiters) = files.get(&event.wd()) {
            waiters.iter().for_each(wake);
        }
        if gone {
            files.remove(&event.wd());
            if event.wd() == end {
                return Ok(());
            }
        }
    }
}

impl Subscription {
    /// Waits for the next change.
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        for (instance, watch) in &self.watched {
            let mut files = instance.files();
            let Some(waiters) = files.get_mut(watch) else {
                continue;
            };
            waiters.retain(|waiter| !Arc::ptr_eq(&waiter.told, &self.told));
            if waiters.is_empty() {
                files.remove(watch);
                // Fails where the file has gone and its watch with it.
                let _ = inotify::remove_watch(&instance.inotify, *watch);
            }
        }
    }
}

/// Wakes the subscription when the file's owner no longer has it.
fn wait_on_thread(path: &Path, told: &Arc<Notify>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match openat(CWD, path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {
            told.notify_one();
            return Ok(());
        }
        opened => opened?,
    };
    let told = Arc::clone(told);
    let waits = move || {
        while flock(&file, FlockOperation::LockShared) == Err(Errno::INTR) {}
        told.notify_one();
    };
    let name = "globallock-wait".to_owned();
    std::thread::Builder::new().name(name).spawn(waits).map(drop).map_err(|_| Errno::AGAIN)
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
        let watches = Watches { instance: OnceLock::from(None) };
        let files = [(path.as_path(), Until::Renamed), (path.as_path(), Until::Closed)];
        let subscription = watches.subscribe(files).unwrap().unwrap();
        assert!(futures_util::FutureExt::now_or_never(subscription.told()).is_none());
        drop(owner);
        subscription.told().await;
        std::fs::remove_file(&path).unwrap();
    }
}
