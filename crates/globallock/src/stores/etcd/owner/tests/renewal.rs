//! Tests of renewal, over a scripted cluster.

use tonic::Status;

use super::super::*;
use crate::stores::etcd::claims::tests::{fencing_token, found, held};
use crate::stores::etcd::messages::{
    LeaseRequest, LeaseResponse, RangeResponse, Request, Response, ResponseOp, TxnRequest, TxnResponse,
};
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
        let (renewed, ()) = soon(async { tokio::join!(shared.keep_alive(&claims), answers) }).await;
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
    let (renewed, ()) = soon(async { tokio::join!(shared.keep_alive(&claims), fails) }).await;
    assert!(renewed.unwrap_err().to_string().contains("not for you"));
    assert!(cluster.is_idle().await);
}
