//! How claims wait: watching those in front of them that matter, and looking where one is not sure to be told.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::keys::Listed;
use super::places::Place;
use crate::backend::{Claim, Standing};
use crate::error::Result;

/// What a claim has learned of those that it watches.
struct Gone {
    /// The keys that are gone.
    keys: Vec<Vec<u8>>,
    /// The revision as of which that is so.
    as_of: i64,
    /// Whether all changes until then have been told, in their order.
    is_sure: bool,
}

impl Shared {
    /// Waits until a claim that waits stands otherwise.
    pub(super) async fn changed(self: &Arc<Self>, claim: &Claim) -> Result<Option<Standing>> {
        loop {
            let Some(place) = self.places().get(claim.id).cloned() else {
                return Ok(Some(Standing::Gone));
            };
            if place.granted.is_some() {
                return Ok(Some(self.standing(claim, &place)));
            }
            if place.ahead.lets_in(claim.share) {
                match self.take_single(claim, &place).await? {
                    Some(standing) => return Ok(Some(standing)),
                    None => continue,
                }
            }
            let since = if place.ahead.tells() {
                let Some(gone) = self.gone(claim, &place).await? else { continue };
                if gone.is_sure
                    && !gone.keys.contains(&place.mine.key)
                    && let Some(standing) = self.advance(claim, &gone.keys)
                {
                    return Ok(Some(standing));
                }
                gone.as_of
            } else {
                place.read_at
            };
            // What was read before tells nothing more.
            let since = since.max(place.read_at + 1);
            match self.read_again(claim, since).await? {
                Standing::Waiting => {}
                standing => return Ok(Some(standing)),
            }
        }
    }

    /// Waits until one of those who keep a claim waiting is gone, or the claim itself; `None` if they must be watched again.
    async fn gone(self: &Arc<Self>, claim: &Claim, place: &Place) -> Result<Option<Gone>> {
        let blockers = place.ahead.blockers(claim.share).into_iter();
        // The claim's own key too, and first: changes are told in their order, so that a claim which was taken out first
        // is not granted by what leaves next, and whether its own is watched late is known before another's end is told.
        let watched: Vec<&Listed> = [&place.mine].into_iter().chain(blockers).collect();
        let keys = watched.iter().map(|listed| (listed.key.clone(), Some(listed.revision)));
        let subscription = self.watches.subscribe(&self.link, keys, place.read_at);
        let mut is_late = false;
        loop {
            let news = subscription.news().await;
            is_late |= news.read_again;
            if !news.deleted.is_empty() {
                return Ok(Some(Gone { keys: news.deleted, as_of: news.as_of, is_sure: !is_late }));
            }
            // Told late, or not any more: a short queue is read at once, as that may tell of a grant.
            if place.ahead.is_whole() {
                return Ok(Some(Gone { keys: Vec::new(), as_of: news.as_of, is_sure: false }));
            }
            let keys = watched.iter().map(|listed| listed.key.clone()).collect();
            let seen = self.look_together(keys).await?;
            let as_of = seen.iter().map(|seen| seen.read_at).min().unwrap_or(0);
            let missing = watched.iter().zip(seen).filter(|(listed, seen)| seen.misses(listed.revision));
            let keys: Vec<Vec<u8>> = missing.map(|(listed, _)| listed.key.clone()).collect();
            if !keys.is_empty() {
                return Ok(Some(Gone { keys, as_of, is_sure: false }));
            }
            if let Some(place) = self.places().get_mut(claim.id) {
                place.read_at = place.read_at.max(as_of);
            }
            if subscription.has_ended() {
                return Ok(None);
            }
        }
    }

    /// Reads the queue of a claim that waits.
    async fn read_again(&self, claim: &Claim, since: i64) -> Result<Standing> {
        let Some(mine) = self.places().get(claim.id).map(|place| place.mine.clone()) else {
            return Ok(Standing::Gone);
        };
        let sent = Instant::now();
        let sight = self.sight(claim, &mine, since).await?;
        Ok(self.note(claim, &sight, self.single_key(claim).is_none(), sent))
    }

    /// Looks once a lease whether all keys that are watched are there: what tells of their ends may get lost.
    ///
    /// One look for all who wait, in the background, whatever their number.
    pub(super) fn look_unasked(self: &Arc<Self>, lease: Duration) {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|looked| looked.elapsed() < lease) {
            return;
        }
        *looked = Some(Instant::now());
        drop(looked);
        let watched = self.watches.watched();
        if watched.is_empty() {
            return;
        }
        let shared = Arc::downgrade(self);
        tokio::spawn(async move {
            let Some(shared) = shared.upgrade() else { return };
            let keys: Vec<Vec<u8>> = watched.iter().map(|(key, _)| key.clone()).collect();
            // What is not answered is asked again with the next renewal.
            let Ok(seen) = shared.look(&keys).await else { return };
            let as_of = seen.iter().map(|seen| seen.read_at).min().unwrap_or(0);
            let missing =
                watched.into_iter().zip(seen).filter(|((_, revision), seen)| seen.misses(*revision));
            let gone: HashSet<(Vec<u8>, i64)> = missing.map(|(watched, _)| watched).collect();
            if !gone.is_empty() {
                shared.watches.tell_gone(&gone, as_of);
            }
        });
    }
}
