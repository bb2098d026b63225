//! The nodes that a waiting claim watches.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::failure::Failure;
use super::positions::Position;
use super::session::Session;
use crate::backend::Claim;
use crate::stores::watched::inbox::Inbox;

/// A waiting claim's own node and the nodes that keep it waiting, watched until this is dropped.
///
/// Its own node is watched because a server sends notifications in the order of the changes. If the claim's
/// own node was deleted first, that is notified first, and then the deletion of a node ahead does not grant
/// the claim.
pub(super) struct Watched {
    session: Arc<Session>,
    /// The claim's own node is the last to be read. If it is found, it was still there when the nodes before
    /// it were found gone.
    paths: Vec<String>,
    own: Option<String>,
    inbox: Option<Arc<Inbox>>,
    /// After how long the nodes are read again without a notification, in case one was lost.
    lease: Duration,
}

impl Watched {
    pub(super) fn new(lock: &str, position: &Position, claim: &Claim) -> Self {
        let blockers = position.blockers().into_iter().map(|node| format!("{lock}/{node}"));
        let own = position.node.as_ref().map(|node| node.path.clone());
        let paths = blockers.chain(own.clone()).collect();
        let session = Arc::clone(&position.session);
        Watched { session, paths, own, inbox: Some(Arc::default()), lease: claim.lease }
    }

    /// Whether the claim's own node is among these paths.
    pub(super) fn own_is_among(&self, gone: &[Vec<u8>]) -> bool {
        self.own.as_ref().is_some_and(|own| gone.iter().any(|path| path == own.as_bytes()))
    }

    /// Waits until some of the nodes are gone, and returns their paths; `None` if something has changed and
    /// it is not known what.
    pub(super) async fn gone(&self) -> Result<Option<Vec<Vec<u8>>>, Failure> {
        let Some(inbox) = &self.inbox else { return Ok(None) };
        loop {
            let pending: Vec<_> = self.paths.iter().map(|path| self.session.watch(path, inbox)).collect();
            let mut gone = Vec::new();
            for (path, pending) in self.paths.iter().zip(pending) {
                if !pending.answer().await? {
                    gone.push(path.clone().into_bytes());
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
