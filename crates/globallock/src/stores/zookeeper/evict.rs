//! How an onlooker takes a claim out of its queue, and leaves a notice for its owner.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::Shared;
use super::client::{Found, Replaced};
use super::config::Config;
use super::failure::Failure;
use super::inspect::{own_claim, parse_foreign_key};
use super::naming::ListedClaim;
use super::session::Session;
use crate::backend::{ClaimId, EntryKey, Eviction, Release};
use crate::error::Result as Answer;
use crate::stores::evictions::KEPT;

/// How many times a claim is looked for, and its nodes taken out.
const ATTEMPTS: usize = 5;

/// Takes claims out of the queue of one lock.
pub(super) struct Evictor<'a> {
    pub(super) store: &'a Shared,
    /// The path of the lock's node.
    pub(super) lock: String,
}

impl Evictor<'_> {
    pub(super) async fn evict(&self, key: &EntryKey, eviction: &Eviction) -> Answer<Release> {
        if let Some(id) = key.claim_id() {
            return self.evict_own(id, eviction).await;
        }
        let Some((czxid, node)) = parse_foreign_key(key) else { return Ok(Release::NotHeld) };
        let session = self.store.sessions.any().await?;
        self.evict_foreign(&session, czxid, &node).await.map_err(|failure| self.store.config.error(failure))
    }

    /// Evicts one of our claims.
    ///
    /// It is looked for again after it was taken out, because its owner may have enqueued it in another
    /// session in between. From the notice on the owner does not do that.
    async fn evict_own(&self, id: ClaimId, eviction: &Eviction) -> Answer<Release> {
        let error = |failure| self.store.config.error(failure);
        let mut release = Release::NotHeld;
        for _ in 0..ATTEMPTS {
            let session = self.store.sessions.any().await?;
            let found = self.find(&session, id).await.map_err(error)?;
            let Some((nodes, lease)) = found else { return Ok(release) };
            let notices = self.store.sessions.for_notices(lease.saturating_add(KEPT)).await?;
            // No lease outlasts the session that it is kept by, and the data of a claim may be forged.
            let kept = lease.min(notices.timeout()) + KEPT;
            // Kept from before the request, because that may be carried out without an answer.
            let keeping = keep(Arc::clone(&notices), self.store.config.layout.notice(id).0, kept);
            let taken_out = self.take_out(&notices, id, &nodes, eviction).await;
            if matches!(taken_out, Ok(false) | Err(Failure::Refused(_))) {
                keeping.abort();
            }
            match taken_out {
                Ok(true) => release = Release::Released,
                Ok(false) | Err(Failure::Expired) => {}
                Err(failure) => return Err(error(failure)),
            }
        }
        match release {
            Release::Released => Ok(release),
            Release::NotHeld => Err(error(Failure::Lost("the claim changed in every attempt".to_owned()))),
        }
    }

    /// Finds the nodes of one of our claims, and its lease: one node, unless a repeated creation has made
    /// several.
    async fn find(
        &self,
        session: &Arc<Session>,
        id: ClaimId,
    ) -> Result<Option<(Vec<String>, Duration)>, Failure> {
        let snapshot = self.store.reads.read(session, &self.lock).await?;
        let paths: Vec<_> = snapshot.of(id).map(|listed| listed.path(&self.lock)).collect();
        let found = session.each(&paths, Session::data).await?;
        let own = |((path, listed), found): ((String, &ListedClaim), Option<Found>)| {
            Some((path, own_claim(listed, &found?.text)?.1))
        };
        let own = paths.into_iter().zip(snapshot.of(id)).zip(found).filter_map(own);
        let (paths, leases): (Vec<_>, Vec<_>) = own.unzip();
        Ok(leases.into_iter().max().map(|lease| (paths, lease)))
    }

    /// Deletes the nodes of a claim and creates the notice in one transaction, together with the nodes above
    /// the notice that are missing. Returns whether that was done: the claim may have changed in the
    /// meantime.
    ///
    /// The nodes above are containers. They are not created beforehand, because servers never delete a
    /// container that had no child.
    async fn take_out(
        &self,
        notices: &Session,
        id: ClaimId,
        nodes: &[String],
        eviction: &Eviction,
    ) -> Result<bool, Failure> {
        let Config { layout, acl, .. } = &*self.store.config;
        let ((notice, above), text) = (layout.notice(id), eviction.to_text());
        let (mut present, mut is_new) = (0, true);
        loop {
            let missing = if is_new { &above[present..] } else { &[] };
            let created = is_new.then_some((&*notice, &*text));
            match notices.replace(nodes, created, missing, acl).await? {
                Replaced::All => return Ok(true),
                Replaced::Exists(nth) if nth < missing.len() => present += nth + 1,
                // It was evicted before, and a late creation has put it into the queue again.
                Replaced::Exists(_) if is_new => is_new = false,
                Replaced::Exists(_) | Replaced::Missing => return Ok(false),
            }
        }
    }

    /// Evicts a claim of another program.
    async fn evict_foreign(&self, session: &Session, czxid: i64, node: &str) -> Result<Release, Failure> {
        let Some(listed) = self.store.config.layout.parse(node) else { return Ok(Release::NotHeld) };
        let path = listed.path(&self.lock);
        let is_it = |found: &Found| found.stat.czxid == czxid && own_claim(&listed, &found.text).is_none();
        let found = session.sync(&self.lock).then(session.data(&path)).await?;
        let released = found.as_ref().is_some_and(is_it) && session.delete(&path).await?;
        Ok(if released { Release::Released } else { Release::NotHeld })
    }
}

/// Keeps a notice for some time, and deletes it then. If the process ends before, the servers delete the
/// notice when its session has expired.
///
/// The session lives as long as the last of its notices is kept, so a notice ends with it at the latest if
/// its deletion gets no answer.
pub(super) fn keep(notices: Arc<Session>, path: String, kept: Duration) -> JoinHandle<()> {
    tokio::spawn(async move {
        tokio::time::sleep(kept).await;
        let _ = notices.delete(&path).await;
    })
}
