//! The command line as its users meet it: real processes, real stores.

mod hurt;
mod loss;
mod pages;
mod run;
mod signals;
mod support;
