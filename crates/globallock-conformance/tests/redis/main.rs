//! What only the Redis store has: its keys, its errors, its connections, and its other clients.

mod access;
mod answers;
mod calls;
mod contents;
mod costs;
mod crowds;
mod evict_scripts;
mod evicting;
mod faults;
mod fleet;
mod keys;
mod listing;
mod notices;
mod promoted;
mod promptness;
mod reconnecting;
mod refusals;
mod scripts;
mod times;
mod wire;

use std::time::Duration;

use globallock::LockManager;
use globallock_conformance::fixtures::{connect_for, queue_is};

/// Long enough for a busy machine, short enough to wait for.
const LEASE: Duration = Duration::from_secs(1);

async fn manager(url: &str) -> LockManager {
    connect(url).await.expect("the server answers")
}

async fn connect(url: &str) -> globallock::Result<LockManager> {
    connect_for(url, LEASE).await
}
