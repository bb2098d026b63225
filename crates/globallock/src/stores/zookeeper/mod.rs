//! The store in ZooKeeper: ephemeral sequential nodes below a node for each lock, as in the recipes of kazoo
//! and Curator.
//!
//! `docs/zookeeper.md` says what it promises, what it costs and how it fails.

mod config;
mod connection;
#[cfg(test)]
mod driven;
mod driver;
mod enqueue;
mod evict;
mod failure;
mod inspect;
mod list;
mod login;
mod naming;
mod notice;
mod positions;
mod reading;
mod release;
#[cfg(test)]
mod scripted;
mod session;
mod sessions;
mod tls;
mod watch;
mod wire;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream, StreamExt, TryStreamExt};

use self::config::Config;
use self::connection::Failure;
use self::notice::{NoticeWatches, read_notice};
use self::positions::{Node, Position, Positions};
use self::reading::SharedReads;
use self::session::Session;
use self::sessions::Sessions;
use self::watch::Watched;
use self::wire::{ErrorCode, Request};
use crate::backend::{
    Backend, Capabilities, Claim, ClaimId, ClaimStatus, CrashRelease, Entry, EntryKey, Eviction, Release,
    StoreNotice, Summary, WaitMode,
};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stores::address::Address;
use crate::sync::{Mutex, MutexGuard};

/// A store in one ZooKeeper ensemble.
pub(crate) struct ZooKeeper {
    shared: Arc<Shared>,
}

/// The state of the store, shared with requests that outlive their callers.
struct Shared {
    config: Arc<Config>,
    sessions: Sessions,
    positions: Mutex<Positions>,
    reads: SharedReads,
    notices: NoticeWatches,
}

impl ZooKeeper {
    /// Connects to the ensemble that `address` names.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`], or as the ensemble answers.
    ///
    /// # Cancel safety
    /// A dropped call leaves no session behind.
    pub(crate) async fn connect(address: Address) -> Result<Arc<Self>> {
        let config = Arc::new(Config::new(address)?);
        let sessions = Sessions::open(Arc::clone(&config)).await?;
        let (positions, reads, notices) = Default::default();
        Ok(Arc::new(ZooKeeper { shared: Arc::new(Shared { config, sessions, positions, reads, notices }) }))
    }
}

impl Shared {
    fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock()
    }

    fn position(&self, id: ClaimId) -> Option<Position> {
        self.positions().get(id).cloned()
    }

    fn error(&self, failure: Failure) -> Error {
        self.config.error(failure)
    }

    async fn wait_for_change(self: &Arc<Self>, claim: &Claim) -> Result<Option<ClaimStatus>> {
        loop {
            let Some(position) = self.position(claim.id).filter(|position| !position.session.is_expired())
            else {
                // Whether a claim of an expired session was evicted, `enqueue` finds out.
                return Ok(Some(self.positions().absent(claim.id)));
            };
            if position.granted.is_some() {
                return Ok(Some(position.status(claim)));
            }
            let watched = Watched::new(&self.config.layout.lock(&claim.name), &position, claim);
            let gone = watched.gone().await.map_err(|failure| self.error(failure))?;
            if let Some(gone) = gone
                && !watched.own_is_among(&gone)
                && let Some(status) = self.positions().advance(claim, &gone)
            {
                if status == ClaimStatus::Waiting {
                    continue;
                }
                return Ok(Some(status));
            }
            let Some(node) = &position.node else { return Ok(None) };
            match self.read_again(claim, node, &position.session).await {
                Ok(ClaimStatus::Waiting) => {}
                Ok(status) => return Ok(Some(status)),
                Err(Failure::Expired) => return Ok(Some(ClaimStatus::Gone)),
                Err(failure) => return Err(self.error(failure)),
            }
        }
    }

    /// Keeps a session alive, and checks that the nodes of its claims are there.
    ///
    /// Each claim comes with the node that is asked for. If the claim is requested again in the meantime, it
    /// has another node, and the answer says nothing about that one.
    async fn renew(
        self: &Arc<Self>,
        session: &Arc<Session>,
        claims: &[(&Claim, Option<Node>)],
    ) -> Result<Vec<ClaimStatus>, Failure> {
        for (claim, _) in claims {
            session.keep_alive_for(claim.lease);
        }
        let synced = session.send(Request::sync("/"));
        let mut pending = Vec::with_capacity(claims.len());
        for (_, node) in claims {
            pending.push(node.as_ref().map(|node| session.send(Request::exists(&node.path))));
        }
        session.answer(synced).await?;
        let mut gone = Vec::new();
        for ((claim, node), pending) in claims.iter().zip(pending) {
            let found = match pending {
                // Its creation is in flight, and the answer to that will say it.
                None => true,
                Some(pending) => match session.answer(pending).await {
                    Ok(_) => true,
                    Err(Failure::Refused(ErrorCode::NO_NODE)) => false,
                    Err(failure) => return Err(failure),
                },
            };
            if !found {
                gone.push((claim, node, self.ask_for_notice(session, claim.id)));
            }
        }
        for (claim, node, notice) in gone {
            let eviction = read_notice(session.answer(notice).await)?;
            self.forget(claim, session, node.as_ref(), eviction);
        }
        // Read after the answers, because claims may have been granted since the request.
        Ok(claims.iter().map(|(claim, _)| self.positions().status(claim)).collect())
    }
}

