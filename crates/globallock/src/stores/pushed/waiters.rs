//! The claims of this process, so that a pushed grant or eviction finds its owner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::{Clock, Polls, Pushed};
use crate::backend::{ClaimId, ClaimStatus, Eviction};
use crate::sync::{Instant, Mutex, MutexGuard, Notify, now, sleep_until};

/// The shortest and the longest pause between two polls for a foreign holder by the first waiter.
const FOREIGN_POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// The longest pause between two polls by the first waiter while the server watches the key for it: what the
/// server says then is only a message, too.
const WATCHED_POLL: Duration = Duration::from_secs(1);

/// The claims that were asked for over one connection and not given up since.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    claims: Mutex<HashMap<ClaimId, Asked>>,
}

/// A claim that was asked for: it may be in the store, whether it was answered or not.
#[derive(Debug, Default)]
struct Asked {
    /// There while it waits, or may wait.
    waiter: Option<Box<WaiterEntry>>,
    /// Set when its owner is told that it has been evicted.
    evicted: Option<Arc<Eviction>>,
}

#[derive(Debug, Default)]
struct WaiterEntry {
    notify: Arc<Notify>,
    /// How many claims were in front of it when it joined, if the server has told.
    place: Option<usize>,
    pushed: Option<Pushed>,
    clock: Option<Clock>,
    /// When to poll the server.
    poll_at: Option<Instant>,
    /// When it was told to poll, and for when: an answer that was asked for before that says nothing newer.
    told: Option<(Instant, Instant)>,
    /// The pause before the next poll for a foreign holder.
    pace: Option<Duration>,
}

/// What is known of a claim that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was not asked for yet.
    New,
    /// It was, and may be in the store, or have been evicted.
    Asked,
    /// It has been evicted.
    Evicted(Arc<Eviction>),
}

/// Whose claim was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whose {
    /// That of a waiter here, which is told.
    Waiter,
    /// That of another owner here.
    Other,
    /// None of here.
    Nobody,
}

