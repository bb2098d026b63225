//! Tests of enqueueing, over a scripted cluster.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::FutureExt;
use tonic::Status;

use super::super::*;
use crate::backend::Backend;
use crate::backend::ClaimId;
use crate::queue::Permits;
use crate::stores::etcd::claims::tests::{MUTEX, OTHER, PREFIX, READ, claim, fencing_token, found, held};
use crate::stores::etcd::key_reads::key_request;
use crate::stores::etcd::messages::{
    Compare, DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, LeaseRequest,
    LeaseResponse, RangeRequest, RangeResponse, Request, Response, ResponseOp, TxnRequest, TxnResponse,
    operation,
};
use crate::stores::etcd::reading::{FEW, queue_request};
use crate::stores::etcd::scripted::{Call, Cluster, as_of, in_term, soon};
use crate::stores::etcd::{Etcd, keys};
use crate::stores::watched::releases::Releases;

/// A store with lease 1, and a claim that is not in the queue yet.
fn absent(permits: Permits) -> (Cluster, Arc<Shared>, Claim, Vec<u8>) {
    let (cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
    shared.leases.pretend(1);
    let mut claim = claim(1, permits);
    claim.lease = shared.leases.find(1).unwrap().ttl();
    let key = shared.claims.take_key(PREFIX, &claim);
    (cluster, shared, claim, key)
}

/// Expects the transaction that enqueues the claim under this lease.
async fn expect_enqueue(cluster: &mut Cluster, shared: &Shared, claim: &Claim, lease: i64) -> Call {
    let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
    let key = shared.claims.key(claim.id).unwrap();
    let tombstone = keys::tombstone(PREFIX, claim.id, lease);
    assert_eq!(asked.compare, [Compare::created(key.clone(), 0), Compare::created(tombstone, 0)]);
    let Some(Request::Put(put)) = &asked.success[0].request else { panic!("{asked:?}") };
    assert_eq!((&put.key, put.lease), (&key, lease));
    let reads =
        [key_request(&key), operation(Request::Range(queue_request(&keys::queue(PREFIX, &claim.name), FEW)))];
    assert_eq!((&asked.success[1..], &asked.failure[..]), (&reads[..], &reads[..]));
    call
}

/// The answer to that transaction as of revision 50: the claim's own key, and its queue.
fn answer(own: &[KeyValue], queue: &[KeyValue], more: bool) -> TxnResponse {
    let range = |kvs: &[KeyValue], more| {
        let range = RangeResponse { header: None, kvs: kvs.to_vec(), more };
        ResponseOp { response: Some(Response::Range(range)) }
    };
    TxnResponse { header: as_of(50), succeeded: true, responses: vec![range(own, false), range(queue, more)] }
}

async fn expect_delete(cluster: &mut Cluster, key: &[u8], deleted: i64) {
    let (asked, call) = cluster.asked::<DeleteRangeRequest>("KV/DeleteRange").await;
    assert_eq!(asked.key, key);
    call.answer(&DeleteRangeResponse { deleted });
}

#[tokio::test(start_paused = true)]
async fn a_claim_behind_another_waits_and_a_try_is_released_again() {
    for wait_mode in [WaitMode::Wait, WaitMode::Try] {
        for others in [0, 1] {
            let (mut cluster, shared, mut claim, key) = absent(MUTEX);
            claim.wait_mode = wait_mode;
            let queue = [found(OTHER.as_bytes(), 3, 9), found(&key, 40, 1)];
            let is_released = others == 1 && wait_mode == WaitMode::Try;
            let answers = async {
                let call = expect_enqueue(&mut cluster, &shared, &claim, 1).await;
                call.answer(&answer(&queue[1..], &queue[1 - others..], false));
                if is_released {
                    expect_delete(&mut cluster, &key, 1).await;
                }
            };
            let (status, ()) = soon(async { tokio::join!(shared.enqueue_once(&claim), answers) }).await;
            match (others, wait_mode) {
                (0, _) => assert_eq!(fencing_token(status.unwrap()), Some(40)),
                (_, WaitMode::Wait) => assert_eq!(status.unwrap(), ClaimStatus::Waiting),
                (_, WaitMode::Try) => assert_eq!(status.unwrap(), ClaimStatus::Gone),
            }
            assert!(cluster.is_idle().await);
            assert_eq!(shared.claims.key(claim.id).is_none(), is_released);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn more_of_a_long_queue_is_read_only_if_no_claim_of_its_front_blocks_alone() {
    for (permits, reads) in [(MUTEX, false), (READ, true)] {
        let (mut cluster, shared, claim, key) = absent(permits);
        let reader = format!("/locks/_glocks/a/0123456789abcdef0123.0.1.{}", READ.capacity);
        let other = found(reader.as_bytes(), 3, 9);
        let own = found(&key, 40, 1);
        let answers = async {
            let call = expect_enqueue(&mut cluster, &shared, &claim, 1).await;
            call.answer(&answer(std::slice::from_ref(&own), std::slice::from_ref(&other), true));
            if reads {
                let (_, call) = cluster.asked::<RangeRequest>("KV/Range").await;
                let kvs = vec![other.clone(), own.clone()];
                call.answer(&RangeResponse { header: as_of(51), kvs, more: false });
            }
        };
        let (status, ()) = soon(async { tokio::join!(shared.enqueue_once(&claim), answers) }).await;
        assert_eq!(fencing_token(status.unwrap()), reads.then_some(40));
        assert!(cluster.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_lease_expired_unnoticed_joins_under_another() {
    let (mut cluster, shared, claim, key) = absent(MUTEX);
    let answers = async {
        let call = expect_enqueue(&mut cluster, &shared, &claim, 1).await;
        call.fail(Status::not_found("etcdserver: requested lease not found"));
        let (_, call) = cluster.asked::<LeaseGrantRequest>("Lease/LeaseGrant").await;
        call.answer(&LeaseGrantResponse { id: 2, ttl: 60, header: None });
        let own = [found(&key, 40, 2)];
        expect_enqueue(&mut cluster, &shared, &claim, 2).await.answer(&answer(&own, &own, false));
    };
    let (status, ()) = soon(async { tokio::join!(shared.enqueue_once(&claim), answers) }).await;
    assert_eq!(fencing_token(status.unwrap()), Some(40));
    assert_eq!((shared.leases.find(1), shared.leases.find(2).is_some()), (None, true));
    soon(shared.session_lost.notified()).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_that_does_not_concern_the_lease_is_returned() {
    let (mut cluster, shared, claim, _) = absent(MUTEX);
    let refuses = async {
        expect_enqueue(&mut cluster, &shared, &claim, 1).await.fail(Status::permission_denied("not for you"));
    };
    let (status, ()) = soon(async { tokio::join!(shared.enqueue_once(&claim), refuses) }).await;
    assert!(status.unwrap_err().to_string().contains("not for you"));
    assert!(cluster.is_idle().await && shared.leases.find(1).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_key_of_an_earlier_lease_is_deleted_and_its_claim_must_join_again() {
    for (own, deleted) in [(true, true), (true, false), (false, false)] {
        let (mut cluster, shared, claim, key) = absent(MUTEX);
        let kvs = if own { vec![found(&key, 40, 7)] } else { Vec::new() };
        let answers = async {
            expect_enqueue(&mut cluster, &shared, &claim, 1).await.answer(&answer(&kvs, &kvs, false));
            if own {
                let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
                assert_eq!(asked, delete_if_same(&key, 40), "a late copy hits no later key");
                call.answer(&TxnResponse { succeeded: deleted, ..TxnResponse::default() });
            }
        };
        let (status, ()) = soon(async { tokio::join!(shared.enqueue_once(&claim), answers) }).await;
        assert_eq!(status.ok(), (!deleted).then_some(ClaimStatus::Gone));
        assert!(cluster.is_idle().await && shared.claims.position(claim.id).is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_request_had_no_answer_is_remembered_with_its_lease() {
    let (mut cluster, shared, claim, _) = absent(MUTEX);
    let (status, _call) =
        tokio::join!(shared.enqueue_once(&claim), expect_enqueue(&mut cluster, &shared, &claim, 1));
    assert!(status.unwrap_err().to_string().contains("did not answer"));
    assert_eq!(shared.claims.to_release(claim.id).unwrap().unanswered, BTreeSet::from([1]));
    // The lease takes no new claims, so that it ends with those that it has.
    let other = shared.leases.get(claim.lease).now_or_never();
    assert!(other.is_none() && shared.leases.find(1).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_limited_number_of_claims_join_at_the_same_time_and_one_that_gives_up_before_sends_nothing() {
    let (mut cluster, shared, first, _) = absent(MUTEX);
    let etcd = Arc::new(Etcd { shared });
    let joins = |number| {
        let (etcd, claim) = (Arc::clone(&etcd), Claim { id: ClaimId::new(1, number), ..first.clone() });
        tokio::spawn(async move { etcd.enqueue(&claim).await })
    };
    let crowd: Vec<_> = (1..=MAX_CONCURRENT as u64 + 3).map(joins).collect();
    let mut calls = Vec::new();
    for _ in 0..MAX_CONCURRENT {
        calls.push(cluster.asked::<TxnRequest>("KV/Txn").await.1);
    }
    assert!(cluster.is_idle().await);
    let [given_up, next, last] = [0, 1, 2].map(|number| &crowd[MAX_CONCURRENT + number]);
    given_up.abort();
    let failed = || Status::permission_denied("not for you");
    calls.pop().unwrap().fail(failed());
    calls.push(cluster.asked::<TxnRequest>("KV/Txn").await.1);
    assert!(cluster.is_idle().await && !next.is_finished());
    calls.into_iter().for_each(|call| call.fail(failed()));
    cluster.asked::<TxnRequest>("KV/Txn").await.1.fail(failed());
    assert!(cluster.is_idle().await && next.is_finished() && last.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_to_a_release_does_not_forget_a_claim_that_has_joined_again() {
    let (mut cluster, shared, mut claim, key) = held();
    let slow = tokio::spawn({
        let (releaser, claim) = (Arc::clone(&shared.releaser), claim.clone());
        async move { releaser.try_release(&claim).await }
    });
    let (_, late) = cluster.asked::<DeleteRangeRequest>("KV/DeleteRange").await;
    let answers = expect_delete(&mut cluster, &key, 1);
    let (released, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
    assert_eq!(released.unwrap(), Release::Released);
    claim.lease = shared.leases.find(1).unwrap().ttl();
    let answers = async {
        let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
        let Some(Request::Put(put)) = &asked.success[0].request else { panic!("{asked:?}") };
        assert_ne!(put.key, key, "the slow release may still delete it");
        let own = [found(&put.key, 60, 1)];
        call.answer(&answer(&own, &own, false));
    };
    let (status, ()) = soon(async { tokio::join!(shared.enqueue_once(&claim), answers) }).await;
    assert_eq!(fencing_token(status.unwrap()), Some(60));
    late.answer(&DeleteRangeResponse { deleted: 0 });
    slow.await.unwrap().unwrap();
    assert!(shared.claims.key(claim.id).is_some() && shared.claims.position(claim.id).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_transaction_that_enqueues_a_claim_confirms_the_keep_alive_of_its_lease() {
    // The leader is the same; or another one was elected.
    for (term, left) in [(0, 60), (1, 39)] {
        let (mut cluster, shared, claim, key) = absent(MUTEX);
        tokio::time::advance(Duration::from_secs(21)).await;
        let answers = async {
            let (_, call) = cluster.asked::<LeaseRequest>("Lease/LeaseKeepAlive").await;
            call.answer(&LeaseResponse { header: None, ttl: 60 });
            let call = expect_enqueue(&mut cluster, &shared, &claim, 1).await;
            let own = [found(&key, 40, 1)];
            call.answer(&TxnResponse { header: in_term(1, term), ..answer(&own, &own, false) });
        };
        let (status, ()) = soon(async { tokio::join!(shared.enqueue_once(&claim), answers) }).await;
        let ClaimStatus::Held(grant) = status.unwrap() else { panic!("nobody is in front of it") };
        assert_eq!(grant.expires.map(|ends| ends - now()), Some(Duration::from_secs(left)));
        assert!(cluster.is_idle().await);
    }
}
