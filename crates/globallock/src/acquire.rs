//! Acquiring a lock: asking the store, waiting, giving up, and never leaving a claim behind.

use std::sync::Arc;
use std::time::Duration;

use crate::around::Held;
use crate::backend::{Claim, ClaimStatus, Eviction, WaitMode};
use crate::context::{Context, Request};
use crate::duration::Shown;
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::hold::{Hold, Phase};
use crate::long_waits::LongWait;
use crate::observe::{NotGranted, Operation, Request as StoreRequest};
use crate::sync::{Backoff, Instant, RETRY, now, sleep_until, sleep_until_some, timeout_at};
use crate::turns::Turn;

/// What came of a request for a lock.
pub(crate) enum Acquired {
    Granted(Guard),
    /// Somebody else had the lock: for as long as the request waited, if it did.
    NotGranted {
        waited: Duration,
    },
}

impl Acquired {
    pub(crate) fn guard(self) -> Option<Guard> {
        match self {
            Acquired::Granted(guard) => Some(guard),
            Acquired::NotGranted { .. } => None,
        }
    }
}

/// Asks for a lock, and waits for it if the request says so.
pub(crate) async fn acquire(context: &Arc<Context>, request: Request<'_>) -> Result<Acquired> {
    let started = now();
    let wait = request.options.wait.filter(|_| request.wait_mode == WaitMode::Wait);
    let store_timeout = request.options.silence_limit(request.wait_mode);
    let hold_at_least = request.options.hold_at_least;
    let around = match (request.wait_mode, wait) {
        (WaitMode::Wait, None) => Held::of(&request.name),
        // Its wait ends.
        _ => Held::default(),
    };
    around.refuse(context, &request.name, request.permits)?;
    let mut asking = Asking {
        context,
        hold: Hold::new(context.claim(request)?, context.observers.clone(), started),
        started,
        limit: wait.map(|wait| started + wait),
        store_timeout,
        silent_since: None,
        failure: None,
        backoff: Backoff::new(RETRY),
        tracked: false,
        around,
        long_wait: None,
        armed: true,
        traces: Traces::None,
    };
    asking.hold.tell_asked();
    match asking.granted(hold_at_least).await {
        Ok(Asked::Granted) => Ok(Acquired::Granted(asking.into_guard())),
        Ok(Asked::TimedOut) => {
            asking.give_up_claim(NotGranted::TimedOut);
            Ok(Acquired::NotGranted { waited: now().duration_since(started) })
        }
        Ok(Asked::Refused | Asked::Again) => Ok(Acquired::NotGranted { waited: Duration::ZERO }),
        Err(error) => {
            asking.give_up_claim(NotGranted::by(&error));
            Err(error)
        }
    }
}

/// What came of asking the store, and of the wait that followed.
enum Asked {
    Granted,
    Refused,
    TimedOut,
    Again,
}

/// A claim that is being acquired. If it is dropped before the grant, it takes the claim out of the queue in
/// the background. It is armed before the first request, because from then on the store may have the claim.
struct Asking<'a> {
    context: &'a Arc<Context>,
    hold: Arc<Hold>,
    started: Instant,
    /// When the wait ends.
    limit: Option<Instant>,
    /// How long the store may be silent.
    store_timeout: Duration,
    /// Since when the store has failed to answer.
    silent_since: Option<Instant>,
    /// The error of the last try: what the user is told if the store stays silent.
    failure: Option<Error>,
    backoff: Backoff,
    tracked: bool,
    /// What is held around the work that asks, and may be in the way.
    around: Held,
    /// What it finds out about its wait, once it waits.
    long_wait: Option<LongWait>,
    armed: bool,
    /// What the store may have of the claim.
    traces: Traces,
}

/// What a store may have of a claim that is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Traces {
    /// No request about it was sent.
    None,
    /// The store has refused it for good, and has nothing of it as far as the store tells the truth.
    Refused,
    /// A request was answered otherwise, or not at all.
    Possible,
}

