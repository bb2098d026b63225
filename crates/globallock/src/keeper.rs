//! The one task of a manager that renews its claims, tells the owners of lost ones, and ends overlong holds.
//!
//! However many claims there are, they cost no task, timer or connection each: an ordered set says which comes next,
//! and what comes due together is renewed in one batch.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};

use crate::backend::{Backend, Claim, ClaimId, Standing};
use crate::error::Result;
use crate::sync::{Handle, Mutex, MutexGuard, Notify, now, sleep_until};
use crate::tenure::{Heard, Phase, Tenure};

/// How many claims one renewal request carries at most.
const BATCH: usize = 256;
/// How many renewal requests are under way at most, of claims that are held and of claims that wait each: enough to keep a
/// connection busy.
const BATCHES_UNDER_WAY: usize = 8;
/// How much earlier than due a claim is renewed along with others.
const TOGETHER: Duration = Duration::from_millis(10);
/// The bounds of the pause after a renewal that failed.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// What happens to a claim that the keeper has lost: the store is told to drop it, in case it still has it.
pub(crate) type Abandon = Arc<dyn Fn(Arc<Tenure>) + Send + Sync>;

/// Keeps the claims of one manager alive.
pub(crate) struct Keeper {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    kept: HashMap<ClaimId, Kept>,
    /// The claims by the moment at which something is to be done for them.
    due: BTreeSet<(Instant, ClaimId)>,
    /// Held claims whose renewal is due and not yet under way.
    ready_held: VecDeque<ClaimId>,
    /// Waiting claims whose renewal is due and not yet under way: however many, they do not keep the held ones back.
    ready_waiting: VecDeque<ClaimId>,
    /// Until when the task sleeps; an earlier due moment must wake it.
    sleeps_until: Option<Instant>,
    closed: bool,
}

struct Kept {
    tenure: Arc<Tenure>,
    /// When to renew; `None` while a renewal is ready or under way.
    renew_at: Option<Instant>,
    due: Instant,
}

type Renewal = BoxFuture<'static, (Batch, Vec<Result<Standing>>)>;

/// The claims of one renewal request.
#[derive(Default)]
struct Batch {
    /// Whether it is a batch of held claims.
    is_held: bool,
    claims: Vec<Arc<Claim>>,
    /// Which of them were held when it was made up: what the store says of the others may be from before their grant.
    held: Vec<bool>,
}

impl Keeper {
    /// Starts the task on the current runtime.
    pub(crate) fn start(
        backend: Arc<dyn Backend>,
        abandon: impl Fn(Arc<Tenure>) + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), wake: Notify::new() });
        let task = Task { shared: Arc::clone(&shared), backend, abandon: Arc::new(abandon) };
        Handle::current().spawn(task.run());
        Keeper { shared }
    }

    /// Keeps a claim from now on.
    pub(crate) fn keep(&self, tenure: &Arc<Tenure>, times: u32) {
        let now = now();
        let mut state = self.shared.state();
        let renew_at = now + tenure.renewal_pause(now, times);
        let due = tenure.ends().map_or(renew_at, |ends| ends.min(renew_at));
        let kept = Kept { tenure: Arc::clone(tenure), renew_at: Some(renew_at), due };
        if let Some(before) = state.kept.insert(tenure.claim.id, kept) {
            state.due.remove(&(before.due, tenure.claim.id));
        }
        state.due.insert((due, tenure.claim.id));
        let wake = state.sleeps_until.is_none_or(|until| due < until);
        drop(state);
        if wake {
            self.shared.wake.notify_one();
        }
    }

    /// The claims that wait to be granted.
    pub(crate) fn waiting(&self) -> Vec<Arc<Tenure>> {
        let state = self.shared.state();
        let waiting = state.kept.values().filter(|kept| kept.tenure.phase() == Phase::Waiting);
        waiting.map(|kept| Arc::clone(&kept.tenure)).collect()
    }

    /// Forgets a claim that its owner gives up; false if it was not kept, or already given up as lost.
    pub(crate) fn forget(&self, id: ClaimId) -> bool {
        self.shared.state().forget(id).is_some()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shared.state().closed = true;
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn forget(&mut self, id: ClaimId) -> Option<Kept> {
        let kept = self.kept.remove(&id)?;
        self.due.remove(&(kept.due, id));
        Some(kept)
    }

    /// Puts a claim where it comes due next.
    fn schedule(&mut self, id: ClaimId, renew_at: Option<Instant>) {
        let Some(kept) = self.kept.get_mut(&id) else {
            return;
        };
        self.due.remove(&(kept.due, id));
        kept.renew_at = renew_at;
        let ends = kept.tenure.ends().filter(|_| kept.tenure.phase() == Phase::Held);
        // A waiting claim whose renewal is under way comes due with the answer.
        if let Some(due) = [renew_at, ends].into_iter().flatten().min() {
            kept.due = due;
            self.due.insert((due, id));
        }
    }

    /// Handles what is due at `now`: tells what is over, makes ready what is to be renewed.
    fn collect(&mut self, now: Instant) -> Vec<Arc<Tenure>> {
        let mut over = Vec::new();
        while let Some(&(due, id)) = self.due.first() {
            let Some(kept) = self.kept.get(&id) else {
                self.due.pop_first();
                continue;
            };
            kept.tenure.overdue(now);
            let renew_at = kept.renew_at;
            match kept.tenure.phase() {
                Phase::Lost(_) => over.extend(self.forget(id).map(|kept| kept.tenure)),
                Phase::Left => drop(self.forget(id)),
                Phase::Waiting | Phase::Held if renew_at.is_some_and(|at| at <= now + TOGETHER) => {
                    if kept.tenure.phase() == Phase::Held {
                        self.ready_held.push_back(id);
                    } else {
                        self.ready_waiting.push_back(id);
                    }
                    self.schedule(id, None);
                }
                // Confirmed by another way since: its end has moved.
                Phase::Waiting | Phase::Held if due <= now => self.schedule(id, renew_at),
                Phase::Waiting | Phase::Held => break,
            }
        }
        over
    }

    /// Makes every renewal due that is not under way.
    fn all_due(&mut self, now: Instant) {
        let waiting = self.kept.iter().filter(|(_, kept)| kept.renew_at.is_some());
        for id in waiting.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.schedule(id, Some(now));
        }
    }

    /// Takes the claims of the next renewal request of those that are held, or of those that wait.
    fn batch(&mut self, is_held: bool) -> Option<Batch> {
        let ready = if is_held { &mut self.ready_held } else { &mut self.ready_waiting };
        let mut batch = Batch { is_held, ..Batch::default() };
        while batch.claims.len() < BATCH
            && let Some(id) = ready.pop_front()
        {
            let Some(kept) = self.kept.get(&id) else { continue };
            batch.claims.push(Arc::clone(&kept.tenure.claim));
            batch.held.push(kept.tenure.phase() == Phase::Held);
        }
        Some(batch).filter(|batch| !batch.claims.is_empty())
    }
}

