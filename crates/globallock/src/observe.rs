//! What happens to claims and to their store, told once each to the observers of a manager.

use std::collections::HashMap;
use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use tracing::Span;
use tracing::level_filters::LevelFilter;

use crate::backend::{Claim, ClaimId, StoreNotice, StoreNoticeKind};
use crate::duration::Shown;
use crate::error::Error;
use crate::loss::Loss;
use crate::sync::Mutex;
use crate::waits::Wait;

/// One thing that happened. Each transition of a claim is told once, by the manager that made the claim.
///
/// A claim is granted at once, or waits and is then granted or given up. A granted claim is renewed any
/// number of times, and then released or lost. After a release may come what the store says of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The claim waits in its queue.
    #[non_exhaustive]
    Waiting {
        /// The claim.
        claim: &'a Claim,
        /// How many claims were in front of it when it joined, where the store has told.
        place: Option<usize>,
    },
    /// The claim has waited for a while, and the task that asked for it, or the thread outside of tasks, has
    /// held the lock since before. If it holds it until this wait has ended, neither ends.
    ///
    /// It need not be so: the guard may have been moved to another task, or the task may do several things at
    /// a time. What is a deadlock for sure is refused with [`Error::WouldDeadlock`].
    #[non_exhaustive]
    WaitsForItself {
        /// The claim.
        claim: &'a Claim,
        /// The claim that is held.
        held_by: &'a Claim,
    },
    /// The claim has waited for long, and is a part of a deadlock: each of these owners waits for the next,
    /// and the last for the first. It is looked for now and then, and only if `tracing` takes events at the
    /// level debug, or an observer [wants it](Observer::wants_deadlocks).
    ///
    /// An owner is a process here. So it ends by itself if one of them gives up its wait, or lets go of its
    /// lock by a thread or task that does not wait.
    #[non_exhaustive]
    Deadlock {
        /// The claim.
        claim: &'a Claim,
        /// Who waits for whom, in the order of the circle.
        cycle: &'a [Wait],
    },
    /// The claim is held from now on.
    #[non_exhaustive]
    Granted {
        /// The claim.
        claim: &'a Claim,
        /// The fencing token of the grant.
        fencing_token: u64,
        /// How long it is since the lock was asked for.
        waited: Duration,
    },
    /// The claim was not granted, and is wanted no longer: it was a try, its wait ended, or its caller gave
    /// it up.
    #[non_exhaustive]
    GivenUp {
        /// The claim.
        claim: &'a Claim,
        /// How long it is since the lock was asked for.
        waited: Duration,
    },
    /// The store has confirmed a held claim once more.
    #[non_exhaustive]
    Renewed {
        /// The claim.
        claim: &'a Claim,
        /// How much later the claim would have been lost without this; `None` where no lease ends it.
        margin: Option<Duration>,
    },
    /// A renewal of claims that are due has failed, and is tried again.
    #[non_exhaustive]
    RenewalFailed {
        /// The claims of the request.
        claims: &'a [Arc<Claim>],
        /// What the store answered.
        error: &'a Error,
    },
    /// A held claim is not held any more, though its owner has not released it.
    #[non_exhaustive]
    Lost {
        /// The claim.
        claim: &'a Claim,
        /// The fencing token of the grant.
        fencing_token: u64,
        /// Why.
        loss: Loss,
        /// How long it was held.
        held: Duration,
    },
    /// The owner has released a held claim; the store is being told.
    #[non_exhaustive]
    Released {
        /// The claim.
        claim: &'a Claim,
        /// The fencing token of the grant.
        fencing_token: u64,
        /// How long it was held.
        held: Duration,
    },
    /// A claim was released before the time for which it is held at least, so that others are kept out.
    #[non_exhaustive]
    Kept {
        /// The claim.
        claim: &'a Claim,
        /// The fencing token of the grant.
        fencing_token: u64,
        /// For how long they are.
        left: Duration,
    },
    /// Others are let in before the time for which a claim is held at least, because its manager is closed,
    /// and the store keeps no claim beyond its owner.
    #[non_exhaustive]
    CutShort {
        /// The claim.
        claim: &'a Claim,
        /// The fencing token of the grant.
        fencing_token: u64,
        /// How much of that time was left.
        left: Duration,
    },
    /// The store did not have a claim any more whose owner released it: it was lost just before.
    #[non_exhaustive]
    LostBeforeRelease {
        /// The claim.
        claim: &'a Claim,
        /// The fencing token of the grant.
        fencing_token: u64,
    },
    /// The release of a held claim has failed, and goes on in the background.
    #[non_exhaustive]
    ReleaseFailed {
        /// The claim.
        claim: &'a Claim,
        /// What the store answered.
        error: &'a Error,
    },
    /// The store did not answer the release of a claim until its lease expired, which frees the lock as well.
    #[non_exhaustive]
    ReleaseUnanswered {
        /// The claim.
        claim: &'a Claim,
        /// The failure of the last try.
        error: &'a Error,
    },
    /// The store does not answer any more.
    #[non_exhaustive]
    StoreLost {
        /// The failure of the first request.
        error: &'a Error,
    },
    /// The store answers again.
    #[non_exhaustive]
    StoreBack {
        /// The store's address, as people may see it.
        store: &'a str,
        /// How long it did not.
        away: Duration,
    },
    /// The store has noticed what was no answer to a request.
    #[non_exhaustive]
    StoreNotice {
        /// The store's address, as people may see it.
        store: &'a str,
        /// What it is.
        notice: &'a StoreNotice,
    },
}

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
}

