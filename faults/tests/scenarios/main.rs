//! Scenarios: failures that other distributed locks have had, one scenario each, against real servers.

mod cancelled;
mod filter;
mod killed;
mod names;
mod notifications;
mod promoted;
mod releasing;
mod renewals;
mod silence;
mod store;
mod swallowed;
