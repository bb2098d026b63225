//! The python-etcd3 key: with `interop=python-etcd3`, a mutex also takes the one key of python-etcd3's lock,
//! so that each excludes the other.
//!
//! The key is `<prefix><name>`. The client that created it holds python-etcd3's lock, and deletes it only if
//! it still has that client's value. On our side only the head of the queue asks for the key. A claim that
//! joins an empty queue takes it in the same transaction.

use std::sync::Arc;

use super::claims::Position;
use super::connection::{Connection, is_lease_expired};
use super::key_reads::value_request;
use super::keys;
use super::messages::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, Request, RequestOp, TxnRequest, operation, revision,
};
use super::reading::ranges;
use crate::backend::{Claim, ClaimId};
use crate::error::Result;
use crate::sync::{Instant, now};

/// The value of the key while it is ours: 16 bytes, as python-etcd3's values are.
fn value(id: ClaimId) -> Vec<u8> {
    let text = id.to_string();
    text.as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

/// Deletes the key if it is this claim's.
pub(super) fn give_back(id: ClaimId, key: Vec<u8>) -> RequestOp {
    let delete = Request::Delete(DeleteRangeRequest { key: key.clone() });
    operation(Request::Transaction(TxnRequest {
        compare: vec![Compare::has_value(key, value(id))],
        success: vec![operation(delete)],
        failure: Vec::new(),
    }))
}

/// Puts the key under another lease if it is this claim's.
pub(super) fn move_to(id: ClaimId, key: Vec<u8>, lease: i64) -> RequestOp {
    let put = PutRequest::new(key.clone(), value(id), lease);
    operation(Request::Transaction(TxnRequest {
        compare: vec![Compare::has_value(key, value(id))],
        success: vec![operation(Request::Put(put))],
        failure: Vec::new(),
    }))
}

/// The outcome of a try to take the key.
pub(super) enum Attempt {
    /// The claim has the key, by a request that was sent then.
    Ours(Instant),
    /// The claim's own key is gone.
    Gone,
    /// The claim's lease has expired.
    LeaseExpired,
    /// Another client has the key, as of this revision.
    Taken(Vec<u8>, i64),
    /// The key is free by now: try again.
    Free,
}

/// The python-etcd3 keys of one cluster.
pub(super) struct PythonEtcd3 {
    connection: Arc<Connection>,
}

impl PythonEtcd3 {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        PythonEtcd3 { connection }
    }

    /// The python-etcd3 key of a claim's lock; `None` if the claim needs none.
    ///
    /// Shared claims need none, because python-etcd3's lock cannot be shared.
    pub(super) fn key(&self, claim: &Claim) -> Option<Vec<u8>> {
        let config = self.connection.config();
        let is_needed = config.python_etcd3 && claim.permits.is_exclusive();
        is_needed.then(|| keys::python_etcd3(&config.prefix, &claim.name))
    }

    /// Whether a claim needs no python-etcd3 key, or has it according to what was read.
    pub(super) fn is_complete(&self, claim: &Claim, found: &[KeyValue]) -> bool {
        self.key(claim).is_none() || found.iter().any(|kv| kv.value == value(claim.id))
    }

    /// Extends the transaction that enqueues a claim: it also takes the key, if the queue is empty and the
    /// key is free.
    pub(super) fn also_take(&self, claim: &Claim, lease: i64, request: &mut TxnRequest) {
        let Some(key) = self.key(claim) else { return };
        let start = keys::queue(&self.connection.config().prefix, &claim.name);
        let range_end = keys::end(&start);
        // etcd evaluates nested comparisons before any put, so the claim's own key does not count.
        let is_empty = Compare { range_end, ..Compare::created(start.into_bytes(), 0) };
        let put = PutRequest::new(key.clone(), value(claim.id), lease);
        let take = TxnRequest {
            compare: vec![is_empty, Compare::created(key.clone(), 0)],
            success: vec![operation(Request::Put(put))],
            failure: Vec::new(),
        };
        request.success.push(operation(Request::Transaction(take)));
        for branch in [&mut request.success, &mut request.failure] {
            branch.push(value_request(key.clone()));
        }
    }

    /// Tries once to take the key for a claim at the head of the queue, in one transaction.
    ///
    /// | the python-etcd3 key | the claim's own key | outcome |
    /// |---|---|---|
    /// | absent | exists | it is put, and the claim holds |
    /// | has this claim's value | either | an earlier try has put it, and the claim holds |
    /// | absent, or another client's | absent or newer | the claim is gone |
    /// | another client's | exists | `Taken` |
    pub(super) async fn try_take(&self, claim: &Claim, position: &Position) -> Result<Attempt> {
        let (Some(key), mine) = (self.key(claim), &position.mine) else { return Ok(Attempt::Gone) };
        let put = PutRequest::new(key.clone(), value(claim.id), mine.lease);
        let compare =
            vec![Compare::created(key.clone(), 0), Compare::created(mine.key.clone(), mine.revision)];
        let failure = vec![value_request(key.clone()), value_request(mine.key.clone())];
        let request = TxnRequest { compare, success: vec![operation(Request::Put(put))], failure };
        let sent = now();
        let answer = match self.connection.unary(request).await {
            Err(error) if is_lease_expired(&error) => return Ok(Attempt::LeaseExpired),
            answer => answer?,
        };
        let read_at = revision(answer.header.as_ref());
        let found: Vec<KeyValue> = ranges(answer.responses).into_iter().flat_map(|range| range.kvs).collect();
        let any = |is: &dyn Fn(&KeyValue) -> bool| found.iter().any(is);
        Ok(if answer.succeeded || any(&|kv| kv.key == key && kv.value == value(claim.id)) {
            Attempt::Ours(sent)
        } else if !any(&|kv| kv.key == mine.key && kv.create_revision == mine.revision) {
            Attempt::Gone
        } else if any(&|kv| kv.key == key) {
            Attempt::Taken(key, read_at)
        } else {
            Attempt::Free
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Status;

    use super::*;
    use crate::backend::{ClaimStatus, Release};
    use crate::queue::Permits;
    use crate::stores::etcd::claims::tests::{MUTEX, PREFIX, READ, claim, fencing_token, found, wait};
    use crate::stores::etcd::messages::{
        DeleteRangeResponse, Event, RangeRequest, RangeResponse, RequestOp, Response, ResponseOp,
        TxnResponse, WatchRequest, WatchResponse,
    };
    use crate::stores::etcd::owner::Shared;
    use crate::stores::etcd::reading::QueueView;
    use crate::stores::etcd::scripted::{Call, Cluster, as_of, created_watch, soon};

    const ADDRESS: &str = "etcd://127.0.0.1:1?interop=python-etcd3";
    const PYTHON_ETCD3_KEY: &[u8] = b"/locks/_glocks/a";
    const QUEUE: &str = "/locks/_glocks/a/";

    /// A store with lease 1, and a claim that is not in the queue yet, with the key that it will have at
    /// revision 40.
    fn absent() -> (Cluster, Arc<Shared>, Claim, KeyValue) {
        let (cluster, shared) = Cluster::with_store(ADDRESS);
        shared.leases.pretend(1);
        let mut claim = claim(1, MUTEX);
        claim.lease = shared.leases.find(1).unwrap().ttl();
        let key = shared.claims.take_key(PREFIX, &claim);
        (cluster, shared, claim, found(&key, 40, 1))
    }

    /// A claim that is first in its queue and does not have the python-etcd3 key yet.
    fn first() -> (Cluster, Arc<Shared>, Claim, KeyValue) {
        let (cluster, shared, claim, own) = absent();
        let queue = shared.connection.config().claims([&own]);
        let view = QueueView::new(Some(queue[0].clone()), queue, true, 40);
        assert_eq!(shared.claims.record_view(&claim, &view, false, now()), ClaimStatus::Waiting);
        (cluster, shared, claim, own)
    }

    /// The python-etcd3 key with this value.
    fn python_etcd3_key(value: &[u8]) -> KeyValue {
        KeyValue { value: value.to_vec(), ..found(PYTHON_ETCD3_KEY, 30, 1) }
    }

    fn range(kvs: &[KeyValue]) -> ResponseOp {
        let range = RangeResponse { header: None, kvs: kvs.to_vec(), more: false };
        ResponseOp { response: Some(Response::Range(range)) }
    }

    fn answer(succeeded: bool, responses: Vec<ResponseOp>) -> TxnResponse {
        TxnResponse { header: as_of(50), succeeded, responses }
    }

    fn put(claim: &Claim) -> RequestOp {
        operation(Request::Put(PutRequest::new(PYTHON_ETCD3_KEY.to_vec(), value(claim.id), 1)))
    }

    fn read_operation(key: &[u8]) -> RequestOp {
        operation(Request::Range(RangeRequest { key: key.to_vec(), ..RangeRequest::default() }))
    }

    /// Expects the transaction that enqueues the claim, and takes the key if the queue is empty.
    async fn expect_enqueue(cluster: &mut Cluster, claim: &Claim) -> Call {
        let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
        let nobody = Compare { range_end: keys::end(QUEUE), ..Compare::created(QUEUE.into(), 0) };
        let take = TxnRequest {
            compare: vec![nobody, Compare::created(PYTHON_ETCD3_KEY.to_vec(), 0)],
            success: vec![put(claim)],
            failure: Vec::new(),
        };
        let read = read_operation(PYTHON_ETCD3_KEY);
        assert_eq!(asked.success[3..], [operation(Request::Transaction(take)), read.clone()]);
        assert_eq!(asked.failure[2..], [read]);
        call
    }

    /// Expects the transaction that takes the key alone.
    async fn expect_take(cluster: &mut Cluster, claim: &Claim, own: &KeyValue) -> Call {
        let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
        let compare =
            vec![Compare::created(PYTHON_ETCD3_KEY.to_vec(), 0), Compare::created(own.key.clone(), 40)];
        let failure = vec![read_operation(PYTHON_ETCD3_KEY), read_operation(&own.key)];
        assert_eq!(asked, TxnRequest { compare, success: vec![put(claim)], failure });
        call
    }

    #[test]
    fn with_interop_exclusive_claims_need_the_key_and_shared_claims_do_not() {
        let write = Permits::WRITE;
        let permit = Permits::new(1, 2);
        for (address, alone) in [(ADDRESS, Some(PYTHON_ETCD3_KEY.to_vec())), ("etcd://127.0.0.1:1", None)] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _entered = runtime.enter();
            let (_cluster, shared) = Cluster::with_store(address);
            for (permits, key) in [(MUTEX, alone.clone()), (write, alone), (READ, None), (permit, None)] {
                assert_eq!(shared.python_etcd3.key(&claim(1, permits)), key, "{permits:?}");
                assert_eq!(
                    shared.python_etcd3.is_complete(&claim(1, permits), &[]),
                    key.is_none(),
                    "{permits:?}"
                );
            }
        }
    }

    #[test]
    fn the_value_of_the_key_is_the_claims_id_in_sixteen_bytes() {
        let id = ClaimId::new(0x0123_4567_89ab_cdef_0123, 0x4567_89ab_cdef);
        assert_eq!(value(id), 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_joins_holds_with_the_key_and_asks_for_it_if_it_is_first() {
        let (ours, theirs) = (value(ClaimId::new(1, 1)), b"0123456789abcdef".to_vec());
        // Who has the key, whether a claim is in front, and the fencing token if the claim holds.
        for (has_it, is_behind, expected) in [
            (Some(&ours), false, Some(40)),
            (Some(&theirs), false, None),
            (None, true, None),
            (None, false, Some(40)),
        ] {
            let (mut cluster, shared, claim, own) = absent();
            let queue = [found(b"/locks/_glocks/a/694d80a1b2c3d4e5", 3, 9), own.clone()];
            let kvs: Vec<KeyValue> = has_it.iter().map(|value| python_etcd3_key(value)).collect();
            let answers = async {
                let queue = &queue[usize::from(!is_behind)..];
                let responses = vec![range(std::slice::from_ref(&own)), range(queue), range(&kvs)];
                expect_enqueue(&mut cluster, &claim).await.answer(&answer(true, responses));
                if has_it.is_none() && !is_behind {
                    expect_take(&mut cluster, &claim, &own).await.answer(&answer(true, Vec::new()));
                }
            };
            let (status, ()) = soon(async { tokio::join!(shared.enqueue_once(&claim), answers) }).await;
            assert_eq!(fencing_token(status.unwrap()), expected, "{has_it:?}, {is_behind}");
            assert!(cluster.is_idle().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_in_the_queue_waits_until_the_key_is_deleted_and_takes_it_then() {
        let (mut cluster, shared, claim, own) = first();
        let answers = async {
            let kvs = [range(&[python_etcd3_key(b"theirs")]), range(std::slice::from_ref(&own))].to_vec();
            expect_take(&mut cluster, &claim, &own).await.answer(&answer(false, kvs));
            let (created, mut stream) = cluster.asked::<WatchRequest>("Watch/Watch").await;
            let created = [created_watch(created), created_watch(stream.request().await)];
            let watched = created.each_ref().map(|create| (&create.key[..], create.start_revision));
            assert_eq!(watched, [(PYTHON_ETCD3_KEY, 51), (&own.key[..], 51)]);
            assert!(cluster.is_idle().await);
            let (watch_id, events) = (created[0].watch_id, vec![Event::default()]);
            stream.say(&WatchResponse { header: as_of(51), watch_id, events, ..Default::default() });
            // Another client was quicker, and has deleted it since.
            let kvs = [range(&[]), range(std::slice::from_ref(&own))].to_vec();
            expect_take(&mut cluster, &claim, &own).await.answer(&answer(false, kvs));
            expect_take(&mut cluster, &claim, &own).await.answer(&answer(true, Vec::new()));
        };
        let (status, ()) = soon(async { tokio::join!(wait(&shared, &claim), answers) }).await;
        assert_eq!(status.unwrap().and_then(fencing_token), Some(40));
    }

    #[tokio::test(start_paused = true)]
    async fn a_try_to_take_the_key_also_finds_that_the_claim_is_gone() {
        let ours = python_etcd3_key(&value(ClaimId::new(1, 1)));
        let (_, _, _, own) = first();
        let (again, other) = (found(&own.key, 41, 1), found(b"/locks/_glocks/b", 40, 1));
        for (keys, expected) in [
            (vec![ours.clone(), own.clone()], Some(40)),
            (vec![ours.clone()], Some(40)),
            // The python-etcd3 key is not the claim's, and its own key is absent or another: the claim is
            // gone.
            (vec![python_etcd3_key(b"theirs")], None),
            (vec![python_etcd3_key(b"theirs"), again], None),
            (vec![other], None),
            (Vec::new(), None),
        ] {
            let (mut cluster, shared, claim, own) = first();
            let answers = async {
                let responses = keys.iter().map(|kv| range(std::slice::from_ref(kv))).collect();
                expect_take(&mut cluster, &claim, &own).await.answer(&answer(false, responses));
            };
            let (status, ()) = soon(async { tokio::join!(wait(&shared, &claim), answers) }).await;
            let status = status.unwrap().unwrap();
            assert_eq!(status == ClaimStatus::Gone, expected.is_none(), "{keys:?}");
            assert_eq!(fencing_token(status), expected, "{keys:?}");
            assert_eq!(shared.claims.position(claim.id).is_none(), expected.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_whose_lease_has_expired_is_gone_and_one_that_is_refused_is_not() {
        for (refusal, has_expired) in
            [(Status::not_found("no lease"), true), (Status::permission_denied("not for you"), false)]
        {
            let (mut cluster, shared, claim, own) = first();
            let refuses = async { expect_take(&mut cluster, &claim, &own).await.fail(refusal) };
            let (status, ()) = soon(async { tokio::join!(wait(&shared, &claim), refuses) }).await;
            assert_eq!(status.ok(), has_expired.then_some(Some(ClaimStatus::Gone)));
            assert_eq!(shared.leases.find(1).is_none(), has_expired);
            assert_eq!(shared.claims.position(claim.id).is_none(), has_expired);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_deletes_the_key_if_it_is_the_claims_and_reports_whether_the_claim_existed() {
        for (existed, expected) in [(1, Release::Released), (0, Release::NotHeld)] {
            let (mut cluster, shared, claim, own) = first();
            let answers = async {
                let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
                let delete =
                    |key: &[u8]| operation(Request::Delete(DeleteRangeRequest { key: key.to_vec() }));
                let give_back = TxnRequest {
                    compare: vec![Compare::has_value(PYTHON_ETCD3_KEY.to_vec(), value(claim.id))],
                    success: vec![delete(PYTHON_ETCD3_KEY)],
                    failure: Vec::new(),
                };
                let success = vec![delete(&own.key), operation(Request::Transaction(give_back))];
                // A late copy must not delete what the claim has if it joins again.
                let compare = vec![Compare::created(own.key.clone(), own.create_revision)];
                assert_eq!(asked, TxnRequest { compare, success, failure: Vec::new() });
                let deleted = |deleted| Some(Response::Delete(DeleteRangeResponse { deleted }));
                let given_back = answer(true, vec![ResponseOp { response: deleted(1) }]);
                let responses = [deleted(existed), Some(Response::Transaction(given_back))];
                let responses = responses.map(|response| ResponseOp { response }).to_vec();
                call.answer(&answer(true, responses));
            };
            let (left, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
            assert_eq!(left.unwrap(), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_deletes_whatever_a_request_without_an_answer_may_have_put() {
        let (mut cluster, shared, claim, own) = first();
        shared.claims.requested(claim.id, 1, false);
        let answers = async {
            let (tombstone, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
            assert!(matches!(tombstone.success[0].request, Some(Request::Put(_))), "{tombstone:?}");
            call.answer(&answer(true, Vec::new()));
            let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
            let delete = operation(Request::Delete(DeleteRangeRequest { key: own.key.clone() }));
            assert_eq!((asked.compare.len(), &asked.success[0]), (0, &delete));
            call.answer(&answer(true, Vec::new()));
        };
        let (left, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
        assert_eq!(left.unwrap(), Release::NotHeld);
    }
}
