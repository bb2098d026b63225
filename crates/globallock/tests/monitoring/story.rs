//! A store that fails when it is told to, and locks to which everything happens that metrics count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::TryStreamExt;
use futures_util::stream::BoxStream;
use globallock::backend::{Capabilities, Claim, ClaimStatus};
use globallock::{
    Backend, Entry, EntryKey, Error, Eviction, LockManager, Loss, ManagerOptions, Memory, Name, Observer,
    Release, Result, Summary, Value, ValueWrite,
};
use tokio::time::{sleep, timeout};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// The lease of all locks here.
const LEASE: Duration = Duration::from_secs(10);

/// How a store is.
#[derive(Clone, Copy)]
pub(crate) enum State {
    Well,
    Away,
    Denies,
}

/// A store in memory that fails when it is told to.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) memory: Arc<Memory>,
    state: AtomicU8,
    is_connected: AtomicU8,
}

impl Store {
    pub(crate) fn new() -> Arc<Self> {
        let (state, is_connected) = (AtomicU8::new(State::Well as u8), AtomicU8::new(0));
        Arc::new(Store { memory: Memory::new(), state, is_connected })
    }

    pub(crate) fn becomes(&self, state: State) {
        self.state.store(state as u8, Ordering::Relaxed);
    }

    fn passes(&self) -> Result<()> {
        match self.state.load(Ordering::Relaxed) {
            away if away == State::Away as u8 => Err(Error::unavailable("store", "it is away")),
            denies if denies == State::Denies as u8 => Err(Error::permission_denied("store", "not you")),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl Backend for Store {
    fn address(&self) -> &str {
        "memory:"
    }

    fn capabilities(&self) -> Capabilities {
        self.memory.capabilities()
    }

    fn is_ready(&self) -> bool {
        self.is_connected.load(Ordering::Relaxed) == 1
    }

    async fn ready(&self) -> Result<()> {
        self.passes()?;
        self.is_connected.store(1, Ordering::Relaxed);
        Ok(())
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        self.passes()?;
        self.memory.enqueue(claim).await
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        self.memory.wait_for_change(claim).await
    }

    fn place(&self, claim: &Claim) -> Option<usize> {
        self.memory.place(claim)
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        match self.passes() {
            Ok(()) => self.memory.renew(claims).await,
            Err(_) => claims.iter().map(|_| Err(Error::unavailable("store", "it is away"))).collect(),
        }
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        self.memory.keep_for(claim, rest).await
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        self.passes()?;
        self.memory.release(claim).await
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        self.memory.release_after(claim, rest).await
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        Value::check(bytes, keep)?;
        self.memory.set_value(claim, bytes, keep).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.memory.inspect(name).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.memory.list(prefix)
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.memory.evict(name, entry, eviction).await
    }
}

/// A manager of this store, which is observed.
pub(crate) fn manager(store: &Arc<Store>, observers: Vec<Arc<dyn Observer>>) -> LockManager {
    let mut options = ManagerOptions::new();
    options.observers = observers;
    LockManager::with_backend(store.clone(), options).unwrap()
}

/// Evicts the claim at this place in the queue of a name.
async fn evict(manager: &LockManager, name: &str, place: usize) {
    let key = manager.inspect(name).await.unwrap()[place].key.clone();
    assert_eq!(manager.evict(name, &key, "by hand").await.unwrap(), Release::Released);
}

/// All that happens: see `values.rs` for how often.
pub(crate) async fn everything(store: &Arc<Store>, manager: &LockManager) {
    asked(manager).await;
    other_modes(manager).await;
    lost(store, manager).await;
    store.becomes(State::Denies);
    manager.mutex("orders/1").acquire().await.unwrap_err();
    store.becomes(State::Well);
    sleep(LEASE).await;
}

/// Every outcome of asking for a lock.
async fn asked(manager: &LockManager) {
    let lock = manager.mutex("orders/1");
    let held = lock.acquire().await.unwrap();
    assert!(lock.try_acquire().await.unwrap().is_none());
    assert!(lock.try_acquire_for(SECOND).await.unwrap().is_none());
    timeout(SECOND, lock.acquire()).await.unwrap_err();
    sleep(SECOND).await;
    let waits = |lock: globallock::Lock| tokio::spawn(async move { lock.acquire().await });
    let waiter = waits(lock.clone());
    sleep(SECOND).await;
    evict(manager, "orders/1", 1).await;
    waiter.await.unwrap().unwrap_err();
    let waiter = waits(lock);
    sleep(SECOND).await;
    held.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
}

async fn other_modes(manager: &LockManager) {
    let table = manager.rwlock("reports/1");
    table.read().acquire().await.unwrap().release().await.unwrap();
    table.write().acquire().await.unwrap().release().await.unwrap();
    manager.semaphore("mail", 3).acquire_many(2).await.unwrap().release().await.unwrap();
}

/// Every reason of a loss.
async fn lost(store: &Store, manager: &LockManager) {
    let lock = manager.mutex("orders/2").with_value();
    let guard = lock.acquire().await.unwrap();
    guard.set_value(*b"v", SECOND).await.unwrap();
    assert_eq!(manager.list("").try_collect::<Vec<_>>().await.unwrap().len(), 1);
    store.memory.revoke("orders/2");
    assert_eq!(guard.lost().await, Loss::Revoked);
    let guard = lock.clone().max_hold(SECOND).hold_at_least(SECOND / 2).acquire().await.unwrap();
    assert_eq!(guard.lost().await, Loss::MaxHold);
    let guard = lock.acquire().await.unwrap();
    evict(manager, "orders/2", 0).await;
    assert!(matches!(guard.lost().await, Loss::Evicted(_)));
    let guard = lock.acquire().await.unwrap();
    store.memory.revoke("orders/2");
    assert_eq!(guard.release().await.unwrap(), Release::NotHeld);
    let guard = lock.acquire().await.unwrap();
    sleep(LEASE).await;
    store.becomes(State::Away);
    assert_eq!(guard.lost().await, Loss::Expired);
    sleep(SECOND).await;
    store.becomes(State::Well);
    manager.mutex("orders/3").acquire().await.unwrap().release().await.unwrap();
}
