//! The command line as its users meet it: real processes, real stores.

mod loss;
mod pages;
mod robustness;
mod run;
mod signals;
mod support;
