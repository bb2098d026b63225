//! Tests of claims that are kept beyond their owners, over a scripted cluster.

use tokio::time::advance;
use tonic::Status;

use super::*;
use crate::deadline::margin;
use crate::stores::etcd::claims::tests::{MUTEX, PREFIX, claim, found, held};
use crate::stores::etcd::messages::{
    DeleteRangeRequest, DeleteRangeResponse, KeyValue, LeaseGrantRequest, LeaseGrantResponse, LeaseRequest,
    LeaseResponse, RangeResponse, Response, ResponseOp, TxnResponse,
};
use crate::stores::etcd::scripted::{Call, Cluster, as_of, soon};

const REST: Duration = Duration::from_secs(600);
/// The claim's own lease, and the common one that comes later.
const OWN: i64 = 9;
const COMMON: i64 = 12;
/// The length of the own lease in seconds: with a margin of 1/256.
const LENGTH: i64 = 603;

/// The key of the claim as it is under this lease since it was written at this revision.
fn under(key: &[u8], lease: i64, mod_revision: i64) -> KeyValue {
    KeyValue { mod_revision, ..found(key, 4, lease) }
}

async fn grant_lease(cluster: &mut Cluster, id: i64, length: i64) {
    let (asked, call) = cluster.asked::<LeaseGrantRequest>("Lease/LeaseGrant").await;
    assert_eq!(asked, LeaseGrantRequest { ttl: length });
    call.answer(&LeaseGrantResponse { header: as_of(9), id, ttl: length });
}

/// Expects the request that puts the key, which was written last at this revision, under a lease.
async fn expect_move(cluster: &mut Cluster, key: &[u8], written_at: i64, lease: i64) -> Call {
    let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
    let put = PutRequest { key: key.to_vec(), value: Vec::new(), lease, ignore_value: true };
    let expected = TxnRequest {
        compare: vec![Compare::created(key.to_vec(), 4), Compare::modified(key.to_vec(), written_at)],
        success: vec![operation(Request::Put(put))],
        failure: vec![key_request(key)],
    };
    assert_eq!(asked, expected);
    call
}

fn moved(at: i64) -> TxnResponse {
    TxnResponse { header: as_of(at), succeeded: true, responses: Vec::new() }
}

fn range(at: i64, succeeded: bool, kvs: Vec<KeyValue>) -> TxnResponse {
    let range = RangeResponse { header: None, kvs, more: false };
    let responses = vec![ResponseOp { response: Some(Response::Range(range)) }];
    TxnResponse { header: as_of(at), succeeded, responses }
}

/// Expects the read of the key, and says that it exists, or does not.
async fn answer_read(cluster: &mut Cluster, key: &[u8], exists: bool) {
    let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
    assert_eq!(asked, TxnRequest::of(vec![key_request(key)]));
    call.answer(&range(30, true, if exists { vec![under(key, OWN, 20)] } else { Vec::new() }));
}

