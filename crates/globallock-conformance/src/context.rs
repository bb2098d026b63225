//! What a case works with: fresh connections to the store, and a name that nobody else uses.

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
use crate::subject::StoreUnderTest;

/// How long a case waits for what must come.
pub const LIMIT: Duration = Duration::from_secs(60);

/// One case's view of a store.
#[derive(Debug)]
pub struct Context {
    subject: StoreUnderTest,
    name: String,
    kind: &'static str,
}

impl Context {
    /// Makes a context with a name of its own. `kind` says which lock [`Context::lock`] makes.
    #[must_use]
    pub fn new(subject: &StoreUnderTest, case: &str, kind: &'static str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{case}-{}-{number}", std::process::id());
        Context { subject: subject.clone(), name, kind }
    }

    /// The store.
    #[must_use]
    pub fn subject(&self) -> &StoreUnderTest {
        &self.subject
    }

    /// The name that nobody else uses.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The kind of lock that this case runs over: `mutex`, `write` or `1/1`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        self.kind
    }

    /// The lease of the claims.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.subject.lease
    }

    /// Options with the case's lease.
    #[must_use]
    pub fn options(&self) -> Options {
        Options { lease: self.lease(), ..Options::default() }
    }

    /// Opens a connection of its own to the store.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn backend(&self) -> Arc<dyn Backend> {
        (self.subject.open)().await.expect("the store answers")
    }

    /// Makes a manager with a connection of its own.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn manager(&self) -> LockManager {
        self.manager_over(self.backend().await)
    }

    /// Makes as many managers as asked for.
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

    /// Makes a manager behind a wrapper that can fail.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn faulty(&self) -> (Arc<Faulty>, LockManager) {
        let faulty = Faulty::new(self.backend().await);
        let manager = self.manager_over(Arc::clone(&faulty) as Arc<dyn Backend>);
        (faulty, manager)
    }

    fn manager_over(&self, backend: Arc<dyn Backend>) -> LockManager {
        let options = ManagerOptions { locks: self.options(), label: Some("case".to_owned()) };
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

    /// The lock with a waiting limit.
    ///
    /// # Panics
    /// Never: the limit is good.
    #[must_use]
    pub fn lock_within(&self, manager: &LockManager, wait: Duration) -> Lock {
        self.lock(manager)
            .with_options(Options { wait: Some(wait), ..self.options() })
            .expect("the options are good")
    }

    /// The lock with a longest hold.
    ///
    /// # Panics
    /// Never: the longest hold is good.
    #[must_use]
    pub fn lock_for(&self, manager: &LockManager, max_hold: Duration) -> Lock {
        self.lock(manager)
            .with_options(Options { max_hold: Some(max_hold), ..self.options() })
            .expect("the options are good")
    }

    /// Takes the lock with a short longest hold: a longer one where the machine takes longer than that to grant it.
    ///
    /// # Panics
    /// When the store does not answer.
    ///
    /// # Cancel safety
    /// A dropped call leaves nothing behind.
    pub async fn briefly_held(&self, manager: &LockManager) -> Guard {
        let mut hold = Duration::from_millis(150);
        loop {
            let lock = self.lock_for(manager, hold);
            if let Ok(guard) = tokio::time::timeout(hold * 20, lock.acquire()).await {
                return guard.expect("the store answers");
            }
            hold *= 2;
        }
    }

    /// A claim on this case's name, as the core would make it.
    ///
    /// # Panics
    /// Never: the name is good.
    #[must_use]
    pub fn claim(&self, number: u64, permits: Permits, wait_mode: WaitMode) -> Claim {
        Claim {
            id: ClaimId::new(u128::from(std::process::id()) << 40 | u128::from(number), number),
            name: Name::new(&self.name).expect("the name is good"),
            permits,
            wait_mode,
            lease: self.lease(),
            max_hold: None,
            owner: "{\"label\":\"claim\"}".into(),
        }
    }

    /// The queue of this case's name.
    ///
    /// # Panics
    /// When the store does not answer.
    pub async fn queue(&self, manager: &LockManager) -> Vec<Entry> {
        manager.inspect(&self.name).await.expect("the store answers")
    }

    /// Waits until so many claims hold and so many wait.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn until(&self, manager: &LockManager, held: usize, waiting: usize) {
        eventually(&format!("{held} hold and {waiting} wait"), async || {
            let queue = self.queue(manager).await;
            let holding = queue.iter().filter(|entry| entry.held).count();
            (holding, queue.len() - holding) == (held, waiting)
        })
        .await;
    }

    /// Lets somebody ask for `lock`, and returns once so many hold and so many, with this one, wait.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn queued(&self, lock: Lock, held: usize, waiting: usize) -> JoinHandle<Result<Guard>> {
        let onlooker = self.manager().await;
        let asks = tokio::spawn(async move { lock.acquire().await });
        self.until(&onlooker, held, waiting).await;
        asks
    }

    /// Waits until nobody holds or waits.
    ///
    /// # Panics
    /// When that does not come.
    pub async fn until_empty(&self, manager: &LockManager) {
        self.until(manager, 0, 0).await;
    }
}

/// Makes a lock of a kind: `mutex`, `read`, `write`, or `K/N` for so many permits of a semaphore.
///
/// # Errors
/// As the manager says of the name and the numbers.
///
/// # Panics
/// When the kind is none of these.
pub fn lock_of(manager: &LockManager, name: &str, kind: &str) -> Result<Lock> {
    match kind {
        "mutex" => manager.mutex(name),
        "read" => Ok(manager.rwlock(name)?.read()),
        "write" => Ok(manager.rwlock(name)?.write()),
        permits => {
            let (count, capacity) = permits.split_once('/').expect("permits are K/N");
            let number = |text: &str| text.parse().expect("permits are numbers");
            manager.semaphore(name, number(capacity))?.permits(number(count))
        }
    }
}

/// Waits until `condition` holds, asking again and again: for what the store tells nobody.
///
/// # Panics
/// When it does not within the limit.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + LIMIT;
    while !condition().await {
        assert!(Instant::now() < until, "it does not come that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Lets `asks` run out of its wait, from `wait` on twice as long each time until the store has answered so many requests to
/// join meanwhile: before that nobody can know that a lock is taken, and another error says so.
///
/// # Panics
/// When it ends in any other way.
///
/// # Cancel safety
/// As the call that is asked.
pub async fn run_out<T>(
    store: &Faulty,
    mut wait: Duration,
    joins: u64,
    mut asks: impl AsyncFnMut(Duration) -> Result<T>,
) {
    loop {
        let (asked, before) = (Instant::now(), store.answered(Verb::Enqueue));
        let refused = asks(wait).await.err().expect("somebody else has the lock");
        assert!(asked.elapsed() >= wait, "it gave up after {:?} of {wait:?}: {refused}", asked.elapsed());
        match refused {
            Error::TimedOut { .. } => return,
            Error::Unavailable { .. } if store.answered(Verb::Enqueue) < before + joins => wait *= 2,
            other => panic!("{other:?}"),
        }
    }
}

/// Drops a future at its `suspensions`th suspension; `None` if it did not come to its end before.
pub async fn dropped_at<F: Future>(suspensions: usize, future: F) -> Option<F::Output> {
    Until { future: Box::pin(future), suspensions }.await
}

/// A future that ends with `None` once it has been suspended so many times.
struct Until<F> {
    future: Pin<Box<F>>,
    suspensions: usize,
}

impl<F: Future> Future for Until<F> {
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
