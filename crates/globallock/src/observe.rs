//! What happens to claims and to their store, told once each to the observers of a manager.

mod event;
mod handed_over;
mod logging;
mod requests;

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Capabilities, Claim};
use crate::loss::Loss;
use crate::sync::Instant;
pub use event::{Answer, Event, NotGranted, Operation};
use handed_over::HandOvers;
use logging::Tracing;
pub(crate) use requests::Request;

/// Hears what happens to the claims of a manager: for metrics, logs of one's own, or tests.
///
/// It is called in the task that finds out, and must not block.
/// [`ManagerOptions::observer`](crate::ManagerOptions::observer) takes it; what is sent to [`tracing`] needs
/// no observer.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use globallock::{Event, LockManager, ManagerOptions, Observer};
///
/// #[derive(Debug, Default)]
/// struct Grants(AtomicU64);
///
/// impl Observer for Grants {
///     fn event(&self, event: &Event<'_>) {
///         if let Event::Granted { .. } = event {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let grants = Arc::new(Grants::default());
/// let options = ManagerOptions::new().observer(grants.clone());
/// let manager = LockManager::connect_with("memory:example", options).await?;
/// manager.mutex("a").acquire().await?.release().await?;
/// assert_eq!(grants.0.load(Ordering::Relaxed), 1);
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
pub trait Observer: Debug + Send + Sync + 'static {
    /// Hears of one event.
    fn event(&self, event: &Event<'_>);

    /// Whether it hears of each [request](Event::Request) as well. It is asked before each request, so that
    /// its answer may change; the clock is read twice for those that are heard of. Default: no.
    fn hears_requests(&self) -> bool {
        false
    }

    /// Makes what hears of one manager in place of this, if anything does. It is called once for each
    /// manager, with what that manager's store promises. An observer that counts by the
    /// [kind](Capabilities::kind) of store needs it, because events do not tell the kind.
    fn for_store(&self, _store: &Capabilities) -> Option<Arc<dyn Observer>> {
        None
    }

    /// Whether [`Event::Deadlock`] is looked for, which costs a list of the store's names: at most one in 30
    /// s for each manager that has a claim which waits for long. Default: no.
    fn wants_deadlocks(&self) -> bool {
        false
    }
}

/// All that observe one manager: what is sent to `tracing`, and then the user's. Cheap to clone, because each
/// claim has one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observers(Arc<All>);

#[derive(Debug, Default)]
struct All {
    tracing: Tracing,
    others: Vec<Arc<dyn Observer>>,
    hand_overs: HandOvers,
}

impl Observers {
    pub(crate) fn new(others: Vec<Arc<dyn Observer>>, store: &Capabilities) -> Self {
        let others = others.into_iter().map(|observer| observer.for_store(store).unwrap_or(observer));
        Observers(Arc::new(All { others: others.collect(), ..All::default() }))
    }

    /// Whether anybody hears of what is only for the curious, so that it is worth finding out.
    pub(crate) fn are_curious(&self) -> bool {
        self.is_observed() || Tracing::is_detailed()
    }

    /// Whether anybody else than `tracing` hears.
    fn is_observed(&self) -> bool {
        !self.0.others.is_empty()
    }

    /// Whether anybody hears of requests.
    fn hear_requests(&self) -> bool {
        self.0.others.iter().any(|observer| observer.hears_requests())
    }

    /// Whether anybody hears of deadlocks, so that they are worth a list of the store's names.
    pub(crate) fn want_deadlocks(&self) -> bool {
        self.0.others.iter().any(|observer| observer.wants_deadlocks())
            || tracing::enabled!(tracing::Level::DEBUG)
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        self.0.tracing.event(event);
        for observer in &self.0.others {
            observer.event(event);
        }
    }

    /// Tells of a request those that hear of them.
    fn tell_request(&self, event: &Event<'_>) {
        for observer in self.0.others.iter().filter(|observer| observer.hears_requests()) {
            observer.event(event);
        }
    }

    /// A claim waits in its queue, behind so many.
    pub(crate) fn waits(&self, claim: &Claim, place: Option<usize>) {
        if self.is_observed() {
            self.0.hand_overs.waits(claim, place);
        }
        self.tell(&Event::Waiting { claim, place });
    }

    /// A claim is granted that was asked for at this moment.
    pub(crate) fn granted(&self, waiter: &Waiter<'_>, fencing_token: u64, now: Instant) {
        let Waiter { claim, asked, was_waiting } = *waiter;
        let handed_over = self.waits_no_longer(waiter, now);
        let waited = now.saturating_duration_since(asked);
        self.tell(&Event::Granted { claim, fencing_token, waited, was_waiting, handed_over });
    }

    /// A claim is given up that was asked for at this moment.
    pub(crate) fn given_up(&self, waiter: &Waiter<'_>, why: NotGranted<'_>, now: Instant) {
        let Waiter { claim, asked, was_waiting } = *waiter;
        self.waits_no_longer(waiter, now);
        let waited = now.saturating_duration_since(asked);
        self.tell(&Event::GivenUp { claim, waited, was_waiting, why });
    }

    fn waits_no_longer(&self, waiter: &Waiter<'_>, now: Instant) -> Option<Duration> {
        let is_noted = waiter.was_waiting && self.is_observed();
        is_noted.then(|| self.0.hand_overs.waits_no_longer(waiter.claim, now)).flatten()
    }

    /// A held claim is released, and goes on to keep others out for as long as `kept` says.
    pub(crate) fn released(&self, holder: &Holder<'_>, kept: Option<Duration>, now: Instant) {
        let Holder { claim, fencing_token, held } = *holder;
        if kept.is_none() {
            self.0.hand_overs.released(claim, now);
        }
        self.tell(&Event::Released { claim, fencing_token, held });
        if let Some(left) = kept {
            self.tell(&Event::Kept { claim, fencing_token, left });
        }
    }

    /// A held claim is lost.
    pub(crate) fn lost(&self, holder: &Holder<'_>, loss: Loss) {
        let Holder { claim, fencing_token, held } = *holder;
        self.tell(&Event::Lost { claim, fencing_token, loss, held });
    }
}

/// A claim that is asked for.
#[derive(Clone, Copy)]
pub(crate) struct Waiter<'a> {
    pub(crate) claim: &'a Claim,
    pub(crate) asked: Instant,
    /// Whether it was told that it waits.
    pub(crate) was_waiting: bool,
}

/// A claim that is held, for so long.
#[derive(Clone, Copy)]
pub(crate) struct Holder<'a> {
    pub(crate) claim: &'a Claim,
    pub(crate) fencing_token: u64,
    pub(crate) held: Duration,
}
