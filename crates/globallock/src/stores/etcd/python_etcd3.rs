//! The one key of python-etcd3's lock, which a mutex takes beside its place in the queue where `interop=python-etcd3` is
//! wished: so that each excludes the other.
//!
//! The key is `<prefix><name>`. Whoever made it holds that lock; it is given back by comparing its value. Only the head
//! of our queue asks for it, in the transaction that joins where nobody is before it.

use super::connection::is_lease_expired;
use super::keys::{self, QueueEntry};
use super::messages::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, Request, Response, TxnRequest,
};
use super::positions::Position;
use super::reading::ranges;
use super::{Shared, operation};
use crate::backend::{Claim, ClaimId, ClaimStatus};
use crate::error::Result;
use crate::sync::now;

/// What the key holds while it is ours: 16 bytes, as theirs.
fn value(id: ClaimId) -> Vec<u8> {
    let text = id.to_string();
    text.as_bytes()
        .chunks(2)
        .filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

fn read(key: Vec<u8>) -> Request {
    Request::Range(RangeRequest { key, ..RangeRequest::default() })
}

/// What the cluster said to a claim that asked for the key.
enum Attempt {
    Answered(ClaimStatus),
    /// Somebody else has it, as of a revision; what to watch, the claim's own key being the second.
    Taken([Vec<u8>; 2], i64),
    /// It is free by now.
    Free,
}

impl Shared {
    /// The key that a claim needs besides; those who share a lock do not, since theirs are never shared.
    pub(super) fn python_etcd3_key(&self, claim: &Claim) -> Option<Vec<u8>> {
        let alone = claim.permits.count == claim.permits.capacity;
        let wanted = self.connection.config().python_etcd3 && alone;
        wanted.then(|| format!("{}{}", self.prefix(), claim.name.as_str()).into_bytes())
    }

    /// Whether a key is a claim: where such keys are used, those of names that nest are below each other's queues.
    pub(super) fn is_claim(&self, entry: &QueueEntry) -> bool {
        !self.connection.config().python_etcd3 || entry.ours || keys::is_lease(&entry.key)
    }

    /// Whether nothing else is needed, as far as the key that was read says.
    pub(super) fn is_complete(&self, claim: &Claim, python_etcd3_key: &[KeyValue]) -> bool {
        self.python_etcd3_key(claim).is_none()
            || python_etcd3_key.iter().any(|kv| kv.value == value(claim.id))
    }

    /// Has the transaction that joins take the key as well, if nobody is in the queue and nobody has it.
    pub(super) fn also_take_python_etcd3_key(&self, claim: &Claim, lease: i64, request: &mut TxnRequest) {
        let Some(key) = self.python_etcd3_key(claim) else { return };
        let start = keys::queue(self.prefix(), &claim.name);
        let range_end = keys::end(&start);
        // Compared before anything is put.
        let nobody = Compare { range_end, ..Compare::created(start.into_bytes(), 0) };
        let put = PutRequest { key: key.clone(), value: value(claim.id), lease };
        let take = TxnRequest {
            compare: vec![nobody, Compare::created(key.clone(), 0)],
            success: vec![operation(Request::Put(put))],
            failure: Vec::new(),
        };
        request.success.push(operation(Request::Transaction(take)));
        for branch in [&mut request.success, &mut request.failure] {
            branch.push(operation(read(key.clone())));
        }
    }

    /// Takes the key for the claim at the head of the queue, or waits until it may be free: then `None`.
    pub(super) async fn take_python_etcd3_key(
        &self,
        claim: &Claim,
        position: &Position,
    ) -> Result<Option<ClaimStatus>> {
        match self.try_python_etcd3_key(claim, position).await? {
            Attempt::Answered(status) => Ok(Some(status)),
            Attempt::Taken(watched, read_at) => {
                let watched = watched.into_iter().map(|key| (key, None));
                self.watches.subscribe(&self.connection, watched, read_at).changes_within(claim.lease).await;
                Ok(None)
            }
            Attempt::Free => Ok(None),
        }
    }

    /// Takes the key for a claim that has just joined at the head of the queue, where the transaction did not: keys of
    /// names that nest look like claims to what it compares.
    pub(super) async fn take_python_etcd3_key_now(
        &self,
        claim: &Claim,
        found: &[KeyValue],
    ) -> Result<ClaimStatus> {
        let Some(position) = self.positions().get(claim.id).cloned() else { return Ok(ClaimStatus::Gone) };
        let is_taken = found.iter().any(|kv| Some(&kv.key) == self.python_etcd3_key(claim).as_ref());
        if is_taken || !position.ahead.surely_holds(claim.permits) {
            return Ok(ClaimStatus::Waiting);
        }
        match self.try_python_etcd3_key(claim, &position).await? {
            Attempt::Answered(status) => Ok(status),
            Attempt::Taken(..) | Attempt::Free => Ok(ClaimStatus::Waiting),
        }
    }

    async fn try_python_etcd3_key(&self, claim: &Claim, position: &Position) -> Result<Attempt> {
        let (Some(python_etcd3_key), Some(mine)) =
            (self.python_etcd3_key(claim), self.key_numbers.key(claim.id))
        else {
            return Ok(Attempt::Answered(ClaimStatus::Gone));
        };
        let put =
            PutRequest { key: python_etcd3_key.clone(), value: value(claim.id), lease: position.mine.lease };
        let request = TxnRequest {
            compare: vec![
                Compare::created(python_etcd3_key.clone(), 0),
                Compare::created(mine.clone(), position.mine.revision),
            ],
            success: vec![operation(Request::Put(put))],
            failure: vec![operation(read(python_etcd3_key.clone())), operation(read(mine.clone()))],
        };
        let sent = now();
        let answer = match self.transaction(request).await {
            Err(error) if is_lease_expired(&error) => {
                self.lease_expired(position.mine.lease);
                self.positions().remove(claim.id);
                return Ok(Attempt::Answered(ClaimStatus::Gone));
            }
            answer => answer?,
        };
        let read_at = answer.header.map_or(0, |header| header.revision);
        let found: Vec<KeyValue> = ranges(answer.responses).into_iter().flat_map(|range| range.kvs).collect();
        let ours = found.iter().any(|kv| kv.key == python_etcd3_key && kv.value == value(claim.id));
        if answer.succeeded || ours {
            let mut positions = self.positions();
            let Some(position) = positions.get_mut(claim.id) else {
                return Ok(Attempt::Answered(ClaimStatus::Gone));
            };
            position.is_complete = true;
            position.granted.get_or_insert(sent);
            let position = position.clone();
            drop(positions);
            return Ok(Attempt::Answered(self.status(claim, &position)));
        }
        if !found.iter().any(|kv| kv.key == mine && kv.create_revision == position.mine.revision) {
            self.positions().remove(claim.id);
            return Ok(Attempt::Answered(ClaimStatus::Gone));
        }
        let is_taken = found.iter().any(|kv| kv.key == python_etcd3_key);
        Ok(if is_taken { Attempt::Taken([python_etcd3_key, mine], read_at) } else { Attempt::Free })
    }

    /// Takes out a claim and, if it has it, the key; says whether the claim was there.
    pub(super) async fn delete_with_python_etcd3_key(
        &self,
        id: ClaimId,
        key: Vec<u8>,
        python_etcd3_key: Vec<u8>,
    ) -> Result<bool> {
        let delete = |key| operation(Request::Delete(DeleteRangeRequest { key }));
        let give_back = TxnRequest {
            compare: vec![Compare::has_value(python_etcd3_key.clone(), value(id))],
            success: vec![delete(python_etcd3_key)],
            failure: Vec::new(),
        };
        let success = vec![delete(key), operation(Request::Transaction(give_back))];
        let answer = self.transaction(TxnRequest { success, ..TxnRequest::default() }).await?;
        Ok(answer.responses.into_iter().any(|response| match response.response {
            Some(Response::Delete(deleted)) => deleted.deleted > 0,
            _ => false,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Status;

    use super::*;
    use crate::backend::Release;
    use crate::queue::{MAX_CAPACITY, Permits};
    use crate::stores::etcd::messages::{
        DeleteRangeResponse, Event, RangeResponse, RequestOp, ResponseOp, TxnResponse, WatchRequest,
        WatchResponse,
    };
    use crate::stores::etcd::positions::tests::{MUTEX, READ, claim, fencing_token, found};
    use crate::stores::etcd::reading::QueueView;
    use crate::stores::etcd::scripted::{Call, Cluster, as_of, creates, soon};

    const ADDRESS: &str = "etcd://127.0.0.1:1?interop=python-etcd3";
    const PYTHON_ETCD3_KEY: &[u8] = b"/locks/_glocks/a";
    const QUEUE: &str = "/locks/_glocks/a/";

    /// A store with lease 1, and a claim with its key as of revision 40.
    fn wanting() -> (Cluster, Arc<Shared>, Claim, KeyValue) {
        let (cluster, shared) = Cluster::with_store(ADDRESS);
        shared.leases.pretend(1);
        let mut claim = claim(1, MUTEX);
        claim.lease = shared.leases.find(1).unwrap().length();
        let key = shared.key_numbers.take(shared.prefix(), &claim);
        (cluster, shared, claim, found(&key, 40, 1))
    }

    /// A claim that is the first in its queue, and has not got the key yet.
    fn first() -> (Cluster, Arc<Shared>, Claim, KeyValue) {
        let (cluster, shared, claim, own) = wanting();
        let queue = shared.claims([&own]);
        let view = QueueView::new(Some(queue[0].clone()), queue, true, 40);
        assert_eq!(shared.note_view(&claim, &view, false, now()), ClaimStatus::Waiting);
        (cluster, shared, claim, own)
    }

    /// The key, as this claim or somebody else has it.
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
        operation(Request::Put(PutRequest {
            key: PYTHON_ETCD3_KEY.to_vec(),
            value: value(claim.id),
            lease: 1,
        }))
    }

    fn reads(key: &[u8]) -> RequestOp {
        operation(Request::Range(RangeRequest { key: key.to_vec(), ..RangeRequest::default() }))
    }

    /// The claim joins, and takes the key as well if nobody is there.
    async fn joins(cluster: &mut Cluster, claim: &Claim) -> Call {
        let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
        let nobody = Compare { range_end: keys::end(QUEUE), ..Compare::created(QUEUE.into(), 0) };
        let take = TxnRequest {
            compare: vec![nobody, Compare::created(PYTHON_ETCD3_KEY.to_vec(), 0)],
            success: vec![put(claim)],
            failure: Vec::new(),
        };
        let read = reads(PYTHON_ETCD3_KEY);
        assert_eq!(asked.success[3..], [operation(Request::Transaction(take)), read.clone()]);
        assert_eq!(asked.failure[2..], [read]);
        call
    }

    /// The claim asks for the key alone.
    async fn asks(cluster: &mut Cluster, claim: &Claim, own: &KeyValue) -> Call {
        let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
        let compare =
            vec![Compare::created(PYTHON_ETCD3_KEY.to_vec(), 0), Compare::created(own.key.clone(), 40)];
        let failure = vec![reads(PYTHON_ETCD3_KEY), reads(&own.key)];
        assert_eq!(asked, TxnRequest { compare, success: vec![put(claim)], failure });
        call
    }

    #[test]
    fn the_key_is_wanted_by_those_who_do_not_share_where_it_is_wished() {
        let write = Permits { count: MAX_CAPACITY, capacity: MAX_CAPACITY };
        let permit = Permits { count: 1, capacity: 2 };
        for (address, alone) in [(ADDRESS, Some(PYTHON_ETCD3_KEY.to_vec())), ("etcd://127.0.0.1:1", None)] {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let _entered = runtime.enter();
            let (_cluster, shared) = Cluster::with_store(address);
            for (permits, key) in [(MUTEX, alone.clone()), (write, alone), (READ, None), (permit, None)] {
                assert_eq!(shared.python_etcd3_key(&claim(1, permits)), key, "{permits:?}");
                assert_eq!(shared.is_complete(&claim(1, permits), &[]), key.is_none(), "{permits:?}");
            }
        }
    }

    #[test]
    fn the_key_holds_sixteen_bytes_of_which_no_two_claims_have_the_same() {
        let id = ClaimId::new(0x0123_4567_89ab_cdef_0123, 0x4567_89ab_cdef);
        assert_eq!(value(id), 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef_u128.to_be_bytes());
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_joins_holds_with_the_key_waits_without_and_asks_for_it_where_its_turn_has_come() {
        let (ours, theirs) = (value(ClaimId::new(1, 1)), b"0123456789abcdef".to_vec());
        // Whose the key is, whether somebody is in front, and what becomes of the claim.
        for (has_it, is_behind, expected) in [
            (Some(&ours), false, Some(40)),
            (Some(&theirs), false, None),
            (None, true, None),
            (None, false, Some(40)),
        ] {
            let (mut cluster, shared, claim, own) = wanting();
            let queue = [found(b"/locks/_glocks/a/694d80a1b2c3d4e5", 3, 9), own.clone()];
            let kvs: Vec<KeyValue> = has_it.iter().map(|value| python_etcd3_key(value)).collect();
            let answers = async {
                let queue = &queue[usize::from(!is_behind)..];
                let responses = vec![range(std::slice::from_ref(&own)), range(queue), range(&kvs)];
                joins(&mut cluster, &claim).await.answer(&answer(true, responses));
                if has_it.is_none() && !is_behind {
                    asks(&mut cluster, &claim, &own).await.answer(&answer(true, Vec::new()));
                }
            };
            let (status, ()) = soon(async { tokio::join!(shared.enqueue_or_release(&claim), answers) }).await;
            assert_eq!(fencing_token(status.unwrap()), expected, "{has_it:?}, {is_behind}");
            assert!(cluster.is_idle().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_in_the_queue_waits_until_the_key_is_given_back_and_takes_it_then() {
        let (mut cluster, shared, claim, own) = first();
        let answers = async {
            let kvs = [range(&[python_etcd3_key(b"theirs")]), range(std::slice::from_ref(&own))].to_vec();
            asks(&mut cluster, &claim, &own).await.answer(&answer(false, kvs));
            let (created, mut stream) = cluster.asked::<WatchRequest>("Watch/Watch").await;
            let created = [creates(created), creates(stream.request().await)];
            let watched = created.each_ref().map(|create| (&create.key[..], create.start_revision));
            assert_eq!(watched, [(PYTHON_ETCD3_KEY, 51), (&own.key[..], 51)]);
            assert!(cluster.is_idle().await);
            let (watch_id, events) = (created[0].watch_id, vec![Event::default()]);
            stream.say(&WatchResponse { header: as_of(51), watch_id, events, ..Default::default() });
            // Somebody else was quicker, and has given it back since.
            let kvs = [range(&[]), range(std::slice::from_ref(&own))].to_vec();
            asks(&mut cluster, &claim, &own).await.answer(&answer(false, kvs));
            asks(&mut cluster, &claim, &own).await.answer(&answer(true, Vec::new()));
        };
        let (status, ()) = soon(async { tokio::join!(shared.wait_for_change(&claim), answers) }).await;
        assert_eq!(status.unwrap().and_then(fencing_token), Some(40));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_answer_says_of_both_keys_tells_where_the_claim_stands() {
        let ours = python_etcd3_key(&value(ClaimId::new(1, 1)));
        let (_, _, _, own) = first();
        let (again, other) = (found(&own.key, 41, 1), found(b"/locks/_glocks/b", 40, 1));
        for (keys, expected) in [
            (vec![ours.clone(), own.clone()], Some(40)),
            // It has left, or its lease has ended, whatever has become of the key.
            (vec![ours.clone()], Some(40)),
            (vec![python_etcd3_key(b"theirs")], None),
            (vec![python_etcd3_key(b"theirs"), again], None),
            (vec![other], None),
            (Vec::new(), None),
        ] {
            let (mut cluster, shared, claim, own) = first();
            let answers = async {
                let responses = keys.iter().map(|kv| range(std::slice::from_ref(kv))).collect();
                asks(&mut cluster, &claim, &own).await.answer(&answer(false, responses));
            };
            let (status, ()) = soon(async { tokio::join!(shared.wait_for_change(&claim), answers) }).await;
            let status = status.unwrap().unwrap();
            assert_eq!(status == ClaimStatus::Gone, expected.is_none(), "{keys:?}");
            assert_eq!(fencing_token(status), expected, "{keys:?}");
            assert_eq!(shared.positions().get(claim.id).is_none(), expected.is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_whose_lease_is_over_by_then_is_gone_and_one_that_is_refused_is_not() {
        for (refusal, is_over) in
            [(Status::not_found("no lease"), true), (Status::permission_denied("not for you"), false)]
        {
            let (mut cluster, shared, claim, own) = first();
            let refuses = async { asks(&mut cluster, &claim, &own).await.fail(refusal) };
            let (status, ()) = soon(async { tokio::join!(shared.wait_for_change(&claim), refuses) }).await;
            assert_eq!(status.ok(), is_over.then_some(Some(ClaimStatus::Gone)));
            assert_eq!(shared.leases.find(1).is_none(), is_over);
            assert_eq!(shared.positions().get(claim.id).is_none(), is_over);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_leaves_gives_the_key_back_if_it_is_theirs_and_has_left_if_its_own_was_there() {
        for (there, departure) in [(1, Release::Released), (0, Release::NotHeld)] {
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
                assert_eq!(asked, TxnRequest { success, ..TxnRequest::default() });
                let deleted = |deleted| Some(Response::Delete(DeleteRangeResponse { deleted }));
                let given_back = answer(true, vec![ResponseOp { response: deleted(1) }]);
                let responses = [deleted(there), Some(Response::Transaction(given_back))];
                let responses = responses.map(|response| ResponseOp { response }).to_vec();
                call.answer(&answer(true, responses));
            };
            let (left, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
            assert_eq!(left.unwrap(), departure);
        }
    }
}
