//! The locks that a manager makes: nothing is taken until one is acquired.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::acquire::{Acquired, acquire};
use crate::around::Held;
use crate::backend::WaitMode;
use crate::context::{Context, Request};
use crate::duration::Shown;
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::kind::LockKind;
use crate::name::{Name, shown};
use crate::options::{MAX_DURATION, Options};
use crate::sync::Instant;

/// A mutex, one side of a read-write lock, or a number of a semaphore's permits: what can be acquired.
///
/// It starts from the options of its manager; the methods with their names change them for this lock alone.
/// What is wrong with its name, kind or options is told by the call that acquires it.
///
/// Not reentrant: a task that acquires the lock again while it holds it waits for itself. Within
/// [`Lock::run`] and kin that is certain, and is refused with [`Error::WouldDeadlock`]. Of a guard it is not,
/// because it may have been moved to another task, so there it is told to observers: see
/// [`Event::WaitsForItself`](crate::Event::WaitsForItself). Cheap to clone.
///
/// ```
/// use std::time::Duration;
/// use globallock::LockManager;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let manager = LockManager::connect("memory:example").await?;
/// let lock = manager.mutex("nightly-report").wait(Duration::from_secs(5)).max_hold(Duration::from_secs(60));
/// let guard = lock.acquire().await?;
/// assert!(lock.try_acquire().await?.is_none(), "it is taken");
/// guard.release().await?;
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct Lock {
    context: Arc<Context>,
    name: Arc<str>,
    kind: LockKind,
    options: Options,
    wants_value: bool,
}

impl Lock {
    pub(crate) fn new(context: &Arc<Context>, name: impl AsRef<str>, kind: LockKind) -> Self {
        let (name, options) = (Arc::from(name.as_ref()), context.options.clone());
        Lock { context: Arc::clone(context), name, kind, options, wants_value: false }
    }

    /// The lock's name, as it was given.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which kind of lock it is.
    #[must_use]
    pub fn kind(&self) -> LockKind {
        self.kind
    }

