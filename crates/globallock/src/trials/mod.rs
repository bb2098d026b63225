//! The core over a store that does as told, in time that passes only when all wait for it.
//!
//! So the moments of requests are compared with what is promised to the millisecond, on a machine that is as busy as it likes.

mod asking;
mod blocking;
mod faces;
mod forking;
mod holding;
mod leaving;
mod renewing;
mod store;
mod together;
mod turning;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::backend::{Backend, Entry};
use crate::error::Result;
use crate::guard::Guard;
use crate::locks::Lock;
use crate::manager::LockManager;
use crate::name::Name;
use crate::options::{ManagerOptions, Options};
use crate::stores::memory::Memory;
use crate::sync::now;
use store::{Fault, Store, Verb};

const LEASE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Runs a test in time that passes when all wait for it, and for no more than a day of that.
fn in_virtual_time(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DAY, test).await.expect("it ends within a day") });
}

/// A store, and one owner's connection to it that does as told.
struct Fixture {
    memory: Arc<Memory>,
    store: Arc<Store>,
    owner: LockManager,
}

impl Fixture {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: Options) -> Self {
        let memory = Memory::new();
        let store = Store::beside(&memory);
        let owner = owner_over(store.clone(), options);
        Fixture { memory, store, owner }
    }

    /// The mutex of the owner whose connection does as told.
    fn mutex(&self) -> Lock {
        self.owner.mutex("a").unwrap()
    }

    /// Another owner, to whom nothing happens.
    fn other(&self) -> LockManager {
        owner_over(self.memory.clone(), options())
    }

    /// The claims of the mutex in the store.
    async fn claims(&self) -> Vec<Entry> {
        self.memory.inspect(&Name::new("a").unwrap()).await.unwrap()
    }

    /// Another owner holds the mutex, and `lock` waits for it.
    async fn waiting(&self, lock: Lock) -> (Guard, JoinHandle<Result<Guard>>) {
        let held = self.other().mutex("a").unwrap().acquire().await.unwrap();
        let waits = tokio::spawn(async move { lock.acquire().await });
        sleep(MILLISECOND).await;
        assert_eq!(self.claims().await.len(), 2);
        (held, waits)
    }
}

fn owner_over(backend: Arc<dyn Backend>, options: Options) -> LockManager {
    LockManager::with_backend(backend, ManagerOptions { locks: options, ..ManagerOptions::default() })
        .unwrap()
}

fn options() -> Options {
    Options { lease: LEASE, ..Options::default() }
}

/// Lets so much time pass.
async fn sleep(span: Duration) {
    tokio::time::sleep(span).await;
}

/// How long it is since `begin`.
fn since(begin: Instant) -> Duration {
    now().duration_since(begin)
}

/// Whether two spans differ by no more than a timer may be late.
fn about(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) <= MILLISECOND * 2
}

/// The spans between moments.
fn pauses(moments: &[Instant]) -> Vec<Duration> {
    moments.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect()
}