impl Waiters {
    fn claims(&self) -> MutexGuard<'_, HashMap<ClaimId, Asked>> {
        self.claims.lock()
    }

    /// Notes that `id` is asked for; it may wait if it `waits`. Called before the request is sent, because a
    /// push may come before the answer.
    pub(crate) fn ask(&self, id: ClaimId, waits: bool) -> Known {
        let mut claims = self.claims();
        let known = match claims.get(&id) {
            None => Known::New,
            Some(Asked { evicted: Some(eviction), .. }) => return Known::Evicted(Arc::clone(eviction)),
            Some(_) => Known::Asked,
        };
        let asked = claims.entry(id).or_default();
        if waits {
            asked.waiter.get_or_insert_default();
        }
        known
    }

    /// Notes that a claim does not wait any more, because it holds; unless it has been evicted since, which
    /// is returned.
    pub(crate) fn untrack(&self, id: ClaimId) -> Option<Arc<Eviction>> {
        let mut claims = self.claims();
        let asked = claims.get_mut(&id)?;
        asked.waiter = None;
        asked.evicted.clone()
    }

    /// Notes that the owner gives up a claim. Returns whether it knows that the claim has been evicted: then
    /// it remains to [`Self::forget`] it.
    pub(crate) fn give_up(&self, id: ClaimId) -> bool {
        let mut claims = self.claims();
        let evicted = claims.get_mut(&id).is_some_and(|asked| {
            asked.waiter = None;
            asked.evicted.is_some()
        });
        if !evicted {
            claims.remove(&id);
        }
        evicted
    }

    /// Forgets a claim that will not be asked for again.
    pub(crate) fn forget(&self, id: ClaimId) {
        self.claims().remove(&id);
    }

    /// Notes that a claim has been evicted, and tells its waiter.
    pub(crate) fn evict(&self, id: ClaimId, eviction: Arc<Eviction>) -> Whose {
        let mut claims = self.claims();
        let Some(asked) = claims.get_mut(&id) else { return Whose::Nobody };
        asked.evicted = Some(eviction);
        match &asked.waiter {
            Some(waiter) => {
                waiter.notify.notify_one();
                Whose::Waiter
            }
            None => Whose::Other,
        }
    }

    /// Records that the server has answered "waiting", and that it should be polled in `poll_in`. `foreign`
    /// says that the claim is the first waiter and the holder is foreign.
    pub(crate) fn set_waiting(&self, id: ClaimId, clock: Clock, poll_in: Option<Duration>, foreign: bool) {
        let mut claims = self.claims();
        let Some(entry) = claims.get_mut(&id).and_then(|asked| asked.waiter.as_mut()) else { return };
        entry.clock = Some(clock);
        entry.pace =
            foreign.then(|| entry.pace.map_or(FOREIGN_POLL.0, |pace| (pace * 2).min(FOREIGN_POLL.1)));
        entry.told = entry.told.filter(|(arrived, _)| *arrived >= clock.sent);
        let poll_in = [poll_in, entry.pace].into_iter().flatten().min();
        let polls_at = poll_in.map(|poll_in| now() + poll_in);
        entry.poll_at = polls_at.into_iter().chain(entry.told.map(|(_, at)| at)).min();
        entry.notify.notify_one();
    }

    /// Notes how many claims are in front of one that has just joined, if the server has told.
    pub(crate) fn note_place(&self, id: ClaimId, place: Option<usize>) {
        let mut claims = self.claims();
        if let Some(entry) = claims.get_mut(&id).and_then(|asked| asked.waiter.as_mut()) {
            entry.place = place.or(entry.place);
        }
    }

    /// How many claims were in front of a waiter when it joined.
    pub(crate) fn place(&self, id: ClaimId) -> Option<usize> {
        self.claims().get(&id)?.waiter.as_ref()?.place
    }

    /// Delivers a pushed grant to its waiter. Returns it if nobody here waits for it.
    pub(crate) fn deliver(&self, pushed: Pushed) -> Option<Pushed> {
        let mut claims = self.claims();
        let Some(entry) = claims.get_mut(&pushed.id).and_then(|asked| asked.waiter.as_mut()) else {
            return Some(pushed);
        };
        entry.pushed = Some(pushed);
        entry.notify.notify_one();
        None
    }

    /// Notes that the server watches the key for the first waiter, which need not poll at its own pace.
    pub(crate) fn watch(&self, id: ClaimId, poll_in: Option<Duration>) {
        let mut claims = self.claims();
        let Some(entry) = claims.get_mut(&id).and_then(|asked| asked.waiter.as_mut()) else { return };
        entry.pace = None;
        let polls_at = now() + poll_in.map_or(WATCHED_POLL, |poll_in| poll_in.min(WATCHED_POLL));
        entry.poll_at = Some(entry.told.map_or(polls_at, |(_, at)| at.min(polls_at)));
        entry.notify.notify_one();
    }

    /// Makes a waiter poll the server in this time, unless it polls sooner.
    pub(crate) fn poll(&self, polls: Polls) {
        let mut claims = self.claims();
        let Some(entry) = claims.get_mut(&polls.id).and_then(|asked| asked.waiter.as_mut()) else { return };
        let now = now();
        let poll_at = now + polls.poll_in;
        entry.told = Some((now, entry.told.map_or(poll_at, |(_, at)| at.min(poll_at))));
        entry.poll_at = Some(entry.poll_at.map_or(poll_at, |at| at.min(poll_at)));
        entry.notify.notify_one();
    }

    /// Makes every waiter poll the server now, because a push may have been lost.
    pub(crate) fn poll_all(&self) {
        let now = now();
        for entry in self.claims().values_mut().filter_map(|asked| asked.waiter.as_mut()) {
            entry.poll_at = Some(now);
            entry.notify.notify_one();
        }
    }

    /// The waiters whose grant was not told yet, and the other claims; without those that were evicted.
    #[cfg(feature = "postgres")]
    pub(crate) fn untold(&self) -> (Vec<ClaimId>, Vec<ClaimId>) {
        let claims = self.claims();
        let untold = claims.iter().filter(|(_, asked)| asked.evicted.is_none());
        let (waiting, others): (Vec<_>, Vec<_>) = untold
            .partition(|(_, asked)| asked.waiter.as_ref().is_some_and(|waiter| waiter.pushed.is_none()));
        let ids = |claims: Vec<(&ClaimId, &Asked)>| claims.into_iter().map(|(id, _)| *id).collect();
        (ids(waiting), ids(others))
    }

    /// Waits until the server has granted or evicted `id` (its new status), or must be polled (`None`).
    ///
    /// # Cancel safety
    /// Nothing is lost: a grant stays in its entry until it is taken.
    pub(crate) async fn wait_for_change(&self, id: ClaimId) -> Option<ClaimStatus> {
        loop {
            let (notify, poll_at) = {
                let mut claims = self.claims();
                let asked = claims.get_mut(&id)?;
                if let Some(eviction) = &asked.evicted {
                    return Some(ClaimStatus::Evicted(Arc::clone(eviction)));
                }
                let entry = asked.waiter.as_mut()?;
                if let (Some(pushed), Some(clock)) = (&entry.pushed, entry.clock) {
                    let grant = clock.grant(pushed);
                    asked.waiter = None;
                    return Some(ClaimStatus::Held(grant));
                }
                if entry.poll_at.is_some_and(|at| at <= now()) {
                    (entry.poll_at, entry.told) = (None, None);
                    return None;
                }
                (Arc::clone(&entry.notify), entry.poll_at)
            };
            match poll_at {
                None => notify.notified().await,
                Some(at) => tokio::select! {
                    () = notify.notified() => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests;
