//! The core over a store whose faults a test scripts, in virtual time: the clock advances only when all tasks
//! wait.
//!
//! So a test can compare the moments of requests with the promises to the millisecond, however busy the
//! machine is.

mod acquiring;
mod around;
mod blocking;
mod connecting;
mod evicting;
mod forking;
mod holding;
mod keeping;
mod long_waits;
mod observing;
mod once;
mod outcomes;
mod properties;
mod releasing;
mod renewing;
mod requests;
mod running;
mod several;
mod store;
mod throttling;
mod valuing;

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::backend::{Backend, Entry};
use crate::error::Result;
use crate::guard::Guard;
use crate::locks::Lock;
use crate::manager::LockManager;
use crate::name::Name;
use crate::options::{ManagerOptions, Options};
use crate::stores::memory::Memory;
use crate::sync::{Instant, now};
use store::{Fault, Store, Verb};

const LEASE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Runs a test in virtual time, which advances when all tasks wait, and for at most a day of it.
fn in_virtual_time(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DAY, test).await.expect("it ends within a day") });
}

/// A store, and one owner whose connection to it has scripted faults.
struct Fixture {
    memory: Arc<Memory>,
    store: Arc<Store>,
    owner: LockManager,
}

impl Fixture {
    fn new() -> Self {
        Self::with_options(options())
    }

    fn with_options(options: Options) -> Self {
        let memory = Memory::new();
        let store = Store::with_memory(&memory);
        let owner = owner_with_backend(store.clone(), options);
        Fixture { memory, store, owner }
    }

    /// The mutex of the owner whose connection has the faults.
    fn mutex(&self) -> Lock {
        self.owner.mutex("a")
    }

    /// Another owner, whose connection has no faults.
    fn other(&self) -> LockManager {
        owner_with_backend(self.memory.clone(), options())
    }

    /// The claims of the mutex in the store.
    async fn claims(&self) -> Vec<Entry> {
        self.memory.inspect(&Name::new("a").unwrap()).await.unwrap()
    }

    /// Another owner holds the mutex, and `lock` waits for it.
    async fn waiting(&self, lock: Lock) -> (Guard, JoinHandle<Result<Guard>>) {
        let held = self.other().mutex("a").acquire().await.unwrap();
        let waiter = tokio::spawn(async move { lock.acquire().await });
        sleep(MILLISECOND).await;
        assert_eq!(self.claims().await.len(), 2);
        (held, waiter)
    }
}

fn owner_with_backend(backend: Arc<dyn Backend>, options: Options) -> LockManager {
    LockManager::with_backend(backend, ManagerOptions { locks: options, ..ManagerOptions::default() })
        .unwrap()
}

fn options() -> Options {
    Options { lease: LEASE, ..Options::default() }
}

/// Lets virtual time pass.
async fn sleep(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The time since `begin`.
fn since(begin: Instant) -> Duration {
    now().duration_since(begin)
}

/// Whether two durations are equal, apart from the time that a timer may be late.
fn about(one: Duration, other: Duration) -> bool {
    one.abs_diff(other) <= MILLISECOND * 2
}

/// The times between successive moments.
fn pauses(moments: &[Instant]) -> Vec<Duration> {
    moments.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect()
}

/// Whether pauses begin with `first` and double up to `most`, each shorter by up to a quarter at random.
fn double(pauses: &[Duration], first: Duration, most: Duration) -> bool {
    let mut whole = first;
    pauses.iter().all(|pause| {
        let fits = *pause + MILLISECOND >= whole.mul_f64(0.75) && *pause <= whole + MILLISECOND * 2;
        whole = (whole * 2).min(most);
        fits
    })
}