    /// How the lock is acquired and kept.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The same lock with other options.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Lock { options, ..self }
    }

    /// The same lock with another [lease](Options::lease).
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Lock { options: self.options.lease(lease), ..self }
    }

    /// The same lock with another [max hold time](Options::max_hold); `None` is no limit.
    #[must_use]
    pub fn max_hold(self, max_hold: impl Into<Option<Duration>>) -> Self {
        Lock { options: self.options.max_hold(max_hold), ..self }
    }

    /// The same lock, which keeps others out for [at least this time](Options::hold_at_least) from the grant;
    /// `None` is no such time.
    #[must_use]
    pub fn hold_at_least(self, hold_at_least: impl Into<Option<Duration>>) -> Self {
        Lock { options: self.options.hold_at_least(hold_at_least), ..self }
    }

    /// The same lock with another [wait](Options::wait); `None` is no limit.
    #[must_use]
    pub fn wait(self, wait: impl Into<Option<Duration>>) -> Self {
        Lock { options: self.options.wait(wait), ..self }
    }

    /// The same lock with another [store timeout](Options::store_timeout); `None` is the wait, or the
    /// lease without one.
    #[must_use]
    pub fn store_timeout(self, store_timeout: impl Into<Option<Duration>>) -> Self {
        Lock { options: self.options.store_timeout(store_timeout), ..self }
    }

    /// The same lock, whose grants come with the [value](Guard::value) of its name. That costs no round
    /// trip more where the lock is free, and one more after a wait where the store is a server. Locks without
    /// this cost nothing more.
    #[must_use]
    pub fn with_value(self) -> Self {
        Lock { wants_value: true, ..self }
    }

    /// Acquires the lock after everybody who asked for it before, and waits as long as the options say.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when the wait has ended; [`Error::Unavailable`] when the store has been silent for
    /// longer than the store timeout; [`Error::InvalidName`] and [`Error::InvalidOption`] for what the lock
    /// was made with; [`Error::WouldDeadlock`], without a limit to the wait, when it could be granted only
    /// after the very work that asks has ended, which [runs](Lock::run) under the same name;
    /// [`Error::PermissionDenied`], [`Error::FailedPrecondition`], [`Error::Closed`], [`Error::Forked`]. In
    /// every case nothing is left in the store, or what is left is being taken out in the background.
    ///
    /// # Cancel safety
    /// A dropped call gives up its place in the queue, in the background; a later call starts at the end.
    pub async fn acquire(&self) -> Result<Guard> {
        match self.ask(wait_mode(self.options.wait), &self.options).await? {
            Acquired::Granted(guard) => Ok(guard),
            Acquired::NotGranted { waited } => Err(Error::timed_out(shown(&self.name), waited)),
        }
    }

    /// Acquires the lock if it is free and nobody waits for it; `None` if it is taken.
    ///
    /// # Errors
    /// As [`Lock::acquire`], but never [`Error::TimedOut`].
    ///
    /// # Cancel safety
    /// A dropped call leaves nothing behind.
    pub async fn try_acquire(&self) -> Result<Option<Guard>> {
        Ok(self.ask(WaitMode::Try, &self.options).await?.guard())
    }

    /// Acquires the lock, waiting for at most `wait`; `None` if it was not granted by then. A wait of zero is
    /// [`Lock::try_acquire`].
    ///
    /// # Errors
    /// As [`Lock::acquire`], but never [`Error::TimedOut`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn try_acquire_for(&self, wait: Duration) -> Result<Option<Guard>> {
        self.clone().wait(wait).acquire_in_time().await
    }

    /// Acquires the lock, waiting as long as the options say; `None` if it was not granted by then.
    pub(crate) async fn acquire_in_time(&self) -> Result<Option<Guard>> {
        Ok(self.ask(wait_mode(self.options.wait), &self.options).await?.guard())
    }

    /// Acquires the lock, does `work` while it is held, and releases it. The work is dropped, wherever it is,
    /// as soon as the lock is lost. Within it, do not acquire the lock again.
    ///
    /// # Errors
    /// As [`Lock::acquire`]; [`Error::Lost`] when the lock was lost before the work had ended. A release that
    /// the store does not answer goes on in the background, and is no error, because the work was done while
    /// the lock was held.
    ///
    /// # Cancel safety
    /// A dropped call drops the work, and releases the lock in the background.
    ///
    /// ```
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// # let manager = globallock::LockManager::connect("memory:example").await?;
    /// let report = manager.mutex("nightly-report");
    /// let written = report.run(async |guard| guard.fencing_token()).await?;
    /// assert!(written > 0);
    /// let again = report.run(async |_guard| report.acquire().await.is_err()).await?;
    /// assert!(again, "it would wait for itself");
    /// # Ok::<(), globallock::Error>(()) }).unwrap();
    /// ```
    pub async fn run<T>(&self, work: impl AsyncFnOnce(&Guard) -> T) -> Result<T> {
        run_until(self.acquire().await?, None, work).await
    }

    /// The same lock for work that is asked to end after `max_hold`, and is dropped `grace` later unless it
    /// has ended: see [`PlannedEnd::run`]. Others are let in only when it has ended, unlike at the lock's own
    /// [max hold time](Options::max_hold), in the place of which this comes.
    pub fn end_after(&self, max_hold: Duration, grace: Duration) -> PlannedEnd {
        PlannedEnd { lock: self.clone(), max_hold, grace }
    }

    /// Refuses to wait without a limit for what is held around the very work that asks.
    pub(crate) fn refuse_around(&self) -> Result<()> {
        let (name, permits) = (Name::from_shared(Arc::clone(&self.name))?, self.kind.permits()?);
        Held::of(&name).refuse(&self.context, &name, permits)
    }

    async fn ask(&self, wait_mode: WaitMode, options: &Options) -> Result<Acquired> {
        options.check()?;
        let (name, permits) = (Name::from_shared(Arc::clone(&self.name))?, self.kind.permits()?);
        let capabilities = self.context.backend.capabilities();
        if self.wants_value && !capabilities.keeps_values {
            let reason = format!("stores of the kind {} keep no values", capabilities.kind);
            return Err(Error::invalid_option("with_value", reason));
        }
        let wants_value = self.wants_value;
        acquire(&self.context, Request { name, permits, wait_mode, options, wants_value }).await
    }
}

