//! Releases claims, also those whose enqueue or release was not answered.
//!
//! Three things can go wrong, and each has its remedy:
//!
//! - A request that enqueues arrives after the release. A tombstone stops it.
//! - The release itself gets no answer. A background task repeats it until one comes or the lease has
//!   expired.
//! - A release that got no answer arrives after another one has freed the key. No other claim gets that key.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::claims::{Claims, ToRelease};
use super::connection::{Connection, is_full, is_lease_expired};
use super::keys;
use super::messages::{
    Compare, DeleteRangeRequest, PutRequest, Request, Response, ResponseOp, TxnRequest, operation,
};
use super::python_etcd3::{PythonEtcd3, give_back};
use crate::backend::{Claim, ClaimId, Release};
use crate::error::Result;
use crate::stores::watched::releases::{Releases, Task};

/// Releases the claims of one store.
pub(super) struct Releaser {
    pub(super) connection: Arc<Connection>,
    pub(super) claims: Arc<Claims>,
    pub(super) python_etcd3: Arc<PythonEtcd3>,
    /// Limits how many waiting claims are released at the same time.
    pub(super) limit: Semaphore,
}

impl Releases for Releaser {
    async fn try_release(self: &Arc<Self>, claim: &Claim) -> Result<Release> {
        let Some(found) = self.claims.to_release(claim.id) else { return Ok(Release::NotHeld) };
        let released = self.delete_claim(claim, &found).await;
        if released.is_ok() || !self.claims.key_may_exist(claim.id) {
            self.claims.forget(claim.id, &found.key);
        }
        released
    }

    fn with_task<T>(&self, id: ClaimId, change: impl FnOnce(&mut Option<Task>) -> T) -> Option<T> {
        self.claims.with_background_release(id, change)
    }
}

impl Releaser {
    async fn delete_claim(&self, claim: &Claim, found: &ToRelease) -> Result<Release> {
        // Only waiters are limited: a crowd that leaves must not delay the holder's release, which all others
        // wait for.
        let _one_of_few = if found.holds { None } else { self.limit.acquire().await.ok() };
        let stopped = match self.stop_late_requests(claim.id, found).await {
            // A cluster that is full refuses the late request too. So the claim is deleted, and the tombstone
            // is put once there is room.
            Err(error) if is_full(&error) => Err(error),
            stopped => Ok(stopped?),
        };
        let was_there = self.delete(found, claim).await?;
        stopped.map(|()| if was_there { Release::Released } else { Release::NotHeld })
    }

    /// Sees to it that no late request enqueues a claim again.
    pub(super) async fn stop_late_requests(&self, id: ClaimId, found: &ToRelease) -> Result<()> {
        let mut refused = Ok(());
        for lease in &found.unanswered {
            match self.put_tombstone(id, *lease).await {
                Err(error) if is_full(&error) => refused = Err(error),
                answer => answer?,
            }
        }
        refused
    }

    /// Deletes a claim's key, and the python-etcd3 key if that is the claim's; returns whether the claim's
    /// key existed.
    async fn delete(&self, found: &ToRelease, claim: &Claim) -> Result<bool> {
        let ToRelease { key, revision, .. } = found;
        self.claims.deleting(claim.id, key);
        let delete = DeleteRangeRequest { key: key.clone() };
        let (was_there, unanswered) = match self.python_etcd3.key(claim) {
            None => {
                let (answer, unanswered) = self.connection.ask(delete).await;
                (answer.map(|answer| answer.deleted > 0), unanswered)
            }
            Some(python_etcd3_key) => {
                // The claim may join again, and then has the python-etcd3 key with the same value. A late
                // copy of this request must not delete it.
                let compare = revision.map(|revision| Compare::created(key.clone(), revision));
                let both = vec![operation(Request::Delete(delete)), give_back(claim.id, python_etcd3_key)];
                let request = TxnRequest { compare: compare.into_iter().collect(), ..TxnRequest::of(both) };
                let (answer, unanswered) = self.connection.ask(request).await;
                (answer.map(|answer| deleted(answer.responses)), unanswered)
            }
        };
        if !unanswered {
            self.claims.delete_answered(claim.id, key);
        }
        was_there
    }

