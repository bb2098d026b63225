//! Tests of renewal, over a scripted cluster.

use std::time::Duration;

use tokio::time::advance;
use tonic::Status;

use super::super::*;
use crate::stores::etcd::claims::tests::{MUTEX, OTHER, PREFIX, claim, fencing_token, found, held, read};
use crate::stores::etcd::messages::{
    Header, LeaseRequest, LeaseResponse, RangeRequest, RangeResponse, Request, Response, ResponseOp,
    TxnRequest, TxnResponse,
};
use crate::stores::etcd::scripted::{Cluster, as_of, in_term, soon};
use crate::sync::Instant;

const KEEP: &str = "Lease/LeaseKeepAlive";
const TXN: &str = "KV/Txn";

/// Answers a keep-alive of 60 s, and the read after it, that the key of the holder exists.
async fn answer_renewal(cluster: &mut Cluster, key: &[u8], kept: Option<Header>, read: Option<Header>) {
    let (_, call) = cluster.asked::<LeaseRequest>(KEEP).await;
    call.answer(&LeaseResponse { header: kept, ttl: 60 });
    let (_, call) = cluster.asked::<TxnRequest>(TXN).await;
    let range = RangeResponse { header: None, kvs: vec![found(key, 4, 1)], more: false };
    let responses = vec![ResponseOp { response: Some(Response::Range(range)) }];
    call.answer(&TxnResponse { header: read, succeeded: true, responses });
}

/// A holder whose lease of 60 s was confirmed in term 2, ten seconds ago.
async fn held_in_term_2() -> (Cluster, Arc<Shared>, [Arc<Claim>; 1], Vec<u8>) {
    let (cluster, shared, claim, key) = held();
    shared.leases.confirm(&shared.leases.find(1).unwrap(), in_term(1, 2).as_ref());
    advance(Duration::from_secs(10)).await;
    (cluster, shared, [Arc::new(claim)], key)
}

/// How long a claim is still held.
fn left(status: &ClaimStatus) -> Option<Duration> {
    let ClaimStatus::Held(grant) = status else { return None };
    grant.expires.map(|ends: Instant| ends - now())
}

