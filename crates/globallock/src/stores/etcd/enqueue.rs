//! Enqueues claims.
//!
//! One transaction puts the claim's key unless it exists, and reads what the claim must know of its queue.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::ahead::Ahead;
use super::connection::is_lease_expired;
use super::keys::{self, QueueEntry};
use super::messages::{Compare, KeyValue, PutRequest, Request, TxnRequest, TxnResponse};
use super::positions::Behind;
use super::reading::{FEW, QueueView, key_request, queue_request, ranges};
use super::{Shared, TRANSACTION, operation, value};
use crate::backend::{Claim, ClaimId, ClaimStatus, WaitMode};
use crate::error::Result;
use crate::sync::{Mutex, MutexGuard, now};

/// How many claims of one store are enqueued at the same time, and how many waiting claims are released.
///
/// A leader that is more than a second behind in applying what the cluster agreed on refuses to renew leases.
/// Thousands of requests at once could cause that, and holders would lose their locks.
pub(super) const MAX_CONCURRENT: usize = 32;

/// One mutex for each claim that is being enqueued or released.
pub(super) type Turns = Mutex<HashMap<ClaimId, Arc<tokio::sync::Mutex<()>>>>;

/// The exclusive right to enqueue or release a claim, until it is dropped.
///
/// So a release waits until the enqueue before it has been answered.
pub(super) struct Turn {
    shared: Arc<Shared>,
    id: ClaimId,
    taken: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    pub(super) async fn take(shared: &Arc<Shared>, id: ClaimId) -> Self {
        let turn = Arc::clone(shared.turns().entry(id).or_default());
        // Made before the wait, so that a wait that is given up removes its entry too.
        let mut taking = Turn { shared: Arc::clone(shared), id, taken: None };
        taking.taken = Some(turn.lock_owned().await);
        taking
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.shared.turns();
        self.taken = None;
        if turns.get(&self.id).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.id);
        }
    }
}