/// A wait of zero is a try: the store gets the time to answer.
fn wait_mode(wait: Option<Duration>) -> WaitMode {
    if wait == Some(Duration::ZERO) { WaitMode::Try } else { WaitMode::Wait }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// How much longer than its work may take the store keeps a lock, so that it has not ended when the work has
/// just been dropped.
pub const AFTER_GRACE: Duration = Duration::from_secs(5);

/// A lock whose work is told when to end, made by [`Lock::end_after`].
///
/// ```
/// use std::time::Duration;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let manager = globallock::LockManager::connect("memory:example").await?;
/// # async fn copy_a_row() { tokio::time::sleep(Duration::from_millis(10)).await }
/// let lock = manager.mutex("copy").end_after(Duration::from_millis(200), Duration::from_secs(10));
/// let rows = lock.run(async |guard| {
///     let mut rows = 0;
///     let end = guard.asked_to_end();
///     tokio::pin!(end);
///     loop {
///         tokio::select! {
///             () = &mut end => return rows,
///             () = copy_a_row() => rows += 1,
///         }
///     }
/// });
/// assert!(rows.await? > 0);
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is acquired until it is run"]
pub struct PlannedEnd {
    lock: Lock,
    max_hold: Duration,
    grace: Duration,
}

impl PlannedEnd {
    /// Acquires the lock, does `work` while it is held, and releases it. When it has been held for the max
    /// hold time, [`Guard::asked_to_end`] resolves, and the lock is kept. If the work has not ended after the
    /// grace, it is dropped, wherever it is, and the lock is released then. The work is also dropped as soon
    /// as the lock is lost.
    ///
    /// Work that does not pause cannot be dropped. So the store lets others in some seconds after the grace,
    /// though this process fails to.
    ///
    /// # Errors
    /// As [`Lock::run`]; [`Error::Lost`] with [`Loss::MaxHold`](crate::Loss::MaxHold) when the work was
    /// dropped after the grace.
    ///
    /// # Cancel safety
    /// As [`Lock::run`].
    pub async fn run<T>(&self, work: impl AsyncFnOnce(&Guard) -> T) -> Result<T> {
        let guard = self.acquire(AFTER_GRACE).await?;
        let dropped_at = guard.ends_at().map(|ends_at| ends_at + self.grace);
        run_until(guard, dropped_at, work).await
    }

    /// Acquires the lock, which the store ends so long after the grace.
    pub(crate) async fn acquire(&self, after_grace: Duration) -> Result<Guard> {
        let PlannedEnd { lock, max_hold, grace } = self;
        lock.clone().max_hold(*max_hold).options.check()?;
        if *grace > MAX_DURATION {
            return Err(Error::invalid_option("grace", format!("{} is longer than one year", Shown(*grace))));
        }
        let limit = (*max_hold + *grace + after_grace).min(MAX_DURATION);
        let mut guard = lock.clone().max_hold(limit).acquire().await?;
        guard.end_after(*max_hold);
        Ok(guard)
    }
}

/// Does `work` while the lock is held and until then, and releases it.
async fn run_until<T>(
    guard: Guard,
    dropped_at: Option<Instant>,
    work: impl AsyncFnOnce(&Guard) -> T,
) -> Result<T> {
    let done = guard.while_held(dropped_at, work(&guard)).await;
    finish(guard, done).await
}

/// Releases the lock of work that has ended like this.
pub(crate) async fn finish<T>(guard: Guard, done: Result<T>) -> Result<T> {
    let done = match done {
        // The work may have ended without a pause in which the loss could have stopped it.
        Ok(_) if !guard.is_held() => Err(guard.is_lost(guard.lost().await)),
        done => done,
    };
    // The observers have heard of a release that failed, and it goes on in the background.
    let _ = guard.release().await;
    done
}

/// Both sides of a read-write lock.
///
/// Fair to both: a reader that comes after a waiting writer waits behind it.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let manager = globallock::LockManager::connect("memory:example").await?;
/// let catalogue = manager.rwlock("catalogue");
/// let (one, other) = (catalogue.read().acquire().await?, catalogue.read().acquire().await?);
/// assert!(catalogue.write().try_acquire().await?.is_none(), "two read");
/// # drop((one, other));
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct RwLock {
    read: Lock,
    write: Lock,
}

impl RwLock {
    pub(crate) fn new(context: &Arc<Context>, name: impl AsRef<str>) -> Self {
        RwLock {
            read: Lock::new(context, &name, LockKind::Read),
            write: Lock::new(context, &name, LockKind::Write),
        }
    }

    /// The same read-write lock with other options for both sides.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        let read = self.read.with_options(options.clone());
        RwLock { read, write: self.write.with_options(options) }
    }

    /// The side that many may hold at a time.
    #[must_use]
    pub fn read(&self) -> Lock {
        self.read.clone()
    }

    /// The side that one alone may hold.
    #[must_use]
    pub fn write(&self) -> Lock {
        self.write.clone()
    }
}

/// A number of permits under one name.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let manager = globallock::LockManager::connect("memory:example").await?;
/// let licences = manager.semaphore("licences", 3);
/// let two = licences.acquire_many(2).await?;
/// assert!(licences.permits(2).try_acquire().await?.is_none(), "one is left");
/// let one = licences.acquire().await?;
/// # drop((one, two));
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug)]
pub struct Semaphore {
    one: Lock,
    capacity: u32,
}

impl Semaphore {
    pub(crate) fn new(context: &Arc<Context>, name: impl AsRef<str>, capacity: u32) -> Self {
        Semaphore { one: Lock::new(context, name, LockKind::Permits { count: 1, capacity }), capacity }
    }

    /// The same semaphore with other options.
    #[must_use]
    pub fn with_options(self, options: Options) -> Self {
        Semaphore { one: self.one.with_options(options), ..self }
    }

    /// How many permits there are.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// `count` permits, acquired together.
    #[must_use]
    pub fn permits(&self, count: u32) -> Lock {
        Lock { kind: LockKind::Permits { count, capacity: self.capacity }, ..self.one.clone() }
    }

    /// Acquires one permit, as [`Lock::acquire`].
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn acquire(&self) -> Result<Guard> {
        self.one.acquire().await
    }

    /// Acquires `count` permits together, as [`Lock::acquire`].
    ///
    /// # Errors
    /// As [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn acquire_many(&self, count: u32) -> Result<Guard> {
        self.permits(count).acquire().await
    }

    /// Acquires one permit if one is free and nobody waits, as [`Lock::try_acquire`].
    ///
    /// # Errors
    /// As [`Lock::try_acquire`].
    ///
    /// # Cancel safety
    /// As [`Lock::try_acquire`].
    pub async fn try_acquire(&self) -> Result<Option<Guard>> {
        self.one.try_acquire().await
    }
}
