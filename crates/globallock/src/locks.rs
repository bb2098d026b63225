//! The locks that a manager makes: nothing is taken until one is acquired.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::acquire::{Acquired, acquire};
use crate::backend::WaitMode;
use crate::context::{Context, Request};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::kind::LockKind;
use crate::name::Name;
use crate::options::Options;
use crate::queue::Permits;

/// A mutex, one side of a read-write lock, or a number of a semaphore's permits: what can be acquired.
///
/// Not reentrant: a task that acquires the lock again while it holds it waits for itself. Cheap to clone.
#[derive(Clone)]
pub struct Lock {
    context: Arc<Context>,
    name: Name,
    permits: Permits,
    options: Options,
}

impl Lock {
    pub(crate) fn new(context: Arc<Context>, name: Name, permits: Permits, options: Options) -> Self {
        Lock { context, name, permits, options }
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

    /// Acquires the lock after everybody who asked for it before, and waits as long as the options say.
    ///
    /// # Errors
    /// [`Error::TimedOut`] when the wait has ended; [`Error::Unavailable`] when the store has been silent for longer than
    /// the store timeout; [`Error::PermissionDenied`], [`Error::FailedPrecondition`], [`Error::Closed`],
    /// [`Error::Forked`]. In every case nothing is left in the store, or what is left is being taken out in the background.
    ///
    /// # Cancel safety
    /// A dropped call gives up its place in the queue, in the background; a later call starts at the end.
    pub async fn acquire(&self) -> Result<Guard> {
        // A wait of zero is a try: the store gets the time to answer.
        let wait_mode =
            if self.options.wait == Some(Duration::ZERO) { WaitMode::Try } else { WaitMode::Wait };
        match self.ask(wait_mode, &self.options).await? {
            Acquired::Granted(guard) => Ok(guard),
            Acquired::NotGranted { waited } => Err(Error::TimedOut { name: self.name.to_string(), waited }),
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
    /// As [`Lock::acquire`], but never [`Error::TimedOut`]; [`Error::InvalidOption`] when the wait is longer than
    /// [`MAX_DURATION`](crate::MAX_DURATION).
    ///
    /// # Cancel safety
    /// As [`Lock::acquire`].
    pub async fn try_acquire_for(&self, wait: Duration) -> Result<Option<Guard>> {
        let wait_mode = if wait.is_zero() { WaitMode::Try } else { WaitMode::Wait };
        let options = Options { wait: Some(wait), ..self.options.clone() };
        options.check()?;
        Ok(self.ask(wait_mode, &options).await?.guard())
    }

    async fn ask(&self, wait_mode: WaitMode, options: &Options) -> Result<Acquired> {
        acquire(&self.context, Request { name: &self.name, permits: self.permits, wait_mode, options }).await
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
        let permits = LockKind::Permits { count, capacity: self.capacity() }.permits()?;
        Ok(Lock { permits, ..self.one.clone() })
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
