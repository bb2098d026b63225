//! Tests of the owner's side of evictions, over a scripted cluster.

use tokio::time::advance;
use tonic::Status;

use super::*;
use crate::backend::WaitMode;
use crate::name::Name;
use crate::owner::Owner;
use crate::stores::etcd::claims::tests::{PREFIX, found, held, read as read_queue};
use crate::stores::etcd::messages::{
    DeleteRangeRequest, DeleteRangeResponse, Event, LeaseGrantRequest, LeaseGrantResponse, LeaseRequest,
    LeaseResponse, RangeResponse, Response, ResponseOp, TxnResponse, WatchRequest, WatchResponse,
};
use crate::stores::etcd::owner::Shared;
use crate::stores::etcd::scripted::{Call, Cluster, as_of, created_watch, soon};

const OTHER: &str = "/locks/_glocks/a/0123456789abcdef";

fn eviction() -> Eviction {
    Eviction::new(Owner::default().with_label("somebody"), "because")
}

fn notice_key(id: ClaimId) -> Vec<u8> {
    keys::notice("/locks/_glocks/", &Name::new("a").unwrap(), id)
}

fn notice(id: ClaimId, created: i64) -> KeyValue {
    let key = notice_key(id);
    KeyValue { value: eviction().to_text().into(), ..found(&key, created, 9) }
}

fn is_evicted(status: &ClaimStatus) -> bool {
    matches!(status, ClaimStatus::Evicted(by) if **by == eviction())
}

fn range(kvs: Vec<KeyValue>) -> ResponseOp {
    ResponseOp { response: Some(Response::Range(RangeResponse { kvs, ..RangeResponse::default() })) }
}

fn transaction(succeeded: bool, responses: Vec<ResponseOp>) -> TxnResponse {
    TxnResponse { header: as_of(50), succeeded, responses }
}

/// Expects a read of the notices of these claims.
async fn expect_look(cluster: &mut Cluster, ids: &[ClaimId]) -> Call {
    let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
    let success = ids.iter().map(|id| value_request(notice_key(*id))).collect();
    assert_eq!(asked, TxnRequest { success, ..TxnRequest::default() });
    call
}

