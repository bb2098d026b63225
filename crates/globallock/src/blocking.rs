//! The same locks for threads, under the same names: every call blocks the thread that makes it.
//!
//! The work goes on in one small runtime that all managers of the process share, so renewals and releases
//! need no thread of yours. Calls panic inside of asynchronous code, which they would block: use the types of
//! the crate's root there.
//!
//! ```
//! use globallock::blocking::LockManager;
//!
//! let manager = LockManager::connect("memory:example")?;
//! let guard = manager.mutex("nightly-report").acquire()?;
//! println!("writing with fencing token {}", guard.fencing_token());
//! guard.release()?;
//! # Ok::<(), globallock::Error>(())
//! ```

mod guard_set;
mod once;
mod planned_end;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use tokio::runtime::{Builder, Runtime};

use crate::around::of_thread;
use crate::backend::{Backend, Change, Entry, EntryKey, Release, Summary, Value, ValueWrite};
use crate::error::Result;
use crate::kind::LockKind;
use crate::loss::Loss;
use crate::name::Name;
use crate::options::{ManagerOptions, Options};
use crate::stores::Schemes;

pub use guard_set::GuardSet;
pub use once::Once;
pub use planned_end::PlannedEnd;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("globallock")
        .enable_all()
        .build()
        .expect("the operating system lets the process start two threads")
});

/// Blocks this thread until a future is ready.
fn block_on<F: Future>(future: F) -> F::Output {
    match of_thread() {
        Some(around) => RUNTIME.block_on(around.awaits(future)),
        None => RUNTIME.block_on(future),
    }
}

/// Makes locks in one store; see [`crate::LockManager`] and the example of [this module](self).
#[derive(Clone, Debug)]
pub struct LockManager(crate::LockManager);

/// What can be acquired; see [`crate::Lock`] and the example of [this module](self).
#[derive(Clone, Debug)]
pub struct Lock(crate::Lock);

/// Both sides of a read-write lock; see [`crate::RwLock`].
///
/// ```
/// let manager = globallock::blocking::LockManager::connect("memory:example")?;
/// let catalogue = manager.rwlock("catalogue");
/// let reads = catalogue.read().acquire()?;
/// assert!(catalogue.write().try_acquire()?.is_none());
/// # Ok::<(), globallock::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct RwLock(crate::RwLock);

/// A number of permits under one name; see [`crate::Semaphore`].
///
/// ```
/// let manager = globallock::blocking::LockManager::connect("memory:example")?;
/// let licences = manager.semaphore("licences", 3);
/// let two = licences.acquire_many(2)?;
/// assert!(licences.permits(2).try_acquire()?.is_none());
/// # Ok::<(), globallock::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore(crate::Semaphore);

/// A lock that is held; see [`crate::Guard`]. Dropping it releases the lock in the background.
#[derive(Debug)]
#[must_use = "a guard that is dropped at once releases the lock at once"]
pub struct Guard(crate::Guard);

