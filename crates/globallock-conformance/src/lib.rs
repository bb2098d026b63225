#![forbid(unsafe_code)]
//! What every globallock store must do, as named cases; with the feature `servers` also the real servers, and
//! the faults, that this project's own stores are tested on.
//!
//! The author of a [`Backend`](globallock::Backend) describes it by a
//! [`StoreUnderTest`](store_under_test::StoreUnderTest) and runs the cases on it. Each case is a sentence
//! that must be true of the store.
//!
//! ```
//! use globallock_conformance::{cases::trials, store_under_test::StoreUnderTest};
//!
//! // Instead of the store in memory, connect to yours. Each call opens a new backend, as another
//! // process would.
//! let memory = globallock::Memory::new();
//! let store = StoreUnderTest::new("mine", move || {
//!     let backend = memory.clone();
//!     async move { Ok(backend as std::sync::Arc<dyn globallock::Backend>) }
//! });
//! for trial in trials(&store).into_iter().filter(|trial| trial.name().contains("::sharing::")) {
//!     println!("{}", trial.name());
//!     trial.run();
//! }
//! ```
//!
//! With [`StoreUnderTest::at`](store_under_test::StoreUnderTest::at) the cases about killed and stopped owner
//! processes run too. They need a program that calls [`child::run`] and can connect to the store; a store of
//! one's own has [`at_by`](store_under_test::StoreUnderTest::at_by) and [`child::run_by`].

pub mod cases;
pub mod child;
pub mod context;
#[cfg(feature = "servers")]
pub mod crowd;
pub mod faulty;
#[cfg(feature = "servers")]
pub mod fixtures;
#[cfg(feature = "servers")]
pub mod fleet;
#[cfg(feature = "servers")]
pub mod garbage;
pub mod golden;
pub mod hostile;
pub mod member;
pub mod pauses;
pub mod proxy;
pub mod register;
#[cfg(feature = "servers")]
pub mod server;
pub mod store_under_test;
#[cfg(feature = "servers")]
pub mod stores;