/// Expects a renewal, and answers that the claims' keys are gone.
async fn renewed_in_vain(cluster: &mut Cluster, keys: usize) {
    cluster
        .asked::<LeaseRequest>("Lease/LeaseKeepAlive")
        .await
        .1
        .answer(&LeaseResponse { ttl: 60, header: None });
    let (_, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
    call.answer(&transaction(true, vec![range(Vec::new()); keys]));
}

/// Answers the request that watches the notices; returns the stream and the watch's id.
async fn watched(cluster: &mut Cluster, from: i64) -> (Call, i64) {
    let (first, stream) = soon(cluster.asked::<WatchRequest>("Watch/Watch")).await;
    let create = created_watch(first);
    assert_eq!((&create.key[..], create.start_revision), (&b"/locks/_glocks//evicted/"[..], from));
    assert_eq!((&create.range_end[..], &create.filters[..]), (&b"/locks/_glocks//evicted0"[..], &[1][..]));
    let watch_id = create.watch_id;
    stream.say(&WatchResponse { header: as_of(from), watch_id, created: true, ..Default::default() });
    (stream, watch_id)
}

fn put(watch_id: i64, notices: &[KeyValue]) -> WatchResponse {
    let event = |kv: &KeyValue| Event { kv: Some(kv.clone()) };
    let events = notices.iter().map(event).collect();
    WatchResponse { header: as_of(60), watch_id, events, ..WatchResponse::default() }
}

async fn is_hinted(shared: &Shared) -> bool {
    let within = Duration::from_millis(1);
    tokio::time::timeout(within, shared.session_lost.notified()).await.is_ok()
}

#[tokio::test(start_paused = true)]
async fn a_holder_is_told_by_the_watch_of_the_notices_without_a_request() {
    let (mut cluster, shared, claim, _) = held();
    shared.notices.watch(&claim);
    shared.notices.watch(&claim);
    let (stream, watch_id) = watched(&mut cluster, 5).await;
    stream.say(&put(watch_id, &[notice(ClaimId::new(7, 7), 8)]));
    let elsewhere = keys::notice("/locks/_glocks/", &Name::new("b").unwrap(), claim.id);
    stream.say(&put(watch_id, &[KeyValue { key: elsewhere, ..notice(claim.id, 8) }]));
    assert!(!is_hinted(&shared).await && shared.notices.status(&claim).is_none(), "they are not its own");
    stream.say(&put(watch_id, &[notice(claim.id, 9)]));
    soon(shared.session_lost.notified()).await;
    assert!(cluster.is_idle().await);
    // By every answer, whatever a member that lags behind says.
    assert!(is_evicted(&soon(shared.enqueue(&claim)).await.unwrap()));
    let changed = soon(shared.wait_for_change(&claim)).await.unwrap().unwrap();
    assert!(is_evicted(&changed));
    let claims = [Arc::new(claim)];
    let fails = async {
        let (_, call) = cluster.asked::<LeaseRequest>("Lease/LeaseKeepAlive").await;
        call.fail(Status::permission_denied("not for you"));
    };
    let (statuses, ()) = soon(async { tokio::join!(shared.renew(&claims), fails) }).await;
    assert!(is_evicted(statuses[0].as_ref().unwrap()));
    assert!(cluster.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn the_notice_of_a_waiter_makes_the_core_renew_nothing() {
    let (mut cluster, shared, holder, key) = held();
    let waiter = Claim { id: ClaimId::new(1, 2), ..holder.clone() };
    let own = shared.claims.take_key(PREFIX, &waiter);
    read_queue(&shared, &waiter, &[found(&key, 4, 1), found(&own, 6, 1)], 6);
    shared.notices.watch(&holder);
    let (stream, watch_id) = watched(&mut cluster, 5).await;
    stream.say(&put(watch_id, &[notice(waiter.id, 8)]));
    assert!(!is_hinted(&shared).await);
    assert!(is_evicted(&shared.notices.status(&waiter).unwrap()));
}

#[tokio::test(start_paused = true)]
async fn after_the_end_of_the_stream_a_missed_notice_is_looked_for() {
    let (mut cluster, shared, claim, _) = held();
    shared.notices.watch(&claim);
    let (stream, watch_id) = watched(&mut cluster, 5).await;
    stream.say(&put(watch_id, &[notice(ClaimId::new(7, 7), 8)]));
    assert!(cluster.is_idle().await);
    drop(stream);
    let looked = |after: i64| RangeRequest {
        key: b"/locks/_glocks//evicted/".to_vec(),
        range_end: b"/locks/_glocks//evicted0".to_vec(),
        keys_only: true,
        min_create_revision: after + 1,
        ..RangeRequest::default()
    };
    let (asked, call) = soon(cluster.asked::<RangeRequest>("KV/Range")).await;
    assert_eq!(asked, looked(8));
    // It fails, and is tried again after a pause, over another stream.
    call.fail(Status::resource_exhausted("too many requests"));
    let pause = shared.connection.config().timeout;
    assert!(cluster.is_idle().await);
    advance(pause).await;
    let (stream, _) = watched(&mut cluster, 9).await;
    drop(stream);
    let (asked, call) = soon(cluster.asked::<RangeRequest>("KV/Range")).await;
    assert_eq!(asked, looked(8));
    let kvs = vec![notice(ClaimId::new(8, 8), 10), notice(claim.id, 12)];
    call.answer(&RangeResponse { header: as_of(40), kvs, more: false });
    let call = soon(expect_look(&mut cluster, &[claim.id])).await;
    call.answer(&transaction(true, vec![range(vec![notice(claim.id, 12)])]));
    soon(shared.session_lost.notified()).await;
    assert!(is_evicted(&shared.notices.status(&claim).unwrap()));
    let (_stream, _) = watched(&mut cluster, 41).await;
}

#[tokio::test(start_paused = true)]
async fn notices_are_watched_no_more_without_the_right_or_a_lease_that_lives() {
    for has_lease in [true, false] {
        let (mut cluster, shared, claim, _) = held();
        shared.notices.watch(&claim);
        let (stream, _) = watched(&mut cluster, 5).await;
        if !has_lease {
            shared.leases.pretend_expired(1);
        }
        drop(stream);
        if has_lease {
            let (_, call) = soon(cluster.asked::<RangeRequest>("KV/Range")).await;
            call.fail(Status::permission_denied("not for you"));
        }
        assert!(cluster.is_idle().await);
        advance(Duration::from_secs(60)).await;
        shared.notices.watch(&claim);
        // With another lease, they are watched again.
        if !has_lease {
            let (_stream, _) = watched(&mut cluster, 5).await;
        }
        assert!(cluster.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_finds_a_key_gone_looks_for_the_notice() {
    let (mut cluster, shared, claim, _) = held();
    let unknown = Claim { id: ClaimId::new(1, 3), ..claim.clone() };
    let (ids, claims) = ([claim.id, unknown.id], [Arc::new(claim), Arc::new(unknown)]);
    let fails = async {
        renewed_in_vain(&mut cluster, 2).await;
        expect_look(&mut cluster, &ids).await.fail(Status::resource_exhausted("too many requests"));
    };
    let (statuses, ()) = soon(async { tokio::join!(shared.renew(&claims), fails) }).await;
    assert!(statuses.iter().all(Result::is_err), "a holder that is gone would not ask again");
    let answers = async {
        // Nothing is left to be renewed.
        let (_, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
        call.answer(&transaction(true, vec![range(Vec::new()); 2]));
        let notices = vec![range(vec![notice(ids[0], 40)]), range(Vec::new())];
        expect_look(&mut cluster, &ids).await.answer(&transaction(true, notices));
    };
    let (statuses, ()) = soon(async { tokio::join!(shared.renew(&claims), answers) }).await;
    assert!(is_evicted(statuses[0].as_ref().unwrap()));
    assert_eq!(statuses[1].as_ref().unwrap(), &ClaimStatus::Gone);
    // Whose rights end at a name, whose claim is gone.
    let refused = async {
        let (_, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
        call.answer(&transaction(true, vec![range(Vec::new())]));
        expect_look(&mut cluster, &ids[1..]).await.fail(Status::permission_denied("not for you"));
    };
    let (statuses, ()) = soon(async { tokio::join!(shared.renew(&claims[1..]), refused) }).await;
    assert_eq!(statuses[0].as_ref().unwrap(), &ClaimStatus::Gone);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_key_was_deleted_looks_for_the_notice() {
    for evicted in [true, false] {
        let (mut cluster, shared, holder, _) = held();
        let claim = Claim { id: ClaimId::new(1, 2), ..holder };
        let own = shared.claims.take_key(PREFIX, &claim);
        let queue = [found(OTHER.as_bytes(), 4, 9), found(&own, 6, 1)];
        assert_eq!(read_queue(&shared, &claim, &queue, 6), ClaimStatus::Waiting);
        let answers = async {
            let (first, stream) = cluster.asked::<WatchRequest>("Watch/Watch").await;
            let create = created_watch(first);
            assert_eq!(create.key, own);
            let deleted = WatchResponse {
                header: as_of(7),
                watch_id: create.watch_id,
                events: vec![Event::default()],
                ..WatchResponse::default()
            };
            stream.say(&deleted);
            let (_, call) = cluster.asked::<RangeRequest>("KV/Range").await;
            let kvs = queue[..1].to_vec();
            call.answer(&RangeResponse { header: as_of(7), kvs, more: false });
            let notices = if evicted { vec![notice(claim.id, 7)] } else { Vec::new() };
            let call = expect_look(&mut cluster, &[claim.id]).await;
            call.answer(&transaction(true, vec![range(notices)]));
            stream
        };
        let (changed, _stream) = soon(async { tokio::join!(shared.wait_for_change(&claim), answers) }).await;
        let status = changed.unwrap().unwrap();
        assert!(if evicted { is_evicted(&status) } else { status == ClaimStatus::Gone });
    }
}

/// Expects the transaction that enqueues a claim once more, which looks for the notice too.
async fn expect_enqueue_again(cluster: &mut Cluster, id: ClaimId) -> Call {
    let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
    let notice = notice_key(id);
    assert_eq!(asked.compare.last(), Some(&Compare::created(notice.clone(), 0)));
    assert_eq!((asked.compare.len(), asked.failure.last()), (3, Some(&value_request(notice))));
    call
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_may_have_joined_before_joins_again_only_if_it_was_not_evicted() {
    // The first request is answered; it is not, so that another lease follows; it is refused.
    for before in ["answered", "unanswered", "refused"] {
        let (mut cluster, shared, holder, _) = held();
        let claim = Claim { id: ClaimId::new(1, 2), lease: Duration::from_secs(60), ..holder };
        let key = shared.claims.take_key(PREFIX, &claim);
        let own = found(&key, 40, 1);
        let first = async {
            let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
            assert_eq!(asked.compare.len(), 2, "nobody can have evicted it yet");
            match before {
                "answered" => call.answer(&transaction(true, vec![range(vec![own.clone()]); 2])),
                "unanswered" => return Some(call),
                _ => call.fail(Status::permission_denied("not for you")),
            }
            None
        };
        let (status, _unanswered) =
            soon_or_late(async { tokio::join!(shared.enqueue_once(&claim), first) }).await;
        assert_eq!(status.is_ok(), before == "answered");
        let again = async {
            if before == "unanswered" {
                let (_, call) = cluster.asked::<LeaseGrantRequest>("Lease/LeaseGrant").await;
                call.answer(&LeaseGrantResponse { id: 2, ttl: 60, header: None });
            }
            if before == "refused" {
                let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
                assert_eq!(asked.compare.len(), 2, "it has not joined");
                return call.answer(&transaction(true, vec![range(vec![own.clone()]); 2]));
            }
            let responses = vec![range(Vec::new()), range(Vec::new()), range(vec![notice(claim.id, 45)])];
            expect_enqueue_again(&mut cluster, claim.id).await.answer(&transaction(false, responses));
        };
        let (status, ()) = soon(async { tokio::join!(shared.enqueue(&claim), again) }).await;
        let status = status.unwrap();
        assert_eq!(is_evicted(&status), before != "refused", "{before}: {status:?}");
        assert_eq!(shared.claims.key(claim.id), Some(key), "a release deletes what may come late");
    }
}

/// Waits for a future that may take the time of one request without an answer.
async fn soon_or_late<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), Box::pin(future)).await.expect("it takes a few seconds")
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_was_not_evicted_joins_again() {
    let (mut cluster, shared, holder, _) = held();
    let claim = Claim { id: ClaimId::new(1, 2), lease: Duration::from_secs(60), ..holder };
    let key = shared.claims.take_key(PREFIX, &claim);
    shared.claims.requested(claim.id, 1, true);
    for (succeeded, revision) in [(true, 40), (false, 40)] {
        let own = range(vec![found(&key, revision, 1)]);
        let mut responses = vec![own.clone(), own];
        responses.extend((!succeeded).then(|| range(Vec::new())));
        let answers = async {
            expect_enqueue_again(&mut cluster, claim.id).await.answer(&transaction(succeeded, responses));
        };
        let (status, ()) = soon(async { tokio::join!(shared.enqueue(&claim), answers) }).await;
        assert!(matches!(status.unwrap(), ClaimStatus::Held(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_request_that_finds_the_tombstone_of_the_eviction_looks_for_the_notice() {
    let [wait, only_try] = [WaitMode::Wait, WaitMode::Try];
    for (evicted, wait_mode) in [(true, wait), (false, wait), (true, only_try), (false, only_try)] {
        let (mut cluster, shared, holder, _) = held();
        let lease = Duration::from_secs(60);
        let claim = Claim { id: ClaimId::new(1, 2), lease, wait_mode, ..holder };
        let answers = async {
            let (_, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
            call.answer(&transaction(false, vec![range(Vec::new()); 2]));
            let notices = if evicted { vec![notice(claim.id, 45)] } else { Vec::new() };
            let call = expect_look(&mut cluster, &[claim.id]).await;
            call.answer(&transaction(true, vec![range(notices)]));
            if !evicted && wait_mode == only_try {
                let (_, call) = cluster.asked::<DeleteRangeRequest>("KV/DeleteRange").await;
                call.answer(&DeleteRangeResponse { deleted: 0 });
            }
        };
        let (status, ()) = soon(async { tokio::join!(shared.enqueue(&claim), answers) }).await;
        let status = status.unwrap();
        let is_left = shared.claims.key(claim.id).is_some();
        assert_eq!(is_left, evicted || wait_mode == wait, "nobody else releases a try that is gone");
        assert!(if evicted { is_evicted(&status) } else { status == ClaimStatus::Gone });
    }
}

#[tokio::test(start_paused = true)]
async fn an_eviction_is_remembered_while_its_owner_may_ask() {
    let (_cluster, shared, claim, _) = held();
    let claim = Claim { lease: Duration::from_secs(7200), ..claim };
    let is_known = |claim: &Claim| shared.notices.status(claim).is_some();
    let other = Claim { id: ClaimId::new(1, 9), ..claim.clone() };
    assert!(shared.notices.note(&[notice(claim.id, 5), notice(other.id, 6)]));
    assert!(!shared.notices.note(&[notice(claim.id, 5)]), "it is known already");
    assert!(is_known(&claim));
    advance(claim.lease + Duration::from_secs(59)).await;
    shared.notices.note(&[notice(ClaimId::new(1, 10), 7)]);
    assert!(is_known(&claim) && !is_known(&other), "nobody has asked for the other");
    advance(claim.lease + Duration::from_secs(60)).await;
    shared.notices.note(&[notice(ClaimId::new(1, 11), 8)]);
    assert!(!is_known(&claim));
    assert_eq!(shared.notices.state.lock().evicted.len(), 1);
}
