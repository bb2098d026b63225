//! How claims are released, also claims whose creation or release got no answer.

use std::sync::Arc;

use super::Shared;
use super::failure::Failure;
use super::session::Session;
use crate::backend::{Claim, ClaimId, Release};
use crate::error::Result as Answer;
use crate::stores::watched::releases::{Releases, Task};

impl Releases for Shared {
    async fn try_release(self: &Arc<Self>, claim: &Claim) -> Answer<Release> {
        let position = self.positions.lock().get_mut(claim.id).map(|position| {
            position.releasing = true;
            position.clone()
        });
        let Some(position) = position else {
            return Ok(Release::NotHeld);
        };
        let deleted = match &position.node {
            Some(node) => position.session.delete(&node.path).await,
            None => self.delete_nodes(claim, &position.session).await,
        };
        let deleted = match deleted {
            Ok(deleted) => deleted,
            // The servers have deleted its nodes with the session.
            Err(Failure::Expired) => false,
            Err(failure) => return Err(self.config.error(failure)),
        };
        self.positions.lock().released(claim.id, &position.session, position.node.as_ref());
        if position.reconnects != position.session.reconnects() && !position.session.is_expired() {
            self.delete_late_nodes(claim, &position.session);
        }
        Ok(if deleted { Release::Released } else { Release::NotHeld })
    }

    fn with_task<T>(&self, id: ClaimId, change: impl FnOnce(&mut Option<Task>) -> T) -> Option<T> {
        Some(change(&mut self.positions.lock().get_mut(id)?.background_release))
    }
}

impl Shared {
    /// Deletes all nodes with the claim's id.
    async fn delete_nodes(self: &Arc<Self>, claim: &Claim, session: &Arc<Session>) -> Result<bool, Failure> {
        let mut deleted = false;
        for path in self.reads.nodes_of(claim, session).await? {
            deleted |= session.delete(&path).await?;
        }
        Ok(deleted)
    }

    /// Deletes a node that a creation sent over a lost connection may still make.
    ///
    /// A server may carry out late what it has received. It does so for a limited time, because it gives up a
    /// connection that has been silent for the session's timeout. This looks for twice as long.
    pub(super) fn delete_late_nodes(self: &Arc<Self>, claim: &Claim, session: &Arc<Session>) {
        let (shared, claim, session) = (Arc::downgrade(self), claim.clone(), Arc::downgrade(session));
        tokio::spawn(async move {
            let Some(pause) = session.upgrade().map(|session| session.timeout() / 3) else { return };
            for _ in 0..6 {
                tokio::time::sleep(pause).await;
                let (Some(shared), Some(session)) = (shared.upgrade(), session.upgrade()) else { return };
                if session.is_expired() || shared.delete_nodes(&claim, &session).await == Ok(true) {
                    return;
                }
            }
        });
    }
}
