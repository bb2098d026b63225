//! Getting a lock: asking, waiting, giving up, and never leaving a claim behind.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{Patience, Standing};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::locks::Lock;
use crate::manager::Inner;
use crate::sync::{now, sleep_until, timeout_at};
use crate::tenure::{Phase, Tenure};
use crate::turns::Turn;

/// The bounds of the pause between two tries of a store that failed to answer.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Gets `lock`, or `None` when it was not to be had on the terms of `patience`.
pub(crate) async fn acquire(lock: &Lock, patience: Patience) -> Result<Option<Guard>> {
    let options = lock.options();
    // A waiting limit of zero means to ask once, not to give up before the store can answer.
    let patience = if options.wait == Some(Duration::ZERO) { Patience::Once } else { patience };
    let inner = lock.inner();
    let claim = inner.claim(lock.name(), lock.share(), patience, options)?;
    let started = now();
    let mut asking = Asking {
        inner,
        tenure: Tenure::new(claim),
        started,
        limit: options.wait.filter(|_| patience == Patience::Queue).map(|wait| started + wait),
        patience: options.patience(),
        silent_since: None,
        failure: None,
        pause: RETRY.0,
        kept: false,
        armed: true,
    };
    loop {
        match asking.ask().await? {
            Asked::Granted => return Ok(Some(asking.into_guard())),
            Asked::Refused => return Ok(None),
            Asked::TimedOut => break,
            Asked::Again if inner.is_closed() => return Err(Error::Closed),
            Asked::Again => {}
        }
    }
    Err(Error::TimedOut { name: lock.name().to_string(), waited: now().duration_since(started) })
}

/// What came of asking the store and of the wait that followed.
enum Asked {
    Granted,
    Refused,
    TimedOut,
    Again,
}

/// A claim on its way to be granted. Dropped on the way, it takes the claim out of the queue in the background: armed
/// before the first request is sent, since from then on the store may have the claim.
struct Asking<'a> {
    inner: &'a Arc<Inner>,
    tenure: Arc<Tenure>,
    started: Instant,
    /// When the wait is over.
    limit: Option<Instant>,
    /// How long the store may be silent.
    patience: Duration,
    /// Since when the store has failed to answer.
    silent_since: Option<Instant>,
    /// How it failed to: what the user is told if it stays silent.
    failure: Option<Error>,
    pause: Duration,
    kept: bool,
    armed: bool,
}

impl<'a> Asking<'a> {
    /// Asks the store where the claim stands, and if it waits, waits until that may have changed.
    async fn ask(&mut self) -> Result<Asked> {
        // Granted by a renewal and lost again before this task ran: joining anew would hold it for nobody. What an earlier
        // request may have done since is undone.
        if let Phase::Lost(_) = self.tenure.phase() {
            self.inner.leave_in_background(&self.tenure);
            return Ok(Asked::Granted);
        }
        let Some(turn) = self.turn().await? else { return Ok(Asked::TimedOut) };
        let asked_at = now();
        let give_up = self.give_up(asked_at);
        let answer = match timeout_at(give_up.into(), self.inner.backend.join(&self.tenure.claim)).await {
            Ok(answer) => answer,
            Err(_) if self.limit.is_some_and(|limit| limit <= now()) && self.is_answered() => {
                return Ok(Asked::TimedOut);
            }
            Err(_) => Err(self.failure.take().unwrap_or_else(|| self.silence(asked_at))),
        };
        if answer.is_ok() {
            turn.answered();
        }
        drop(turn);
        match answer {
            Ok(Standing::Held(grant)) if self.tenure.confirm(grant, now()) => {
                self.keep();
                Ok(Asked::Granted)
            }
            Ok(Standing::Gone) if self.tenure.claim.patience == Patience::Once => {
                self.armed = false;
                Ok(Asked::Refused)
            }
            Ok(Standing::Waiting) => {
                self.silent_since = None;
                self.pause = RETRY.0;
                if !self.kept {
                    self.keep();
                }
                self.wait().await
            }
            // Granted so long ago that it is over again, or dropped while it was on its way.
            Ok(Standing::Held(_) | Standing::Gone) => self.retry(asked_at, None).await,
            Err(error) if error.is_retryable() => self.retry(asked_at, Some(error)).await,
            Err(error) => Err(error),
        }
    }

