//! What only the PostgreSQL store has: its tables, its errors, its connections, and a pooler between.

mod admitting;
mod connections;
mod evicting;
mod failover;
mod interop;
mod listing;
mod pooled;
mod reconnecting;
mod refusals;
mod session;
mod setup;
mod transactions;
mod wire;

use std::time::Duration;

use globallock::{Error, LockManager};
use globallock_conformance::fixtures::connect_for;
use globallock_conformance::proxy::Proxy;
use globallock_conformance::server::postgres::{PASSWORD, Postgres, USER, url_by};

/// Long enough for a busy machine, short enough to wait for.
const LEASE: Duration = Duration::from_secs(2);

async fn manager(url: &str) -> LockManager {
    connect_for(url, LEASE).await.expect("the server answers")
}

/// The error of a first acquire at this address, which never shows the password.
async fn refusal(url: &str) -> Error {
    let refused = match connect_for(url, LEASE).await {
        Ok(manager) => manager.mutex("a").wait(LEASE).acquire().await.map(drop),
        Err(error) => Err(error),
    };
    let error = refused.expect_err("it is refused");
    let text = format!("{error} {error:?}");
    assert!(!text.contains(PASSWORD) && !text.contains("s3cret"), "{text}");
    error
}

/// A proxy in front of a server, and its address, with these options.
async fn behind_proxy(server: &Postgres, options: &str) -> (Proxy, String) {
    let proxy = Proxy::start(server.port()).await.unwrap();
    let url = format!("{}{options}", url_by(&[proxy.address().to_string()]));
    (proxy, url)
}

/// How many connections owners have to a server.
fn connections(server: &Postgres) -> usize {
    let counted = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'");
    server.sql(&counted).parse().unwrap()
}
