//! The one task of a manager that renews its claims, tells the owners of lost ones, and ends those at their
//! max hold.
//!
//! A claim costs no task, timer or connection of its own, however many there are. An ordered set says which
//! is due next, and claims that are due together are renewed in one batch.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::backend::{Backend, Claim, ClaimId, ClaimStatus, RENEWALS_PER_LEASE};
use crate::error::{Error, Result};
use crate::health::Health;
use crate::hold::{Heard, Hold, Phase};
use crate::noticed::Noticed;
use crate::observe::{Event, Observers, Operation};
use crate::sync::{Handle, Instant, Mutex, MutexGuard, Notify, now, sleep_until_some};

/// How many claims one renewal request carries at most.
const BATCH: usize = 256;
/// How many renewal requests are under way at most, counted for held and for waiting claims each: enough to
/// keep a connection busy.
const BATCHES_UNDER_WAY: usize = 8;
/// How much earlier than due a claim may be renewed together with others.
const TOGETHER: Duration = Duration::from_millis(10);
/// How long the task still looks once after the last claim has gone, so that the next one need not wake it:
/// between a release and the next acquire, a task that is woken costs another thread's attention.
const LINGERS: Duration = Duration::from_millis(250);
/// The bounds of the pause after a renewal that failed.
pub(crate) const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What is done with a lost claim: the store is asked to drop it, in case that it still has it.
pub(crate) type Abandon = Arc<dyn Fn(Arc<Hold>) + Send + Sync>;

/// Keeps the claims of one manager alive.
pub(crate) struct Renewer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Notify,
    noticed: Noticed,
}

#[derive(Default)]
struct State {
    tracked: HashMap<ClaimId, Tracked>,
    /// The claims by the moment at which they are due: for a renewal, or to be noticed as lost.
    due: BTreeSet<(Instant, ClaimId)>,
    /// Held claims whose renewal is due and not under way yet.
    ready_held: VecDeque<ClaimId>,
    /// Waiting claims whose renewal is due and not under way yet. They are apart, so that a crowd of them
    /// does not delay the held ones.
    ready_waiting: VecDeque<ClaimId>,
    /// Until when the task sleeps. A claim that is due earlier must wake it.
    sleeps_until: Option<Instant>,
    /// Whether a claim was tracked since the task last looked.
    is_busy: bool,
    closed: bool,
}

struct Tracked {
    hold: Arc<Hold>,
    /// When to renew; `None` while a renewal is ready or under way.
    renew_at: Option<Instant>,
    due: Instant,
}

type Renewal = BoxFuture<'static, (Batch, Vec<Result<ClaimStatus>>)>;

/// The claims of one renewal request.
#[derive(Default)]
struct Batch {
    /// Whether it is a batch of held claims.
    is_held: bool,
    claims: Vec<Arc<Claim>>,
    /// Which of them were held when the request was made. What the store says of the others may be from
    /// before their grant.
    held: Vec<bool>,
}

impl Renewer {
    /// Starts the task on the current runtime.
    pub(crate) fn start(
        backend: Arc<dyn Backend>,
        health: Arc<Health>,
        observers: Observers,
        abandon: impl Fn(Arc<Hold>) + Send + Sync + 'static,
    ) -> Self {
        let noticed = Noticed::new(backend.as_ref(), observers.clone());
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Notify::new(), noticed });
        let session_lost = session_lost_hint(&backend);
        let task =
            Task { shared: Arc::clone(&shared), backend, abandon: Arc::new(abandon), health, observers };
        Handle::current().spawn(task.run(session_lost));
        Renewer { shared }
    }

    /// Renews a claim from now on.
    pub(crate) fn track(&self, hold: &Arc<Hold>) {
        let now = now();
        let mut state = self.shared.state();
        let renew_at = now + hold.renewal_pause(now, RENEWALS_PER_LEASE);
        let due = hold.ends().map_or(renew_at, |ends| ends.min(renew_at));
        let tracked = Tracked { hold: Arc::clone(hold), renew_at: Some(renew_at), due };
        if let Some(before) = state.tracked.insert(hold.claim.id, tracked) {
            state.due.remove(&(before.due, hold.claim.id));
        }
        state.due.insert((due, hold.claim.id));
        state.is_busy = true;
        let wake = state.sleeps_until.is_none_or(|until| due < until);
        drop(state);
        if wake {
            self.shared.wake.notify_one();
        }
    }

    /// Tells what the store has noticed until now.
    pub(crate) fn tell_noticed(&self) {
        self.shared.noticed.tell();
        self.shared.wake.notify_one();
    }

    /// The waiting claims.
    pub(crate) fn waiting(&self) -> Vec<Arc<Hold>> {
        let state = self.shared.state();
        let waiting = state.tracked.values().filter(|tracked| tracked.hold.phase() == Phase::Waiting);
        waiting.map(|tracked| Arc::clone(&tracked.hold)).collect()
    }

    /// A claim of which this is true.
    pub(crate) fn find(&self, is_meant: impl Fn(&Hold) -> bool) -> Option<Arc<Hold>> {
        let state = self.shared.state();
        state.tracked.values().map(|tracked| &tracked.hold).find(|hold| is_meant(hold)).map(Arc::clone)
    }

    /// Stops renewing a claim that its owner gives up; false if it was not tracked, or has been found lost
    /// already.
    pub(crate) fn untrack(&self, id: ClaimId) -> bool {
        self.shared.state().untrack(id).is_some()
    }
}

