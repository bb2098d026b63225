#![forbid(unsafe_code)]
//! Real owner processes over real stores under real failures, and a checker that proves or refutes the promises from
//! what they logged.
//!
//! `README.md` beside this crate says who writes what, and how a run is repeated.

pub mod check;
pub mod history;
pub mod log;
pub mod mutants;
pub mod owner;
pub mod registers;
pub mod run;

pub use globallock_model as model;
