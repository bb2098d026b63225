//! How claims join their queues.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::ahead::Ahead;
use super::keys::{self, Listed};
use super::link::is_lease_over;
use super::messages::{Compare, KeyValue, PutRequest, Request, TxnRequest, TxnResponse};
use super::places::Behind;
use super::reading::{FEW, Sight, key_request, queue_request, ranges};
use super::{Shared, TRANSACTION, operation, value};
use crate::backend::{Claim, ClaimId, Patience, Standing};
use crate::error::Result;
use crate::sync::now;

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
    pub(super) async fn join_or_leave(self: &Arc<Self>, claim: &Claim) -> Result<Standing> {
        if self.is_leaving(claim.id) {
            // A try that had to leave again, and was not answered: a request that takes it out is on its way, so that
            // what holds by now would not hold for long.
            self.leave(claim).await?;
            return Ok(Standing::Gone);
        }
        let standing = self.join(claim).await?;
        if standing == Standing::Waiting && claim.patience == Patience::Once {
            self.leave(claim).await?;
            return Ok(Standing::Gone);
        }
        Ok(standing)
    }

    async fn join(self: &Arc<Self>, claim: &Claim) -> Result<Standing> {
        let key = self.slots.take(self.prefix(), claim);
        loop {
            let (lease, is_new) = self.leases.get(&self.link, claim.lease).await?;
            if is_new {
                self.watch_over(lease);
            }
            match self.join_under(claim, &key, lease.id).await {
                // It ended, and nobody has been told yet.
                Err(error) if is_lease_over(&error) => {
                    self.lease_is_over(lease.id);
                    if is_new {
                        return Err(error);
                    }
                }
                joined => return joined,
            }
        }
    }

    async fn join_under(&self, claim: &Claim, key: &[u8], lease: i64) -> Result<Standing> {
        let behind = self.behind(claim);
        let sent = now();
        let request = self.put_or_find(claim, key, lease, behind.as_ref());
        let (answer, unanswered) = self.link.ask::<_, TxnResponse>(TRANSACTION, request).await;
        if unanswered {
            self.leases.retire(lease);
            self.unanswered().entry(claim.id).or_default().insert(lease);
        }
        let answer = answer?;
        let read_at = answer.header.map_or(0, |header| header.revision);
        let mut ranges = ranges(answer.responses).into_iter();
        let own = ranges.next().and_then(|own| own.kvs.into_iter().next());
        let found = ranges.next();
        let single: Vec<KeyValue> = ranges.flat_map(|range| range.kvs).collect();
        let is_complete = self.is_complete(claim, &single);
        let standing = match (own.as_ref().map(Listed::new), found, behind) {
            (None, ..) => self.is_missing(claim, read_at),
            // Behind the claim that was known to be in front, the queue was not read.
            (Some(mine), None, behind) => {
                let (ahead, as_of) = behind.map_or((Ahead::default(), None), |b| (b.ahead, b.read_at));
                self.stands(claim, &mine, ahead, as_of.unwrap_or(read_at), is_complete, sent)
            }
            (Some(mine), Some(found), _) => {
                let queue = self.claims(&found.kvs);
                let sight = Sight::new(Some(mine.clone()), queue, !found.more, read_at);
                let tells = sight.is_whole || Ahead::of_some(sight.ahead(), claim.share).is_some();
                let sight = if tells { sight } else { self.sight(claim, &mine, read_at).await? };
                self.note(claim, &sight, is_complete, sent)
            }
        };
        if standing == Standing::Gone {
            let was_there = self.delete(key.to_vec()).await?;
            self.places().remove(claim.id);
            if was_there {
                // It was attached to an earlier lease, which has ended: it begins again, at the end.
                return Err(self.link.error(tonic::Status::unavailable("the claim's lease had ended")));
            }
        }
        if standing == Standing::Waiting && self.single_key(claim).is_some() {
            return self.take_single_now(claim, &single).await;
        }
        Ok(standing)
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
            compare: vec![absent(key.to_vec()), absent(keys::bar(self.prefix(), claim.id, lease))],
            success: vec![put, key_request(key), unless_behind],
            failure: vec![key_request(key), few],
        };
        self.also_take_single(claim, lease, &mut request);
        request
    }
}
