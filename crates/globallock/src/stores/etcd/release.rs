//! How claims leave, those too whose joining or leaving got no answer.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::connection::is_lease_expired;
use super::messages::{PutRequest, Request, TxnRequest};
use super::{Shared, keys, operation};
use crate::backend::{Claim, ClaimId, Release};
use crate::error::Result;

/// The pause between two tries of a departure that was not answered.
const PAUSE: Duration = Duration::from_millis(500);

impl Shared {
    /// Takes a claim out of its queue, or at the latest its lease does.
    pub(super) async fn release(self: &Arc<Self>, claim: &Claim) -> Result<Release> {
        let left = self.try_release(claim).await;
        if left.is_err() {
            self.release_in_background(claim);
        }
        left
    }

    async fn try_release(&self, claim: &Claim) -> Result<Release> {
        let Some(key) = self.key_numbers.key(claim.id) else {
            return Ok(Release::NotHeld);
        };
        let left = self.delete_claim(claim, key).await;
        if left.is_ok() || !self.key_may_exist(claim.id) {
            self.unanswered().remove(&claim.id);
            self.positions().remove(claim.id);
            self.key_numbers.give_back(claim.id);
        }
        left
    }

    async fn delete_claim(&self, claim: &Claim, key: Vec<u8>) -> Result<Release> {
        let id = claim.id;
        // A crowd that leaves must not hold up the holder, whom all the others wait for.
        let holds = self.positions().get(id).is_some_and(|position| position.granted.is_some());
        let _one_of_few = if holds { None } else { self.release_limit.acquire().await.ok() };
        let leases = self.unanswered().get(&id).cloned();
        for lease in leases.iter().flatten() {
            self.tombstone(id, *lease).await?;
        }
        if let Some(position) = self.positions().get_mut(id) {
            position.releasing = true;
        }
        let left = match self.python_etcd3_key(claim) {
            None => self.delete(key).await?,
            Some(python_etcd3_key) => {
                self.delete_with_python_etcd3_key(claim.id, key, python_etcd3_key).await?
            }
        };
        Ok(if left { Release::Released } else { Release::NotHeld })
    }

