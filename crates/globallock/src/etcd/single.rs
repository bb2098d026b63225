//! The one key of python-etcd3's lock, which a mutex takes beside its place in the queue where `interop=python-etcd3` is
//! wished: so that each excludes the other.
//!
//! The key is `<prefix><name>`. Whoever made it holds that lock; it is given back by comparing its value. Only the head
//! of our queue asks for it, in the transaction that joins where nobody is before it.

use super::keys::{self, Listed};
use super::link::is_lease_over;
use super::messages::{
    Compare, DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, Request, Response, TxnRequest,
};
use super::places::Place;
use super::reading::ranges;
use super::{Shared, operation};
use crate::backend::{Claim, ClaimId, Standing};
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
enum Asked {
    Answered(Standing),
    /// Somebody else has it, as of a revision; what to watch, the claim's own key being the second.
    Taken([Vec<u8>; 2], i64),
    /// It is free by now.
    Free,
}

impl Shared {
    /// The key that a claim needs besides; those who share a lock do not, since theirs are never shared.
    pub(super) fn single_key(&self, claim: &Claim) -> Option<Vec<u8>> {
        let alone = claim.share.weight == claim.share.capacity;
        let wanted = self.link.config().single_key && alone;
        wanted.then(|| format!("{}{}", self.prefix(), claim.name.as_str()).into_bytes())
    }

    /// Whether a key is a claim: where such keys are used, those of names that nest are below each other's queues.
    pub(super) fn is_claim(&self, listed: &Listed) -> bool {
        !self.link.config().single_key || listed.ours || keys::is_lease(&listed.key)
    }

    /// Whether nothing else is needed, as far as the key that was read says.
    pub(super) fn is_complete(&self, claim: &Claim, single: &[KeyValue]) -> bool {
        self.single_key(claim).is_none() || single.iter().any(|kv| kv.value == value(claim.id))
    }

    /// Has the transaction that joins take the key as well, if nobody is in the queue and nobody has it.
    pub(super) fn also_take_single(&self, claim: &Claim, lease: i64, request: &mut TxnRequest) {
        let Some(key) = self.single_key(claim) else { return };
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
    pub(super) async fn take_single(&self, claim: &Claim, place: &Place) -> Result<Option<Standing>> {
        match self.ask_for_single(claim, place).await? {
            Asked::Answered(standing) => Ok(Some(standing)),
            Asked::Taken(watched, read_at) => {
                let watched = watched.into_iter().map(|key| (key, None));
                self.watches.subscribe(&self.link, watched, read_at).news_within(claim.lease).await;
                Ok(None)
            }
            Asked::Free => Ok(None),
        }
    }

    /// Takes the key for a claim that has just joined at the head of the queue, where the transaction did not: keys of
    /// names that nest look like claims to what it compares.
    pub(super) async fn take_single_now(&self, claim: &Claim, found: &[KeyValue]) -> Result<Standing> {
        let Some(place) = self.places().get(claim.id).cloned() else { return Ok(Standing::Gone) };
        let is_taken = found.iter().any(|kv| Some(&kv.key) == self.single_key(claim).as_ref());
        if is_taken || !place.ahead.lets_in(claim.share) {
            return Ok(Standing::Waiting);
        }
        match self.ask_for_single(claim, &place).await? {
            Asked::Answered(standing) => Ok(standing),
            Asked::Taken(..) | Asked::Free => Ok(Standing::Waiting),
        }
    }

    async fn ask_for_single(&self, claim: &Claim, place: &Place) -> Result<Asked> {
        let (Some(single), Some(mine)) = (self.single_key(claim), self.slots.key(claim.id)) else {
            return Ok(Asked::Answered(Standing::Gone));
        };
        let put = PutRequest { key: single.clone(), value: value(claim.id), lease: place.mine.lease };
        let request = TxnRequest {
            compare: vec![
                Compare::created(single.clone(), 0),
                Compare::created(mine.clone(), place.mine.revision),
            ],
            success: vec![operation(Request::Put(put))],
            failure: vec![operation(read(single.clone())), operation(read(mine.clone()))],
        };
        let sent = now();
        let answer = match self.transaction(request).await {
            Err(error) if is_lease_over(&error) => {
                self.lease_is_over(place.mine.lease);
                self.places().remove(claim.id);
                return Ok(Asked::Answered(Standing::Gone));
            }
            answer => answer?,
        };
        let read_at = answer.header.map_or(0, |header| header.revision);
        let found: Vec<KeyValue> = ranges(answer.responses).into_iter().flat_map(|range| range.kvs).collect();
        let ours = found.iter().any(|kv| kv.key == single && kv.value == value(claim.id));
        if answer.succeeded || ours {
            let mut places = self.places();
            let Some(place) = places.get_mut(claim.id) else { return Ok(Asked::Answered(Standing::Gone)) };
            place.is_complete = true;
            place.granted.get_or_insert(sent);
            let place = place.clone();
            drop(places);
            return Ok(Asked::Answered(self.standing(claim, &place)));
        }
        if !found.iter().any(|kv| kv.key == mine && kv.create_revision == place.mine.revision) {
            self.places().remove(claim.id);
            return Ok(Asked::Answered(Standing::Gone));
        }
        let is_taken = found.iter().any(|kv| kv.key == single);
        Ok(if is_taken { Asked::Taken([single, mine], read_at) } else { Asked::Free })
    }

    /// Takes out a claim and, if it has it, the key; says whether the claim was there.
    pub(super) async fn delete_with_single(
        &self,
        id: ClaimId,
        key: Vec<u8>,
        single: Vec<u8>,
    ) -> Result<bool> {
        let delete = |key| operation(Request::Delete(DeleteRangeRequest { key }));
        let give_back = TxnRequest {
            compare: vec![Compare::has_value(single.clone(), value(id))],
            success: vec![delete(single)],
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
