//! The manager: one connection to a store, and what its locks have in common.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::stream::BoxStream;

use crate::backend::{Backend, Claim, ClaimId, Entry, WaitMode};
use crate::error::{Error, Result};
use crate::hold::Hold;
use crate::locks::{GuardSet, Lock, RwLock, Semaphore};
use crate::name::Name;
use crate::options::{ManagerOptions, Options};
use crate::owner::Owner;
use crate::queue::{MAX_CAPACITY, Permits};
use crate::renewer::Renewer;
use crate::stores::connect_backend;
use crate::sync::{Handle, now, sleep_until, watch};
use crate::turns::Turns;

/// The pauses between two tries of a departure that the store did not answer.
const LEAVE_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Makes locks in one store.
///
/// Cheap to clone; all clones share one connection and one renewal task. It belongs to the tokio runtime in which it
/// was made and to the process that made it.
#[derive(Clone)]
pub struct LockManager {
    inner: Arc<Inner>,
}

/// What the locks and guards of one manager share.
pub(crate) struct Inner {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) renewer: Renewer,
    pub(crate) turns: Turns,
    departures: Departures,
    manager: u128,
    claims: AtomicU64,
    owner: Arc<str>,
    process: u32,
    closed: watch::Sender<bool>,
    options: Options,
}

impl LockManager {
    /// Connects to the store at `url` with the default options.
    ///
    /// Addresses: `redis://[user:password@]host[:port][/db]`, `rediss://`, `redis+unix:///socket`,
    /// `redis+sentinel://host,host,host/service`, `etcd://[user:password@]host,host,host`, `etcds://`,
    /// `zookeeper://[user:password@]host,host,host[/chroot]`, `zookeepers://`, `file:///directory`, `file:` (a directory
    /// of this user's own) and `memory:name`. The project's `docs/` has a page for each store, with its options.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`], or [`Error::Unavailable`], [`Error::PermissionDenied`] and [`Error::FailedPrecondition`] as the store
    /// answers.
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
    /// As [`LockManager::connect`], and [`Error::InvalidOption`].
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn connect_with(url: &str, options: ManagerOptions) -> Result<Self> {
        options.locks.check()?;
        Self::with_backend(connect_backend(url).await?, options)
    }

    /// Makes locks over a store that is connected already, such as a third party's.
    ///
    /// # Errors
    /// [`Error::InvalidOption`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn with_backend(backend: Arc<dyn Backend>, options: ManagerOptions) -> Result<Self> {
        options.locks.check()?;
        let departures = Departures::new(Arc::clone(&backend), Handle::current());
        let abandoned = departures.clone();
        let renewer = Renewer::start(Arc::clone(&backend), move |hold| abandoned.start(&hold));
        let inner = Inner {
            backend,
            renewer,
            turns: Turns::new(),
            departures,
            manager: random_80_bits(),
            claims: AtomicU64::new(0),
            owner: Owner { label: options.label, ..Owner::current() }.to_text().into(),
            process: std::process::id(),
            closed: watch::Sender::new(false),
            options: options.locks,
        };
        Ok(LockManager { inner: Arc::new(inner) })
    }

    /// Makes a mutex: one holder at a time.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn mutex(&self, name: impl AsRef<str>) -> Result<Lock> {
        Ok(self.lock(Name::new(name)?, Permits { count: 1, capacity: 1 }))
    }

    /// Makes a read-write lock: many readers, or one writer. Neither side can starve the other.
    ///
    /// # Errors
    /// [`Error::InvalidName`].
    pub fn rwlock(&self, name: impl AsRef<str>) -> Result<RwLock> {
        let name = Name::new(name)?;
        let lock = |count| self.lock(name.clone(), Permits { count, capacity: MAX_CAPACITY });
        Ok(RwLock::new(lock(1), lock(MAX_CAPACITY)))
    }

    /// Makes a semaphore of `capacity` permits. All who use the name should give the same capacity: while claims of
    /// different capacities hold, the smallest counts.
    ///
    /// # Errors
    /// [`Error::InvalidName`]; [`Error::InvalidOption`] when the capacity is 0 or above [`MAX_CAPACITY`].
    pub fn semaphore(&self, name: impl AsRef<str>, capacity: u32) -> Result<Semaphore> {
        if capacity == 0 || capacity > MAX_CAPACITY {
            return Err(Error::invalid_option(
                "capacity",
                format!("{capacity} is not from 1 to {MAX_CAPACITY}"),
            ));
        }
        Ok(Semaphore::new(self.lock(Name::new(name)?, Permits { count: 1, capacity })))
    }

    fn lock(&self, name: Name, permits: Permits) -> Lock {
        Lock::new(Arc::clone(&self.inner), name, permits, self.inner.options.clone())
    }

    /// Acquires the mutexes of all `names`, or none: taken one after the other in one canonical order, so that two
    /// such calls cannot wait for each other. A name that is given twice is taken once. The waiting limit of the
    /// manager's options bounds the whole call.
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
        let mut guards = Vec::new();
        for lock in self.in_canonical_order(names)? {
            let wait = lock.options().wait.map(|wait| wait.saturating_sub(now().duration_since(started)));
            let options = Options { wait, ..lock.options().clone() };
            match lock.with_options(options)?.acquire().await {
                Ok(guard) => guards.push(guard),
                Err(error) => {
                    GuardSet::new(guards).release_quietly().await;
                    return Err(error);
                }
            }
        }
        Ok(GuardSet::new(guards))
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
        let mut guards = Vec::new();
        for lock in self.in_canonical_order(names)? {
            match lock.try_acquire().await {
                Ok(Some(guard)) => guards.push(guard),
                other => {
                    GuardSet::new(guards).release_quietly().await;
                    return other.map(|_| None);
                }
            }
        }
        Ok(Some(GuardSet::new(guards)))
    }

    fn in_canonical_order<S: AsRef<str>>(&self, names: impl IntoIterator<Item = S>) -> Result<Vec<Lock>> {
        let mut names = names.into_iter().map(Name::new).collect::<Result<Vec<_>>>()?;
        names.sort_unstable();
        names.dedup();
        names.into_iter().map(|name| self.mutex(name)).collect()
    }

    /// Lists the claims of a name, oldest first: those who hold, then those who wait.
    ///
    /// # Errors
    /// [`Error::InvalidName`], and as the store answers.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn inspect(&self, name: impl AsRef<str>) -> Result<Vec<Entry>> {
        self.inner.backend.inspect(&Name::new(name)?).await
    }

    /// Lists the names that begin with `prefix` and have a claim, in no order, as
    /// [`Backend::names`] promises.
    pub fn names<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Name>> {
        self.inner.backend.names(prefix)
    }

    /// The store that this manager uses.
    #[must_use]
    pub fn backend(&self) -> &Arc<dyn Backend> {
        &self.inner.backend
    }

    /// Refuses new claims from now on, ends those that wait with [`Error::Closed`], and returns once the store has
    /// answered their departures and every release that goes on in the background, at the latest when their leases are
    /// over. What is held stays held until its guard is released or dropped.
    ///
    /// # Cancel safety
    /// The manager is closed; the releases go on in the background.
    pub async fn close(&self) {
        self.inner.closed.send_replace(true);
        // Whoever waits takes its claim out when it runs next, which may be after this has returned, or never.
        for hold in self.inner.renewer.waiting() {
            if hold.give_up() {
                self.inner.leave_in_background(&hold);
            }
        }
        self.inner.departures.all_answered().await;
    }
}

