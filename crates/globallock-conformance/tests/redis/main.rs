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
mod full;
mod gaps;
mod keeping;
mod keys;
mod listing;
mod notices;
mod promoted;
mod promptness;
mod read_only;
mod reconnecting;
mod refusals;
mod rotation;
mod scripts;
mod strangers;
mod times;
mod versions;
mod wire;

use std::time::Duration;

use globallock::LockManager;
use globallock_conformance::fixtures::{connect_for, patient, queue_is};
use globallock_conformance::proxy::Proxy;
use globallock_conformance::server::redis::Redis;

/// Long enough for a busy machine, short enough to wait for.
const LEASE: Duration = Duration::from_secs(1);

/// A proxy in front of a server, and its address, with these options.
async fn behind_proxy(server: &Redis, options: &str) -> (Proxy, String) {
    let proxy = Proxy::start(server.port()).await.unwrap();
    let url = format!("redis://127.0.0.1:{}{options}", proxy.port());
    (proxy, url)
}

async fn manager(url: &str) -> LockManager {
    connect(url).await.expect("the server answers")
}

async fn connect(url: &str) -> globallock::Result<LockManager> {
    connect_for(url, LEASE).await
}