    /// Puts the claim's tombstone, so that a request which arrives late cannot enqueue the released claim.
    ///
    /// The tombstone is attached to the lease that the late request names. When the lease ends, the tombstone
    /// is deleted, and the request fails for want of the lease.
    async fn put_tombstone(&self, id: ClaimId, lease: i64) -> Result<()> {
        let key = keys::tombstone(&self.connection.config().prefix, id, lease);
        let put = operation(Request::Put(PutRequest::new(key, Vec::new(), lease)));
        match self.connection.unary(TxnRequest::of(vec![put])).await {
            // The lease has ended already, so that the late request fails anyway.
            Err(error) if is_lease_expired(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }
}

/// Whether a transaction has deleted something.
fn deleted(responses: Vec<ResponseOp>) -> bool {
    responses.into_iter().any(|response| match response.response {
        Some(Response::Delete(deleted)) => deleted.deleted > 0,
        _ => false,
    })
}

/// Deletes a key, if it is the one that this revision has created. So a late copy of the request hits no key
/// that was created since.
pub(super) fn delete_if_same(key: &[u8], revision: i64) -> TxnRequest {
    let delete = operation(Request::Delete(DeleteRangeRequest { key: key.to_vec() }));
    TxnRequest { compare: vec![Compare::created(key.to_vec(), revision)], ..TxnRequest::of(vec![delete]) }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;
    use tonic::Status;

    use super::*;
    use crate::backend::ClaimStatus;
    use crate::stores::etcd::claims::tests::{
        MUTEX, PREFIX, claim, found, held, is_being_released, read, store,
    };
    use crate::stores::etcd::messages::{DeleteRangeRequest, DeleteRangeResponse, TxnResponse};
    use crate::stores::etcd::owner::{MAX_CONCURRENT, Shared};
    use crate::stores::etcd::scripted::{Call, Cluster, soon};
    use crate::stores::watched::releases::PAUSE;

    #[tokio::test(start_paused = true)]
    async fn a_limited_number_of_waiters_are_released_at_the_same_time_and_a_holder_at_once() {
        let (mut cluster, shared, holder, held_key) = held();
        for number in 2..=MAX_CONCURRENT as u64 + 2 {
            let waiter = claim(number, MUTEX);
            let key = shared.claims.take_key(PREFIX, &waiter);
            let queue = [found(&held_key, 4, 1), found(&key, 5, 1)];
            assert_eq!(read(&shared, &waiter, &queue, 5), ClaimStatus::Waiting);
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { shared.release(&waiter).await });
        }
        let mut calls = Vec::new();
        for _ in 0..MAX_CONCURRENT {
            calls.push(cluster.asked::<DeleteRangeRequest>("KV/DeleteRange").await.1);
        }
        assert!(cluster.is_idle().await);
        let answers = async {
            expect_delete(&mut cluster, &held_key).await.answer(&DeleteRangeResponse { deleted: 1 });
        };
        let (released, ()) = soon(async { tokio::join!(shared.release(&holder), answers) }).await;
        assert_eq!(released.unwrap(), Release::Released);
        calls.pop().unwrap().answer(&DeleteRangeResponse { deleted: 1 });
        cluster
            .asked::<DeleteRangeRequest>("KV/DeleteRange")
            .await
            .1
            .answer(&DeleteRangeResponse { deleted: 1 });
    }

    async fn expect_delete(cluster: &mut Cluster, key: &[u8]) -> Call {
        let (asked, call) = cluster.asked::<DeleteRangeRequest>("KV/DeleteRange").await;
        assert_eq!(asked, DeleteRangeRequest { key: key.to_vec() });
        call
    }

    /// Lets a release be refused.
    async fn refuse_release(cluster: &mut Cluster, shared: &Arc<Shared>, claim: &Claim, key: &[u8]) {
        let refuses = async { expect_delete(cluster, key).await.fail(Status::permission_denied("not now")) };
        let (released, ()) = soon(async { tokio::join!(shared.release(claim), refuses) }).await;
        released.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_claim_is_forgotten_and_its_key_is_free() {
        for (deleted, expected) in [(1, Release::Released), (0, Release::NotHeld)] {
            let (mut cluster, shared, claim, key) = held();
            let answers =
                async { expect_delete(&mut cluster, &key).await.answer(&DeleteRangeResponse { deleted }) };
            let (released, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
            assert_eq!(released.unwrap(), expected);
            assert!(shared.claims.key(claim.id).is_none() && shared.claims.position(claim.id).is_none());
            assert_eq!(soon(shared.release(&claim)).await.unwrap(), Release::NotHeld);
            assert!(cluster.is_idle().await && !is_being_released(&shared, claim.id));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_a_late_request_may_still_delete_is_not_used_again() {
        // The first try gets no answer; or the caller gives up before it is answered.
        for gives_up in [false, true] {
            let (mut cluster, shared, claim, key) = held();
            if gives_up {
                let mut released = Box::pin(shared.release(&claim));
                assert!(futures_util::poll!(&mut released).is_pending());
                let call = soon(expect_delete(&mut cluster, &key)).await;
                drop((released, call));
            }
            let answers = async {
                if !gives_up {
                    expect_delete(&mut cluster, &key).await.fail(Status::unavailable("no answer"));
                }
                expect_delete(&mut cluster, &key).await.answer(&DeleteRangeResponse { deleted: 1 });
            };
            let (released, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
            assert_eq!(released.unwrap(), Release::Released);
            let next = self::claim(2, MUTEX);
            assert_ne!(shared.claims.take_key(PREFIX, &next), key, "gives up: {gives_up}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_that_fails_is_repeated_by_one_task_until_it_is_answered() {
        let (mut cluster, shared, claim, key) = held();
        for _ in 0..2 {
            refuse_release(&mut cluster, &shared, &claim, &key).await;
            assert!(is_being_released(&shared, claim.id));
            assert_eq!(shared.claims.key(claim.id).as_ref(), Some(&key), "the key may exist");
        }
        assert!(cluster.is_idle().await);
        for _ in 0..2 {
            advance(PAUSE).await;
            soon(expect_delete(&mut cluster, &key)).await.fail(Status::permission_denied("not now"));
            assert!(cluster.is_idle().await, "there is only one such task");
            assert!(is_being_released(&shared, claim.id));
        }
        advance(PAUSE).await;
        soon(expect_delete(&mut cluster, &key)).await.answer(&DeleteRangeResponse { deleted: 1 });
        assert!(cluster.is_idle().await && !is_being_released(&shared, claim.id));
        assert_eq!(shared.claims.key(claim.id), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_that_was_answered_meanwhile_is_not_repeated() {
        let (mut cluster, shared, claim, key) = held();
        refuse_release(&mut cluster, &shared, &claim, &key).await;
        let answers =
            async { expect_delete(&mut cluster, &key).await.answer(&DeleteRangeResponse { deleted: 1 }) };
        let (released, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
        assert_eq!(released.unwrap(), Release::Released);
        advance(PAUSE).await;
        assert!(cluster.is_idle().await && !is_being_released(&shared, claim.id));
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_whose_lease_has_ended_is_not_released_again() {
        let (mut cluster, shared, claim, key) = held();
        shared.leases.forget(1);
        refuse_release(&mut cluster, &shared, &claim, &key).await;
        assert!(shared.claims.key(claim.id).is_none() && !is_being_released(&shared, claim.id));
        advance(PAUSE).await;
        assert!(cluster.is_idle().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tombstone_is_put_before_the_release_of_a_claim_whose_enqueue_had_no_answer() {
        // The tombstone is put; its lease has ended; neither is known.
        for refusal in [None, Some(Status::not_found("no lease")), Some(Status::permission_denied("not now"))]
        {
            let (mut cluster, shared, claim, key) = held();
            shared.claims.requested(claim.id, 1, false);
            let continues = refusal.as_ref().is_none_or(|refusal| refusal.code() == tonic::Code::NotFound);
            let answers = async {
                let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
                let tombstone = PutRequest::new(keys::tombstone(PREFIX, claim.id, 1), Vec::new(), 1);
                let success = vec![operation(Request::Put(tombstone))];
                assert_eq!(asked, TxnRequest { success, ..TxnRequest::default() });
                match refusal {
                    None => call.answer(&TxnResponse { succeeded: true, ..TxnResponse::default() }),
                    Some(refusal) => call.fail(refusal),
                }
                if continues {
                    expect_delete(&mut cluster, &key).await.answer(&DeleteRangeResponse { deleted: 1 });
                }
            };
            let (released, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
            assert_eq!(released.ok(), continues.then_some(Release::Released));
            let left = shared.claims.to_release(claim.id);
            assert_eq!(left.is_some_and(|left| left.unanswered.contains(&1)), !continues);
            assert!(cluster.is_idle().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cluster_that_refuses_the_tombstone_deletes_the_claim_all_the_same() {
        let (mut cluster, shared, claim, key) = held();
        shared.claims.requested(claim.id, 1, false);
        let full = || Status::resource_exhausted("etcdserver: mvcc: database space exceeded");
        let answers = async |cluster: &mut Cluster, is_full: bool, deleted| {
            let (_, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
            if is_full {
                call.fail(full());
            } else {
                call.answer(&TxnResponse::default());
            }
            expect_delete(cluster, &key).await.answer(&DeleteRangeResponse { deleted });
        };
        let (released, ()) =
            soon(async { tokio::join!(shared.release(&claim), answers(&mut cluster, true, 1)) }).await;
        assert!(released.unwrap_err().to_string().contains("database is full"));
        assert_ne!(
            shared.claims.take_key(PREFIX, &self::claim(2, MUTEX)),
            key,
            "the late request may put it"
        );
        // Until the tombstone is there.
        advance(PAUSE).await;
        soon(answers(&mut cluster, true, 0)).await;
        advance(PAUSE).await;
        soon(answers(&mut cluster, false, 0)).await;
        assert!(cluster.is_idle().await && !is_being_released(&shared, claim.id));
        assert_eq!(shared.claims.key(claim.id), None);
    }

    #[tokio::test]
    async fn a_key_is_not_used_again_while_a_late_answer_may_confirm_its_lease() {
        // This store's cluster does not answer.
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let status = read(&shared, &claim, &[found(&key, 4, 1)], 4);
        assert!(matches!(status, ClaimStatus::Held(_)), "{status:?}");
        shared.leases.pretend_expired(1);
        for _ in 0..2 {
            assert!(shared.releaser.try_release(&claim).await.is_err());
            assert_eq!(
                shared.claims.key(claim.id).as_ref(),
                Some(&key),
                "a late answer may confirm the lease"
            );
            assert_eq!(read(&shared, &claim, &[found(&key, 4, 1)], 5), ClaimStatus::Gone);
        }
        shared.leases.forget(1);
        assert!(shared.releaser.try_release(&claim).await.is_err());
        assert_eq!(shared.claims.key(claim.id), None);
    }
}
