//! How claims join their queues.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
use crate::sync::now;

/// How many claims of one store are joined at a time, and how many that wait are taken out.
///
/// A member that has not caught up with what the cluster agreed on for a second refuses to keep leases alive: thousands
/// of requests at once would cost others the locks that they hold.
pub(super) const MAX_CONCURRENT: usize = 32;

/// Whose turn it is for each claim that is being joined or left.
pub(super) type Turns = Mutex<HashMap<ClaimId, Arc<tokio::sync::Mutex<()>>>>;

/// The time in which a claim is joined or left: a departure waits until the joining has been answered.
pub(super) struct Turn {
    shared: Arc<Shared>,
    id: ClaimId,
    taken: Option<OwnedMutexGuard<()>>,
}

impl Turn {
    pub(super) async fn take(shared: &Arc<Shared>, id: ClaimId) -> Self {
        let turn = Arc::clone(shared.turns().entry(id).or_default());
        // Made before the wait, so that a wait which is given up leaves nothing either.
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
        // No code panics while it holds the lock, so a poisoned map is still whole.
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins a claim; takes out again what has to wait and does not want to.
    pub(super) async fn enqueue_or_release(self: &Arc<Self>, claim: &Claim) -> Result<ClaimStatus> {
        if self.is_being_released(claim.id) {
            // A try that had to leave again, and was not answered: a request that takes it out is on its way, so that
            // what holds by now would not hold for long.
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
                // It ended, and nobody has been told yet.
                Err(error) if is_lease_expired(&error) => {
                    self.lease_expired(lease.id);
                    if is_new {
                        return Err(error);
                    }
                }
                joined => return joined,
            }
        }
    }

    async fn enqueue_under(&self, claim: &Claim, key: &[u8], lease: i64) -> Result<ClaimStatus> {
        let behind = self.behind(claim);
        let sent = now();
        let request = self.put_or_find(claim, key, lease, behind.as_ref());
        let (answer, unanswered) = self.connection.ask::<_, TxnResponse>(TRANSACTION, request).await;
        if unanswered {
            self.leases.drain(lease);
            self.unanswered().entry(claim.id).or_default().insert(lease);
        }
        let answer = answer?;
        let read_at = answer.header.map_or(0, |header| header.revision);
        let mut ranges = ranges(answer.responses).into_iter();
        let own = ranges.next().and_then(|own| own.kvs.into_iter().next());
        let found = ranges.next();
        let python_etcd3_keys: Vec<KeyValue> = ranges.flat_map(|range| range.kvs).collect();
        let is_complete = self.is_complete(claim, &python_etcd3_keys);
        let status = match (own.as_ref().map(QueueEntry::new), found, behind) {
            (None, ..) => self.note_gone(claim, read_at),
            // Behind the claim that was known to be in front, the queue was not read.
            (Some(mine), None, behind) => {
                let (ahead, as_of) = behind.map_or((Ahead::default(), None), |b| (b.ahead, b.read_at));
                self.note_position(claim, &mine, ahead, as_of.unwrap_or(read_at), is_complete, sent)
            }
            (Some(mine), Some(found), _) => {
                let queue = self.claims(&found.kvs);
                let view = QueueView::new(Some(mine.clone()), queue, !found.more, read_at);
                let tells = view.is_whole || Ahead::of_some(view.ahead(), claim.permits).is_some();
                let view = if tells { view } else { self.read_view(claim, &mine, read_at).await? };
                self.note_view(claim, &view, is_complete, sent)
            }
        };
        if status == ClaimStatus::Gone {
            let was_there = self.delete(key.to_vec()).await?;
            self.positions().remove(claim.id);
            if was_there {
                // It was attached to an earlier lease, which has ended: it begins again, at the end.
                return Err(self.connection.error(tonic::Status::unavailable("the claim's lease had ended")));
            }
        }
        if status == ClaimStatus::Waiting && self.python_etcd3_key(claim).is_some() {
            return self.take_python_etcd3_key_now(claim, &python_etcd3_keys).await;
        }
        Ok(status)
    }

    /// One transaction that puts the claim into the queue, unless it is there, and reads it and a few of the others.
    ///
    /// Where a claim of this store is known to stand in front and to tell enough, the others are not read as long as it
    /// is there: a crowd of claims costs no more than each of them.
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

