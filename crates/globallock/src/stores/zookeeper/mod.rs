//! The store in ZooKeeper: ephemeral sequential nodes below a node for each lock, as in the recipes of kazoo
//! and Curator.
//!
//! `docs/zookeeper.md` says what it promises, what it costs and how it fails.

mod client;
mod config;
mod connection;
#[cfg(test)]
mod driven;
mod driver;
mod enqueue;
mod evict;
mod examine;
mod failure;
mod inspect;
mod list;
mod login;
mod naming;
mod notice;
mod positions;
mod reading;
mod release;
mod renewal;
#[cfg(test)]
mod scripted;
mod session;
mod sessions;
mod signs;
mod state;
mod values;
mod watch;
mod wire;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};

use self::config::Config;
use self::enqueue::Queued;
use self::evict::Evictor;
use self::inspect::Onlooker;
use self::list::Walk;
use self::notice::Notices;
use self::positions::Positions;
use self::reading::SharedReads;
use self::renewal::renew;
use self::sessions::Sessions;
use self::values::Clock;
use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, EntryKey, Eviction, Finding,
    Release, StoreNotice, Summary, ValueWrite, WaitMode,
};
use crate::error::Result;
use crate::name::Name;
use crate::stores::address::Address;
use crate::stores::watched::releases::release;
use crate::sync::Mutex;

/// A store in one ZooKeeper ensemble.
pub(crate) struct ZooKeeper {
    shared: Arc<Shared>,
}

/// The state of the store, shared with requests that outlive their callers.
struct Shared {
    config: Arc<Config>,
    sessions: Sessions,
    positions: Mutex<Positions>,
    reads: Arc<SharedReads>,
    notices: Notices,
    /// The servers' clock, as the last creation of a claim has shown it.
    clock: Mutex<Option<Clock>>,
}

impl ZooKeeper {
    /// A store of the ensemble that `address` names, which connects at the first request.
    ///
    /// # Errors
    /// [`InvalidAddress`](crate::Error::InvalidAddress).
    pub(crate) fn open(address: Address) -> Result<Arc<Self>> {
        let config = Arc::new(Config::new(address)?);
        let sessions = Sessions::new(Arc::clone(&config));
        let (reads, notices) = (SharedReads::new(Arc::clone(&config)), Notices::new(Arc::clone(&config)));
        let shared =
            Shared { config, sessions, positions: Mutex::default(), reads, notices, clock: Mutex::default() };
        Ok(Arc::new(ZooKeeper { shared: Arc::new(shared) }))
    }

    fn queued<'a>(&'a self, claim: &'a Claim) -> Queued<'a> {
        Queued { store: &self.shared, claim }
    }
}

#[async_trait]
impl Backend for ZooKeeper {
    fn address(&self) -> &str {
        &self.shared.config.shown
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("zookeeper", CrashRelease::Lease).with_values()
    }

    fn is_ready(&self) -> bool {
        self.shared.sessions.newest().is_some()
    }

    async fn ready(&self) -> Result<()> {
        self.shared.sessions.any().await.map(drop)
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        let (absent, releasing) = {
            let positions = self.shared.positions.lock();
            let releasing = positions.get(claim.id).is_some_and(|position| position.releasing);
            (positions.absent(claim.id), releasing)
        };
        if absent != ClaimStatus::Gone {
            return Ok(absent);
        }
        if releasing {
            // An earlier try had to release the claim, and that got no answer. The request to delete the node
            // may still be on its way, so even if the claim held now, it would not hold for long.
            release(&self.shared, claim).await?;
            return Ok(ClaimStatus::Gone);
        }
        let mut value = None;
        let status = self.queued(claim).enqueue(&mut value).await?;
        if status == ClaimStatus::Waiting && claim.wait_mode == WaitMode::Try {
            release(&self.shared, claim).await?;
            return Ok(ClaimStatus::Gone);
        }
        self.shared.with_value(claim, status, value).await
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        match self.queued(claim).wait_for_change().await? {
            Some(status) => self.shared.with_value(claim, status, None).await.map(Some),
            None => Ok(None),
        }
    }

    fn place(&self, claim: &Claim) -> Option<usize> {
        self.shared.positions.lock().get(claim.id)?.ahead.count()
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        renew(&self.shared, claims).await
    }

    async fn session_lost_hint(&self) {
        let Shared { sessions, positions, notices, .. } = &*self.shared;
        let is_queued = |id| positions.lock().get(id).is_some_and(|position| !position.releasing);
        tokio::select! {
            () = sessions.expired() => {}
            () = notices.to_any(is_queued) => sessions.claims_are_lost(),
        }
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.shared.config.notices.stream()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        release(&self.shared, claim).await
    }

    async fn set_value(&self, claim: &Claim, bytes: &[u8], keep: Duration) -> Result<ValueWrite> {
        self.shared.write_value(claim, bytes, keep).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        let Shared { config, sessions, .. } = &*self.shared;
        let onlooker = Onlooker { layout: &config.layout, session: sessions.any().await? };
        onlooker.inspect(name).await.map_err(|failure| config.error(failure))
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        let lock = self.shared.config.layout.lock(name);
        Evictor { store: &self.shared, lock }.evict(entry, eviction).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        let Shared { config, sessions, .. } = &*self.shared;
        let error = |failure| config.error(failure);
        let pages = stream::try_unfold(None, move |walk| async move {
            let mut walk = match walk {
                Some(walk) => walk,
                None => Walk::start(&config.layout, sessions.any().await?, prefix).await.map_err(error)?,
            };
            let page = walk.page().await.map_err(error)?;
            if let Some(session) = walk.session_to_values() {
                // What cannot be deleted is no reason to list nothing.
                let _ = self.shared.delete_ended(&session).await;
            }
            Ok(page.map(|page| (stream::iter(page.into_iter().map(Ok)), Some(walk))))
        });
        pages.try_flatten().boxed()
    }

    async fn examine(&self, name: &Name) -> Result<Vec<Finding>> {
        examine::examine(&self.shared, name).await
    }

    async fn forget(&self, name: &Name, evicted: &[ClaimId]) -> Result<()> {
        examine::forget(&self.shared, name, evicted).await
    }
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper").field("address", &self.shared.config.shown).finish_non_exhaustive()
    }
}