impl Drop for Renewer {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    fn untrack(&mut self, id: ClaimId) -> Option<Tracked> {
        let tracked = self.tracked.remove(&id)?;
        self.due.remove(&(tracked.due, id));
        Some(tracked)
    }

    /// Puts a claim where it comes due next.
    fn schedule(&mut self, id: ClaimId, renew_at: Option<Instant>) {
        let Some(tracked) = self.tracked.get_mut(&id) else {
            return;
        };
        self.due.remove(&(tracked.due, id));
        tracked.renew_at = renew_at;
        let ends = tracked.hold.ends().filter(|_| tracked.hold.phase() == Phase::Held);
        // While its renewal is under way a waiting claim has no timer: the answer schedules the next renewal.
        if let Some(due) = [renew_at, ends].into_iter().flatten().min() {
            tracked.due = due;
            self.due.insert((due, id));
        }
    }

    /// Handles what is due at `now`: returns the claims that are lost, and makes ready those that are to be
    /// renewed.
    fn collect(&mut self, now: Instant) -> Vec<Arc<Hold>> {
        let mut lost = Vec::new();
        while let Some(&(due, id)) = self.due.first() {
            let Some(tracked) = self.tracked.get(&id) else {
                self.due.pop_first();
                continue;
            };
            tracked.hold.overdue(now);
            let renew_at = tracked.renew_at;
            match tracked.hold.phase() {
                Phase::Lost(_) => lost.extend(self.untrack(id).map(|tracked| tracked.hold)),
                Phase::Released => drop(self.untrack(id)),
                Phase::Waiting | Phase::Held if renew_at.is_some_and(|at| at <= now + TOGETHER) => {
                    if tracked.hold.phase() == Phase::Held {
                        self.ready_held.push_back(id);
                    } else {
                        self.ready_waiting.push_back(id);
                    }
                    self.schedule(id, None);
                }
                // It was confirmed in another way meanwhile, so its deadline has moved.
                Phase::Waiting | Phase::Held if due <= now => self.schedule(id, renew_at),
                Phase::Waiting | Phase::Held => break,
            }
        }
        lost
    }

    /// When the task looks again at the latest.
    fn next_look(&mut self, now: Instant) -> Option<Instant> {
        let lingers = std::mem::take(&mut self.is_busy).then(|| now + LINGERS);
        self.due.first().map(|(due, _)| *due).or(lingers)
    }

    /// Makes every renewal due now that is not under way.
    fn all_due(&mut self, now: Instant) {
        let waiting = self.tracked.iter().filter(|(_, tracked)| tracked.renew_at.is_some());
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.schedule(id, Some(now));
        }
    }

    /// Takes the claims of the next renewal request, for held or for waiting claims.
    fn batch(&mut self, is_held: bool) -> Option<Batch> {
        let ready = if is_held { &mut self.ready_held } else { &mut self.ready_waiting };
        let mut batch = Batch { is_held, ..Batch::default() };
        while batch.claims.len() < BATCH
            && let Some(id) = ready.pop_front()
        {
            let Some(tracked) = self.tracked.get(&id) else { continue };
            batch.claims.push(Arc::clone(&tracked.hold.claim));
            batch.held.push(tracked.hold.phase() == Phase::Held);
        }
        Some(batch).filter(|batch| !batch.claims.is_empty())
    }
}

