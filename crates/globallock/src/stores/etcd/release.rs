//! Releases claims, also those whose enqueue or release was not answered.
//!
//! Two things can go wrong, and each has its remedy:
//!
//! - A request that enqueues arrives after the release. A tombstone stops it.
//! - The release itself gets no answer. A background task repeats it until one comes or the lease has
//!   expired.

use std::sync::Arc;
use std::time::Duration;

use super::connection::is_lease_expired;
use super::messages::{PutRequest, Request, TxnRequest};
use super::{Shared, keys, operation};
use crate::backend::{Claim, ClaimId, Release};
use crate::error::Result;

/// The pause between two tries of a release that was not answered.
const PAUSE: Duration = Duration::from_millis(500);

impl Shared {
    /// Releases a claim. If that fails, a background task goes on, and at the latest the lease's expiry
    /// releases it.
    pub(super) async fn release(self: &Arc<Self>, claim: &Claim) -> Result<Release> {
        let released = self.try_release(claim).await;
        if released.is_err() {
            self.release_in_background(claim);
        }
        released
    }

    async fn try_release(&self, claim: &Claim) -> Result<Release> {
        let Some(key) = self.key_numbers.key(claim.id) else {
            return Ok(Release::NotHeld);
        };
        let released = self.delete_claim(claim, key).await;
        if released.is_ok() || !self.key_may_exist(claim.id) {
            self.unanswered().remove(&claim.id);
            self.positions().remove(claim.id);
            self.key_numbers.give_back(claim.id);
        }
        released
    }

    async fn delete_claim(&self, claim: &Claim, key: Vec<u8>) -> Result<Release> {
        let id = claim.id;
        // Only waiters are limited: a crowd that leaves must not delay the holder's release, which all others
        // wait for.
        let holds = self.positions().get(id).is_some_and(|position| position.granted.is_some());
        let _one_of_few = if holds { None } else { self.release_limit.acquire().await.ok() };
        let leases = self.unanswered().get(&id).cloned();
        for lease in leases.iter().flatten() {
            self.put_tombstone(id, *lease).await?;
        }
        if let Some(position) = self.positions().get_mut(id) {
            position.releasing = true;
        }
        let released = match self.python_etcd3_key(claim) {
            None => self.delete(key).await?,
            Some(python_etcd3_key) => {
                self.delete_with_python_etcd3_key(claim.id, key, python_etcd3_key).await?
            }
        };
        Ok(if released { Release::Released } else { Release::NotHeld })
    }