impl Observers {
    pub(crate) fn new(others: Vec<Arc<dyn Observer>>) -> Self {
        Observers(Arc::new(All { tracing: Tracing::default(), others }))
    }

    /// Whether anybody hears of what is only for the curious, so that it is worth finding out.
    pub(crate) fn are_curious(&self) -> bool {
        !self.0.others.is_empty() || LevelFilter::current() >= LevelFilter::DEBUG
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
}

/// Sends events to `tracing`, and keeps a span open while a claim is held.
#[derive(Debug, Default)]
struct Tracing {
    held: Mutex<HashMap<ClaimId, Span>>,
}

impl Tracing {
    fn open(&self, claim: &Claim, fencing_token: u64) {
        let span = tracing::debug_span!("lock", name = %claim.name, fencing_token);
        if !span.is_disabled() {
            self.held.lock().insert(claim.id, span);
        }
    }

    fn close(&self, claim: &Claim) {
        // Where nobody subscribes to spans there are none, and nothing is locked for them.
        if LevelFilter::current() >= LevelFilter::DEBUG {
            self.held.lock().remove(&claim.id);
        }
    }
}

impl Observer for Tracing {
    fn event(&self, event: &Event<'_>) {
        let text = event.text();
        match event {
            Event::Waiting { claim, place } => tracing::debug!(name = %claim.name, place, "{text}"),
            Event::WaitsForItself { claim, .. } => tracing::debug!(name = %claim.name, "{text}"),
            Event::Deadlock { claim, cycle } => {
                tracing::warn!(name = %claim.name, cycle = %Circle(cycle), "{text}");
            }
            Event::Granted { claim, fencing_token, waited } => {
                self.open(claim, *fencing_token);
                tracing::debug!(name = %claim.name, fencing_token, ?waited, "{text}");
            }
            Event::GivenUp { claim, waited } => tracing::debug!(name = %claim.name, ?waited, "{text}"),
            Event::Renewed { claim, margin } => tracing::trace!(name = %claim.name, ?margin, "{text}"),
            Event::RenewalFailed { claims, error } => {
                tracing::warn!(%error, claims = claims.len(), "{text}");
            }
            Event::Lost { claim, fencing_token, loss, held } => {
                tracing::warn!(name = %claim.name, fencing_token, %loss, ?held, "{text}");
                self.close(claim);
            }
            Event::Released { claim, fencing_token, held } => {
                tracing::debug!(name = %claim.name, fencing_token, ?held, "{text}");
                self.close(claim);
            }
            Event::Kept { claim, fencing_token, left } => {
                tracing::debug!(name = %claim.name, fencing_token, ?left, "{text}");
            }
            Event::CutShort { claim, fencing_token, left } => {
                tracing::warn!(name = %claim.name, fencing_token, ?left, "{text}");
            }
            Event::LostBeforeRelease { claim, fencing_token } => {
                tracing::warn!(name = %claim.name, fencing_token, "{text}");
            }
            Event::ReleaseFailed { claim, error } | Event::ReleaseUnanswered { claim, error } => {
                tracing::warn!(name = %claim.name, %error, "{text}");
            }
            Event::StoreLost { error } => tracing::warn!(%error, "{text}"),
            Event::StoreBack { store, away } => tracing::info!(store, ?away, "{text}"),
            Event::StoreNotice { store, notice } => log_notice(store, notice, text),
        }
    }
}

fn log_notice(store: &str, notice: &StoreNotice, text: &str) {
    let StoreNotice { kind, reason, name, host } = notice;
    let (name, host) = (name.as_ref().map(tracing::field::display), host.as_deref());
    match kind {
        StoreNoticeKind::ConnectionLost => tracing::debug!(store, host, reason, "{text}"),
        StoreNoticeKind::NotConnected => tracing::debug!(store, host, failure = reason, "{text}"),
        StoreNoticeKind::MayLoseClaims | StoreNoticeKind::KnownFaults | StoreNoticeKind::NotShared => {
            tracing::warn!(store, reason, "{text}");
        }
        StoreNoticeKind::NotDeleted | StoreNoticeKind::EvictionNotTold => {
            tracing::warn!(store, name, error = reason, "{text}");
        }
        StoreNoticeKind::NotHandedOver | StoreNoticeKind::EvictionToldLate => {
            tracing::debug!(store, name, error = reason, "{text}");
        }
        StoreNoticeKind::NotWatched => tracing::warn!(store, error = reason, "{text}"),
        StoreNoticeKind::Other => tracing::warn!(store, host, name, reason, "{text}"),
    }
}

impl Event<'_> {
    /// What has happened, apart from what it happened to and why.
    fn text(&self) -> &'static str {
        match self {
            Event::Waiting { .. } => "waiting",
            Event::WaitsForItself { .. } => "a lock is waited for by the task or thread that holds it",
            Event::Deadlock { .. } => "a deadlock: owners wait for each other",
            Event::Granted { .. } => "granted",
            Event::GivenUp { .. } => "not granted",
            Event::Renewed { .. } => "renewed",
            Event::RenewalFailed { .. } => "a renewal failed and is tried again",
            Event::Lost { .. } => "a lock is lost",
            Event::Released { .. } => "released",
            Event::Kept { .. } => "released, and others are kept out for longer",
            Event::CutShort { .. } => "others are let in before the time for which a lock is held at least",
            Event::LostBeforeRelease { .. } => "a lock was lost just before its release",
            Event::ReleaseFailed { .. } => "a release failed and goes on in the background",
            Event::ReleaseUnanswered { .. } => "a release was not answered; the lease frees the lock",
            Event::StoreLost { .. } => "the store does not answer",
            Event::StoreBack { .. } => "the store answers again",
            Event::StoreNotice { notice, .. } => match notice.kind {
                StoreNoticeKind::ConnectionLost => "the connection is lost",
                StoreNoticeKind::NotConnected => "no server accepts the connection",
                StoreNoticeKind::MayLoseClaims => "the server may lose locks",
                StoreNoticeKind::KnownFaults => "the server should be a newer release",
                StoreNoticeKind::NotShared => "others may not see these locks",
                StoreNoticeKind::NotDeleted => "a claim is released but not deleted",
                StoreNoticeKind::NotHandedOver => {
                    "a lock was not handed over; the next renewal of a waiter does it"
                }
                StoreNoticeKind::EvictionToldLate => {
                    "the owner of an evicted claim is told only at its next renewal"
                }
                StoreNoticeKind::EvictionNotTold => {
                    "the owner of an evicted claim is told only that the claim is gone"
                }
                StoreNoticeKind::NotWatched => "the store cannot be watched for changes",
                StoreNoticeKind::Other => "the store has noticed something",
            },
        }
    }
}

