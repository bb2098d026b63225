//! Failures that locks of this sort have had elsewhere, one story each, against real servers.

mod cancelled;
mod filter;
mod killed;
mod leaving;
mod names;
mod notifications;
mod promoted;
mod renewals;
mod silence;
mod store;
mod swallowed;