    /// A store with lease 1, and a claim that is not there yet.
    fn absent(permits: Permits) -> (Cluster, Arc<Shared>, Claim, Vec<u8>) {
        let (cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
        shared.leases.pretend(1);
        let mut claim = claim(1, permits);
        claim.lease = shared.leases.find(1).unwrap().length();
        let key = shared.key_numbers.take(shared.prefix(), &claim);
        (cluster, shared, claim, key)
    }

    /// Somebody puts the claim under this lease, unless it is there or barred, and reads it and some of its queue.
    async fn puts(cluster: &mut Cluster, shared: &Shared, claim: &Claim, lease: i64) -> Call {
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

    /// What the claim's own key and its queue are as of revision 50.
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

    async fn deletes(cluster: &mut Cluster, key: &[u8], deleted: i64) {
        let (asked, call) = cluster.asked::<DeleteRangeRequest>("KV/DeleteRange").await;
        assert_eq!(asked.key, key);
        call.answer(&DeleteRangeResponse { deleted });
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_holds_at_once_or_waits_if_it_wants_to_and_is_taken_out_again_if_not() {
        for wait_mode in [WaitMode::Wait, WaitMode::Try] {
            for others in [0, 1] {
                let (mut cluster, shared, mut claim, key) = absent(MUTEX);
                claim.wait_mode = wait_mode;
                let queue = [found(OTHER.as_bytes(), 3, 9), found(&key, 40, 1)];
                let leaves = others == 1 && wait_mode == WaitMode::Try;
                let answers = async {
                    let call = puts(&mut cluster, &shared, &claim, 1).await;
                    call.answer(&answer(&queue[1..], &queue[1 - others..], false));
                    if leaves {
                        deletes(&mut cluster, &key, 1).await;
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
                assert_eq!(shared.key_numbers.key(claim.id).is_none(), leaves);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_is_read_of_a_long_queue_only_where_its_beginning_does_not_tell_whom_to_wait_for() {
        for (permits, reads) in [(MUTEX, false), (READ, true)] {
            let (mut cluster, shared, claim, key) = absent(permits);
            let reader = format!("/locks/_glocks/a/0123456789abcdef0123.0.1.{}", READ.capacity);
            let other = found(reader.as_bytes(), 3, 9);
            let own = found(&key, 40, 1);
            let answers = async {
                let call = puts(&mut cluster, &shared, &claim, 1).await;
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
    async fn a_claim_whose_lease_ended_unseen_joins_under_another() {
        let (mut cluster, shared, claim, key) = absent(MUTEX);
        let answers = async {
            let call = puts(&mut cluster, &shared, &claim, 1).await;
            call.fail(Status::not_found("etcdserver: requested lease not found"));
            let (_, call) = cluster.asked::<LeaseGrantRequest>("Lease/LeaseGrant").await;
            call.answer(&LeaseGrantResponse { id: 2, ttl: 60 });
            let own = [found(&key, 40, 2)];
            puts(&mut cluster, &shared, &claim, 2).await.answer(&answer(&own, &own, false));
        };
        let (status, ()) = soon(async { tokio::join!(shared.enqueue_or_release(&claim), answers) }).await;
        assert_eq!(fencing_token(status.unwrap()), Some(40));
        assert_eq!((shared.leases.find(1), shared.leases.find(2).is_some()), (None, true));
        soon(shared.session_lost.notified()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_refused_for_another_reason_than_its_lease_is_refused() {
        let (mut cluster, shared, claim, _) = absent(MUTEX);
        let refuses = async {
            puts(&mut cluster, &shared, &claim, 1).await.fail(Status::permission_denied("not for you"));
        };
        let (status, ()) = soon(async { tokio::join!(shared.enqueue_or_release(&claim), refuses) }).await;
        assert!(status.unwrap_err().to_string().contains("not for you"));
        assert!(cluster.is_idle().await && shared.leases.find(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_of_an_earlier_lease_is_taken_out_and_the_claim_has_to_begin_again() {
        for (own, deleted) in [(true, 1), (false, 0)] {
            let (mut cluster, shared, claim, key) = absent(MUTEX);
            let own = if own { vec![found(&key, 40, 7)] } else { Vec::new() };
            let answers = async {
                puts(&mut cluster, &shared, &claim, 1).await.answer(&answer(&own, &own, false));
                deletes(&mut cluster, &key, deleted).await;
            };
            let (status, ()) = soon(async { tokio::join!(shared.enqueue_or_release(&claim), answers) }).await;
            assert_eq!(status.ok(), (deleted == 0).then_some(ClaimStatus::Gone));
            assert!(cluster.is_idle().await && shared.positions().get(claim.id).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_a_request_without_an_answer_may_yet_put_is_remembered_with_its_lease() {
        let (mut cluster, shared, claim, _) = absent(MUTEX);
        let (status, _call) =
            tokio::join!(shared.enqueue_or_release(&claim), puts(&mut cluster, &shared, &claim, 1));
        assert!(status.unwrap_err().to_string().contains("did not answer"));
        assert_eq!(shared.unanswered().get(&claim.id), Some(&BTreeSet::from([1])));
        // It ends with the claims that it has.
        let other = shared.leases.get(&shared.connection, claim.lease).now_or_never();
        assert!(other.is_none() && shared.leases.find(1).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_crowd_so_many_join_at_a_time_and_who_gives_up_before_has_asked_for_nothing() {
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
    async fn a_claim_is_joined_or_left_by_one_at_a_time_and_nothing_is_left_of_the_turns() {
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