impl<'a> Asking<'a> {
    /// Asks until the claim is granted and kept for as long as it is to be held at least, or not granted.
    async fn granted(&mut self, hold_at_least: Option<Duration>) -> Result<Asked> {
        loop {
            match self.ask().await? {
                Asked::Granted => {
                    self.hold_at_least(hold_at_least).await?;
                    return Ok(Asked::Granted);
                }
                Asked::Again if self.context.is_closed() => return Err(Error::Closed),
                Asked::Again => {}
                not_granted => return Ok(not_granted),
            }
        }
    }

    /// Asks the store where the claim stands, and if it waits, waits until that may have changed.
    async fn ask(&mut self) -> Result<Asked> {
        // A renewal granted this claim, and it was lost before this task ran. The lost guard is returned
        // rather than the claim enqueued again, because nobody would own what it then holds. The release also
        // undoes a request that is still on its way.
        if let Phase::Lost(_) = self.hold.phase() {
            self.context.release_in_background(&self.hold);
            return Ok(Asked::Granted);
        }
        let Some(turn) = self.turn().await? else { return Ok(Asked::TimedOut) };
        let asked_at = now();
        let give_up = self.give_up(asked_at);
        let mut request = self.context.observers.request_at(Operation::Enqueue, asked_at);
        let answer = timeout_at(give_up, self.enqueue(&mut request)).await;
        let answered_at = now();
        let answer = match answer {
            Ok(answer) => {
                request.answered_at(answer.as_ref().err(), answered_at);
                answer
            }
            Err(_) if self.limit.is_some_and(|limit| limit <= now()) && self.is_answered() => {
                return Ok(Asked::TimedOut);
            }
            Err(_) => Err(self.failure.take().unwrap_or_else(|| self.silence(asked_at))),
        };
        self.context.health.note(&answer);
        if answer.is_ok() {
            turn.answered(answered_at);
        }
        drop(turn);
        match answer {
            Ok(ClaimStatus::Held(grant)) if self.hold.confirm(&grant, answered_at) => {
                self.track();
                Ok(Asked::Granted)
            }
            Ok(ClaimStatus::Gone) if self.hold.claim.wait_mode == WaitMode::Try => {
                self.armed = false;
                self.hold.give_up(NotGranted::Taken, now());
                Ok(Asked::Refused)
            }
            Ok(ClaimStatus::Waiting) => {
                self.silent_since = None;
                self.backoff.reset();
                if !self.tracked {
                    let place = || self.context.backend.place(&self.hold.claim);
                    self.hold.tell_waiting(self.context.observers.are_curious().then(place).flatten());
                    self.track();
                }
                self.refuse_around(give_up).await?;
                self.wait().await
            }
            Ok(ClaimStatus::Evicted(eviction)) => Err(self.evicted(eviction)),
            // The grant had expired when its answer arrived, or the store dropped the claim meanwhile.
            Ok(ClaimStatus::Held(_) | ClaimStatus::Gone) => self.retry(asked_at, None).await,
            Err(error) if error.is_retryable() => self.retry(asked_at, Some(error)).await,
            Err(error) => Err(error),
        }
    }

    /// Sends the claim, once the store can be reached.
    async fn enqueue(&mut self, request: &mut StoreRequest<'a>) -> Result<ClaimStatus> {
        let Context { backend, observers, .. } = &**self.context;
        if !backend.is_ready() {
            request.withdraw();
            observers.asking(Operation::Connect, backend.ready()).await?;
            *request = observers.request(Operation::Enqueue);
        }
        // Set before the request, because a call that is dropped hears of no answer.
        let traces = std::mem::replace(&mut self.traces, Traces::Possible);
        let answer = backend.enqueue(&self.hold.claim).await;
        if answer.as_ref().is_err_and(|error| !error.is_retryable()) && traces != Traces::Possible {
            self.traces = Traces::Refused;
        }
        answer
    }

