//! The store of a run, and the proxies in front of its servers.

use std::io::{Error, Result};
use std::net::Ipv4Addr;

use globallock_conformance::proxy::Proxy;
use globallock_conformance::server::Cluster;
use globallock_conformance::stores::{
    Draw, Outcome, OwnFault, Role, StoreKind, TestStore, Trait, kinds_with,
};

use super::network::Network;

/// The names of the stores that a run can have.
#[must_use]
pub fn stores() -> Vec<&'static str> {
    kinds_with(Role::Faults).map(|kind| kind.name).collect()
}

/// Whether a store has servers, and so network links to them.
#[must_use]
pub fn has_servers(store: &str) -> bool {
    kind(store).is_ok_and(|kind| kind.servers > 0)
}

/// Whether some fault of a store is made by tracing its servers.
#[must_use]
pub fn needs_tracing(store: &str) -> bool {
    kind(store).is_ok_and(|kind| kind.own_faults.iter().any(|fault| fault.needs_tracing))
}

/// Installs the tools that a store's runs need, where these are missing. A run in a network namespace of its
/// own cannot.
///
/// # Errors
/// When they cannot be installed.
pub fn install(store: &str) -> Result<()> {
    (kind(store)?.install)()
}

/// The kind of a store.
pub(super) fn kind(store: &str) -> Result<&'static StoreKind> {
    let mut kinds = kinds_with(Role::Faults);
    let unknown = || Error::other(format!("the stores are {}", stores().join(", ")));
    kinds.find(|kind| kind.name == store).ok_or_else(unknown)
}

/// A store that runs.
pub(super) struct Store {
    pub(super) kind: &'static StoreKind,
    store: Box<dyn TestStore>,
    /// One in front of each server.
    pub(super) proxies: Vec<Proxy>,
}

impl Store {
    /// Starts it. If the run has a network, the proxies listen there.
    pub(super) async fn start(kind: &'static StoreKind, has_network: bool) -> Result<Self> {
        let mut store = (kind.start)()?;
        let address = if has_network { Network::store() } else { Ipv4Addr::LOCALHOST.into() };
        store.be_reached_at(address)?;
        let mut proxies = Vec::new();
        for port in store.ports() {
            proxies.push(Proxy::start_at(address, port).await?);
        }
        Ok(Store { kind, store, proxies })
    }

    pub(super) fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        self.store.cluster()
    }

    /// The address of the store through the proxies.
    pub(super) fn url(&self) -> String {
        let hosts: Vec<String> = self.proxies.iter().map(|proxy| proxy.address().to_string()).collect();
        self.store.url_by(&hosts)
    }

    /// The address of the servers themselves, which network faults do not affect.
    pub(super) fn direct(&self) -> String {
        self.store.url()
    }

    /// The observer's address: through the proxies as well where the server that answers moves.
    pub(super) fn for_observer(&self) -> String {
        if self.kind.is(Trait::Moves) { self.url() } else { self.direct() }
    }

    /// Whether the store loses its data when the process of a server is killed.
    pub(super) fn forgets_when_killed(&self) -> bool {
        self.store.forgets_when_killed()
    }

    /// Whether a leader that was deposed while it was stopped may undo what the next one has agreed to.
    pub(super) fn forgets_when_deposed(&self) -> bool {
        self.store.forgets_when_deposed()
    }

    /// Does a fault that only this kind of store can have.
    pub(super) async fn break_by(&mut self, fault: &OwnFault, draw: Draw) -> Result<Outcome> {
        self.store.break_by(fault, draw, &self.proxies).await
    }

    /// What is left of claims in the store, as its own tools list it.
    pub(super) fn left(&self, names: &[String]) -> Vec<String> {
        names.iter().flat_map(|name| self.store.left(name)).collect()
    }
}