/// Deletes a node, and returns whether it was there.
async fn delete(session: &Session, path: &str) -> Result<bool, Failure> {
    match session.ask(Request::delete(path)).await {
        Ok(_) => Ok(true),
        Err(Failure::Refused(ErrorCode::NO_NODE)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

/// Claims of one session: their indices among the claims to renew, and their nodes.
type Group<'a> = (Arc<Session>, Vec<usize>, Vec<(&'a Claim, Option<Node>)>);

#[async_trait]
impl Backend for ZooKeeper {
    fn address(&self) -> &str {
        &self.shared.config.shown
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new("zookeeper", CrashRelease::Lease)
    }

    async fn enqueue(&self, claim: &Claim) -> Result<ClaimStatus> {
        let absent = self.shared.positions().absent(claim.id);
        if absent != ClaimStatus::Gone {
            return Ok(absent);
        }
        if self.shared.position(claim.id).is_some_and(|position| position.releasing) {
            // An earlier try had to release the claim, and that got no answer. The request to delete the node
            // may still be on its way, so even if the claim held now, it would not hold for long.
            self.shared.release(claim).await?;
            return Ok(ClaimStatus::Gone);
        }
        let status = self.shared.enqueue(claim).await?;
        if status == ClaimStatus::Waiting && claim.wait_mode == WaitMode::Try {
            self.shared.release(claim).await?;
            return Ok(ClaimStatus::Gone);
        }
        Ok(status)
    }

    async fn wait_for_change(&self, claim: &Claim) -> Result<Option<ClaimStatus>> {
        self.shared.wait_for_change(claim).await
    }

    async fn renew(&self, claims: &[Arc<Claim>]) -> Vec<Result<ClaimStatus>> {
        let mut by_session: HashMap<i64, Group<'_>> = HashMap::new();
        for (index, claim) in claims.iter().enumerate() {
            if let Some(position) = self.shared.position(claim.id) {
                let (_, indices, group) = by_session
                    .entry(position.session.id())
                    .or_insert_with(|| (position.session, vec![], vec![]));
                indices.push(index);
                group.push((&**claim, position.node));
            }
        }
        let absent = |claim: &Arc<Claim>| Ok(self.shared.positions().absent(claim.id));
        let mut answers: Vec<Result<ClaimStatus>> = claims.iter().map(absent).collect();
        for (session, indices, group) in by_session.into_values() {
            let renewed = self.shared.renew(&session, &group).await;
            for (nth, (index, (claim, node))) in indices.into_iter().zip(group).enumerate() {
                answers[index] = match &renewed {
                    Ok(statuses) => Ok(statuses[nth].clone()),
                    Err(Failure::Expired) => {
                        let positions = self.shared.positions();
                        // It stays recorded, so that `enqueue` finds out whether it was evicted.
                        let is_current = positions.is_current(claim.id, &session, node.as_ref());
                        Ok(if is_current { positions.absent(claim.id) } else { positions.status(claim) })
                    }
                    Err(failure) => Err(self.shared.error(failure.clone())),
                };
            }
        }
        answers
    }

    async fn session_lost_hint(&self) {
        tokio::select! {
            () = self.shared.sessions.expired() => {}
            () = self.shared.claims_are_evicted() => {}
        }
    }

    fn notices(&self) -> BoxStream<'static, StoreNotice> {
        self.shared.config.notices.stream()
    }

    async fn release(&self, claim: &Claim) -> Result<Release> {
        self.shared.release(claim).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        let session = self.shared.sessions.any().await?;
        self.shared.inspect(&session, name).await.map_err(|failure| self.shared.error(failure))
    }

    async fn evict(&self, name: &Name, entry: &EntryKey, eviction: &Eviction) -> Result<Release> {
        self.shared.evict(name, entry, eviction).await
    }

    fn list<'a>(&'a self, prefix: &'a str) -> BoxStream<'a, Result<Summary>> {
        self.shared.pages(prefix).map_ok(stream::iter).try_flatten().boxed()
    }
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeper").field("address", &self.shared.config.shown).finish_non_exhaustive()
    }
}
