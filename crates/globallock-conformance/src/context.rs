//! What a case works with: new connections to the store, and a lock name that no other case uses.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{self, Poll};
use std::time::{Duration, Instant};

use globallock::backend::{Backend, Claim, ClaimId, WaitMode};
use globallock::queue::Permits;
use globallock::{Entry, Error, Guard, Lock, LockManager, ManagerOptions, Name, Options, Result};

use tokio::task::JoinHandle;

use crate::faulty::{Faulty, Verb};
use crate::store_under_test::StoreUnderTest;

/// How long a case waits for an event that must happen.
pub const LIMIT: Duration = Duration::from_secs(60);

/// One case's view of a store.
#[derive(Debug)]
pub struct Context {
    store: StoreUnderTest,
    name: String,
    kind: &'static str,
}

impl Context {
    /// Makes a context with its own lock name. `kind` says which lock [`Context::lock`] makes.
    #[must_use]
    pub fn new(store: &StoreUnderTest, case: &str, kind: &'static str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{case}-{}-{number}", std::process::id());
        Context { store: store.clone(), name, kind }
    }

    /// The store under test.
    #[must_use]
    pub fn store(&self) -> &StoreUnderTest {
        &self.store
    }

    /// The lock name of this case; no other case uses it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kind of lock that this case runs over: `mutex`, `write` or `1/1`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The lease of this case's claims.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.store.lease
    }

    /// Options with the case's lease.
    #[must_use]
    pub fn options(&self) -> Options {
        Options::new().lease(self.lease())
    }

    /// Opens a new connection to the store.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn backend(&self) -> Arc<dyn Backend> {
        (self.store.open)().await.expect("the store answers")
    }

    /// Makes a manager with its own connection.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn manager(&self) -> LockManager {
        self.manager_with(self.backend().await)
    }

    /// Makes `N` managers, each with its own connection.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn managers<const N: usize>(&self) -> [LockManager; N] {
        let mut managers = Vec::with_capacity(N);
        for _ in 0..N {
            managers.push(self.manager().await);
        }
        managers.try_into().expect("as many as asked for")
    }

    /// Makes a manager whose requests pass through a wrapper that can fail.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn faulty(&self) -> (Arc<Faulty>, LockManager) {
        let faulty = Faulty::new(self.backend().await);
        let manager = self.manager_with(Arc::clone(&faulty) as Arc<dyn Backend>);
        (faulty, manager)
    }

    fn manager_with(&self, backend: Arc<dyn Backend>) -> LockManager {
        let options = ManagerOptions::new().locks(self.options()).label("case");
        LockManager::with_backend(backend, options).expect("the options are good")
    }

    /// The lock of this case's name and kind.
    ///
    /// # Panics
    /// Never: the name is good.
    #[must_use]
    pub fn lock(&self, manager: &LockManager) -> Lock {
        lock_of(manager, &self.name, self.kind).expect("the name and kind are good")
    }

    /// The lock with this wait.
    #[must_use]
    pub fn lock_with_wait(&self, manager: &LockManager, wait: Duration) -> Lock {
        self.lock(manager).with_options(self.options().wait(Some(wait)))
    }

    /// The lock with this max hold time.
    #[must_use]
    pub fn lock_with_max_hold(&self, manager: &LockManager, max_hold: Duration) -> Lock {
        self.lock(manager).with_options(self.options().max_hold(Some(max_hold)))
    }

    /// Takes the lock with a short max hold time. The time is doubled until the machine is fast enough to
    /// grant the lock within it.
    ///
    /// # Panics
    /// When the store does not answer.
    ///
    /// # Cancel safety
    /// A dropped call leaves nothing behind.
    pub async fn briefly_held(&self, manager: &LockManager) -> Guard {
        let mut hold = Duration::from_millis(150);
        loop {
            let lock = self.lock_with_max_hold(manager, hold);
            if let Ok(guard) = tokio::time::timeout(hold * 20, lock.acquire()).await {
                return guard.expect("the store answers");
            }
            hold *= 2;
        }
    }

    /// A claim on this case's name, as the core would make it. Claims with the same number have the same id.
    ///
    /// # Panics
    /// Never: the name is good.
    #[must_use]
    pub fn claim(&self, number: u64, permits: Permits, wait_mode: WaitMode) -> Claim {
        // Of this case alone: a store tells for a while that a claim of this id was evicted.
        let case = BuildHasherDefault::<DefaultHasher>::default().hash_one(&self.name) >> 40;
        let manager = u128::from(std::process::id()) << 40 | u128::from(case) << 16 | u128::from(number);
        Claim::new(ClaimId::new(manager, number), Name::new(&self.name).expect("the name is good"), permits)
            .with_wait_mode(wait_mode)
            .with_lease(self.lease())
            .with_owner("{\"label\":\"claim\"}")
    }

    /// The queue of this case's name.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn queue(&self, manager: &LockManager) -> Vec<Entry> {
        manager.inspect(&self.name).await.expect("the store answers")
    }

    /// Waits until the queue has this many holders and this many waiters.
    ///
    /// # Panics
    /// When it does not within the limit.
    pub async fn until(&self, manager: &LockManager, held: usize, waiting: usize) {
        eventually(&format!("there are {held} holders and {waiting} waiters"), async || {
            let queue = self.queue(manager).await;
            let holding = queue.iter().filter(|entry| entry.held).count();
            (holding, queue.len() - holding) == (held, waiting)
        })
        .await;
    }

    /// Starts a task that acquires `lock`. Returns once the queue has this many holders and this many
    /// waiters, the new one included.
    ///
    /// # Panics
    /// When it does not within the limit.
    pub async fn queued(&self, lock: Lock, held: usize, waiting: usize) -> JoinHandle<Result<Guard>> {
        let onlooker = self.manager().await;
        let acquiring = tokio::spawn(async move { lock.acquire().await });
        self.until(&onlooker, held, waiting).await;
        acquiring
    }

    /// Waits until the queue is empty.
    ///
    /// # Panics
    /// When it is not within the limit.
    pub async fn until_empty(&self, manager: &LockManager) {
        self.until(manager, 0, 0).await;
    }
}

