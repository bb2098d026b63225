//! The same locks for threads: every call blocks the thread that makes it.
//!
//! The work goes on in one small runtime that all managers of the process share, so renewals and releases need no
//! thread of yours. Calls panic inside of asynchronous code, which they would block: use the types of the crate's
//! root there.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::runtime::{Builder, Runtime};

use crate::backend::{Backend, Entry, Release};
use crate::error::Result;
use crate::loss::Loss;
use crate::name::Name;
use crate::options::{ManagerOptions, Options};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("globallock")
        .enable_all()
        .build()
        .expect("the operating system lets the process start two threads")
});

/// Makes locks in one store; see [`crate::LockManager`].
#[derive(Clone, Debug)]
pub struct LockManager(crate::LockManager);

/// What can be acquired; see [`crate::Lock`].
#[derive(Clone, Debug)]
pub struct Lock(crate::Lock);

/// A lock that is held; see [`crate::Guard`]. Dropping it releases the lock in the background.
#[derive(Debug)]
#[must_use = "a guard that is dropped at once releases the lock at once"]
pub struct Guard(crate::Guard);

/// Several locks that are held together; see [`crate::GuardSet`].
#[derive(Debug)]
#[must_use = "guards that are dropped at once release their locks at once"]
pub struct GuardSet(crate::GuardSet);

impl LockManager {
    /// Connects to the store at `url`; see [`crate::LockManager::connect`].
    ///
    /// # Errors
    /// As [`crate::LockManager::connect`].
    pub fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, ManagerOptions::default())
    }

    /// Connects to the store at `url`; see [`crate::LockManager::connect_with`].
    ///
    /// # Errors
    /// As [`crate::LockManager::connect_with`].
    pub fn connect_with(url: &str, options: ManagerOptions) -> Result<Self> {
        RUNTIME.block_on(crate::LockManager::connect_with(url, options)).map(LockManager)
    }

    /// Makes locks over a store of a third party's, which `open` connects to in the runtime that serves it then.
    ///
    /// # Errors
    /// As `open`, and as [`crate::LockManager::with_backend`].
    pub fn with_backend(
        open: impl AsyncFnOnce() -> Result<Arc<dyn Backend>>,
        options: ManagerOptions,
    ) -> Result<Self> {
        RUNTIME.block_on(async { crate::LockManager::with_backend(open().await?, options) }).map(LockManager)
    }

    /// Makes a mutex; see [`crate::LockManager::mutex`].
    ///
    /// # Errors
    /// As [`crate::LockManager::mutex`].
    pub fn mutex(&self, name: impl AsRef<str>) -> Result<Lock> {
        self.0.mutex(name).map(Lock)
    }

    /// Makes the side of a read-write lock that many may hold at a time.
    ///
    /// # Errors
    /// As [`crate::LockManager::rwlock`].
    pub fn read_lock(&self, name: impl AsRef<str>) -> Result<Lock> {
        Ok(Lock(self.0.rwlock(name)?.read()))
    }

    /// Makes the side of a read-write lock that one alone may hold.
    ///
    /// # Errors
    /// As [`crate::LockManager::rwlock`].
    pub fn write_lock(&self, name: impl AsRef<str>) -> Result<Lock> {
        Ok(Lock(self.0.rwlock(name)?.write()))
    }

    /// Makes `count` permits of a semaphore of `capacity`; see [`crate::LockManager::semaphore`].
    ///
    /// # Errors
    /// As [`crate::LockManager::semaphore`] and [`crate::Semaphore::permits`].
    pub fn permits(&self, name: impl AsRef<str>, count: u32, capacity: u32) -> Result<Lock> {
        Ok(Lock(self.0.semaphore(name, capacity)?.permits(count)?))
    }

    /// Acquires the mutexes of all `names`, or none; see [`crate::LockManager::lock_all`].
    ///
    /// # Errors
    /// As [`crate::LockManager::lock_all`].
    pub fn lock_all<I, S>(&self, names: I) -> Result<GuardSet>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        RUNTIME.block_on(self.0.lock_all(names)).map(GuardSet)
    }

    /// Acquires the mutexes of all `names` if all are free; see [`crate::LockManager::try_lock_all`].
    ///
    /// # Errors
    /// As [`crate::LockManager::try_lock_all`].
    pub fn try_lock_all<I, S>(&self, names: I) -> Result<Option<GuardSet>>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        Ok(RUNTIME.block_on(self.0.try_lock_all(names))?.map(GuardSet))
    }

    /// Lists the claims of a name; see [`crate::LockManager::inspect`].
    ///
    /// # Errors
    /// As [`crate::LockManager::inspect`].
    pub fn inspect(&self, name: impl AsRef<str>) -> Result<Vec<Entry>> {
        RUNTIME.block_on(self.0.inspect(name))
    }

    /// Lists the names that begin with `prefix` and have a claim; see [`crate::LockManager::names`].
    ///
    /// # Errors
    /// As the store answers.
    pub fn names(&self, prefix: &str) -> Result<Vec<Name>> {
        RUNTIME.block_on(self.0.names(prefix).collect::<Vec<_>>()).into_iter().collect()
    }

    /// Refuses new claims and waits for the releases under way; see [`crate::LockManager::close`].
    pub fn close(&self) {
        RUNTIME.block_on(self.0.close());
    }
}

