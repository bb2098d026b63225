//! The store in etcd: the queue of etcd's own mutex.
//!
//! A claim is a key below its lock's prefix, attached to a lease. The queue is sorted by the revisions at
//! which its keys were created. A waiter watches the keys that block it. When a lease expires, etcd deletes
//! the keys attached to it.
//!
//! `docs/etcd.md` says what the store promises, what it costs and how it fails.

mod claims;
mod config;
mod connection;
mod enqueue;
mod evict;
mod examine;
mod inspect;
mod keeping;
mod key_numbers;
mod key_reads;
mod keys;
mod lease;
mod list;
mod login;
mod messages;
mod notices;
mod owner;
mod python_etcd3;
mod reading;
mod release;
#[cfg(test)]
mod scripted;
mod sentinel;
mod server;
mod terms;
mod value;
mod values;
mod version;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};

use self::config::Config;
use self::connection::Connection;
use self::messages::LeaseRevokeRequest;
use self::owner::Shared;
use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, EntryKey, Eviction, Finding,
    Release, StoreNotice, Summary, ValueWrite,
};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stores::address::Address;

/// A store in one etcd cluster.
pub(crate) struct Etcd {
    shared: Arc<Shared>,
}

impl Etcd {
    /// A store of the cluster that `address` names, which connects at the first request.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(crate) fn open(address: Address) -> Result<Arc<Self>> {
        let connection = Connection::new(Config::new(address)?);
        Ok(Arc::new(Etcd { shared: Arc::new(Shared::new(connection)) }))
    }
}

#[async_trait]
impl Backend for Etcd {
    fn address(&self) -> &str {
        &self.shared.connection.config().shown
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("etcd", CrashRelease::Lease).with_values().with_keeping()
    }

    fn is_ready(&self) -> bool {
        self.shared.connection.is_checked()
    }

    async fn ready(&self) -> Result<()> {
        self.shared.connection.ready().await
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        // On its own task, because the caller may give up: a request that nobody waits for could still arrive
        // after the release that follows, and leave a claim behind.
        let (shared, claim) = (Arc::clone(&self.shared), claim.clone());
        let turn = shared.claims.turn(claim.id).await;
        // Before the task starts, so that a caller that gives up while it waits here has sent nothing.
        let one_of_few = Arc::clone(&shared.enqueue_limit).acquire_owned().await;
        let enqueued = tokio::spawn(async move {
            let _until_enqueued = (turn, one_of_few);
            shared.enqueue(&claim).await
        });
        enqueued.await.unwrap_or_else(|_| Err(Error::Closed))
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        self.shared.wait_for_change(claim).await
    }

    fn place(&self, claim: &Claim) -> Option<usize> {
        self.shared.claims.with(claim.id, |position| position.ahead.count()).flatten()
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        self.shared.renew(claims).await
    }

    async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        self.shared.keep_for(claim, rest).await
    }

    async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        self.shared.release_after(claim, rest).await
    }

    async fn session_lost_hint(&self) {
        self.shared.session_lost.notified().await;
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.shared.connection.notices.stream()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let _turn = self.shared.claims.turn(claim.id).await;
        self.shared.release(claim).await
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        self.shared.write_value(claim, bytes, keep).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        inspect::inspect(&self.shared.connection, name).await
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        evict::evict(&self.shared.connection, name, entry, eviction).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        list::list(&self.shared.connection, prefix).boxed()
    }

    async fn examine(&self, name: &Name) -> Result<Vec<Finding>> {
        examine::examine(&self.shared.connection, name).await
    }

    async fn forget(&self, name: &Name, evicted: &[ClaimId]) -> Result<()> {
        evict::forget(&self.shared.connection, name, evicted).await
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd")
            .field("address", &self.shared.connection.config().shown)
            .finish_non_exhaustive()
    }
}

/// Revokes the leases, and with them deletes all keys that are attached to them.
impl Drop for Etcd {
    fn drop(&mut self) {
        let leases = self.shared.leases.take_all();
        let connection = Arc::clone(&self.shared.connection);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for id in leases {
                    // A lease that is not revoked expires by itself.
                    let _ = connection.unary(LeaseRevokeRequest { id }).await;
                }
            });
        }
    }
}
