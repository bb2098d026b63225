//! What becomes of claims whose making got no answer.

use std::sync::Arc;

use super::connection::Failure;
use super::session::Session;
use super::{Shared, delete};
use crate::backend::Claim;

impl Shared {
    /// Takes out whatever nodes the claim has.
    pub(super) async fn take_out(&self, claim: &Claim, session: &Session) -> Result<bool, Failure> {
        let mut left = false;
        for path in self.nodes_of(claim, session).await? {
            left |= delete(session, &path).await?;
        }
        Ok(left)
    }

    /// Looks for a while whether a request over a connection that was lost arrives after all.
    ///
    /// A server carries out what it has received when it gets to it, and has given up such a connection once it has
    /// been silent for the session's time.
    pub(super) fn watch_for_late(self: &Arc<Self>, claim: &Claim, session: &Arc<Session>) {
        let (shared, claim, session) = (Arc::downgrade(self), claim.clone(), Arc::downgrade(session));
        tokio::spawn(async move {
            let Some(pause) = session.upgrade().map(|session| session.timeout() / 3) else { return };
            for _ in 0..6 {
                tokio::time::sleep(pause).await;
                let (Some(shared), Some(session)) = (shared.upgrade(), session.upgrade()) else { return };
                if session.is_over() || shared.take_out(&claim, &session).await == Ok(true) {
                    return;
                }
            }
        });
    }
}
