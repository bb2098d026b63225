#![forbid(unsafe_code)]
//! Distributed mutexes, read-write locks and semaphores over the store that you already run.

pub mod address;
pub mod backend;
pub mod duration;
mod error;
mod name;
mod options;
mod owner;
pub mod queue;

pub use error::{Error, Result, Source};
pub use name::{MAX_NAME_BYTES, Name};
pub use options::{LONGEST, ManagerOptions, Options, SHORTEST};
pub use owner::Owner;
