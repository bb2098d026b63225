//! How claims leave, also those whose making or leaving got no answer.

use std::sync::Arc;
use std::time::Duration;

use super::connection::Failure;
use super::session::Session;
use super::{Shared, delete};
use crate::backend::{Claim, Release};
use crate::error::Result as Answer;

/// The pause between two tries of a departure that was not answered.
const PAUSE: Duration = Duration::from_millis(500);

impl Shared {
    pub(super) async fn release(self: &Arc<Self>, claim: &Claim) -> Answer<Release> {
        let left = self.try_leave(claim).await;
        if left.is_err() {
            self.leave_later(claim);
        }
        left
    }

    async fn try_leave(self: &Arc<Self>, claim: &Claim) -> Answer<Release> {
        let place = self.places().get_mut(claim.id).map(|place| {
            place.leaves = true;
            place.clone()
        });
        let Some(place) = place else {
            return Ok(Release::NotHeld);
        };
        let left = match &place.node {
            Some(node) => delete(&place.session, &node.path).await,
            None => self.take_out(claim, &place.session).await,
        };
        let left = match left {
            Ok(left) => left,
            // Its nodes have ended with it.
            Err(Failure::Expired) => false,
            Err(failure) => return Err(self.error(failure)),
        };
        self.places().taken_out(claim.id, &place.session, place.node.as_ref());
        if place.losses != place.session.losses() && !place.session.is_over() {
            self.watch_for_late(claim, &place.session);
        }
        Ok(if left { Release::Released } else { Release::NotHeld })
    }

    /// Goes on taking a claim out until that is answered, or its session is over.
    ///
    /// The core gives up when the claim's lease would be over; but other claims keep the session alive.
    fn leave_later(self: &Arc<Self>, claim: &Claim) {
        match self.places().get_mut(claim.id) {
            Some(place) if !place.leaves_later => place.leaves_later = true,
            _ => return,
        }
        let (shared, claim) = (Arc::downgrade(self), claim.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                let Some(shared) = shared.upgrade() else { return };
                // The core's own tries may have been answered meanwhile.
                if shared.place(claim.id).is_none() || shared.try_leave(&claim).await.is_ok() {
                    return;
                }
            }
        });
    }

    /// Takes out whatever nodes the claim has.
    async fn take_out(self: &Arc<Self>, claim: &Claim, session: &Arc<Session>) -> Result<bool, Failure> {
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
    fn watch_for_late(self: &Arc<Self>, claim: &Claim, session: &Arc<Session>) {
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
