#![forbid(unsafe_code)]
//! What every globallock store must do, as named cases, with real servers and faults to show it on.
//!
//! Whoever writes a [`Backend`](globallock::Backend) describes it by a [`Subject`](subject::Subject) and runs the
//! cases on it: each is a sentence that must be true of the store.
//!
//! ```
//! use globallock_conformance::{cases::trials, subject::Subject};
//!
//! // Instead of the store in memory, connect to yours: one backend each time, as another process would.
//! let store = globallock::Memory::new();
//! let subject = Subject::new("mine", move || {
//!     let store = store.clone();
//!     async move { Ok(store as std::sync::Arc<dyn globallock::Backend>) }
//! });
//! for trial in trials(&subject).into_iter().filter(|trial| trial.name().contains("::sharing::")) {
//!     println!("{}", trial.name());
//!     trial.run();
//! }
//! ```
//!
//! With [`Subject::at`](subject::Subject::at) the cases of killed and stopped owner processes run too; they need a
//! program that calls [`child::run`] and knows the store's address.

pub mod cases;
pub mod child;
pub mod crowd;
pub mod faulty;
pub mod fleet;
pub mod golden;
pub mod member;
pub mod pauses;
pub mod proxy;
pub mod register;
pub mod scene;
pub mod server;
pub mod subject;
pub mod world;