#[tokio::test(start_paused = true)]
async fn a_renewal_reads_what_the_cluster_agrees_on_and_finds_a_deleted_key() {
    // The key exists; it is gone; the member lags behind and does not have it yet.
    for (created, read_at, holds) in [(4, 9, true), (0, 9, false), (0, 3, true)] {
        let (mut cluster, shared, claim, key) = held();
        let claims = [Arc::new(claim)];
        let answers = async {
            let (asked, call) = cluster.asked::<LeaseRequest>(KEEP).await;
            assert_eq!(asked.id, 1);
            call.answer(&LeaseResponse { ttl: 60, header: None });
            let (asked, call) = cluster.asked::<TxnRequest>(TXN).await;
            let [operation] = &asked.success[..] else { panic!("{asked:?}") };
            let Some(Request::Range(range)) = &operation.request else { panic!("{asked:?}") };
            assert_eq!(*range, RangeRequest { key: key.clone(), keys_only: true, ..RangeRequest::default() });
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

#[tokio::test(start_paused = true)]
async fn a_renewal_counts_from_before_its_keep_alive_and_costs_two_requests() {
    let (mut cluster, shared, claims, key) = held_in_term_2().await;
    let answers = answer_renewal(&mut cluster, &key, in_term(1, 2), in_term(2, 2));
    let (renewed, ()) = soon(async { tokio::join!(shared.keep_alive(&claims), answers) }).await;
    assert_eq!(left(&renewed.unwrap()[0]), Some(Duration::from_secs(60)));
    assert!(cluster.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_does_not_know_that_it_was_deposed_renews_nothing() {
    let (mut cluster, shared, claims, key) = held_in_term_2().await;
    // It answers each keep-alive in its old term; and another member, each read in the new one.
    let answers = async {
        for _ in 0..RENEWALS {
            answer_renewal(&mut cluster, &key, in_term(1, 2), in_term(2, 3)).await;
        }
    };
    let (renewed, ()) = soon(async { tokio::join!(shared.keep_alive(&claims), answers) }).await;
    let refused = renewed.unwrap_err();
    assert!(refused.is_unavailable() && refused.to_string().contains("leader has changed"), "{refused}");
    assert_eq!(left(&shared.claims.status(&claims[0])), Some(Duration::from_secs(50)));
    assert!(cluster.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_during_an_election_is_tried_again_at_once() {
    let (mut cluster, shared, claims, key) = held_in_term_2().await;
    let answers = async {
        answer_renewal(&mut cluster, &key, in_term(1, 2), in_term(2, 3)).await;
        answer_renewal(&mut cluster, &key, in_term(2, 3), in_term(2, 3)).await;
    };
    let (renewed, ()) = soon(async { tokio::join!(shared.keep_alive(&claims), answers) }).await;
    assert_eq!(left(&renewed.unwrap()[0]), Some(Duration::from_secs(60)));
    assert!(cluster.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_watch_grants_a_waiter_no_time_of_a_keep_alive_that_is_not_confirmed() {
    let (mut cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
    shared.leases.pretend(1);
    let claim = claim(1, MUTEX);
    let key = shared.claims.take_key(PREFIX, &claim);
    let queue = [found(OTHER.as_bytes(), 4, 9), found(&key, 5, 1)];
    assert_eq!(read(&shared, &claim, &queue, 5), ClaimStatus::Waiting);
    advance(Duration::from_secs(10)).await;
    let claims = [Arc::new(claim)];
    let renewed = shared.keep_alive(&claims);
    let granted = async {
        let (_, call) = cluster.asked::<LeaseRequest>(KEEP).await;
        call.answer(&LeaseResponse { header: None, ttl: 60 });
        let (_, read) = cluster.asked::<TxnRequest>(TXN).await;
        let granted = shared.claims.advance(&claims[0], &[OTHER.into()]).unwrap();
        assert_eq!(left(&granted), Some(Duration::from_secs(50)));
        let range = RangeResponse { header: None, kvs: vec![found(&key, 5, 1)], more: false };
        let responses = vec![ResponseOp { response: Some(Response::Range(range)) }];
        read.answer(&TxnResponse { header: as_of(9), succeeded: true, responses });
    };
    let (renewed, ()) = soon(async { tokio::join!(renewed, granted) }).await;
    assert_eq!(left(&renewed.unwrap()[0]), Some(Duration::from_secs(60)));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_refused_tells_each_claim_the_kind_the_reason_once_and_the_cause() {
    for (refusal, is_kind, expected) in [
        (
            Status::permission_denied("not for you"),
            (|error| matches!(error, Error::PermissionDenied { .. })) as fn(&Error) -> bool,
            "etcd://127.0.0.1:1 denied access: the user lacks a right (not for you): grant its role read and \
             write on the prefix, by etcdctl role grant-permission ROLE --prefix=true readwrite \
             /locks/_glocks/",
        ),
        (
            Status::unavailable("etcdserver: no leader"),
            Error::is_unavailable,
            "etcd://127.0.0.1:1 is unavailable: etcdserver: no leader: check that a majority of its members \
             runs, and that they reach each other",
        ),
        (
            Status::unavailable("etcdserver: server stopped"),
            Error::is_unavailable,
            "etcd://127.0.0.1:1 is unavailable: etcdserver: server stopped",
        ),
        (
            Status::out_of_range("odd"),
            |error| matches!(error, Error::FailedPrecondition { .. }),
            "etcd://127.0.0.1:1 cannot do this: odd",
        ),
    ] {
        let (mut cluster, shared, claim, _) = held();
        let claims = [Arc::new(claim.clone()), Arc::new(claim)];
        let code = refusal.code();
        let fails = async {
            let (_, call) = cluster.asked::<LeaseRequest>(KEEP).await;
            call.fail(refusal);
        };
        let (renewed, ()) = soon(async { tokio::join!(shared.renew(&claims), fails) }).await;
        assert_eq!(renewed.len(), 2);
        for error in renewed.into_iter().map(Result::unwrap_err) {
            assert!(is_kind(&error), "{error:?}");
            assert_eq!(error.to_string(), expected);
            let source = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Status>());
            assert_eq!(source.map(Status::code), Some(code));
        }
    }
}
