//! What a claim that waits for long finds out about its wait, and tells those who want to know.

use std::sync::Arc;
use std::time::Duration;

use crate::context::Context;
use crate::hold::{Hold, Phase};
use crate::observe::Event;
use crate::onlooking;
use crate::sync::{Handle, Instant, now};
use crate::waits::Wait;

/// After how long a waiting claim looks whether it was asked for by who holds the lock.
const ITS_OWN: Duration = Duration::from_secs(1);
/// After how long it first looks for a deadlock of owners; then each time when it has waited for twice as
/// long.
const DEADLOCK: Duration = Duration::from_secs(10);
/// The shortest time between two looks of one manager for deadlocks, because each lists all names.
const BETWEEN: Duration = Duration::from_secs(30);

/// The looks of one claim.
#[derive(Debug)]
pub(crate) struct LongWait {
    began: Instant,
    /// After how long the next one is; `None` if nobody wants to know.
    next: Option<Duration>,
}

impl LongWait {
    /// Begins with a claim that is in its queue.
    pub(crate) fn begin(context: &Context, hold: &Hold) -> Self {
        LongWait { began: hold.asked, next: context.observers.are_curious().then_some(ITS_OWN) }
    }

    /// When the next look is.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.next.map(|after| self.began + after)
    }

    /// Looks, if it is time to, without making the claim wait for what the store answers.
    pub(crate) fn look(&mut self, context: &Arc<Context>, hold: &Arc<Hold>) {
        let now = now();
        if self.next().is_none_or(|next| now < next) {
            return;
        }
        if self.next == Some(ITS_OWN) {
            tell_of_own(context, hold);
            self.next = Some(DEADLOCK);
            return;
        }
        self.next = self.next.map(|after| after * 2);
        if !context.observers.want_deadlocks() {
            return;
        }
        let mut looked = context.looked_for_deadlocks.lock();
        if looked.is_none_or(|looked| BETWEEN <= now.saturating_duration_since(looked)) {
            *looked = Some(now);
            drop(looked);
            Handle::current().spawn(tell_of_deadlocks(Arc::clone(context)));
        }
    }
}

/// Tells if the task or thread that waits has held the lock since before it asked.
///
/// That is no proof of a deadlock: a guard may have been moved to another task, and a task may do several
/// things at a time. What was granted while the claim waited is more likely held by such another thing.
fn tell_of_own(context: &Context, hold: &Hold) {
    let Some(asker) = hold.asker else { return };
    let is_own = |other: &Hold| {
        other.asker == Some(asker)
            && other.claim.name == hold.claim.name
            && other.phase() == Phase::Held
            && other.granted_at().is_some_and(|granted| granted <= hold.asked)
    };
    if let Some(own) = context.renewer.find(is_own) {
        let (claim, held_by) = (&*hold.claim, &*own.claim);
        context.observers.tell(&Event::WaitsForItself { claim, held_by });
    }
}

/// Looks for deadlocks among all owners, and tells of each that a claim of this manager is a part of and has
/// been for long.
///
/// # Cancel safety
/// Nothing is lost.
async fn tell_of_deadlocks(context: Arc<Context>) {
    // A store that does not answer is told by others.
    let Ok(graph) = onlooking::waits(&context, "").await else { return };
    let owner = context.owner();
    for cycle in graph.cycles() {
        let now = now();
        for hold in context.renewer.waiting() {
            let is_part = |wait: &Wait| wait.waiter == owner && wait.name == hold.claim.name;
            if cycle.iter().any(is_part) && DEADLOCK <= now.saturating_duration_since(hold.asked) {
                context.observers.tell(&Event::Deadlock { claim: &hold.claim, cycle });
            }
        }
    }
}
