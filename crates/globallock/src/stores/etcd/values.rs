//! The values of the names: reading them with a grant, and writing them.
//!
//! A value is a key below the empty name, where other versions expect no queue. It has a lease of its own,
//! which nobody renews, so that it ends by itself.

use std::time::Duration;

use super::connection::Connection;
use super::key_reads::{key_request, value_request};
use super::keys;
use super::messages::{
    Compare, KeyValue, LeaseGrantRequest, LeaseRevokeRequest, PutRequest, RangeRequest, RangeResponse,
    Request, TxnRequest, operation,
};
use super::owner::Shared;
use super::reading::ranges;
use crate::backend::{Claim, ClaimStatus, Value, ValueWrite};
use crate::error::{Error, Result};
use crate::name::Name;
use crate::stores::record::{Record, wall_clock};

/// Makes the transaction that enqueues a claim read the value too, last of all.
pub(super) fn also_read(prefix: &str, claim: &Claim, request: &mut TxnRequest) {
    let key = keys::value(prefix, &claim.name);
    for branch in [&mut request.success, &mut request.failure] {
        branch.push(value_request(key.clone()));
    }
}

/// The value in an answer. What is no record counts as none.
///
/// etcd has no clock that can be asked, so the age is what the writer's clock and ours make of it.
pub(super) fn value(found: &RangeResponse) -> Option<Value> {
    let record = Record::parse(&found.kvs.first()?.value)?;
    let age = record.age(wall_clock());
    // The lease that ends it may get its whole time again from a new leader.
    (age.as_millis() < u128::from(record.keep)).then(|| record.value(age))
}

impl Shared {
    /// The status with the value, if it is a grant of a claim that asks for it. `read` is the value as of the
    /// grant, where the transaction that granted the claim has read it.
    pub(super) async fn with_value(
        &self,
        claim: &Claim,
        status: ClaimStatus,
        read: Option<Option<Value>>,
    ) -> Result<ClaimStatus> {
        match status {
            ClaimStatus::Held(grant) if claim.wants_value => {
                let value = match read {
                    Some(value) => value,
                    None => self.read_value(&claim.name).await?,
                };
                Ok(ClaimStatus::Held(grant.with_value(value)))
            }
            status => Ok(status),
        }
    }

    async fn read_value(&self, name: &Name) -> Result<Option<Value>> {
        let key = keys::value(&self.connection.config().prefix, name);
        let found = self.connection.unary(RangeRequest { key, ..RangeRequest::default() }).await?;
        Ok(value(&found))
    }

    /// Writes the value of a claim's name, if the claim holds.
    ///
    /// | in one transaction, if the claim's key and the value are still those that were seen | why |
    /// |---|---|
    /// | the value, under a lease of its own | so that it ends by itself |
    ///
    /// A claim that holds goes on to hold as long as its key exists. If the request fails, it may have been
    /// carried out, or may be later, if the claim still holds then. So its lease is left to expire.
    ///
    /// # Cancel safety
    /// The value may have been written or not.
    pub(super) async fn write_value(
        &self,
        claim: &Claim,
        bytes: &[u8],
        keep: Duration,
    ) -> Result<ValueWrite> {
        Value::check(bytes, keep)?;
        let connection = &*self.connection;
        let key = keys::value(&connection.config().prefix, &claim.name);
        let ttl = i64::try_from(keep.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        let mut lease = None;
        loop {
            let position = self.claims.position(claim.id);
            let is_held = matches!(self.claims.status(claim), ClaimStatus::Held(_));
            let Some(position) = position.filter(|_| is_held) else {
                return given_up(connection, lease, ValueWrite::NotHeld).await;
            };
            let mine = position.mine;
            let read = RangeRequest { key: key.clone(), ..RangeRequest::default() };
            let before = connection.unary(read).await?.kvs.into_iter().next();
            let fencing_token = mine.revision.unsigned_abs();
            let record = before.as_ref().and_then(|found| Record::parse(&found.value));
            // Where they share a prefix, it is the key of python-etcd3's lock with the name `/value/…`.
            if connection.config().python_etcd3 && before.is_some() && record.is_none() {
                given_up(connection, lease, ValueWrite::NotHeld).await?;
                let reason = "another program has put something else at the key of this lock's value: choose \
                              another prefix";
                return Err(Error::failed_precondition(&connection.config().shown, reason));
            }
            if record.is_some_and(|record| record.fencing_token > fencing_token) {
                return given_up(connection, lease, ValueWrite::Outranked).await;
            }
            let under = match lease {
                Some(lease) => lease,
                None => *lease.insert(connection.unary(LeaseGrantRequest { ttl }).await?.id),
            };
            let written = Record::now(fencing_token, keep, bytes).to_bytes();
            let put = PutRequest::new(key.clone(), written, under);
            let answer = connection
                .unary(TxnRequest {
                    compare: vec![
                        Compare::created(mine.key.clone(), mine.revision),
                        Compare::modified(key.clone(), before.as_ref().map_or(0, |found| found.mod_revision)),
                    ],
                    success: vec![operation(Request::Put(put))],
                    failure: vec![key_request(&mine.key), value_request(key.clone())],
                })
                .await?;
            if answer.succeeded {
                // Of the record that was there. Otherwise a holder that writes often would leave many.
                let ended = before.as_ref().filter(|_| record.is_some()).map_or(0, |found| found.lease);
                if ended != 0 {
                    let _ = connection.unary(LeaseRevokeRequest { id: ended }).await;
                }
                return Ok(ValueWrite::Written);
            }
            let found: Vec<Option<KeyValue>> =
                ranges(answer.responses).into_iter().map(|range| range.kvs.into_iter().next()).collect();
            let [own, now] = <[_; 2]>::try_from(found).unwrap_or_default();
            // An earlier try of the request was carried out though it was not answered. The claim held then,
            // so the value counts, also if the claim is gone by now.
            if now.is_some_and(|now| now.lease == under) {
                return Ok(ValueWrite::Written);
            }
            if own.is_none_or(|own| own.create_revision != mine.revision) {
                return given_up(connection, lease, ValueWrite::NotHeld).await;
            }
        }
    }
}

/// Ends the lease that was made for a value that is not written. If that fails, it expires.
async fn given_up(connection: &Connection, lease: Option<i64>, answer: ValueWrite) -> Result<ValueWrite> {
    if let Some(id) = lease {
        let _ = connection.unary(LeaseRevokeRequest { id }).await;
    }
    Ok(answer)
}

#[cfg(test)]
mod tests;