impl Lock {
    /// The same lock with other options; see [`crate::Lock::with`].
    ///
    /// # Errors
    /// As [`crate::Lock::with`].
    pub fn with_options(self, options: Options) -> Result<Self> {
        self.0.with_options(options).map(Lock)
    }

    /// How the lock is taken and kept.
    #[must_use]
    pub fn options(&self) -> &Options {
        self.0.options()
    }

    /// Acquires the lock; see [`crate::Lock::acquire`].
    ///
    /// # Errors
    /// As [`crate::Lock::acquire`].
    pub fn acquire(&self) -> Result<Guard> {
        RUNTIME.block_on(self.0.acquire()).map(Guard)
    }

    /// Acquires the lock if it is free; see [`crate::Lock::try_acquire`].
    ///
    /// # Errors
    /// As [`crate::Lock::try_acquire`].
    pub fn try_acquire(&self) -> Result<Option<Guard>> {
        Ok(RUNTIME.block_on(self.0.try_acquire())?.map(Guard))
    }
}

impl Guard {
    /// The name of the lock.
    #[must_use]
    pub fn name(&self) -> &Name {
        self.0.name()
    }

    /// The number of this grant; see [`crate::Guard::fencing_token`].
    #[must_use]
    pub fn fencing_token(&self) -> u64 {
        self.0.fencing_token()
    }

    /// Whether the lock is held at this moment; see [`crate::Guard::is_held`].
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// How long the lock stays held if no renewal succeeds any more; see [`crate::Guard::remaining`].
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.0.remaining()
    }

    /// Waits up to `limit` for the lock to be lost and says why; `None` if it is still held then.
    #[must_use]
    pub fn lost_within(&self, limit: Duration) -> Option<Loss> {
        RUNTIME.block_on(async { tokio::time::timeout(limit, self.0.lost()).await.ok() })
    }

    /// Calls `tell` from a thread of this crate as soon as the lock is lost, and never if it is released before.
    pub fn on_lost(&self, tell: impl FnOnce(Loss) + Send + 'static) {
        let lost = self.0.ended();
        RUNTIME.spawn(async move {
            if let Some(loss) = lost.await {
                tell(loss);
            }
        });
    }

    /// Releases the lock and says whether it was still held; see [`crate::Guard::release`].
    ///
    /// # Errors
    /// As [`crate::Guard::release`].
    pub fn release(self) -> Result<Release> {
        RUNTIME.block_on(self.0.release())
    }
}

impl GuardSet {
    /// The names of the locks with their fencing tokens, in canonical order.
    pub fn fencing_tokens(&self) -> impl Iterator<Item = (&Name, u64)> {
        self.0.guards().iter().map(|guard| (guard.name(), guard.fencing_token()))
    }

    /// Whether all of the locks are held at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// Waits up to `limit` for one of the locks to be lost and says why; `None` if all are still held then.
    #[must_use]
    pub fn lost_within(&self, limit: Duration) -> Option<Loss> {
        RUNTIME
            .block_on(async { tokio::time::timeout(limit, self.0.lost()).await.ok().map(|(_, loss)| loss) })
    }

    /// Releases all of the locks, and says whether all were still held; see [`crate::GuardSet::release`].
    ///
    /// # Errors
    /// As [`crate::GuardSet::release`].
    pub fn release(self) -> Result<Release> {
        RUNTIME.block_on(self.0.release())
    }
}
