//! What is Redis's own: its keys, its errors, its ways in, and its other clients.

mod access;
mod faults;
mod fleet;
mod keys;
mod refusals;

use std::time::Duration;

use globallock::{LockManager, ManagerOptions, Options};

/// Long enough for a busy machine, short enough to wait for.
const LEASE: Duration = Duration::from_secs(1);

async fn manager(url: &str) -> LockManager {
    connect(url).await.expect("the server answers")
}

async fn connect(url: &str) -> globallock::Result<LockManager> {
    let locks = Options { lease: LEASE, ..Options::default() };
    LockManager::connect_with(url, ManagerOptions { locks, ..ManagerOptions::default() }).await
}

async fn queue_is(manager: &LockManager, name: &str, held: usize, waiting: usize) {
    globallock_conformance::world::eventually(&format!("{held} hold and {waiting} wait"), async || {
        let queue = manager.inspect(name).await.unwrap();
        let holding = queue.iter().filter(|entry| entry.held).count();
        (holding, queue.len() - holding) == (held, waiting)
    })
    .await;
}
