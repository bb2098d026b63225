//! The locks that a manager makes: nothing is taken until one is acquired.

use std::fmt;
use std::sync::Arc;

use futures_util::future::{join_all, select_all};

use crate::acquire::acquire;
use crate::backend::{Release, WaitMode};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::hold::Loss;
use crate::manager::Inner;
use crate::name::Name;
use crate::options::Options;
use crate::queue::Permits;

/// A mutex, one side of a read-write lock, or a number of a semaphore's permits: what can be acquired.
///
/// Not reentrant: a task that acquires the lock again while it holds it waits for itself. Cheap to clone.
#[derive(Clone)]
pub struct Lock {
    inner: Arc<Inner>,
    name: Name,
    permits: Permits,
    options: Options,
}

impl Lock {
    pub(crate) fn new(inner: Arc<Inner>, name: Name, permits: Permits, options: Options) -> Self {
        Lock { inner, name, permits, options }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }

    /// The lock's name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// How much of the lock an acquisition takes, and of how much.
    #[must_use]
    pub fn permits(&self) -> Permits {
        self.permits
    }

    /// How the lock is taken and kept.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The same lock with other options.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when one is out of its range.
    pub fn with_options(self, options: Options) -> Result<Self> {
        options.check()?;
        Ok(Lock { options, ..self })
    }

    /// Acquires the lock, after all who asked for it before, waiting as long as the options say.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when the waiting limit is over; [`Error::Unavailable`] when the store has been silent for
    /// longer than the patience; [`Error::PermissionDenied`], [`Error::FailedPrecondition`], [`Error::Closed`], [`Error::Forked`]. In every
    /// case nothing is left in the store, or what is left is being taken out in the background.
    ///
    /// # Cancel safety
    /// A dropped call gives up its place in the queue, in the background; a later call starts at the end.
    pub async fn acquire(&self) -> Result<Guard> {
        let guard = acquire(self, WaitMode::Wait).await?;
        // Only a waiting limit of zero is refused.
        guard
            .ok_or_else(|| Error::TimedOut { name: self.name.to_string(), waited: std::time::Duration::ZERO })
    }

    /// Acquires the lock if it is free and nobody waits for it; `None` if it is taken.
    ///
    /// # Errors
    /// As [`Lock::acquire`], but never [`Error::TimedOut`].
    ///
    /// # Cancel safety
    /// A dropped call leaves nothing behind.
    pub async fn try_acquire(&self) -> Result<Option<Guard>> {
        acquire(self, WaitMode::Try).await
    }
}

impl fmt::Debug for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lock")
            .field("name", &self.name)
            .field("permits", &self.permits)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// Both sides of a read-write lock.
///
/// Fair to both: a reader that comes after a waiting writer waits behind it.
#[derive(Clone, Debug)]
pub struct RwLock {
    read: Lock,
    write: Lock,
}

impl RwLock {
    pub(crate) fn new(read: Lock, write: Lock) -> Self {
        RwLock { read, write }
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
#[derive(Clone, Debug)]
pub struct Semaphore {
    one: Lock,
}

impl Semaphore {
    pub(crate) fn new(one: Lock) -> Self {
        Semaphore { one }
    }

    /// How many permits there are.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.one.permits.capacity
    }

    /// `count` permits, acquired together.
    ///
    /// # Errors
    /// [`Error::InvalidOption`] when the count is 0 or above the capacity.
    pub fn permits(&self, count: u32) -> Result<Lock> {
        let capacity = self.capacity();
        if count == 0 || count > capacity {
            return Err(Error::invalid_option("permits", format!("{count} is not from 1 to {capacity}")));
        }
        Ok(Lock { permits: Permits { count: count, capacity }, ..self.one.clone() })
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

/// Several locks that are held together.
#[derive(Debug)]
#[must_use = "guards that are dropped at once release their locks at once"]
pub struct GuardSet {
    guards: Vec<Guard>,
}

impl GuardSet {
    pub(crate) fn new(guards: Vec<Guard>) -> Self {
        GuardSet { guards }
    }

    /// The guards, in the canonical order of their names.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// Whether all of the locks are held at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.guards.iter().all(Guard::is_held)
    }

    /// Waits until the first of the locks is lost, and names it and the reason; never returns for an empty set.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn lost(&self) -> (&Guard, Loss) {
        if self.guards.is_empty() {
            std::future::pending::<()>().await;
        }
        let losses = self.guards.iter().map(|guard| Box::pin(async move { (guard, guard.lost().await) }));
        select_all(losses).await.0
    }

    /// Releases all of the locks at once, and says whether all were still held.
    ///
    /// # Errors
    /// The first error; the others are released all the same.
    ///
    /// # Cancel safety
    /// A dropped call goes on in the background.
    pub async fn release(self) -> Result<Release> {
        let departures: Result<Vec<_>> =
            join_all(self.guards.into_iter().map(Guard::release)).await.into_iter().collect();
        let all_left = departures?.iter().all(|departure| *departure == Release::Released);
        Ok(if all_left { Release::Released } else { Release::NotHeld })
    }

    /// Releases what was taken before another error, which matters more than one of these.
    pub(crate) async fn release_quietly(self) {
        if let Err(error) = self.release().await {
            tracing::warn!(%error, "a release goes on in the background");
        }
    }
}