/// Says of whatever is read, such as the notice of an eviction, that it does not exist.
async fn answer_nothing(cluster: &mut Cluster) {
    let (_, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
    call.answer(&range(30, true, Vec::new()));
}

/// A holder with a lease of a minute that is kept for ten, since revision 20.
async fn kept() -> (Cluster, Arc<Shared>, Arc<Claim>, Vec<u8>) {
    let (mut cluster, shared, claim, key) = held();
    let claim = Arc::new(claim.with_lease(Duration::from_secs(60)));
    let answers = async {
        grant_lease(&mut cluster, OWN, LENGTH).await;
        expect_move(&mut cluster, &key, 4, OWN).await.answer(&moved(20));
    };
    let (status, ()) = soon(async { tokio::join!(shared.keep_for(&claim, REST), answers) }).await;
    let ClaimStatus::Held(grant) = status.unwrap() else { panic!("it holds") };
    let length = Duration::from_secs(LENGTH.unsigned_abs());
    assert_eq!((grant.lease, grant.expires), (Some(length), Some(now() + length)));
    assert!(length - margin(length) >= REST, "the owner may count on all of it");
    (cluster, shared, claim, key)
}

/// The answer to a renewal that the cluster answers like this.
async fn renewed(
    shared: &Arc<Shared>,
    claim: &Arc<Claim>,
    answers: impl Future<Output = ()>,
) -> Result<ClaimStatus> {
    let renewal = shared.renew(std::slice::from_ref(claim));
    let (mut statuses, ()) = soon(async { tokio::join!(renewal, answers) }).await;
    statuses.remove(0)
}

fn expires(status: Result<ClaimStatus>) -> Duration {
    match status.unwrap() {
        ClaimStatus::Held(grant) => grant.expires.unwrap() - now(),
        other => panic!("it is {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_kept_claim_is_read_and_its_own_lease_is_not_kept_alive() {
    let (mut cluster, shared, claim, key) = kept().await;
    advance(Duration::from_secs(20)).await;
    let status = renewed(&shared, &claim, answer_read(&mut cluster, &key, true)).await;
    assert_eq!(expires(status), Duration::from_secs(LENGTH.unsigned_abs() - 20));
    assert!(cluster.is_idle().await);
    // It lasts long enough already, so that nothing is asked.
    let status = soon(shared.keep_for(&claim, REST - Duration::from_secs(20))).await;
    assert_eq!(expires(status), Duration::from_secs(LENGTH.unsigned_abs() - 20));
    let answers = async {
        answer_read(&mut cluster, &key, false).await;
        answer_nothing(&mut cluster).await;
    };
    assert_eq!(renewed(&shared, &claim, answers).await.unwrap(), ClaimStatus::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_time_for_which_the_common_lease_lasts_needs_no_request() {
    let (mut cluster, shared, claim, _) = held();
    // The common lease has a minute left, of which its margin is taken off.
    let status = soon(shared.keep_for(&claim, Duration::from_secs(59))).await.unwrap();
    assert!(matches!(status, ClaimStatus::Held(grant) if grant.lease.is_none()));
    assert!(cluster.is_idle().await);
    let asked = cluster.asked::<LeaseGrantRequest>("Lease/LeaseGrant");
    tokio::select! {
        status = shared.keep_for(&claim, Duration::from_secs(60)) => panic!("it is {status:?}"),
        (asked, _) = soon(asked) => assert_eq!(asked.ttl, 61),
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_put_under_the_common_lease_again_once_that_lasts_longer() {
    let (mut cluster, shared, claim, key) = kept().await;
    advance(Duration::from_secs(545)).await;
    let answers = async {
        grant_lease(&mut cluster, COMMON, 60).await;
        answer_read(&mut cluster, &key, true).await;
        expect_move(&mut cluster, &key, 20, COMMON).await.answer(&moved(40));
        let (asked, call) = cluster.asked::<LeaseRequest>("Lease/LeaseKeepAlive").await;
        assert_eq!(asked.id, COMMON);
        call.answer(&LeaseResponse { header: as_of(40), ttl: 60 });
        answer_read(&mut cluster, &key, true).await;
    };
    let status = renewed(&shared, &claim, answers).await;
    assert_eq!(expires(status), Duration::from_secs(60));
    assert_eq!(shared.claims.position(claim.id).unwrap().mine.lease, COMMON);
}

#[tokio::test(start_paused = true)]
async fn a_full_cluster_has_the_own_lease_kept_alive_instead() {
    let (mut cluster, shared, claim, key) = kept().await;
    advance(Duration::from_secs(545)).await;
    let full = || Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
    let answers = async {
        grant_lease(&mut cluster, COMMON, 60).await;
        answer_read(&mut cluster, &key, true).await;
        expect_move(&mut cluster, &key, 20, COMMON).await.fail(full());
        let (asked, call) = cluster.asked::<LeaseRequest>("Lease/LeaseKeepAlive").await;
        assert_eq!(asked.id, OWN);
        call.answer(&LeaseResponse { header: as_of(40), ttl: LENGTH });
        answer_read(&mut cluster, &key, true).await;
    };
    assert_eq!(expires(renewed(&shared, &claim, answers).await), Duration::from_secs(LENGTH.unsigned_abs()));
    assert!(shared.claims.position(claim.id).unwrap().moving_to.is_empty(), "it was refused");
}

/// The first try has no answer, and the second one is refused.
async fn move_without_answer(cluster: &mut Cluster, key: &[u8]) {
    for status in [Status::unavailable("no answer"), Status::permission_denied("not now")] {
        expect_move(cluster, key, 4, OWN).await.fail(status);
    }
}

#[tokio::test(start_paused = true)]
async fn a_move_without_an_answer_is_settled_before_anything_is_confirmed() {
    // Where the key is when it is looked for: nobody has written it, the move was carried out, or another
    // program has written it.
    for (lease, written_at) in [(1, 4), (OWN, 20), (77, 21)] {
        let (mut cluster, shared, claim, key) = held();
        let claim = Arc::new(claim.with_lease(Duration::from_secs(60)));
        let answers = async {
            grant_lease(&mut cluster, OWN, LENGTH).await;
            move_without_answer(&mut cluster, &key).await;
        };
        let (kept, ()) = soon(async { tokio::join!(shared.keep_for(&claim, REST), answers) }).await;
        kept.unwrap_err();
        // It counts as lasting no longer than the shorter of both.
        assert!(expires(Ok(shared.claims.status(&claim))) <= Duration::from_secs(60));
        let fails = async {
            move_without_answer(&mut cluster, &key).await;
            let (_, call) = cluster.asked::<LeaseRequest>("Lease/LeaseKeepAlive").await;
            call.answer(&LeaseResponse { header: as_of(9), ttl: 60 });
            answer_read(&mut cluster, &key, true).await;
        };
        assert!(renewed(&shared, &claim, fails).await.is_err(), "nothing is confirmed");
        let answers = async {
            let call = expect_move(&mut cluster, &key, 4, OWN).await;
            if lease == 1 {
                call.answer(&moved(22));
            } else {
                call.answer(&range(21, false, vec![under(&key, lease, written_at)]));
            }
            if lease == 77 {
                expect_move(&mut cluster, &key, 21, OWN).await.answer(&moved(22));
            }
            answer_read(&mut cluster, &key, true).await;
        };
        let status = renewed(&shared, &claim, answers).await;
        let left = expires(status);
        assert!(left > REST && left <= Duration::from_secs(LENGTH.unsigned_abs()), "{lease}: {left:?}");
        let position = shared.claims.position(claim.id).unwrap();
        assert!(position.moving_to.is_empty());
        assert_eq!((position.mine.lease, position.written_at), (OWN, if lease == OWN { 20 } else { 22 }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_left_is_forgotten_and_its_key_and_lease_stay() {
    let (mut cluster, shared, claim, key) = kept().await;
    let left = shared.release_after(&claim, REST);
    let (left, ()) = soon(async { tokio::join!(left, answer_read(&mut cluster, &key, true)) }).await;
    assert_eq!(left.unwrap(), Release::Released);
    assert!(cluster.is_idle().await);
    assert_eq!(shared.claims.key(claim.id), None);
    assert_ne!(shared.claims.take_key(PREFIX, &self::claim(2, MUTEX)), key, "it is still in the queue");
    assert_eq!(soon(shared.release_after(&claim, REST)).await.unwrap(), Release::NotHeld);
    assert!(!shared.leases.take_all().contains(&OWN), "it must not be revoked when the store is dropped");
    // A renewal that was on its way changes nothing.
    let answers = async {
        answer_nothing(&mut cluster).await;
        answer_nothing(&mut cluster).await;
    };
    assert_eq!(renewed(&shared, &claim, answers).await.unwrap(), ClaimStatus::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_claim_under_the_common_lease_is_left_under_one_of_its_own() {
    let (mut cluster, shared, claim, key) = held();
    let answers = async {
        grant_lease(&mut cluster, OWN, 11).await;
        expect_move(&mut cluster, &key, 4, OWN).await.answer(&moved(20));
    };
    let left = shared.release_after(&claim, Duration::from_secs(10));
    let (left, ()) = soon(async { tokio::join!(left, answers) }).await;
    assert_eq!(left.unwrap(), Release::Released);
    assert!(cluster.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_gone_is_not_left() {
    let (mut cluster, shared, claim, key) = kept().await;
    let answers = async {
        answer_read(&mut cluster, &key, false).await;
        answer_nothing(&mut cluster).await;
        let (asked, call) = cluster.asked::<DeleteRangeRequest>("KV/DeleteRange").await;
        assert_eq!(asked.key, key);
        call.answer(&DeleteRangeResponse { deleted: 0 });
    };
    let left = shared.release_after(&claim, REST);
    let (left, ()) = soon(async { tokio::join!(left, answers) }).await;
    assert_eq!(left.unwrap(), Release::NotHeld);
}