/// Renews claims, and has exactly one answer for each: were a store to answer fewer, the others would not be
/// renewed any more, and nobody would know.
pub(crate) async fn renew_each(
    backend: &dyn Backend,
    observers: &Observers,
    claims: &[Arc<Claim>],
) -> Vec<Result<ClaimStatus>> {
    let request = observers.request(Operation::Renew);
    let answers = backend.renew(claims).await;
    request.answered(answers.iter().find_map(|answer| answer.as_ref().err()));
    if answers.len() == claims.len() {
        return answers;
    }
    let broken = || {
        Error::unavailable(
            backend.address(),
            format!("it answered {} of {} renewals", answers.len(), claims.len()),
        )
    };
    claims.iter().map(|_| Err(broken())).collect()
}

/// Waits for the store's next hint that claims were lost. The store has it from this call on, and not only
/// from the first poll on: a hint in between would be missed.
fn session_lost_hint(backend: &Arc<dyn Backend>) -> BoxFuture<'static, ()> {
    let backend = Arc::clone(backend);
    let mut hint = async move { backend.session_lost_hint().await }.boxed();
    match (&mut hint).now_or_never() {
        Some(()) => std::future::ready(()).boxed(),
        None => hint,
    }
}

struct Task {
    shared: Arc<Shared>,
    backend: Arc<dyn Backend>,
    abandon: Abandon,
    health: Arc<Health>,
    observers: Observers,
}

impl Task {
    /// Runs until the manager is dropped and no claim is left.
    async fn run(self, mut session_lost: BoxFuture<'static, ()>) {
        let mut under_way: FuturesUnordered<Renewal> = FuturesUnordered::new();
        // For waiting claims, and for held ones.
        let mut counts = [0; 2];
        loop {
            let (lost, next, finished) = {
                let mut state = self.shared.state();
                let lost = state.collect(now());
                for is_held in [true, false] {
                    while counts[usize::from(is_held)] < BATCHES_UNDER_WAY
                        && let Some(batch) = state.batch(is_held)
                    {
                        counts[usize::from(is_held)] += 1;
                        under_way.push(self.renewal(batch));
                    }
                }
                state.sleeps_until = state.next_look(now());
                (lost, state.sleeps_until, state.closed && state.tracked.is_empty())
            };
            for hold in lost {
                self.abandon_lost(hold);
            }
            if finished {
                return;
            }
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = sleep_until_some(next) => {}
                () = self.shared.noticed.told() => {}
                () = &mut session_lost => {
                    session_lost = session_lost_hint(&self.backend);
                    self.shared.state().all_due(now());
                }
                Some((batch, answers)) = under_way.next() => {
                    counts[usize::from(batch.is_held)] -= 1;
                    self.note(&batch, answers);
                }
            }
        }
    }

    fn renewal(&self, batch: Batch) -> Renewal {
        let (backend, health) = (Arc::clone(&self.backend), Arc::clone(&self.health));
        let observers = self.observers.clone();
        async move {
            let answers = renew_each(backend.as_ref(), &observers, &batch.claims).await;
            answers.iter().for_each(|answer| health.note(answer));
            (batch, answers)
        }
        .boxed()
    }

    /// Takes the answers to a renewal into account.
    fn note(&self, batch: &Batch, answers: Vec<Result<ClaimStatus>>) {
        let now = now();
        let mut revoked = Vec::new();
        let mut failure = None;
        let mut state = self.shared.state();
        for ((claim, was_held), answer) in batch.claims.iter().zip(&batch.held).zip(answers) {
            let Some(hold) = state.tracked.get(&claim.id).map(|tracked| Arc::clone(&tracked.hold)) else {
                continue;
            };
            let pause = match answer.map(|answer| hold.hear(answer, *was_held, now)) {
                Ok(Heard::Noted) => hold.renewal_pause(now, RENEWALS_PER_LEASE),
                Ok(Heard::Old) => Duration::ZERO,
                Ok(Heard::Lost) => {
                    state.untrack(claim.id);
                    revoked.push(hold);
                    continue;
                }
                Err(error) => {
                    hold.recheck();
                    failure = Some(error);
                    (hold.renewal_pause(now, 8)).clamp(RETRY.0, RETRY.1)
                }
            };
            state.schedule(claim.id, Some(now + pause));
        }
        drop(state);
        if let Some(error) = failure {
            self.observers.tell(&Event::RenewalFailed { claims: &batch.claims, error: &error });
        }
        for hold in revoked {
            self.abandon_lost(hold);
        }
    }

    fn abandon_lost(&self, hold: Arc<Hold>) {
        (self.abandon)(hold);
    }
}

impl std::fmt::Debug for Renewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewer").field("claims", &self.shared.state().tracked.len()).finish_non_exhaustive()
    }
}
