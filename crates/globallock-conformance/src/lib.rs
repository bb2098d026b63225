#![forbid(unsafe_code)]
//! What every globallock store must do, as named cases, with real servers and faults to show it on.
//!
//! Whoever writes a [`Backend`](globallock::Backend) describes it by a [`StoreUnderTest`](subject::StoreUnderTest) and runs the
//! cases on it: each is a sentence that must be true of the store.
//!
//! ```
//! use globallock_conformance::{cases::trials, subject::StoreUnderTest};
//!
//! // Instead of the store in memory, connect to yours: one backend each time, as another process would.
//! let store = globallock::Memory::new();
//! let subject = StoreUnderTest::new("mine", move || {
//!     let store = store.clone();
//!     async move { Ok(store as std::sync::Arc<dyn globallock::Backend>) }
//! });
//! for trial in trials(&subject).into_iter().filter(|trial| trial.name().contains("::sharing::")) {
//!     println!("{}", trial.name());
//!     trial.run();
//! }
//! ```
//!
//! With [`StoreUnderTest::at`](subject::StoreUnderTest::at) the cases of killed and stopped owner processes run too; they need a
//! program that calls [`child::run`] and knows the store's address.

pub mod cases;
pub mod child;
pub mod context;
pub mod crowd;
pub mod faulty;
pub mod fixtures;
pub mod fleet;
pub mod golden;
pub mod member;
pub mod pauses;
pub mod proxy;
pub mod register;
pub mod server;
pub mod subject;