    /// Waits for its turn to ask; `None` when the time to wait has ended.
    async fn turn(&mut self) -> Result<Option<Turn<'a>>> {
        if let Some(turn) = self.inner.turns.try_take() {
            return Ok(Some(turn));
        }
        let since = now();
        let mut closed = self.inner.subscribe_closed();
        let taken = self.inner.turns.take();
        tokio::pin!(taken);
        let turn = loop {
            let give_up = self.turn_ends(since);
            tokio::select! {
                biased;
                turn = &mut taken => break Some(turn),
                () = sleep_until(give_up.into()) => {}
                _ = closed.wait_for(|closed| *closed) => return Err(Error::Closed),
            }
            if self.turn_ends(since) <= now() {
                break None;
            }
        };
        if self.limit.is_some_and(|limit| limit <= now()) && self.is_answered() {
            return Ok(None);
        }
        // Whoever had the turn before may have given up on a silent store.
        if self.turn_ends(since) <= now() {
            return Err(self.silence(since));
        }
        self.silent_since = if self.inner.turns.heard() > since {
            // It answered others, and was not asked for this claim meanwhile.
            let waited = now().duration_since(since);
            self.silent_since.map(|silent| silent + waited)
        } else {
            self.silent_since.or(Some(since))
        };
        Ok(turn)
    }

    /// Whether the store has answered since the claim was asked for, it or another.
    fn is_answered(&self) -> bool {
        self.kept || self.inner.turns.heard() > self.started
    }

    /// Until when a claim that has waited for its turn since then goes on waiting: a store that answers others is not
    /// silent, however many of them there are.
    fn turn_ends(&self, since: Instant) -> Instant {
        let patience = self.inner.turns.heard().max(since) + self.patience;
        self.limit.map_or(patience, |limit| limit.min(patience))
    }

    /// Waits in the queue.
    async fn wait(&mut self) -> Result<Asked> {
        let mut closed = self.inner.subscribe_closed();
        let limit = async |limit: Option<Instant>| match limit {
            Some(limit) => sleep_until(limit.into()).await,
            None => std::future::pending().await,
        };
        loop {
            let changed = tokio::select! {
                biased;
                granted = self.tenure.granted() => {
                    return Ok(if granted { Asked::Granted } else { Asked::Again });
                }
                changed = self.inner.backend.changed(&self.tenure.claim) => changed,
                () = limit(self.limit) => return Ok(Asked::TimedOut),
                _ = closed.wait_for(|closed| *closed) => return Err(Error::Closed),
            };
            match changed {
                Ok(Some(Standing::Held(grant))) if self.tenure.confirm(grant, now()) => {
                    self.keep();
                    return Ok(Asked::Granted);
                }
                Ok(Some(Standing::Waiting)) => {}
                Ok(_) => return Ok(Asked::Again),
                Err(error) if error.is_retryable() => return self.retry(now(), Some(error)).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Pauses before the next try, unless the time for tries is over: after an `error` with the patience, and after an
    /// answer with the waiting limit alone, since a store that answers is not silent.
    async fn retry(&mut self, asked_at: Instant, error: Option<Error>) -> Result<Asked> {
        let give_up = if error.is_some() {
            self.silent_since.get_or_insert(asked_at);
            Some(self.give_up(now()))
        } else {
            self.silent_since = None;
            self.limit
        };
        let next = now() + self.pause;
        if give_up.is_some_and(|give_up| next >= give_up) {
            return error.map_or(Ok(Asked::TimedOut), Err);
        }
        self.failure = error;
        self.pause = (self.pause * 2).min(RETRY.1);
        sleep_until(next.into()).await;
        Ok(Asked::Again)
    }

    /// When a store that stays silent from `now` on has used up all patience.
    fn give_up(&self, now: Instant) -> Instant {
        let patience = self.silent_since.unwrap_or(now) + self.patience;
        self.limit.map_or(patience, |limit| limit.min(patience))
    }

    fn silence(&self, asked_at: Instant) -> Error {
        let waited = now().duration_since(asked_at);
        Error::unavailable(self.inner.backend.profile().kind, format!("no answer within {waited:.1?}"))
    }

    fn keep(&mut self) {
        self.kept = true;
        self.inner.keeper.keep(&self.tenure, self.inner.backend.profile().renewals_per_lease);
    }

    fn into_guard(mut self) -> Guard {
        self.armed = false;
        Guard::new(Arc::clone(self.inner), Arc::clone(&self.tenure))
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        if self.armed {
            // The departure first: whoever closes the manager finds the claim waiting or leaving.
            self.inner.leave_in_background(&self.tenure);
            self.tenure.finish(now());
            if self.kept {
                self.inner.keeper.forget(self.tenure.claim.id);
            }
        }
    }
}