struct Task {
    shared: Arc<Shared>,
    backend: Arc<dyn Backend>,
    abandon: Abandon,
}

impl Task {
    /// Runs until the manager is gone and nothing is left to keep.
    async fn run(self) {
        let mut under_way: FuturesUnordered<Renewal> = FuturesUnordered::new();
        // Of claims that wait, and of claims that are held.
        let mut counts = [0; 2];
        let mut disturbed = self.backend.disturbed();
        loop {
            let (over, next, finished) = {
                let mut state = self.shared.state();
                let over = state.collect(now());
                for is_held in [true, false] {
                    while counts[usize::from(is_held)] < BATCHES_UNDER_WAY
                        && let Some(batch) = state.batch(is_held)
                    {
                        counts[usize::from(is_held)] += 1;
                        under_way.push(self.renewal(batch));
                    }
                }
                state.sleeps_until = state.due.first().map(|(due, _)| *due);
                (over, state.sleeps_until, state.closed && state.kept.is_empty())
            };
            for tenure in over {
                self.abandon_lost(tenure);
            }
            if finished {
                return;
            }
            let due = async {
                match next {
                    Some(instant) => sleep_until(instant.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.shared.wake.notified() => {}
                () = due => {}
                () = &mut disturbed => {
                    disturbed = self.backend.disturbed();
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
        let backend = Arc::clone(&self.backend);
        async move {
            let answers = backend.renew(&batch.claims).await;
            (batch, answers)
        }
        .boxed()
    }

    /// Takes note of what the store answered to a renewal.
    fn note(&self, batch: &Batch, answers: Vec<Result<Standing>>) {
        let now = now();
        let times = self.backend.profile().renewals_per_lease;
        let mut revoked = Vec::new();
        let mut failure = None;
        let mut state = self.shared.state();
        for ((claim, was_held), answer) in batch.claims.iter().zip(&batch.held).zip(answers) {
            let Some(tenure) = state.kept.get(&claim.id).map(|kept| Arc::clone(&kept.tenure)) else {
                continue;
            };
            let pause = match answer.map(|answer| tenure.hear(answer, *was_held, now)) {
                Ok(Heard::Noted) => tenure.renewal_pause(now, times),
                Ok(Heard::Old) => Duration::ZERO,
                Ok(Heard::Lost) => {
                    state.forget(claim.id);
                    revoked.push(tenure);
                    continue;
                }
                Err(error) => {
                    tenure.nudge();
                    failure = Some(error);
                    (tenure.renewal_pause(now, 8)).clamp(RETRY.0, RETRY.1)
                }
            };
            state.schedule(claim.id, Some(now + pause));
        }
        drop(state);
        if let Some(error) = failure {
            tracing::warn!(%error, claims = batch.claims.len(), "a renewal failed and is tried again");
        }
        for tenure in revoked {
            self.abandon_lost(tenure);
        }
    }

    fn abandon_lost(&self, tenure: Arc<Tenure>) {
        if let Phase::Lost(loss) = tenure.phase() {
            tracing::warn!(name = %tenure.claim.name, fence = tenure.fence(), %loss, "a lock is lost");
        }
        (self.abandon)(tenure);
    }
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("claims", &self.shared.state().kept.len()).finish_non_exhaustive()
    }
}