impl Shared {
    fn turns(&self) -> MutexGuard<'_, HashMap<ClaimId, Arc<tokio::sync::Mutex<()>>>> {
        self.turns.lock()
    }

    /// Enqueues a claim, and releases it again if it would have to wait and is only a try.
    pub(super) async fn enqueue_or_release(self: &Arc<Self>, claim: &Claim) -> Result<ClaimStatus> {
        if self.is_being_released(claim.id) {
            // An earlier try had to wait and its release was not answered. That release may still arrive and
            // delete the key, so the claim must not be reported as held, even if it holds by now.
            self.release(claim).await?;
            return Ok(ClaimStatus::Gone);
        }
        let status = self.enqueue(claim).await?;
        if status == ClaimStatus::Waiting && claim.wait_mode == WaitMode::Try {
            self.release(claim).await?;
            return Ok(ClaimStatus::Gone);
        }
        Ok(status)
    }

    async fn enqueue(self: &Arc<Self>, claim: &Claim) -> Result<ClaimStatus> {
        let key = self.key_numbers.take(self.prefix(), claim);
        loop {
            let (lease, is_new) = self.leases.get(&self.connection, claim.lease).await?;
            if is_new {
                self.watch_lease(lease);
            }
            match self.enqueue_under(claim, &key, lease.id).await {
                // The lease has expired, and nothing has notified us of it yet.
                Err(error) if is_lease_expired(&error) => {
                    self.lease_expired(lease.id);
                    if is_new {
                        return Err(error);
                    }
                }
                answer => return answer,
            }
        }
    }

    async fn enqueue_under(&self, claim: &Claim, key: &[u8], lease: i64) -> Result<ClaimStatus> {
        let behind = self.behind(claim);
        let again = self.key_numbers.may_have_joined(claim.id);
        let sent = now();
        let mut request = self.put_or_find(claim, key, lease, behind.as_ref());
        if again {
            self.unless_evicted(claim, &mut request);
        }
        let (answer, unanswered) = self.connection.ask::<_, TxnResponse>(TRANSACTION, request).await;
        if unanswered {
            self.leases.drain(lease);
            self.unanswered().entry(claim.id).or_default().insert(lease);
        }
        if unanswered || answer.is_ok() {
            self.key_numbers.joined(claim.id);
        }
        let answer = answer?;
        let read_at = answer.header.map_or(0, |header| header.revision);
        let mut ranges = ranges(answer.responses);
        let notice = ranges.pop_if(|_| again && !answer.succeeded).map_or(Vec::new(), |range| range.kvs);
        if !notice.is_empty() {
            // If a request that came late has put the key again, the release that follows deletes it.
            self.note_evictions(&notice);
            return Ok(self.record_gone(claim, read_at));
        }
        let mut ranges = ranges.into_iter();
        let own = ranges.next().and_then(|own| own.kvs.into_iter().next());
        let found = ranges.next();
        let python_etcd3_keys: Vec<KeyValue> = ranges.flat_map(|range| range.kvs).collect();
        let is_complete = self.is_complete(claim, &python_etcd3_keys);
        let status = match (own.as_ref().map(QueueEntry::new), found, behind) {
            (None, ..) => self.record_gone(claim, read_at),
            // The last claim of this store was still in front, so the queue was not read: its blockers are
            // known.
            (Some(mine), None, behind) => {
                let (ahead, as_of) = behind.map_or((Ahead::default(), None), |b| (b.ahead, b.read_at));
                self.record_position(claim, &mine, ahead, as_of.unwrap_or(read_at), is_complete, sent)
            }
            (Some(mine), Some(found), _) => {
                let queue = self.claims(&found.kvs);
                let view = QueueView::new(Some(mine.clone()), queue, !found.more, read_at);
                let is_enough = view.is_whole || Ahead::of_some(view.ahead(), claim.permits).is_some();
                let view = if is_enough { view } else { self.read_view(claim, &mine, read_at).await? };
                self.record_view(claim, &view, is_complete, sent)
            }
        };
        if status == ClaimStatus::Gone {
            let was_there = self.delete(key.to_vec()).await?;
            self.positions().remove(claim.id);
            if was_there {
                // The key that was found is attached to an earlier lease, which has expired. It is deleted
                // now, so the next try joins at the end of the queue.
                return Err(self
                    .connection
                    .error(tonic::Status::unavailable("the claim's lease had expired")));
            }
        }
        if status == ClaimStatus::Waiting && self.python_etcd3_key(claim).is_some() {
            return self.take_python_etcd3_key_now(claim, &python_etcd3_keys).await;
        }
        Ok(status)
    }

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
    fn put_or_find(&self, claim: &Claim, key: &[u8], lease: i64, behind: Option<&Behind>) -> TxnRequest {
        let put =
            operation(Request::Put(PutRequest { key: key.to_vec(), value: value::write(claim), lease }));
        let few = operation(Request::Range(queue_request(&keys::queue(self.prefix(), &claim.name), FEW)));
        let unless_behind = match behind {
            None => few.clone(),
            Some(Behind { last, .. }) => operation(Request::Transaction(TxnRequest {
                compare: vec![Compare::created(last.key.clone(), last.revision)],
                success: Vec::new(),
                failure: vec![few.clone()],
            })),
        };
        let absent = |key: Vec<u8>| Compare::created(key, 0);
        let mut request = TxnRequest {
            compare: vec![absent(key.to_vec()), absent(keys::tombstone(self.prefix(), claim.id, lease))],
            success: vec![put, key_request(key), unless_behind],
            failure: vec![key_request(key), few],
        };
        self.also_take_python_etcd3_key(claim, lease, &mut request);
        request
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use futures_util::FutureExt;
    use tonic::Status;

    use super::*;
    use crate::backend::Backend;
    use crate::queue::Permits;
    use crate::stores::etcd::Etcd;
    use crate::stores::etcd::messages::{
        DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, LeaseGrantResponse, RangeRequest,
        RangeResponse, Response, ResponseOp,
    };
    use crate::stores::etcd::positions::tests::{MUTEX, OTHER, READ, claim, fencing_token, found};
    use crate::stores::etcd::scripted::{Call, Cluster, as_of, soon};

    /// A store with lease 1, and a claim that is not in the queue yet.
    fn absent(permits: Permits) -> (Cluster, Arc<Shared>, Claim, Vec<u8>) {
        let (cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        shared.leases.pretend(1);
        let mut claim = claim(1, permits);
        claim.lease = shared.leases.find(1).unwrap().ttl();
        let key = shared.key_numbers.take(shared.prefix(), &claim);
        (cluster, shared, claim, key)
    }

    /// Expects the transaction that enqueues the claim under this lease.
    async fn expect_enqueue(cluster: &mut Cluster, shared: &Shared, claim: &Claim, lease: i64) -> Call {
        let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
        let key = shared.key_numbers.key(claim.id).unwrap();
        let tombstone = keys::tombstone(shared.prefix(), claim.id, lease);
        assert_eq!(asked.compare, [Compare::created(key.clone(), 0), Compare::created(tombstone, 0)]);
        let Some(Request::Put(put)) = &asked.success[0].request else { panic!("{asked:?}") };
        assert_eq!((&put.key, put.lease), (&key, lease));
        let reads = [
            key_request(&key),
            operation(Request::Range(queue_request(&keys::queue(shared.prefix(), &claim.name), FEW))),
        ];
        assert_eq!((&asked.success[1..], &asked.failure[..]), (&reads[..], &reads[..]));
        call
    }

    /// The answer to that transaction as of revision 50: the claim's own key, and its queue.
    fn answer(own: &[KeyValue], queue: &[KeyValue], more: bool) -> TxnResponse {
        let range = |kvs: &[KeyValue], more| {
            let range = RangeResponse { header: None, kvs: kvs.to_vec(), more };
            ResponseOp { response: Some(Response::Range(range)) }
        };
        TxnResponse {
            header: as_of(50),
            succeeded: true,
            responses: vec![range(own, false), range(queue, more)],
        }
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
                let (status, ()) =
                    soon(async { tokio::join!(shared.enqueue_or_release(&claim), answers) }).await;
                match (others, wait_mode) {
                    (0, _) => assert_eq!(fencing_token(status.unwrap()), Some(40)),
                    (_, WaitMode::Wait) => assert_eq!(status.unwrap(), ClaimStatus::Waiting),
                    (_, WaitMode::Try) => assert_eq!(status.unwrap(), ClaimStatus::Gone),
                }
                assert!(cluster.is_idle().await);
                assert_eq!(shared.key_numbers.key(claim.id).is_none(), is_released);
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
            let (status, ()) = soon(async { tokio::join!(shared.enqueue_or_release(&claim), answers) }).await;
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
            call.answer(&LeaseGrantResponse { id: 2, ttl: 60 });
            let own = [found(&key, 40, 2)];
            expect_enqueue(&mut cluster, &shared, &claim, 2).await.answer(&answer(&own, &own, false));
        };
        let (status, ()) = soon(async { tokio::join!(shared.enqueue_or_release(&claim), answers) }).await;
        assert_eq!(fencing_token(status.unwrap()), Some(40));
        assert_eq!((shared.leases.find(1), shared.leases.find(2).is_some()), (None, true));
        soon(shared.session_lost.notified()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_that_does_not_concern_the_lease_is_returned() {
        let (mut cluster, shared, claim, _) = absent(MUTEX);
        let refuses = async {
            expect_enqueue(&mut cluster, &shared, &claim, 1)
                .await
                .fail(Status::permission_denied("not for you"));
        };
        let (status, ()) = soon(async { tokio::join!(shared.enqueue_or_release(&claim), refuses) }).await;
        assert!(status.unwrap_err().to_string().contains("not for you"));
        assert!(cluster.is_idle().await && shared.leases.find(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_of_an_earlier_lease_is_deleted_and_its_claim_must_join_again() {
        for (own, deleted) in [(true, 1), (false, 0)] {
            let (mut cluster, shared, claim, key) = absent(MUTEX);
            let own = if own { vec![found(&key, 40, 7)] } else { Vec::new() };
            let answers = async {
                expect_enqueue(&mut cluster, &shared, &claim, 1).await.answer(&answer(&own, &own, false));
                expect_delete(&mut cluster, &key, deleted).await;
            };
            let (status, ()) = soon(async { tokio::join!(shared.enqueue_or_release(&claim), answers) }).await;
            assert_eq!(status.ok(), (deleted == 0).then_some(ClaimStatus::Gone));
            assert!(cluster.is_idle().await && shared.positions().get(claim.id).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_whose_request_had_no_answer_is_remembered_with_its_lease() {
        let (mut cluster, shared, claim, _) = absent(MUTEX);
        let (status, _call) =
            tokio::join!(shared.enqueue_or_release(&claim), expect_enqueue(&mut cluster, &shared, &claim, 1));
        assert!(status.unwrap_err().to_string().contains("did not answer"));
        assert_eq!(shared.unanswered().get(&claim.id), Some(&BTreeSet::from([1])));
        // The lease takes no new claims, so that it ends with those that it has.
        let other = shared.leases.get(&shared.connection, claim.lease).now_or_never();
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
    async fn the_requests_of_one_claim_take_turns_and_leave_no_entry() {
        let (_cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        let id = ClaimId::new(1, 1);
        let first = Turn::take(&shared, id).await;
        let mut second = Box::pin(Turn::take(&shared, id));
        assert!((&mut second).now_or_never().is_none());
        let third = Turn::take(&shared, id).now_or_never();
        assert!(third.is_none(), "it was given up");
        drop(Turn::take(&shared, ClaimId::new(1, 2)).now_or_never().unwrap());
        assert_eq!(shared.turns().len(), 1);
        drop(first);
        let second = soon(second).await;
        assert!(Turn::take(&shared, id).now_or_never().is_none());
        drop(second);
        assert!(shared.turns().is_empty());
    }
}
