//! The manager: one connection to a store, and what its locks have in common.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::BoxStream;

use crate::backend::{Backend, Change, Entry, EntryKey, Eviction, Finding, Release, Summary};
use crate::context::Context;
use crate::error::Result;
use crate::guard_set::{GuardSet, Taken};
use crate::kind::LockKind;
use crate::locks::{Lock, RwLock, Semaphore};
use crate::name::Name;
use crate::observe::Operation;
use crate::once::Once;
use crate::onlooking::{self, answered};
use crate::options::ManagerOptions;
use crate::stores::Schemes;
use crate::sync::now;
use crate::waits::WaitGraph;

/// Makes locks in one store.
///
/// Cheap to clone; all clones share one connection and one renewal task. It belongs to the tokio runtime in
/// which it was made and to the process that made it.
///
/// ```
/// use globallock::LockManager;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let manager = LockManager::connect("memory:example").await?;
/// let guard = manager.mutex("nightly-report").acquire().await?;
/// assert!(guard.is_held());
/// guard.release().await?;
/// manager.close().await;
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct LockManager {
    context: Arc<Context>,
}

impl LockManager {
    /// Connects to the store at `url` with the default options, and says at once if that fails. A program
    /// that may start before its store uses [`LockManager::connect_lazy`].
    ///
    /// The store's page in [`docs`](crate::docs) has the forms of its addresses, and their options.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress), or
    /// [`Error::Unavailable`](crate::Error::Unavailable),
    /// [`Error::PermissionDenied`](crate::Error::PermissionDenied) and
    /// [`Error::FailedPrecondition`](crate::Error::FailedPrecondition) as the store answers.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, ManagerOptions::default()).await
    }

    /// Connects to the store at `url`.
    ///
    /// # Errors
    /// As [`LockManager::connect`], and [`Error::InvalidOption`](crate::Error::InvalidOption).
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect_with(url: &str, options: impl Into<ManagerOptions>) -> Result<Self> {
        Self::connect_by(&Schemes::default(), url, options).await
    }

    /// Connects to the store at `url` by a table of schemes that may have more than this build's stores.
    ///
    /// # Errors
    /// As [`LockManager::connect_with`].
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect_by(
        schemes: &Schemes,
        url: &str,
        options: impl Into<ManagerOptions>,
    ) -> Result<Self> {
        let manager = Self::connect_lazy_by(schemes, url, options)?;
        let Context { backend, observers, .. } = &*manager.context;
        observers.asking(Operation::Connect, backend.ready()).await?;
        Ok(manager)
    }

    /// Makes a manager of the store at `url`, which connects at its first request: a server that is not
    /// there yet is waited for as long as the lock would be, or for a lease where that has no limit. What
    /// cannot heal, such as a wrong password, is told by the first request at once.
    ///
    /// ```
    /// use globallock::{LockManager, Options};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let manager = LockManager::connect_lazy("memory:lazy", Options::new())?;
    /// manager.mutex("a").acquire().await?.release().await?;
    /// # Ok::<(), globallock::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) and
    /// [`Error::InvalidOption`](crate::Error::InvalidOption).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect_lazy(url: &str, options: impl Into<ManagerOptions>) -> Result<Self> {
        Self::connect_lazy_by(&Schemes::default(), url, options)
    }

    /// Does the same by a table of schemes that may have more than this build's stores.
    ///
    /// # Errors
    /// As [`LockManager::connect_lazy`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect_lazy_by(schemes: &Schemes, url: &str, options: impl Into<ManagerOptions>) -> Result<Self> {
        let options = options.into();
        options.locks.check()?;
        Self::with_backend(schemes.open(url)?, options)
    }

    /// Makes locks over a store that is connected already, such as a third party's.
    ///
    /// # Errors
    /// [`Error::InvalidOption`](crate::Error::InvalidOption).
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with_backend(backend: Arc<dyn Backend>, options: impl Into<ManagerOptions>) -> Result<Self> {
        let options = options.into();
        options.locks.check()?;
        Ok(LockManager { context: Arc::new(Context::start(backend, options)) })
    }

    /// Makes a lock of any kind.
    ///
    /// Nothing is asked of the store yet: a wrong name or kind is told by the call that acquires the lock.
    #[must_use]
    pub fn lock(&self, name: impl AsRef<str>, kind: LockKind) -> Lock {
        Lock::new(&self.context, name, kind)
    }

    /// Makes a mutex: one holder at a time.
    #[must_use]
    pub fn mutex(&self, name: impl AsRef<str>) -> Lock {
        self.lock(name, LockKind::Mutex)
    }

    /// Makes work that is done once in a while, however many hosts ask for it: set
    /// [`every`](Once::every), and [`run`](Once::run) it. It uses the mutex of this name, and its value.
    #[must_use]
    pub fn once(&self, name: impl AsRef<str>) -> Once {
        Once::new(self.mutex(name))
    }

    /// Makes a read-write lock: many readers, or one writer. Neither side can starve the other.
    #[must_use]
    pub fn rwlock(&self, name: impl AsRef<str>) -> RwLock {
        RwLock::new(&self.context, name)
    }

    /// Makes a semaphore of `capacity` permits, from 1 to [`MAX_CAPACITY`](crate::queue::MAX_CAPACITY).
    ///
    /// All that use the name should give the same capacity: while claims of different capacities hold, the
    /// smallest counts.
    #[must_use]
    pub fn semaphore(&self, name: impl AsRef<str>, capacity: u32) -> Semaphore {
        Semaphore::new(&self.context, name, capacity)
    }

    /// Acquires the mutexes of all `names`, or none: taken one after the other in one canonical order, so
    /// that two such calls cannot wait for each other. A name that is given twice is taken once. The waiting
    /// limit of the manager's options bounds the whole call.
    ///
    /// # Errors
    /// As [`Lock::acquire`]; what was taken until then is released.
    ///
    /// # Cancel safety
    /// A dropped call releases in the background what it had taken, and gives up its place in the queue.
    pub async fn lock_all<I, S>(&self, names: I) -> Result<GuardSet>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let started = now();
        let mut taken = Taken::default();
        let locks = self.in_canonical_order(names)?;
        for lock in locks.iter().filter(|lock| lock.options().wait.is_none()) {
            lock.refuse_around()?;
        }
        for lock in locks {
            let wait = lock.options().wait.map(|wait| wait.saturating_sub(now().duration_since(started)));
            match lock.wait(wait).acquire().await {
                Ok(guard) => taken.push(guard),
                Err(error) => {
                    taken.release_quietly().await;
                    return Err(error);
                }
            }
        }
        Ok(taken.into_set())
    }

    /// Acquires the mutexes of all `names` if all are free, as [`LockManager::lock_all`] without waiting.
    ///
    /// # Errors
    /// As [`Lock::try_acquire`]; what was taken until then is released.
    ///
    /// # Cancel safety
    /// A dropped call releases in the background what it had taken.
    pub async fn try_lock_all<I, S>(&self, names: I) -> Result<Option<GuardSet>>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<str>,
    {
        let mut taken = Taken::default();
        for lock in self.in_canonical_order(names)? {
            match lock.try_acquire().await {
                Ok(Some(guard)) => taken.push(guard),
                other => {
                    taken.release_quietly().await;
                    return other.map(|_| None);
                }
            }
        }
        Ok(Some(taken.into_set()))
    }

    fn in_canonical_order<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Result<Vec<Lock>> {
        let mut names = names.into_iter().map(Name::new).collect::<Result<Vec<_>>>()?;
        names.sort_unstable();
        names.dedup();
        Ok(names.into_iter().map(|name| self.mutex(name)).collect())
    }

    /// Lists the claims of a name, oldest first: the holders, then the waiters. A store that does not answer
    /// is asked again until the store timeout of the manager's options has passed.
    ///
    /// # Errors
    /// [`Error::InvalidName`](crate::Error::InvalidName), and as the store answers.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn inspect(&self, name: impl AsRef<str>) -> Result<Vec<Entry>> {
        let name = Name::new(name)?;
        answered(&self.context, Some(Operation::Inspect), || self.context.backend.inspect(&name)).await
    }

    /// Sums up the names that begin with `prefix` and have a claim, in no order, as [`Backend::list`]
    /// promises. While nothing has been listed, a store that does not answer is asked again, as by
    /// [`LockManager::inspect`]; later its error ends the list.
    ///
    /// ```
    /// use futures_util::TryStreamExt;
    /// use globallock::LockManager;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let manager = LockManager::connect("memory:list").await?;
    /// let guard = manager.mutex("reports/nightly").acquire().await?;
    /// let reports: Vec<_> = manager.list("reports/").try_collect().await?;
    /// assert_eq!((reports[0].name.as_str(), reports[0].holders), ("reports/nightly", 1));
    /// # guard.release().await?;
    /// # Ok::<(), globallock::Error>(()) }).unwrap();
    /// ```
    pub fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        onlooking::list(&self.context, prefix)
    }

    /// Tells how the names that begin with `prefix` change, first all that there are; a store that cannot
    /// tell by itself is looked at `every` so often.
    ///
    /// A store that is not there yet is waited for until the store timeout has passed, and then its error is
    /// told. Errors that may heal do not end the stream.
    pub fn watch<'a>(&'a self, prefix: &'a str, every: Duration) -> BoxStream<'a, Result<Change>> {
        onlooking::watch(&self.context, prefix, every)
    }

    /// Finds out who waits for whom over the names that begin with `prefix`, and the deadlocks: see
    /// [`WaitGraph`]. It lists the names, and then inspects those that somebody waits for, several at a time.
    /// The queues are read one after the other, so a wait that begins or ends meanwhile may be told or not.
    /// A deadlock is told only if a second look finds the same claims again, so that all that makes it one
    /// was there at one moment.
    ///
    /// ```
    /// use globallock::{LockManager, ManagerOptions};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let process = |process| ManagerOptions::new().process(process);
    /// let one = LockManager::connect_with("memory:waits", process(1)).await?;
    /// let two = LockManager::connect_with("memory:waits", process(2)).await?;
    /// let _held = (one.mutex("a").acquire().await?, two.mutex("b").acquire().await?);
    /// let locks = [one.mutex("b"), two.mutex("a")];
    /// let waiting = locks.map(|lock| tokio::spawn(async move { lock.acquire().await }));
    /// let deadlock = loop {
    ///     if let [deadlock] = one.waits("").await?.cycles() {
    ///         break deadlock.clone();
    ///     }
    ///     tokio::task::yield_now().await;
    /// };
    /// assert!(deadlock.iter().any(|wait| wait.name.as_str() == "a" && wait.blocker.pid == Some(1)));
    /// # waiting.iter().for_each(|waiting| waiting.abort());
    /// # Ok::<(), globallock::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// As [`LockManager::inspect`].
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn waits(&self, prefix: &str) -> Result<WaitGraph> {
        onlooking::waits(&self.context, prefix).await
    }

    /// Takes the very claim that an [`Entry`] shows out of its queue, held or waiting, ours or foreign. The
    /// claim's owner is told who did it (this manager's owner and label) and why: a holder by
    /// [`Loss::Evicted`](crate::Loss::Evicted), a waiter by [`Error::Evicted`](crate::Error::Evicted).
    ///
    /// [`Release::NotHeld`] means that the claim is not there any more. Whoever holds next is never hit.
    /// The owner may go on with its work until it has heard of the loss: at once if the store can reach it,
    /// and at its next renewal at the latest. Only fencing tokens guard against that.
    ///
    /// ```
    /// use globallock::{LockManager, Loss};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let manager = LockManager::connect("memory:evictions").await?;
    /// let guard = manager.mutex("nightly-report").acquire().await?;
    /// let seen = &manager.inspect("nightly-report").await?[0];
    /// manager.evict("nightly-report", &seen.key, "it hangs").await?;
    /// assert!(matches!(guard.lost().await, Loss::Evicted(eviction) if eviction.reason == "it hangs"));
    /// # Ok::<(), globallock::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidName`](crate::Error::InvalidName), and as the store answers: after
    /// [`Error::Unavailable`](crate::Error::Unavailable) the claim may be gone or not. A store that does not
    /// answer is asked again, as by [`LockManager::inspect`]. If an answer is lost on its way, the next one
    /// is [`Release::NotHeld`], though it was this call that took the claim out.
    ///
    /// # Cancel safety
    /// The claim is taken out or not.
    pub async fn evict(&self, name: impl AsRef<str>, entry: &EntryKey, reason: &str) -> Result<Release> {
        let eviction = Eviction::new(self.context.owner(), reason);
        let name = Name::new(name)?;
        let evict = || self.context.backend.evict(&name, entry, &eviction);
        answered(&self.context, Some(Operation::Evict), evict).await
    }

    /// Examines the store, and says what a person should know before trusting it with locks: what it is, what
    /// it may forget, and what this user may do there with a lock of this name, which should be one that
    /// nobody uses. It asks once, and does not wait for a store that is away.
    ///
    /// ```
    /// use globallock::{LockManager, Verdict};
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let manager = LockManager::connect("memory:examined").await?;
    /// let findings = manager.examine("globallock-doctor/example").await?;
    /// assert!(findings.iter().any(|finding| finding.verdict == Verdict::Note), "it is in one process");
    /// # Ok::<(), globallock::Error>(()) }).unwrap();
    /// ```
    ///
    /// # Errors
    /// [`Error::InvalidName`](crate::Error::InvalidName), and as [`Backend::examine`].
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn examine(&self, name: impl AsRef<str>) -> Result<Vec<Finding>> {
        self.context.backend.examine(&Name::new(name)?).await
    }

    /// The store that this manager uses.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.context.backend
    }

    /// Refuses new claims from now on, ends the waiting ones with [`Error::Closed`](crate::Error::Closed),
    /// and returns once the store has answered their releases and every other release under way, at the
    /// latest when their leases have expired. What is held stays held until its guard is released or dropped.
    ///
    /// Where the store keeps no lock beyond its owner, locks that were released and are
    /// [held at least](crate::Options::hold_at_least) for longer are released now. A warning and
    /// [`Event::CutShort`](crate::Event::CutShort) say how much of that time was left.
    ///
    /// # Cancel safety
    /// The manager is closed; the releases go on in the background.
    pub async fn close(&self) {
        self.context.close().await;
    }
}

impl fmt::Debug for LockManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockManager")
            .field("backend", &self.context.backend)
            .field("renewer", &self.context.renewer)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[cfg(not(globallock_schedules))]
impl LockManager {
    /// The copy of a manager that nothing uses yet, in a fork of the process.
    pub(crate) fn in_fork(self) -> Self {
        let Ok(context) = Arc::try_unwrap(self.context) else { panic!("it is used") };
        LockManager { context: Arc::new(context.in_fork()) }
    }

    pub(crate) fn context(&self) -> &Arc<Context> {
        &self.context
    }
}