    /// Gives up a claim that would wait for the very work that asks, which the queue shows where the lock
    /// around the work is another manager's.
    async fn refuse_around(&mut self, give_up: Instant) -> Result<()> {
        if self.around.is_nothing() {
            return Ok(());
        }
        let Claim { name, permits, .. } = &*self.hold.claim;
        // Without an answer, it is asked again with the claim's next answer.
        if let Ok(Ok(queue)) = timeout_at(give_up, self.context.backend.inspect(name)).await {
            self.around.refuse_in(&queue, name, *permits)?;
            self.around = Held::default();
        }
        Ok(())
    }

    /// Waits for its turn to ask the store; `None` when the wait has ended.
    async fn turn(&mut self) -> Result<Option<Turn<'a>>> {
        if let Some(turn) = self.context.turns.try_take() {
            return Ok(Some(turn));
        }
        let since = now();
        let mut closed = self.context.subscribe_closed();
        let taken = self.context.turns.take();
        tokio::pin!(taken);
        let turn = loop {
            let give_up = self.turn_ends(since);
            tokio::select! {
                biased;
                turn = &mut taken => break Some(turn),
                () = sleep_until(give_up) => {}
                _ = closed.wait_for(|closed| *closed) => return Err(Error::Closed),
            }
            if self.turn_ends(since) <= now() {
                break None;
            }
        };
        if self.limit.is_some_and(|limit| limit <= now()) && self.is_answered() {
            return Ok(None);
        }
        // Turns also become free when other claims give up on a silent store.
        if self.turn_ends(since) <= now() {
            return Err(self.silence(since));
        }
        self.silent_since = if self.context.turns.heard() > since {
            // The store answered other claims, and was not asked for this one meanwhile: that time was no
            // silence.
            let waited = now().duration_since(since);
            self.silent_since.map(|silent| silent + waited)
        } else {
            self.silent_since.or(Some(since))
        };
        Ok(turn)
    }

    /// Whether the store has answered anything since the lock was asked for, about this claim or another.
    fn is_answered(&self) -> bool {
        self.tracked || self.context.turns.heard() > self.started
    }

    /// When a claim that has waited for its turn since `since` gives up: a store that answers other claims is
    /// not silent, however many of them there are.
    fn turn_ends(&self, since: Instant) -> Instant {
        let given_up = self.context.turns.heard().max(since) + self.store_timeout;
        self.limit.map_or(given_up, |limit| limit.min(given_up))
    }

    /// Waits in the queue.
    async fn wait(&mut self) -> Result<Asked> {
        let mut closed = self.context.subscribe_closed();
        let (context, hold) = (self.context, &self.hold);
        let long_wait = self.long_wait.get_or_insert_with(|| LongWait::begin(context, hold));
        loop {
            let mut change = context.backend.wait_for_change(&hold.claim);
            let changed = loop {
                long_wait.look(context, hold);
                tokio::select! {
                    biased;
                    granted = hold.granted() => {
                        return Ok(if granted { Asked::Granted } else { Asked::Again });
                    }
                    changed = &mut change => break changed,
                    () = sleep_until_some(self.limit) => return Ok(Asked::TimedOut),
                    _ = closed.wait_for(|closed| *closed) => return Err(Error::Closed),
                    () = sleep_until_some(long_wait.next()) => {}
                }
            };
            drop(change);
            match changed {
                Ok(Some(ClaimStatus::Held(grant))) if self.hold.confirm(&grant, now()) => {
                    self.track();
                    return Ok(Asked::Granted);
                }
                Ok(Some(ClaimStatus::Waiting)) => {}
                Ok(Some(ClaimStatus::Evicted(eviction))) => return Err(self.evicted(eviction)),
                Ok(_) => return Ok(Asked::Again),
                Err(error) if error.is_retryable() => return self.retry(now(), Some(error)).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// Pauses before the next try, unless the time for tries has ended: that is the store timeout after an
    /// `error`, and the wait alone after an answer, because a store that answers is not silent.
    async fn retry(&mut self, asked_at: Instant, error: Option<Error>) -> Result<Asked> {
        let give_up = if error.is_some() {
            self.silent_since.get_or_insert(asked_at);
            Some(self.give_up(now()))
        } else {
            self.silent_since = None;
            self.limit
        };
        let left = give_up.map(|give_up| give_up.saturating_duration_since(now()));
        let Some(pause) = self.backoff.pause_within(left) else {
            return error.map_or(Ok(Asked::TimedOut), Err);
        };
        self.failure = error;
        sleep_until(now() + pause).await;
        Ok(Asked::Again)
    }

    /// Sees to it that others are kept out for this time from the grant, whatever becomes of the owner.
    ///
    /// Until then, the claim is released as one that was never granted.
    async fn hold_at_least(&self, time: Option<Duration>) -> Result<()> {
        let Some(until) = time.and_then(|time| Some(self.hold.granted_at()? + time)) else { return Ok(()) };
        if self.context.backend.capabilities().keeps_after_owner {
            self.keep_until(until).await?;
        }
        self.hold.keep_until(until);
        Ok(())
    }

    /// Has the store keep the claim until then, unless it is lost meanwhile.
    async fn keep_until(&self, until: Instant) -> Result<()> {
        let (Context { backend, observers, .. }, began) = (&**self.context, now());
        let mut backoff = Backoff::new(RETRY);
        while self.hold.phase() == Phase::Held {
            let rest = until.saturating_duration_since(now());
            let give_up = began + self.store_timeout;
            let request = observers.asking(Operation::Keep, backend.keep_for(&self.hold.claim, rest));
            let answer = timeout_at(give_up, request).await;
            let answer = answer.unwrap_or_else(|_| Err(self.silence(began)));
            self.context.health.note(&answer);
            match answer {
                Ok(status) => {
                    self.hold.hear(status, true, now());
                    return Ok(());
                }
                Err(error) => {
                    let left = give_up.saturating_duration_since(now());
                    let pause = backoff.pause_within(Some(left)).filter(|_| error.is_retryable());
                    let Some(pause) = pause else { return Err(error) };
                    sleep_until(now() + pause).await;
                }
            }
        }
        Ok(())
    }

    /// When a store that stays silent from `now` on has been silent for the store timeout.
    fn give_up(&self, now: Instant) -> Instant {
        let given_up = self.silent_since.unwrap_or(now) + self.store_timeout;
        self.limit.map_or(given_up, |limit| limit.min(given_up))
    }

    fn silence(&self, asked_at: Instant) -> Error {
        let (backend, waited) = (&self.context.backend, now().duration_since(asked_at));
        let mut reason = format!("no answer within {}", Shown(waited));
        if !backend.is_ready() {
            // The wait was shorter than a try to connect, which would have told more.
            reason += ", and no connection yet: check host and port, and what is between";
        }
        Error::unavailable(backend.address(), reason)
    }

    fn evicted(&self, eviction: Arc<Eviction>) -> Error {
        Error::Evicted { name: self.hold.claim.name.to_string(), eviction }
    }

    fn track(&mut self) {
        self.tracked = true;
        self.context.renewer.track(&self.hold);
    }

    fn into_guard(mut self) -> Guard {
        self.armed = false;
        Guard::new(Arc::clone(self.context), Arc::clone(&self.hold))
    }

    /// Takes the claim out of its queue in the background, unless it was granted, or the store has said that
    /// it is in no queue.
    fn give_up_claim(&mut self, why: NotGranted<'_>) {
        if !std::mem::take(&mut self.armed) {
            return;
        }
        // The release is started first, so that a manager that is being closed finds the claim either waiting
        // or under release.
        match self.traces {
            Traces::None => {}
            Traces::Refused => self.context.release_refused(&self.hold),
            Traces::Possible => self.context.release_in_background(&self.hold),
        }
        self.hold.finish_because(why, now());
        if self.tracked {
            self.context.renewer.untrack(self.hold.claim.id);
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.give_up_claim(NotGranted::Cancelled);
    }
}
