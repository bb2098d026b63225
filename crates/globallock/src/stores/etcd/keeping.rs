//! Claims that are kept beyond their owners: each is put under a lease of its own.
//!
//! The claims of a store share their leases, and a keep-alive gives a lease its whole length again. So a
//! claim that must last for a time gets a lease of that length, which is not kept alive. Shortly before its
//! end, a claim whose owner lives on is put under the common lease again.
//!
//! A claim's key stays in the queue where it is, because to write a key again does not change the revision at
//! which it was created. What each write compares, besides, is the revision of the last one. So of the
//! requests that had no answer none takes effect once a later one has.
//!
//! | a claim is put | if |
//! |---|---|
//! | from the common lease under its own | that surely lasts longer |
//! | from its own under the common lease | that surely lasts longer |
//! | under the one of several leases that lasts longest | it may be under any of them |

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::connection::is_full;
use super::key_reads::{key_request, read_keys};
use super::lease::Lease;
use super::messages::{Compare, Header, PutRequest, Request, TxnRequest, operation, revision};
use super::owner::Shared;
use super::python_etcd3::move_to;
use super::reading::ranges;
use super::sentinel::watch_lease;
use crate::backend::{Claim, ClaimStatus, Release};
use crate::error::Result;
use crate::sync::now;

impl Shared {
    /// Sees to it that a held claim lasts for `rest` from now.
    ///
    /// # Cancel safety
    /// The claim lasts for as long as before, or for `rest`.
    pub(super) async fn keep_for(&self, claim: &Claim, rest: Duration) -> Result<ClaimStatus> {
        let until = now() + rest;
        let _turn = self.claims.turn(claim.id).await;
        let lasts = |lease: Lease| lease.surely_lasts_until() >= until;
        let known = self.claims.position(claim.id).filter(|position| position.moving_to.is_empty());
        if !known.and_then(|position| self.leases.find(position.mine.lease)).is_some_and(lasts) {
            let lease = self.leases.own(until).await?;
            self.put_under(claim, &lease).await?;
        }
        self.kept_status(claim).await
    }

    /// Leaves a held claim, which ends `rest` from now.
    ///
    /// # Cancel safety
    /// The claim lasts for as long as before, or for `rest`.
    pub(super) async fn release_after(&self, claim: &Claim, rest: Duration) -> Result<Release> {
        let until = now() + rest;
        let _turn = self.claims.turn(claim.id).await;
        let Some(found) = self.claims.to_release(claim.id) else { return Ok(Release::NotHeld) };
        let lasts = |lease: &Lease| lease.is_own() && lease.surely_lasts_until() >= until;
        let known = self.claims.position(claim.id).filter(|position| position.moving_to.is_empty());
        let own = known.and_then(|position| self.leases.find(position.mine.lease)).filter(lasts);
        let own = match own {
            Some(own) => {
                self.look_whether_it_exists(claim).await?;
                own
            }
            None => {
                let own = self.leases.own(until).await?;
                self.put_under(claim, &own).await?;
                own
            }
        };
        if !matches!(self.kept_status(claim).await?, ClaimStatus::Held(_)) {
            // What is remembered of the claim, here and in the cluster, is dropped as by any release.
            return self.release(claim).await;
        }
        self.releaser.stop_late_requests(claim.id, &found).await?;
        self.claims.leave(claim.id, &found.key);
        self.leases.forget(own.id);
        Ok(Release::Released)
    }

    /// The status of a claim as far as it is known; if it is gone, its notice is looked for.
    async fn kept_status(&self, claim: &Claim) -> Result<ClaimStatus> {
        let status = self.claims.status(claim);
        if status == ClaimStatus::Gone && self.notices.status(claim).is_none() {
            self.notices.look_for(&[claim]).await?;
        }
        Ok(self.notices.status(claim).unwrap_or(status))
    }

    async fn look_whether_it_exists(&self, claim: &Claim) -> Result<()> {
        let Some(mine) = self.claims.with(claim.id, |position| position.mine.clone()) else { return Ok(()) };
        let states = read_keys(&self.connection, std::slice::from_ref(&mine.key), |_| {}).await?;
        if states.iter().any(|state| state.proves_gone(mine.revision)) {
            self.claims.record_gone(claim, mine.revision);
        }
        Ok(())
    }

