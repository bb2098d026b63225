//! Claims that are kept beyond their owners.

use std::sync::Arc;
use std::time::Duration;

use super::Redis;
use super::texts::milliseconds;
use crate::backend::{Backend, Claim, ClaimStatus, Release};
use crate::error::Result;
use crate::sync::Instant;

/// Whether the owner gives the claim no more signs of life, so that it ends then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Leaves {
    No,
    Yes,
}

impl Redis {
    /// Keeps a held claim for `rest` from now: at least, or exactly if its owner leaves it.
    ///
    /// # Cancel safety
    /// The claim is kept or not.
    pub(super) async fn keep(&self, claim: &Claim, rest: Duration, leaves: Leaves) -> Result<ClaimStatus> {
        // Rounded up, and one more, because the server rounds its time down.
        let rest = milliseconds(rest).saturating_add(2).to_string();
        let leaves = if leaves == Leaves::Yes { "1" } else { "0" };
        let arguments = [claim.id.to_string(), rest, leaves.to_owned()];
        let sent = Instant::now();
        let answer =
            self.request(&self.call(&self.connection.scripts().keep, claim, false, &arguments)).await?;
        let mut statuses = [self.status(claim, sent, &answer)];
        self.tell_evicted(&[Arc::new(claim.clone())], &mut statuses).await;
        let [status] = statuses;
        status
    }

    /// Leaves a held claim, which ends `rest` from now.
    pub(super) async fn keep_and_leave(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        match self.keep(claim, rest, Leaves::Yes).await? {
            ClaimStatus::Held(_) => {
                self.inbox.waiters.forget(claim.id);
                Ok(Release::Released)
            }
            // What is remembered of the claim, here and in the server, is dropped as by any release.
            _ => self.release(claim).await,
        }
    }
}