impl LockManager {
    /// Connects to the store at `url`; see [`crate::LockManager::connect`].
    ///
    /// # Errors
    /// As [`crate::LockManager::connect`].
    pub fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, ManagerOptions::default())
    }

    /// Makes a manager that connects at its first request; see [`crate::LockManager::connect_lazy`].
    ///
    /// # Errors
    /// As [`crate::LockManager::connect_lazy`].
    pub fn connect_lazy(url: &str, options: impl Into<ManagerOptions>) -> Result<Self> {
        let _entered = RUNTIME.enter();
        crate::LockManager::connect_lazy(url, options).map(LockManager)
    }

    /// Connects to the store at `url`; see [`crate::LockManager::connect_with`].
    ///
    /// # Errors
    /// As [`crate::LockManager::connect_with`].
    pub fn connect_with(url: &str, options: impl Into<ManagerOptions>) -> Result<Self> {
        block_on(crate::LockManager::connect_with(url, options)).map(LockManager)
    }

    /// Connects to the store at `url` by a table of schemes; see [`crate::LockManager::connect_by`].
    ///
    /// # Errors
    /// As [`crate::LockManager::connect_by`].
    pub fn connect_by(schemes: &Schemes, url: &str, options: impl Into<ManagerOptions>) -> Result<Self> {
        block_on(crate::LockManager::connect_by(schemes, url, options)).map(LockManager)
    }

    /// Makes locks over a store of a third party's, which `open` connects to in the runtime that serves it
    /// then.
    ///
    /// # Errors
    /// As `open`, and as [`crate::LockManager::with_backend`].
    pub fn with_backend(
        open: impl AsyncFnOnce() -> Result<Arc<dyn Backend>>,
        options: impl Into<ManagerOptions>,
    ) -> Result<Self> {
        block_on(async { crate::LockManager::with_backend(open().await?, options) }).map(LockManager)
    }

    /// Makes a lock of any kind; see [`crate::LockManager::lock`].
    #[must_use]
    pub fn lock(&self, name: impl AsRef<str>, kind: LockKind) -> Lock {
        Lock(self.0.lock(name, kind))
    }

    /// Makes a mutex; see [`crate::LockManager::mutex`].
    #[must_use]
    pub fn mutex(&self, name: impl AsRef<str>) -> Lock {
        Lock(self.0.mutex(name))
    }

    /// Makes work that is done once in a while; see [`crate::LockManager::once`].
    #[must_use]
    pub fn once(&self, name: impl AsRef<str>) -> Once {
        Once(self.0.once(name))
    }

    /// Makes a read-write lock; see [`crate::LockManager::rwlock`].
    #[must_use]
    pub fn rwlock(&self, name: impl AsRef<str>) -> RwLock {
        RwLock(self.0.rwlock(name))
    }

    /// Makes a semaphore of `capacity` permits; see [`crate::LockManager::semaphore`].
    #[must_use]
    pub fn semaphore(&self, name: impl AsRef<str>, capacity: u32) -> Semaphore {
        Semaphore(self.0.semaphore(name, capacity))
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
        block_on(self.0.lock_all(names)).map(GuardSet::new)
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
        Ok(block_on(self.0.try_lock_all(names))?.map(GuardSet::new))
    }

    /// Lists the claims of a name; see [`crate::LockManager::inspect`].
    ///
    /// # Errors
    /// As [`crate::LockManager::inspect`].
    pub fn inspect(&self, name: impl AsRef<str>) -> Result<Vec<Entry>> {
        block_on(self.0.inspect(name))
    }

    /// Sums up the names that begin with `prefix` and have a claim; see [`crate::LockManager::list`].
    ///
    /// # Errors
    /// As the store answers.
    pub fn list(&self, prefix: &str) -> Result<Vec<Summary>> {
        block_on(self.0.list(prefix).try_collect())
    }

    /// Tells how the names that begin with `prefix` change, as an iterator whose `next` waits for the next
    /// change; see [`crate::LockManager::watch`].
    pub fn watch<'a>(
        &'a self,
        prefix: &'a str,
        every: Duration,
    ) -> impl Iterator<Item = Result<Change>> + use<'a> {
        let mut changes = self.0.watch(prefix, every);
        std::iter::from_fn(move || block_on(changes.next()))
    }

    /// Takes the very claim that an [`Entry`] shows out of its queue; see [`crate::LockManager::evict`].
    ///
    /// # Errors
    /// As [`crate::LockManager::evict`].
    pub fn evict(&self, name: impl AsRef<str>, entry: &EntryKey, reason: &str) -> Result<Release> {
        block_on(self.0.evict(name, entry, reason))
    }

    /// Refuses new claims and waits for the releases under way; see [`crate::LockManager::close`].
    pub fn close(&self) {
        block_on(self.0.close());
    }
}

impl Lock {
    /// The lock's name, as it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.name()
    }

    /// Which kind of lock it is.
    #[must_use]
    pub fn kind(&self) -> LockKind {
        self.0.kind()
    }

    /// How the lock is acquired and kept.
    #[must_use]
    pub fn options(&self) -> &Options {
        self.0.options()
    }

    /// The same lock with other options.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Lock(self.0.with_options(options))
    }

    /// The same lock with another lease; see [`crate::Lock::lease`].
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Lock(self.0.lease(lease))
    }

    /// The same lock with another max hold time; see [`crate::Lock::max_hold`].
    #[must_use]
    pub fn max_hold(self, max_hold: impl Into<Option<Duration>>) -> Self {
        Lock(self.0.max_hold(max_hold))
    }

    /// The same lock, which keeps others out for at least this time; see [`crate::Lock::hold_at_least`].
    #[must_use]
    pub fn hold_at_least(self, hold_at_least: impl Into<Option<Duration>>) -> Self {
        Lock(self.0.hold_at_least(hold_at_least))
    }

    /// The same lock with another wait; see [`crate::Lock::wait`].
    #[must_use]
    pub fn wait(self, wait: impl Into<Option<Duration>>) -> Self {
        Lock(self.0.wait(wait))
    }

    /// The same lock with another store timeout; see [`crate::Lock::store_timeout`].
    #[must_use]
    pub fn store_timeout(self, store_timeout: impl Into<Option<Duration>>) -> Self {
        Lock(self.0.store_timeout(store_timeout))
    }

    /// The same lock, whose grants come with the value of its name; see [`crate::Lock::with_value`].
    #[must_use]
    pub fn with_value(self) -> Self {
        Lock(self.0.with_value())
    }

    /// Acquires the lock; see [`crate::Lock::acquire`].
    ///
    /// # Errors
    /// As [`crate::Lock::acquire`].
    pub fn acquire(&self) -> Result<Guard> {
        block_on(self.0.acquire()).map(Guard)
    }

    /// Acquires the lock if it is free; see [`crate::Lock::try_acquire`].
    ///
    /// # Errors
    /// As [`crate::Lock::try_acquire`].
    pub fn try_acquire(&self) -> Result<Option<Guard>> {
        Ok(block_on(self.0.try_acquire())?.map(Guard))
    }

    /// Acquires the lock, waiting for at most `wait`; see [`crate::Lock::try_acquire_for`].
    ///
    /// # Errors
    /// As [`crate::Lock::try_acquire_for`].
    pub fn try_acquire_for(&self, wait: Duration) -> Result<Option<Guard>> {
        Ok(block_on(self.0.try_acquire_for(wait))?.map(Guard))
    }

    /// The same lock for work that is asked to end after `max_hold`, and should have ended `grace` later; see
    /// [`PlannedEnd::run`].
    pub fn end_after(&self, max_hold: Duration, grace: Duration) -> PlannedEnd {
        PlannedEnd(self.0.end_after(max_hold, grace))
    }
}