    /// Puts those of these claims under the right lease that have been kept, before they are renewed. Says of
    /// each whether what is known of it is certain.
    pub(super) async fn settle(&self, claims: &[Arc<Claim>]) -> Vec<Result<()>> {
        let kept = |claim: &Arc<Claim>| {
            let may_be_own = |lease: i64| self.leases.find(lease).is_some_and(|lease| lease.is_own());
            let is_kept = self
                .claims
                .with(claim.id, |position| !position.moving_to.is_empty() || may_be_own(position.mine.lease));
            is_kept == Some(true)
        };
        join_all(claims.iter().map(async |claim| {
            if !kept(claim) {
                return Ok(());
            }
            // Whoever has the turn keeps or releases the claim, and settles it.
            let Some(_turn) = self.claims.try_turn(claim.id) else { return Ok(()) };
            self.settle_one(claim).await
        }))
        .await
    }

    async fn settle_one(&self, claim: &Claim) -> Result<()> {
        let Some(position) = self.claims.position(claim.id) else { return Ok(()) };
        let alive = position.leases().filter_map(|lease| self.leases.find(lease));
        let Some(longest) = alive.max_by_key(Lease::surely_lasts_until) else { return Ok(()) };
        if !position.moving_to.is_empty() {
            return self.put_under(claim, &longest).await;
        }
        if longest.surely_lasts_until() > now() + claim.lease {
            return Ok(());
        }
        let (common, is_new) = self.leases.get(claim.lease).await?;
        if is_new {
            watch_lease(&self.leases, &self.watches, common);
        }
        // It may have been kept alive just now, which counts once the cluster has agreed on something since.
        let confirm = |header: Option<&Header>| {
            self.leases.confirm(&common, header);
        };
        read_keys(&self.connection, std::slice::from_ref(&position.mine.key), confirm).await?;
        let Some(common) = self.leases.find(common.id) else { return Ok(()) };
        if common.surely_lasts_until() < longest.surely_lasts_until() {
            return Ok(());
        }
        match self.put_under(claim, &common).await {
            // What takes no room, such as a keep-alive, is not refused.
            Err(error) if is_full(&error) => {
                self.leases.renew_own(longest.id);
                Ok(())
            }
            put => put,
        }
    }

    /// Puts a claim's key under a lease, if it exists.
    async fn put_under(&self, claim: &Claim, lease: &Lease) -> Result<()> {
        loop {
            // Before the request, because a future that is dropped hears of no answer.
            let position = self.claims.with(claim.id, |position| {
                let is_new = position.moving_to.insert(lease.id);
                (position.clone(), is_new)
            });
            let Some((position, is_new)) = position else { return Ok(()) };
            let mine = position.mine;
            let put =
                PutRequest { key: mine.key.clone(), value: Vec::new(), lease: lease.id, ignore_value: true };
            let python_etcd3 = self.python_etcd3.key(claim).map(|key| move_to(claim.id, key, lease.id));
            let request = TxnRequest {
                compare: vec![
                    Compare::created(mine.key.clone(), mine.revision),
                    Compare::modified(mine.key.clone(), position.written_at),
                ],
                success: [operation(Request::Put(put))].into_iter().chain(python_etcd3).collect(),
                failure: vec![key_request(&mine.key)],
            };
            let (answer, unanswered) = self.connection.ask(request).await;
            if answer.is_err() && !unanswered && is_new {
                // It was refused, so it will not be carried out.
                self.claims.with(claim.id, |position| position.moving_to.remove(&lease.id));
            }
            let answer = answer?;
            let read_at = revision(answer.header.as_ref());
            if answer.succeeded {
                self.is_under(claim, lease.id, read_at, true);
                return Ok(());
            }
            let found = ranges(answer.responses).into_iter().flat_map(|range| range.kvs).next();
            let Some(found) = found.filter(|found| found.create_revision == mine.revision) else {
                self.claims.record_gone(claim, read_at);
                return Ok(());
            };
            // An earlier try was carried out though it was not answered; perhaps it was this one.
            self.is_under(claim, found.lease, found.mod_revision, found.lease == lease.id);
            if found.lease == lease.id {
                return Ok(());
            }
        }
    }

    /// Records under which lease a claim's key is, and whether it stays there for certain.
    fn is_under(&self, claim: &Claim, lease: i64, written_at: i64, stays: bool) {
        self.claims.with(claim.id, |position| {
            (position.mine.lease, position.written_at) = (lease, written_at);
            if stays {
                position.moving_to.clear();
            }
        });
    }
}

#[cfg(test)]
mod tests;
