//! How claims leave, those too whose joining or leaving got no answer.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::link::is_lease_over;
use super::messages::{PutRequest, Request, TxnRequest};
use super::{Shared, keys, operation};
use crate::backend::{Claim, ClaimId, Departure};
use crate::error::Result;

/// The pause between two tries of a departure that was not answered.
const PAUSE: Duration = Duration::from_millis(500);

impl Shared {
    /// Takes a claim out of its queue, or at the latest its lease does.
    pub(super) async fn leave(self: &Arc<Self>, claim: &Claim) -> Result<Departure> {
        let left = self.try_leave(claim).await;
        if left.is_err() {
            self.leave_later(claim);
        }
        left
    }

    async fn try_leave(&self, claim: &Claim) -> Result<Departure> {
        let Some(key) = self.slots.key(claim.id) else {
            return Ok(Departure::Gone);
        };
        let left = self.take_out(claim, key).await;
        if left.is_ok() || !self.may_be_there(claim.id) {
            self.unanswered().remove(&claim.id);
            self.places().remove(claim.id);
            self.slots.give_back(claim.id);
        }
        left
    }

    async fn take_out(&self, claim: &Claim, key: Vec<u8>) -> Result<Departure> {
        let id = claim.id;
        let leases = self.unanswered().get(&id).cloned();
        for lease in leases.iter().flatten() {
            self.bar(id, *lease).await?;
        }
        if let Some(place) = self.places().get_mut(id) {
            place.leaves = true;
        }
        let left = match self.single_key(claim) {
            None => self.delete(key).await?,
            Some(single) => self.delete_with_single(claim.id, key, single).await?,
        };
        Ok(if left { Departure::Left } else { Departure::Gone })
    }

    /// Goes on taking a claim out until that is answered, or its lease is over.
    ///
    /// The core gives up when the claim's lease would be over; but other claims keep the lease alive.
    fn leave_later(self: &Arc<Self>, claim: &Claim) {
        let id = claim.id;
        let leaving = move |shared: &Self| shared.slots.key(id).is_some();
        let mut later = self.leaving_later.lock().unwrap_or_else(PoisonError::into_inner);
        if !leaving(self) || !later.insert(id) {
            return;
        }
        drop(later);
        let (shared, claim) = (Arc::downgrade(self), claim.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                let Some(shared) = shared.upgrade() else { return };
                // The core's own tries may have been answered meanwhile.
                if !leaving(&shared) || shared.try_leave(&claim).await.is_ok() {
                    shared.leaving_later.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    return;
                }
            }
        });
    }

    /// Whether a departure of the claim has not been answered yet.
    pub(super) fn is_leaving(&self, id: ClaimId) -> bool {
        self.leaving_later.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Whether a lease lives that the claim may hang on, or may be found to live on by an answer that comes late: the next
    /// claim with its key would take the old one for its own. What is left of a lease that cannot is found by the next
    /// claim with its key, and taken out.
    fn may_be_there(&self, id: ClaimId) -> bool {
        let unanswered = self.unanswered().get(&id).cloned().unwrap_or_default();
        let known = self.places().get(id).map(|place| place.mine.lease);
        unanswered.into_iter().chain(known).any(|lease| self.leases.may_live_on(lease))
    }

    /// Sees to it that a request which is still on its way cannot put a claim that has left.
    ///
    /// The bar ends with the lease, without which the request can do nothing either.
    async fn bar(&self, id: ClaimId, lease: i64) -> Result<()> {
        let key = keys::bar(self.prefix(), id, lease);
        let put = operation(Request::Put(PutRequest { key, value: Vec::new(), lease }));
        match self.transaction(TxnRequest { success: vec![put], ..TxnRequest::default() }).await {
            // The lease is over already.
            Err(error) if is_lease_over(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::backend::Standing;
    use crate::etcd::places::tests::{found, read, store};

    #[tokio::test]
    async fn a_key_is_nobody_elses_while_its_lease_may_be_confirmed_after_all() {
        // Nobody answers there.
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let standing = read(&shared, &claim, &[found(&key, 4, 1)], 4);
        assert!(matches!(standing, Standing::Held(_)), "{standing:?}");
        shared.leases.pretend_over(1);
        for _ in 0..2 {
            assert!(shared.try_leave(&claim).await.is_err());
            assert_eq!(shared.slots.key(claim.id).as_ref(), Some(&key), "an answer may be on its way");
            assert_eq!(read(&shared, &claim, &[found(&key, 4, 1)], 5), Standing::Gone);
        }
        shared.leases.forget(1);
        assert!(shared.try_leave(&claim).await.is_err());
        assert_eq!(shared.slots.key(claim.id), None);
    }
}