    /// Goes on taking a claim out until that is answered, or its lease is over.
    ///
    /// The core gives up when the claim's lease would be over; but other claims keep the lease alive.
    fn release_in_background(self: &Arc<Self>, claim: &Claim) {
        let id = claim.id;
        let leaving = move |shared: &Self| shared.key_numbers.key(id).is_some();
        let mut later = self.background_releases.lock().unwrap_or_else(PoisonError::into_inner);
        if !leaving(self) || !later.insert(id) {
            return;
        }
        drop(later);
        let (shared, claim) = (Arc::downgrade(self), claim.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PAUSE).await;
                let Some(shared) = shared.upgrade() else { return };
                // The core's own tries may have been answered meanwhile.
                if !leaving(&shared) || shared.try_release(&claim).await.is_ok() {
                    shared.background_releases.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    return;
                }
            }
        });
    }

    /// Whether a departure of the claim has not been answered yet.
    pub(super) fn is_being_released(&self, id: ClaimId) -> bool {
        self.background_releases.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    /// Whether a lease lives that the claim may hang on, or may be found to live on by an answer that comes late: the next
    /// claim with its key would take the old one for its own. What is left of a lease that cannot is found by the next
    /// claim with its key, and taken out.
    fn key_may_exist(&self, id: ClaimId) -> bool {
        let unanswered = self.unanswered().get(&id).cloned().unwrap_or_default();
        let known = self.positions().get(id).map(|position| position.mine.lease);
        unanswered.into_iter().chain(known).any(|lease| self.leases.may_be_alive(lease))
    }

    /// Sees to it that a request which is still on its way cannot put a claim that has left.
    ///
    /// The bar ends with the lease, without which the request can do nothing either.
    async fn tombstone(&self, id: ClaimId, lease: i64) -> Result<()> {
        let key = keys::tombstone(self.prefix(), id, lease);
        let put = operation(Request::Put(PutRequest { key, value: Vec::new(), lease }));
        match self.transaction(TxnRequest { success: vec![put], ..TxnRequest::default() }).await {
            // The lease is over already.
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
    async fn of_a_crowd_so_many_leave_at_a_time_and_a_holder_at_once() {
        let (mut cluster, shared, holder, held_key) = held();
        for number in 2..=MAX_CONCURRENT as u64 + 2 {
            let waits = claim(number, MUTEX);
            let key = shared.key_numbers.take(shared.prefix(), &waits);
            let queue = [found(&held_key, 4, 1), found(&key, 5, 1)];
            assert_eq!(read(&shared, &waits, &queue, 5), ClaimStatus::Waiting);
            let shared = Arc::clone(&shared);
            tokio::spawn(async move { shared.release(&waits).await });
        }
        let mut calls = Vec::new();
        for _ in 0..MAX_CONCURRENT {
            calls.push(cluster.asked::<DeleteRangeRequest>("KV/DeleteRange").await.1);
        }
        assert!(cluster.is_idle().await);
        let answers =
            async { deletes(&mut cluster, &held_key).await.answer(&DeleteRangeResponse { deleted: 1 }) };
        let (left, ()) = soon(async { tokio::join!(shared.release(&holder), answers) }).await;
        assert_eq!(left.unwrap(), Release::Released);
        calls.pop().unwrap().answer(&DeleteRangeResponse { deleted: 1 });
        cluster
            .asked::<DeleteRangeRequest>("KV/DeleteRange")
            .await
            .1
            .answer(&DeleteRangeResponse { deleted: 1 });
    }

    async fn deletes(cluster: &mut Cluster, key: &[u8]) -> Call {
        let (asked, call) = cluster.asked::<DeleteRangeRequest>("KV/DeleteRange").await;
        assert_eq!(asked, DeleteRangeRequest { key: key.to_vec() });
        call
    }

    /// Has a departure refused.
    async fn is_refused(cluster: &mut Cluster, shared: &Arc<Shared>, claim: &Claim, key: &[u8]) {
        let refuses = async { deletes(cluster, key).await.fail(Status::permission_denied("not now")) };
        let (left, ()) = soon(async { tokio::join!(shared.release(claim), refuses) }).await;
        left.unwrap_err();
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_left_is_known_no_more_and_its_key_is_free() {
        for (deleted, departure) in [(1, Release::Released), (0, Release::NotHeld)] {
            let (mut cluster, shared, claim, key) = held();
            let answers =
                async { deletes(&mut cluster, &key).await.answer(&DeleteRangeResponse { deleted }) };
            let (left, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
            assert_eq!(left.unwrap(), departure);
            assert!(shared.key_numbers.key(claim.id).is_none() && shared.positions().get(claim.id).is_none());
            assert_eq!(soon(shared.release(&claim)).await.unwrap(), Release::NotHeld);
            assert!(cluster.is_idle().await && !shared.is_being_released(claim.id));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_departure_that_fails_is_tried_again_by_one_task_until_it_is_answered() {
        let (mut cluster, shared, claim, key) = held();
        for _ in 0..2 {
            is_refused(&mut cluster, &shared, &claim, &key).await;
            assert!(shared.is_being_released(claim.id));
            assert_eq!(shared.key_numbers.key(claim.id).as_ref(), Some(&key), "it may be there");
        }
        assert!(cluster.is_idle().await);
        for _ in 0..2 {
            advance(PAUSE).await;
            soon(deletes(&mut cluster, &key)).await.fail(Status::permission_denied("not now"));
            assert!(cluster.is_idle().await, "there is only one such task");
            assert!(shared.is_being_released(claim.id));
        }
        advance(PAUSE).await;
        soon(deletes(&mut cluster, &key)).await.answer(&DeleteRangeResponse { deleted: 1 });
        assert!(cluster.is_idle().await && !shared.is_being_released(claim.id));
        assert_eq!(shared.key_numbers.key(claim.id), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_departure_that_was_answered_after_all_is_tried_no_more() {
        let (mut cluster, shared, claim, key) = held();
        is_refused(&mut cluster, &shared, &claim, &key).await;
        let answers = async { deletes(&mut cluster, &key).await.answer(&DeleteRangeResponse { deleted: 1 }) };
        let (left, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
        assert_eq!(left.unwrap(), Release::Released);
        advance(PAUSE).await;
        assert!(cluster.is_idle().await && !shared.is_being_released(claim.id));
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_whose_lease_is_over_needs_no_further_departure() {
        let (mut cluster, shared, claim, key) = held();
        shared.leases.forget(1);
        is_refused(&mut cluster, &shared, &claim, &key).await;
        assert!(shared.key_numbers.key(claim.id).is_none() && !shared.is_being_released(claim.id));
        advance(PAUSE).await;
        assert!(cluster.is_idle().await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_request_without_an_answer_may_yet_put_is_barred_before_the_claim_is_taken_out() {
        // The tombstone is written, or its lease has expired, or nobody knows.
        for refusal in [None, Some(Status::not_found("no lease")), Some(Status::permission_denied("not now"))]
        {
            let (mut cluster, shared, claim, key) = held();
            shared.unanswered().insert(claim.id, BTreeSet::from([1]));
            let goes_on = refusal.as_ref().is_none_or(|refusal| refusal.code() == tonic::Code::NotFound);
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
                if goes_on {
                    deletes(&mut cluster, &key).await.answer(&DeleteRangeResponse { deleted: 1 });
                }
            };
            let (left, ()) = soon(async { tokio::join!(shared.release(&claim), answers) }).await;
            assert_eq!(left.ok(), goes_on.then_some(Release::Released));
            assert_eq!(shared.unanswered().contains_key(&claim.id), !goes_on);
            assert!(cluster.is_idle().await);
        }
    }

    #[tokio::test]
    async fn a_key_is_nobody_elses_while_its_lease_may_be_confirmed_after_all() {
        // Nobody answers there.
        let (shared, claim, key) = store();
        shared.leases.pretend(1);
        let status = read(&shared, &claim, &[found(&key, 4, 1)], 4);
        assert!(matches!(status, ClaimStatus::Held(_)), "{status:?}");
        shared.leases.pretend_expired(1);
        for _ in 0..2 {
            assert!(shared.try_release(&claim).await.is_err());
            assert_eq!(shared.key_numbers.key(claim.id).as_ref(), Some(&key), "an answer may be on its way");
            assert_eq!(read(&shared, &claim, &[found(&key, 4, 1)], 5), ClaimStatus::Gone);
        }
        shared.leases.forget(1);
        assert!(shared.try_release(&claim).await.is_err());
        assert_eq!(shared.key_numbers.key(claim.id), None);
    }
}
