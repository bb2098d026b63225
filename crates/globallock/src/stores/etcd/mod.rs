//! The store in etcd: the queue of etcd's own mutex.
//!
//! A claim is a key below its lock's prefix, attached to a lease. The queue is sorted by the revisions at
//! which its keys were created. A waiter watches the keys that block it. When a lease expires, etcd deletes
//! the keys attached to it.
//!
//! `docs/etcd.md` says what the store promises, what it costs and how it fails.

mod ahead;
mod batch;
mod config;
mod connection;
mod enqueue;
mod evict;
mod inspect;
mod key_numbers;
mod keys;
mod lease;
mod list;
mod messages;
mod notices;
mod positions;
mod python_etcd3;
mod reading;
mod release;
mod renewal;
#[cfg(test)]
mod scripted;
mod sentinel;
mod value;
mod waiting;
mod watch;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, StreamExt};

use self::batch::KeyReads;
use self::config::Config;
use self::connection::Connection;
use self::enqueue::{Turn, Turns};
use self::key_numbers::KeyNumbers;
use self::lease::Leases;
use self::messages::{
    DeleteRangeRequest, DeleteRangeResponse, Empty, LeaseRequest, Request, RequestOp, TxnRequest, TxnResponse,
};
use self::notices::Notices;
use self::positions::Positions;
use self::reading::Snapshots;
use self::watch::Watches;
use tokio::sync::{Notify, Semaphore};

use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, EntryKey, Eviction, Release,
    Summary,
};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stores::address::Address;
use crate::sync::{Mutex, MutexGuard};

const TRANSACTION: &str = "/etcdserverpb.KV/Txn";

/// A store in one etcd cluster.
pub(crate) struct Etcd {
    shared: Arc<Shared>,
}

/// The state of the store; tasks that outlive a call share it.
struct Shared {
    connection: Arc<Connection>,
    leases: Leases,
    watches: Arc<Watches>,
    key_reads: KeyReads,
    /// When all watched keys were last read, in case a notification was lost.
    last_poll: Mutex<Option<Instant>>,
    key_numbers: KeyNumbers,
    positions: Mutex<Positions>,
    /// Whole queues as they were read, shared by the claims that need them at the same time.
    snapshots: Mutex<Snapshots>,
    /// Serializes the requests of each claim that change its queue.
    turns: Turns,
    /// Limits how many claims are enqueued at the same time.
    enqueue_limit: Arc<Semaphore>,
    /// Limits how many waiting claims are released at the same time.
    release_limit: Semaphore,
    /// Claims that a request without an answer may still put into the queue, and under which leases.
    unanswered: Mutex<HashMap<ClaimId, BTreeSet<i64>>>,
    /// The claims that a background task releases, because a release was not answered.
    background_releases: Mutex<HashSet<ClaimId>>,
    /// The evictions of this store's claims.
    notices: Notices,
    /// Notified when a lease is found to have ended, or a claim to be evicted, before a renewal says so.
    session_lost: Notify,
}

impl Etcd {
    /// Connects to the cluster that `address` names.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`]; as the cluster answers otherwise.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(crate) async fn connect(address: Address) -> Result<Arc<Self>> {
        let connection = Connection::connect(Config::new(address)?).await?;
        Ok(Arc::new(Etcd { shared: Arc::new(Shared::new(connection)) }))
    }
}

impl Shared {
    fn new(connection: Connection) -> Self {
        Shared {
            connection: Arc::new(connection),
            leases: Leases::default(),
            watches: Arc::default(),
            key_reads: KeyReads::default(),
            last_poll: Mutex::default(),
            key_numbers: KeyNumbers::default(),
            positions: Mutex::default(),
            snapshots: Mutex::default(),
            turns: Turns::default(),
            enqueue_limit: Arc::new(Semaphore::new(enqueue::MAX_CONCURRENT)),
            release_limit: Semaphore::new(enqueue::MAX_CONCURRENT),
            unanswered: Mutex::default(),
            background_releases: Mutex::default(),
            notices: Notices::default(),
            session_lost: Notify::new(),
        }
    }

    fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock()
    }

    fn snapshots(&self) -> MutexGuard<'_, Snapshots> {
        self.snapshots.lock()
    }

    fn unanswered(&self) -> MutexGuard<'_, HashMap<ClaimId, BTreeSet<i64>>> {
        self.unanswered.lock()
    }

    fn prefix(&self) -> &str {
        &self.connection.config().prefix
    }

    async fn transaction(&self, request: TxnRequest) -> Result<TxnResponse> {
        self.connection.unary(TRANSACTION, request).await
    }

    async fn delete(&self, key: Vec<u8>) -> Result<bool> {
        let request = DeleteRangeRequest { key };
        let answer: DeleteRangeResponse =
            self.connection.unary("/etcdserverpb.KV/DeleteRange", request).await?;
        Ok(answer.deleted > 0)
    }
}

fn operation(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

#[async_trait]
impl Backend for Etcd {
    fn address(&self) -> &str {
        &self.shared.connection.config().shown
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("etcd", CrashRelease::Lease)
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        // On its own task, because the caller may give up: a request that nobody waits for could still arrive
        // after the release that follows, and leave a claim behind.
        let (shared, claim) = (Arc::clone(&self.shared), claim.clone());
        let turn = Turn::take(&shared, claim.id).await;
        // Before the task starts, so that a caller that gives up while it waits here has sent nothing.
        let one_of_few = Arc::clone(&shared.enqueue_limit).acquire_owned().await;
        let enqueued = tokio::spawn(async move {
            let _until_enqueued = (turn, one_of_few);
            shared.enqueue_unless_evicted(&claim).await
        });
        enqueued.await.unwrap_or_else(|_| Err(Error::Closed))
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        self.shared.wait_for_change_or_eviction(claim).await
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        if let Some(lease) = claims.iter().map(|claim| claim.lease).min() {
            self.shared.poll_watched_keys(lease);
        }
        self.shared.renew_or_find_evicted(claims).await
    }

    async fn session_lost_hint(&self) {
        self.shared.session_lost.notified().await;
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        let _turn = Turn::take(&self.shared, claim.id).await;
        self.shared.release(claim).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        self.shared.inspect(name).await
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.shared.evict(name, entry, eviction).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.shared.list(prefix).boxed()
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
                    let _: Result<Empty> =
                        connection.unary("/etcdserverpb.Lease/LeaseRevoke", LeaseRequest { id }).await;
                }
            });
        }
    }
}