impl fmt::Debug for LockManager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockManager")
            .field("backend", &self.inner.backend)
            .field("renewer", &self.inner.renewer)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Makes a claim of this manager, unless it is closed or was forked away.
    pub(crate) fn claim(
        &self,
        name: &Name,
        permits: Permits,
        wait_mode: WaitMode,
        options: &Options,
    ) -> Result<Claim> {
        if !self.is_here() {
            return Err(Error::Forked { pid: self.process });
        }
        if self.is_closed() {
            return Err(Error::Closed);
        }
        Ok(Claim {
            id: ClaimId::new(self.manager, self.claims.fetch_add(1, Ordering::Relaxed)),
            name: name.clone(),
            permits,
            wait_mode,
            lease: options.lease,
            max_hold: options.max_hold,
            owner: Arc::clone(&self.owner),
        })
    }

    /// Whether this is the process that made the manager: a fork of it must touch none of its claims.
    pub(crate) fn is_here(&self) -> bool {
        self.process == std::process::id()
    }

    pub(crate) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    pub(crate) fn subscribe_closed(&self) -> watch::Receiver<bool> {
        self.closed.subscribe()
    }

    /// Renews one held claim, and says whether it is held.
    pub(crate) async fn renew_now(&self, hold: &Arc<Hold>) -> Result<bool> {
        if !self.is_here() || !hold.is_held() {
            return Ok(false);
        }
        let mut answers = self.backend.renew(&[Arc::clone(&hold.claim)]).await;
        match answers.pop() {
            // The renewal task gives up in the store what is lost, when the claim comes due.
            Some(Ok(answer)) => drop(hold.hear(answer, true, now())),
            Some(Err(error)) => return Err(error),
            None => {}
        }
        Ok(hold.is_held())
    }

    /// Takes a claim out of its queue without making anybody wait for it.
    pub(crate) fn leave_in_background(&self, hold: &Arc<Hold>) {
        if self.is_here() {
            self.departures.start(hold);
        }
    }
}

#[cfg(test)]
#[cfg(not(globallock_schedules))]
impl LockManager {
    /// The copy of a manager that nothing uses yet, in a fork of the process.
    pub(crate) fn in_fork(self) -> Self {
        let Ok(inner) = Arc::try_unwrap(self.inner) else { panic!("it is used") };
        LockManager { inner: Arc::new(Inner { process: inner.process + 1, ..inner }) }
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

/// The departures that go on in the background.
#[derive(Clone)]
struct Departures {
    backend: Arc<dyn Backend>,
    runtime: Handle,
    under_way: watch::Sender<usize>,
}

impl Departures {
    fn new(backend: Arc<dyn Backend>, runtime: Handle) -> Self {
        Departures { backend, runtime, under_way: watch::Sender::new(0) }
    }

    /// Repeats the departure until the store answers it, or the claim is over by itself.
    fn start(&self, hold: &Arc<Hold>) {
        let counted = Counted::new(self.under_way.clone());
        let backend = Arc::clone(&self.backend);
        let claim = Arc::clone(&hold.claim);
        self.runtime.spawn(async move {
            let _counted = counted;
            let over_at = now() + claim.lease;
            let mut pause = LEAVE_PAUSE.0;
            while let Err(error) = backend.release(&claim).await {
                if now() + pause >= over_at {
                    tracing::warn!(name = %claim.name, %error, "a release was never answered; the lease frees it");
                    return;
                }
                sleep_until((now() + pause).into()).await;
                pause = (pause * 2).min(LEAVE_PAUSE.1);
            }
        });
    }

    async fn all_answered(&self) {
        // The sender lives in `self`, so the wait can only end with the count at zero.
        let _ = self.under_way.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One departure under way, counted until it is dropped: with its task at the latest.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Counted(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// From the operating system each time: a generator in this process would repeat itself after a fork.
fn random_80_bits() -> u128 {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes[..10]).expect("the operating system has random numbers");
    u128::from_le_bytes(bytes)
}
