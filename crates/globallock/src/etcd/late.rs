//! What becomes of claims whose joining got no answer.

use super::messages::{PutRequest, Request, TxnRequest};
use super::{Shared, keys, operation};
use crate::backend::ClaimId;
use crate::error::{Error, Result};

impl Shared {
    /// Whether a lease lives that the claim may hang on. What is left of one that has died is found by the next claim
    /// with its key, and taken out.
    pub(super) fn may_be_there(&self, id: ClaimId) -> bool {
        let unanswered = self.unanswered().get(&id).cloned().unwrap_or_default();
        let known = self.places().get(&id).map(|place| place.lease);
        unanswered.into_iter().chain(known).any(|lease| self.leases.find(lease).is_some())
    }

    /// Sees to it that a request which is still on its way cannot put a claim that has left.
    ///
    /// The bar ends with the lease, without which the request can do nothing either.
    pub(super) async fn bar(&self, id: ClaimId, lease: i64) -> Result<()> {
        let key = keys::bar(self.prefix(), id, lease);
        let put = operation(Request::Put(PutRequest { key, value: Vec::new(), lease }));
        match self.transaction(TxnRequest { success: vec![put], ..TxnRequest::default() }).await {
            // The lease is over already.
            Ok(_) | Err(Error::Unfit { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
