#![forbid(unsafe_code)]
//! What every globallock store must do, as named cases, with real servers and faults to show it on.

pub mod proxy;
pub mod server;