/// One line for people: what has happened, to what, and why.
impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())?;
        match self {
            Event::Deadlock { cycle, .. } => write!(f, ": {}", Circle(cycle)),
            Event::Waiting { claim, .. }
            | Event::WaitsForItself { claim, .. }
            | Event::Granted { claim, .. }
            | Event::GivenUp { claim, .. }
            | Event::Renewed { claim, .. }
            | Event::Released { claim, .. }
            | Event::LostBeforeRelease { claim, .. } => write!(f, ": {:?}", claim.name.as_str()),
            Event::Kept { claim, left, .. } | Event::CutShort { claim, left, .. } => {
                write!(f, ": {:?}: {}", claim.name.as_str(), Shown(*left))
            }
            Event::Lost { claim, loss, .. } => write!(f, ": {:?}: {loss}", claim.name.as_str()),
            Event::ReleaseFailed { claim, error } | Event::ReleaseUnanswered { claim, error } => {
                write!(f, ": {:?}: {error}", claim.name.as_str())
            }
            Event::RenewalFailed { error, .. } | Event::StoreLost { error } => write!(f, ": {error}"),
            Event::StoreBack { store, away } => write!(f, ": {store}, after {}", Shown(*away)),
            Event::StoreNotice { store, notice } => {
                write!(f, ": {store}")?;
                if let Some(host) = &notice.host {
                    write!(f, ", {host}")?;
                }
                if let Some(name) = &notice.name {
                    write!(f, ", {:?}", name.as_str())?;
                }
                write!(f, ": {}", notice.reason)
            }
        }
    }
}

/// The waits of a deadlock in their order.
struct Circle<'a>(&'a [Wait]);

impl fmt::Display for Circle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, wait) in self.0.iter().enumerate() {
            write!(f, "{}{wait}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
