//! The transaction that enqueues a claim: it puts the claim's key unless that exists, and reads what the
//! claim must know of its queue.

use super::claims::Behind;
use super::key_reads::key_request;
use super::keys::{self, QueueEntry};
use super::messages::{
    Compare, KeyValue, PutRequest, RangeResponse, Request, TxnRequest, TxnResponse, operation, revision,
};
use super::reading::{FEW, queue_request, ranges};
use super::value;
use crate::backend::Claim;

/// The transaction that enqueues a claim.
///
/// | the claim's key | its tombstone | what happens |
/// |---|---|---|
/// | absent | absent | the key is put, and read together with the queue |
/// | exists | either | the key and the queue are read: an earlier request has put it |
/// | absent | exists | the key is not found: the claim was released, and this request is late |
///
/// Of the queue, the first few keys are read. If `behind` names a claim of this store in front, the queue
/// is read only if that claim is gone. So each claim of a crowd costs the same, however many are in front
/// of it.
pub(super) fn put_or_find(
    prefix: &str,
    claim: &Claim,
    key: &[u8],
    lease: i64,
    behind: Option<&Behind>,
) -> TxnRequest {
    let put = operation(Request::Put(PutRequest::new(key.to_vec(), value::write(claim), lease)));
    let few = operation(Request::Range(queue_request(&keys::queue(prefix, &claim.name), FEW)));
    let unless_behind = match behind {
        None => few.clone(),
        Some(Behind { last, .. }) => operation(Request::Transaction(TxnRequest {
            compare: vec![Compare::created(last.key.clone(), last.revision)],
            success: Vec::new(),
            failure: vec![few.clone()],
        })),
    };
    let absent = |key: Vec<u8>| Compare::created(key, 0);
    TxnRequest {
        compare: vec![absent(key.to_vec()), absent(keys::tombstone(prefix, claim.id, lease))],
        success: vec![put, key_request(key), unless_behind],
        failure: vec![key_request(key), few],
    }
}

/// What that transaction has found.
pub(super) struct Found {
    pub(super) read_at: i64,
    /// The notice of the claim's eviction.
    pub(super) notice: Vec<KeyValue>,
    /// The claim's own key.
    pub(super) mine: Option<QueueEntry>,
    /// A part of the queue, unless the claim that was named as in front of it was still there.
    pub(super) queue: Option<RangeResponse>,
    pub(super) python_etcd3: Vec<KeyValue>,
    /// What stands in the place of the value, if the transaction has read it.
    pub(super) value: Option<RangeResponse>,
}

impl Found {
    /// `asked_for_notice` says whether the transaction reads the notice where it does not put the key;
    /// `asked_for_value`, whether it reads the value.
    pub(super) fn new(answer: TxnResponse, asked_for_notice: bool, asked_for_value: bool) -> Self {
        let read_at = revision(answer.header.as_ref());
        let mut ranges = ranges(answer.responses);
        let value = ranges.pop_if(|_| asked_for_value);
        let notice = ranges.pop_if(|_| asked_for_notice && !answer.succeeded);
        let mut ranges = ranges.into_iter();
        let mine = ranges.next().and_then(|own| own.kvs.first().map(QueueEntry::new));
        let queue = ranges.next();
        let python_etcd3 = ranges.flat_map(|range| range.kvs).collect();
        let notice = notice.map_or_else(Vec::new, |range| range.kvs);
        Found { read_at, notice, mine, queue, python_etcd3, value }
    }
}
