//! How claims wait: watching those in front of them that matter, and looking where one is not sure to be told.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use crate::backend::{Claim, Standing};
use crate::error::Result;

impl Shared {
    /// Waits until a claim that waits stands otherwise.
    pub(super) async fn changed(&self, claim: &Claim) -> Result<Option<Standing>> {
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
                let blockers = place.ahead.blockers(claim.share).into_iter();
                // Its own key too: changes are told in their order, so that a claim which was taken out first is not
                // granted by what leaves next.
                let watched: Vec<(Vec<u8>, i64)> = blockers
                    .chain([&place.mine])
                    .map(|listed| (listed.key.clone(), listed.revision))
                    .collect();
                let Some((gone, since)) = self.gone(claim, &watched, place.read_at).await? else { continue };
                if !gone.contains(&place.mine.key)
                    && let Some(standing) = self.advance(claim, &gone)
                {
                    return Ok(Some(standing));
                }
                since
            } else {
                place.read_at
            };
            match self.read_again(claim, since).await? {
                Standing::Waiting => {}
                standing => return Ok(Some(standing)),
            }
        }
    }

    /// Waits until one of the watched keys is gone, and says as of which revision; `None` if they must be watched again.
    async fn gone(
        &self,
        claim: &Claim,
        watched: &[(Vec<u8>, i64)],
        read_at: i64,
    ) -> Result<Option<(Vec<Vec<u8>>, i64)>> {
        let keys = watched.iter().rev().map(|(key, revision)| (key.clone(), Some(*revision)));
        // The claim's own key is watched first, so that whether it is watched late is known before another's end is told.
        let subscription = self.watches.subscribe(&self.link, keys, read_at);
        loop {
            let news = subscription.news().await;
            if !news.read_again && !news.deleted.is_empty() {
                return Ok(Some((news.deleted, news.as_of)));
            }
            // Told late, or not any more: whether the keys are there is asked.
            let keys: Vec<Vec<u8>> = watched.iter().map(|(key, _)| key.clone()).collect();
            let seen = self.look(&keys).await?;
            let read_at = seen.iter().map(|seen| seen.read_at).min().unwrap_or(0);
            let missing = watched.iter().zip(seen).filter(|((_, revision), seen)| seen.misses(*revision));
            let gone: Vec<Vec<u8>> = missing.map(|((key, _), _)| key.clone()).collect();
            if !gone.is_empty() {
                return Ok(Some((gone, read_at)));
            }
            if let Some(place) = self.places().get_mut(claim.id) {
                place.read_at = place.read_at.max(read_at);
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
        let sight = self.sight(claim, &mine.key, mine.revision, since).await?;
        Ok(self.note(claim, sight, self.single_key(claim).is_none(), sent))
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
