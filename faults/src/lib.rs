#![forbid(unsafe_code)]
//! Real owner processes over real stores under real failures, and a checker that judges the promises by their
//! logs.
//!
//! `README.md` beside this crate says who writes which log, and how a run is repeated.

pub mod check;
pub mod history;
pub mod log;
pub mod mutants;
pub mod owner;
pub mod registers;
pub mod run;

pub use globallock_model as model;