/// Makes a lock of a kind: `mutex`, `read`, `write`, or `K/N` for K of N permits of a semaphore.
///
/// # Errors
/// When the kind is not one of these.
pub fn lock_of(manager: &LockManager, name: &str, kind: &str) -> Result<Lock> {
    Ok(manager.lock(name, kind.parse()?))
}

/// Waits until `condition` is true, by polling it: for changes that no notification reports.
///
/// # Panics
/// When it is not true within the limit.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < until, "within {LIMIT:?} it did not become true that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Calls `acquire` for a taken lock until it fails with [`Error::TimedOut`].
///
/// On a busy machine the wait can end before the store has answered the first request. The owner does not
/// know yet that the lock is taken, so the error is [`Error::Unavailable`]. Then the wait is doubled, until
/// the store has answered `enqueues` requests within one call.
///
/// # Panics
/// When `acquire` ends in any other way, or before its wait has ended.
///
/// # Cancel safety
/// That of `acquire`.
pub async fn run_out<T>(
    store: &Faulty,
    mut wait: Duration,
    enqueues: u64,
    mut acquire: impl AsyncFnMut(Duration) -> Result<T>,
) {
    loop {
        let (asked, before) = (Instant::now(), store.answered(Verb::Enqueue));
        let refused = acquire(wait).await.err().expect("the lock is taken");
        assert!(asked.elapsed() >= wait, "it gave up after {:?} of {wait:?}: {refused}", asked.elapsed());
        match refused {
            Error::TimedOut { .. } => return,
            Error::Unavailable { .. } if store.answered(Verb::Enqueue) < before + enqueues => wait *= 2,
            other => panic!("{other:?}"),
        }
    }
}

/// Polls a future and drops it when it is pending after `suspensions` earlier suspensions. Returns its
/// output, or `None` if it was dropped.
pub async fn dropped_at<F: Future>(suspensions: usize, future: F) -> Option<F::Output> {
    DroppedAt { future: Box::pin(future), suspensions }.await
}

/// A future that ends with `None` once its inner future has been suspended this many times.
struct DroppedAt<F> {
    future: Pin<Box<F>>,
    suspensions: usize,
}

impl<F: Future> Future for DroppedAt<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<Self::Output> {
        match self.future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if self.suspensions == 0 => Poll::Ready(None),
            Poll::Pending => {
                self.suspensions -= 1;
                Poll::Pending
            }
        }
    }
}
