//! How claims are renewed: their leases, of which there are few, and a look whether the claims are there.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Shared;
use super::positions::Position;
use super::reading::KeyState;
use crate::backend::{Claim, ClaimStatus};
use crate::error::Result;

impl Shared {
    /// Keeps the leases of these claims alive, and looks whether the claims are there.
    ///
    /// The look asks one member for what it knows, because one that the whole cluster answers waits for all writes in
    /// front of it: thousands of joins would hold it up. Where that member lags, a later renewal finds what is gone.
    pub(super) async fn renew(&self, claims: &[Arc<Claim>]) -> Result<Vec<ClaimStatus>> {
        let asked: Vec<Option<Position>> =
            { claims.iter().map(|claim| self.positions().get(claim.id).cloned()).collect() };
        let leases: BTreeSet<i64> = asked.iter().flatten().map(|position| position.mine.lease).collect();
        for lease in leases {
            self.leases.keep_alive(&self.connection, lease).await?;
        }
        // What had no key when it was asked for says nothing of the claim: any key will do for it.
        let key = |position: &Option<Position>| {
            position.as_ref().map_or_else(|| self.prefix().into(), |position| position.mine.key.clone())
        };
        let keys: Vec<Vec<u8>> = asked.iter().map(key).collect();
        let seen = self.read_keys_serializable(&keys).await?;
        let status = |((claim, asked), seen): ((&Arc<Claim>, Option<Position>), KeyState)| {
            let mut positions = self.positions();
            if let Some(asked) = asked
                && seen.proves_gone(asked.mine.revision)
            {
                positions.remove_if_gone(claim.id, asked.mine.revision);
            }
            positions.get(claim.id).map_or(ClaimStatus::Gone, |position| self.status(claim, position))
        };
        Ok(claims.iter().zip(asked).zip(seen).map(status).collect())
    }
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::stores::etcd::messages::{
        LeaseRequest, LeaseResponse, RangeResponse, Request, Response, ResponseOp, TxnRequest, TxnResponse,
    };
    use crate::stores::etcd::positions::tests::{fencing_token, found, held};
    use crate::stores::etcd::scripted::{as_of, soon};

    const KEEP: &str = "Lease/LeaseKeepAlive";

    #[tokio::test(start_paused = true)]
    async fn a_renewal_asks_for_nothing_that_other_requests_hold_up_and_finds_what_is_gone() {
        // The key as of a revision: there, gone, and not there yet on a member that lags.
        for (created, read_at, holds) in [(4, 9, true), (0, 9, false), (0, 3, true)] {
            let (mut cluster, shared, claim, key) = held();
            let claims = [Arc::new(claim)];
            let answers = async {
                let (asked, call) = cluster.asked::<LeaseRequest>(KEEP).await;
                assert_eq!(asked.id, 1);
                call.answer(&LeaseResponse { ttl: 60 });
                let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
                let [operation] = &asked.success[..] else { panic!("{asked:?}") };
                let Some(Request::Range(range)) = &operation.request else { panic!("{asked:?}") };
                assert!(range.serializable && range.key == key, "{range:?}");
                let kvs = if created > 0 { vec![found(&key, created, 1)] } else { Vec::new() };
                let range = RangeResponse { header: as_of(read_at), kvs, more: false };
                let responses = vec![ResponseOp { response: Some(Response::Range(range)) }];
                call.answer(&TxnResponse { header: as_of(read_at), succeeded: true, responses });
            };
            let (renewed, ()) = soon(async { tokio::join!(shared.renew(&claims), answers) }).await;
            let status = renewed.unwrap().remove(0);
            assert_eq!(fencing_token(status), holds.then_some(4), "{created} as of {read_at}");
            assert!(cluster.is_idle().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_that_cannot_keep_the_lease_says_so_and_looks_at_nothing() {
        let (mut cluster, shared, claim, _) = held();
        let claims = [Arc::new(claim)];
        let fails = async {
            let (_, call) = cluster.asked::<LeaseRequest>(KEEP).await;
            call.fail(Status::permission_denied("not for you"));
        };
        let (renewed, ()) = soon(async { tokio::join!(shared.renew(&claims), fails) }).await;
        assert!(renewed.unwrap_err().to_string().contains("not for you"));
        assert!(cluster.is_idle().await);
    }
}