    /// Repeats a release in the background until it is answered, or the claim's lease has expired.
    ///
    /// The core does not repeat it for longer than the claim's lease. That is not enough here, because other
    /// claims that are attached to the same lease keep it alive, and the key with it.
    fn release_in_background(self: &Arc<Self>, claim: &Claim) {
        let id = claim.id;
        let is_pending = move |shared: &Self| shared.key_numbers.key(id).is_some();
        let mut running = self.background_releases.lock();
        if !is_pending(self) || !running.insert(id) {
            return;
        }
        drop(running);
        let (shared, claim) = (Arc::downgrade(self), claim.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                let Some(shared) = shared.upgrade() else { return };
                // A try of the core may have been answered meanwhile.
                if !is_pending(&shared) || shared.try_release(&claim).await.is_ok() {
                    shared.background_releases.lock().remove(&id);
                    return;
                }
            }
        });
    }

    /// Whether a release of the claim has not been answered yet.
    pub(super) fn is_being_released(&self, id: ClaimId) -> bool {
        self.background_releases.lock().contains(&id)
    }

    /// Whether the claim's key may still exist under a lease that is alive, or that a late answer may prove
    /// alive.
    ///
    /// As long as it may, the key must not be used again: the next claim would take the old key for its own.
    /// A key of a lease that has ended is no danger: the next claim sees that it has another lease, and
    /// deletes it.
    fn key_may_exist(&self, id: ClaimId) -> bool {
        let unanswered = self.unanswered().get(&id).cloned().unwrap_or_default();
        let known = self.positions().get(id).map(|position| position.mine.lease);
        unanswered.into_iter().chain(known).any(|lease| self.leases.may_be_alive(lease))
    }

    /// Puts the claim's tombstone, so that a request which arrives late cannot enqueue the released claim.
    ///
    /// The tombstone is attached to the lease that the late request names. When the lease ends, the tombstone
    /// is deleted, and the request fails for want of the lease.
    async fn put_tombstone(&self, id: ClaimId, lease: i64) -> Result<()> {
        let key = keys::tombstone(self.prefix(), id, lease);
        let put = operation(Request::Put(PutRequest { key, value: Vec::new(), lease }));
        match self.transaction(TxnRequest { success: vec![put], ..TxnRequest::default() }).await {
            // The lease has ended already, so that the late request fails anyway.
            Err(error) if is_lease_expired(&error) => Ok(()),
            answer => answer.map(drop),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tokio::time::advance;
    use tonic::Status;

    use super::*;
    use crate::backend::ClaimStatus;
    use crate::stores::etcd::enqueue::MAX_CONCURRENT;
    use crate::stores::etcd::messages::{DeleteRangeRequest, DeleteRangeResponse, TxnResponse};
    use crate::stores::etcd::positions::tests::{MUTEX, claim, found, held, read, store};
    use crate::stores::etcd::scripted::{Call, Cluster, soon};

    #[tokio::test(start_paused = true)]
    async fn a_limited_number_of_waiters_are_released_at_the_same_time_and_a_holder_at_once() {
        let (mut cluster, shared, holder, held_key) = held();
        for number in 2..=MAX_CONCURRENT as u64 + 2 {
            let waiter = claim(number, MUTEX);
            let key = shared.key_numbers.take(shared.prefix(), &waiter);
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
            assert!(shared.key_numbers.key(claim.id).is_none() && shared.positions().get(claim.id).is_none());
            assert_eq!(soon(shared.release(&claim)).await.unwrap(), Release::NotHeld);
            assert!(cluster.is_idle().await && !shared.is_being_released(claim.id));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_that_fails_is_repeated_by_one_task_until_it_is_answered() {
        let (mut cluster, shared, claim, key) = held();
        for _ in 0..2 {
            refuse_release(&mut cluster, &shared, &claim, &key).await;
            assert!(shared.is_being_released(claim.id));
            assert_eq!(shared.key_numbers.key(claim.id).as_ref(), Some(&key), "the key may exist");
        }
        assert!(cluster.is_idle().await);
        for _ in 0..2 {
            advance(PAUSE).await;
            soon(expect_delete(&mut cluster, &key)).await.fail(Status::permission_denied("not now"));
            assert!(cluster.is_idle().await, "there is only one such task");
            assert!(shared.is_being_released(claim.id));
        }
        advance(PAUSE).await;
        soon(expect_delete(&mut cluster, &key)).await.answer(&DeleteRangeResponse { deleted: 1 });
        assert!(cluster.is_idle().await && !shared.is_being_released(claim.id));
        assert_eq!(shared.key_numbers.key(claim.id), None);
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
        assert!(cluster.is_idle().await && !shared.is_being_released(claim.id));
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_whose_lease_has_ended_is_not_released_again() {
        let (mut cluster, shared, claim, key) = held();
        shared.leases.forget(1);
        refuse_release(&mut cluster, &shared, &claim, &key).await;
        assert!(shared.key_numbers.key(claim.id).is_none() && !shared.is_being_released(claim.id));
        advance(PAUSE).await;
        assert!(cluster.is_idle().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_tombstone_is_put_before_the_release_of_a_claim_whose_enqueue_had_no_answer() {
        // The tombstone is put; its lease has ended; neither is known.
        for refusal in [None, Some(Status::not_found("no lease")), Some(Status::permission_denied("not now"))]
        {
            let (mut cluster, shared, claim, key) = held();
            shared.unanswered().insert(claim.id, BTreeSet::from([1]));
            let continues = refusal.as_ref().is_none_or(|refusal| refusal.code() == tonic::Code::NotFound);
            let answers = async {
                let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
                let tombstone = PutRequest {
                    key: keys::tombstone(shared.prefix(), claim.id, 1),
                    value: Vec::new(),
                    lease: 1,
                };
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
            assert_eq!(shared.unanswered().contains_key(&claim.id), !continues);
            assert!(cluster.is_idle().await);
        }
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
            assert!(shared.try_release(&claim).await.is_err());
            assert_eq!(
                shared.key_numbers.key(claim.id).as_ref(),
                Some(&key),
                "a late answer may confirm the lease"
            );
            assert_eq!(read(&shared, &claim, &[found(&key, 4, 1)], 5), ClaimStatus::Gone);
        }
        shared.leases.forget(1);
        assert!(shared.try_release(&claim).await.is_err());
        assert_eq!(shared.key_numbers.key(claim.id), None);
    }
}
