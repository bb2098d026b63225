//! Renewal: keeps the few leases alive, and reads whether the claims' keys still exist.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Shared;
use super::positions::Position;
use super::reading::KeyState;
use crate::backend::{Claim, ClaimStatus};
use crate::error::Result;

impl Shared {
    /// Keeps the leases of these claims alive, and reads whether the claims' keys still exist.
    ///
    /// The read is serializable: one member answers from what it has. A linearizable read would wait for all
    /// writes in front of it, and thousands of joins would delay the renewals of holders. The price: if that
    /// member lags behind, a deleted key is found by a later renewal.
    pub(super) async fn renew(&self, claims: &[Arc<Claim>]) -> Result<Vec<ClaimStatus>> {
        let known: Vec<Option<Position>> =
            { claims.iter().map(|claim| self.positions().get(claim.id).cloned()).collect() };
        let leases: BTreeSet<i64> = known.iter().flatten().map(|position| position.mine.lease).collect();
        for lease in leases {
            self.leases.keep_alive(&self.connection, lease).await?;
        }
        // A claim without a position has no key to read. The prefix stands for it, so that answers stay in
        // step with claims; its answer is not used.
        let key = |position: &Option<Position>| {
            position.as_ref().map_or_else(|| self.prefix().into(), |position| position.mine.key.clone())
        };
        let keys: Vec<Vec<u8>> = known.iter().map(key).collect();
        let states = self.read_keys_serializable(&keys).await?;
        let status = |((claim, known), state): ((&Arc<Claim>, Option<Position>), KeyState)| {
            let mut positions = self.positions();
            if let Some(known) = known
                && state.proves_gone(known.mine.revision)
            {
                positions.remove_if_gone(claim.id, known.mine.revision);
            }
            positions.get(claim.id).map_or(ClaimStatus::Gone, |position| self.status(claim, position))
        };
        Ok(claims.iter().zip(known).zip(states).map(status).collect())
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
    async fn a_renewal_reads_from_one_member_and_finds_a_deleted_key() {
        // The key exists; it is gone; the member lags behind and does not have it yet.
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
    async fn a_renewal_that_cannot_keep_the_lease_alive_fails_and_reads_nothing() {
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
