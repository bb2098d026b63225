//! What a waiting claim watches.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::connection::Failure;
use super::places::Place;
use super::session::Session;
use super::wire::Refusal;
use crate::backend::Claim;
use crate::stores::watched::inbox::Inbox;

/// A waiting claim's own node and those that keep it waiting, watched until this is dropped.
///
/// Its own is watched too, since a server tells of changes in their order: what was taken out first is not granted by
/// what leaves next.
pub(super) struct Watched {
    session: Arc<Session>,
    /// The claim's own last, so that it was there when those before it were found gone.
    paths: Vec<String>,
    mine: Option<String>,
    inbox: Option<Arc<Inbox>>,
    /// After how long to look unasked, in case a server's word got lost.
    lease: Duration,
}

impl Watched {
    pub(super) fn new(lock: &str, place: &Place, claim: &Claim) -> Self {
        let blockers = place.blockers().into_iter().map(|node| format!("{lock}/{node}"));
        let mine = place.node.as_ref().map(|node| node.path.clone());
        let paths = blockers.chain(mine.clone()).collect();
        let session = Arc::clone(&place.session);
        Watched { session, paths, mine, inbox: Some(Arc::default()), lease: claim.lease }
    }

    /// Whether the claim's own node is among these.
    pub(super) fn is_mine_in(&self, gone: &[Vec<u8>]) -> bool {
        self.mine.as_ref().is_some_and(|mine| gone.iter().any(|path| path == mine.as_bytes()))
    }

    /// Waits until some of the nodes are gone, and says which; `None` when that is not known.
    pub(super) async fn gone(&self) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let Some(inbox) = &self.inbox else { return Ok(None) };
        loop {
            let pending: Vec<_> = self.paths.iter().map(|path| self.session.watch(path, inbox)).collect();
            let mut gone = Vec::new();
            for (path, pending) in self.paths.iter().zip(pending) {
                match self.session.answer(pending).await {
                    Ok(_) => {}
                    Err(Failure::Refused(Refusal::NO_NODE)) => gone.push(path.clone().into_bytes()),
                    Err(failure) => return Err(failure),
                }
            }
            if !gone.is_empty() {
                return Ok(Some(gone));
            }
            if let Ok(changes) = timeout(self.lease, inbox.wait()).await {
                return Ok((!changes.read_again).then_some(changes.deleted));
            }
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.inbox = None;
        for path in &self.paths {
            self.session.unwatch(path);
        }
    }
}
