#![forbid(unsafe_code)]
//! Distributed mutexes, read-write locks and semaphores over the store that you already run.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! use globallock::LockManager;
//!
//! let manager = LockManager::connect("memory:example").await?;
//! let guard = manager.mutex("nightly-report").acquire().await?;
//! tokio::select! {
//!     () = write_the_report(guard.fencing_token()) => {}
//!     loss = guard.lost() => eprintln!("stop: {loss}"),
//! }
//! guard.release().await?;
//! # Ok::<(), globallock::Error>(()) }).unwrap();
//! # async fn write_the_report(_fencing_token: u64) {}
//! ```
//!
//! A [`LockManager`] connects to one store, by its address: `redis://`, `etcd://`, `zookeeper://`, `file:`
//! and kin. It makes mutexes, read-write locks and semaphores, which are one fair queue of weighted claims in
//! the store, and each acquired lock is one [`Guard`]. Waiters are granted in the order in which they asked,
//! by the store's own push: nobody polls. [`blocking`] has the same for threads.
//!
//! Every grant has a [fencing token](Guard::fencing_token), and every [loss](Guard::lost) is told before the
//! store can grant the lock again. What each store promises and costs, and how it fails, is on its page in
//! [`docs`]; [`docs::trust`] says under which faults the locks were tested.
//!
//! # Features
//! Each store is a feature, and all are on by default: `redis`, `etcd`, `zookeeper`, and `file` (Linux).
//! Memory is always there. With `default-features = false` and one feature, the dependencies of that store
//! alone are built. TLS is rustls. The library needs Rust 1.91 and a tokio runtime with its timers enabled;
//! [`blocking`] has a runtime of its own.
//!
//! Two more are off by default: `metrics` counts what happens to locks by the crate `metrics`, in its module
//! of that name, and `opentelemetry` does, and makes spans, by the API of OpenTelemetry.
//! [`docs::metrics`](mod@docs::metrics) says what is counted, and what is worth an alert. [`Observer`] hears
//! all of it without a feature, and [`tracing`] the more important part without anything.
//!
//! # Stores of your own
//! A store is a [`Backend`]; [`Schemes`] gives it a scheme, so that it is reached by its
//! address. The crate `globallock-conformance` has the contract as named cases for its tests.

mod acquire;
mod around;
pub mod backend;
pub mod blocking;
mod context;
#[cfg(any(feature = "metrics", feature = "opentelemetry"))]
mod counting;
mod deadline;
mod duration;
// The pages hold no Rust to be run as tests.
#[cfg(all(doc, not(doctest)))]
pub mod docs;
mod error;
mod eviction;
mod guard;
mod guard_set;
mod health;
mod hold;
mod kind;
mod locks;
mod long_waits;
mod loss;
mod manager;
#[cfg(feature = "metrics")]
pub mod metrics;
mod name;
mod noticed;
mod observe;
mod once;
mod onlooking;
#[cfg(feature = "opentelemetry")]
pub mod opentelemetry;
mod options;
mod owner;
pub mod queue;
mod release;
mod renewer;
#[cfg(all(test, globallock_schedules))]
mod schedules;
mod stores;
mod sync;
#[cfg(all(test, not(globallock_schedules)))]
mod trials;
mod turns;
mod waits;

pub use backend::{
    Backend, Change, Entry, EntryKey, Eviction, Finding, Release, StoreNotice, StoreNoticeKind, Summary,
    Value, ValueWrite, Verdict,
};
pub use error::{Error, Result, Source};
pub use guard::Guard;
pub use guard_set::GuardSet;
pub use kind::LockKind;
pub use locks::{Lock, PlannedEnd, RwLock, Semaphore};
pub use loss::Loss;
pub use manager::LockManager;
pub use name::{MAX_NAME_BYTES, Name};
pub use observe::{Answer, Event, NotGranted, Observer, Operation};
pub use once::{Once, Ran};
pub use options::{MAX_DURATION, MIN_LEASE, ManagerOptions, Options};
pub use owner::Owner;
pub use stores::address::Address;
pub use stores::memory::Memory;
pub use stores::{Schemes, connect_backend};
pub use waits::{Wait, WaitGraph};

/// What this project's other crates share with the library, and nobody else should depend on.
#[doc(hidden)]
pub mod internals {
    pub use crate::deadline::{deadline, margin};
    pub use crate::guard::keep_nobody_out;
    pub use crate::locks::AFTER_GRACE;
    /// Durations as people write and read them.
    pub mod duration {
        pub use crate::duration::{Shown, parse};
    }
    pub use crate::once::{Began, Running, Turn, begin_in_time};
    pub use crate::stores::address::redacted;
    pub use crate::sync::{sleep_until_some, stop_jitter};
}

/// The examples of the README are run as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// And those of the page about metrics.
#[cfg(all(doctest, feature = "metrics", feature = "opentelemetry"))]
#[doc = include_str!("../docs/metrics.md")]
struct MetricsPage;