impl RwLock {
    /// The same read-write lock with other options for both sides.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        RwLock(self.0.with_options(options))
    }

    /// The side that many may hold at a time.
    #[must_use]
    pub fn read(&self) -> Lock {
        Lock(self.0.read())
    }

    /// The side that one alone may hold.
    #[must_use]
    pub fn write(&self) -> Lock {
        Lock(self.0.write())
    }
}

impl Semaphore {
    /// The same semaphore with other options.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Semaphore(self.0.with_options(options))
    }

    /// How many permits there are.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.0.capacity()
    }

    /// `count` permits, acquired together.
    #[must_use]
    pub fn permits(&self, count: u32) -> Lock {
        Lock(self.0.permits(count))
    }

    /// Acquires one permit; see [`crate::Semaphore::acquire`].
    ///
    /// # Errors
    /// As [`crate::Semaphore::acquire`].
    pub fn acquire(&self) -> Result<Guard> {
        block_on(self.0.acquire()).map(Guard)
    }

    /// Acquires `count` permits together; see [`crate::Semaphore::acquire_many`].
    ///
    /// # Errors
    /// As [`crate::Semaphore::acquire_many`].
    pub fn acquire_many(&self, count: u32) -> Result<Guard> {
        block_on(self.0.acquire_many(count)).map(Guard)
    }

    /// Acquires one permit if one is free; see [`crate::Semaphore::try_acquire`].
    ///
    /// # Errors
    /// As [`crate::Semaphore::try_acquire`].
    pub fn try_acquire(&self) -> Result<Option<Guard>> {
        Ok(block_on(self.0.try_acquire())?.map(Guard))
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

    /// For how long others would be kept out if the lock were released now; see [`crate::Guard::kept_for`].
    #[must_use]
    pub fn kept_for(&self) -> Option<Duration> {
        self.0.kept_for()
    }

    /// The value of the lock's name; see [`crate::Guard::value`].
    #[must_use]
    pub fn value(&self) -> Option<Value> {
        self.0.value()
    }

    /// Leaves a value beside the lock; see [`crate::Guard::set_value`].
    ///
    /// # Errors
    /// As [`crate::Guard::set_value`].
    pub fn set_value(&self, bytes: impl AsRef<[u8]>, keep: Duration) -> Result<ValueWrite> {
        block_on(self.0.set_value(bytes, keep))
    }

    /// Asks the store now whether the lock is still held; see [`crate::Guard::renew`].
    ///
    /// # Errors
    /// As [`crate::Guard::renew`].
    pub fn renew(&self) -> Result<bool> {
        block_on(self.0.renew())
    }

    /// Whether the work under this lock should end now: it is [asked to](Lock::end_after), or the lock is
    /// lost.
    #[must_use]
    pub fn asked_to_end(&self) -> bool {
        self.0.is_asked_to_end() || !self.is_held()
    }

    /// Waits up to `limit` until the work under this lock should end, and says whether it should; see
    /// [`Guard::asked_to_end`].
    #[must_use]
    pub fn asked_to_end_within(&self, limit: Duration) -> bool {
        block_on(async {
            tokio::select! {
                biased;
                () = self.0.asked_to_end() => true,
                _ = self.0.lost() => true,
                () = tokio::time::sleep(limit) => false,
            }
        })
    }

    /// Waits up to `limit` for the lock to be lost and says why; `None` if it is still held then.
    #[must_use]
    pub fn lost_within(&self, limit: Duration) -> Option<Loss> {
        block_on(async { tokio::time::timeout(limit, self.0.lost()).await.ok() })
    }

    /// Calls `tell` from a thread of this crate as soon as the lock is lost, and never if it is released
    /// before.
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
        block_on(self.0.release())
    }
}
