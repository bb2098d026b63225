//! What there is to be told.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Claim, StoreNotice, StoreNoticeKind};
use crate::duration::Shown;
use crate::error::Error;
use crate::eviction::Eviction;
use crate::loss::Loss;
use crate::waits::Wait;

/// One thing that happened. Each transition of a claim is told once, by the manager that made the claim.
///
/// A claim is asked for, and then granted or given up; it may have to wait in between. A granted claim is
/// renewed any number of times, and then released or lost. After a release may come what the store says of
/// it. What is refused before there is a claim, such as a name that is none, is told to its caller alone.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The lock is asked for. It is told by the task that asks, before its first request.
    #[non_exhaustive]
    Asked {
        /// The claim.
        claim: &'a Claim,
    },
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
    /// level debug, or an observer [wants it](super::Observer::wants_deadlocks).
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
        /// Whether [`Event::Waiting`] was told of it.
        was_waiting: bool,
        /// How long it is since the release that let it in, where that is known: if all claims that were in
        /// front of it in its queue were this manager's, and were released. Others' releases are not seen,
        /// and a store that does not tell [places](Event::Waiting::place) leaves it unknown.
        handed_over: Option<Duration>,
    },
    /// The claim was not granted, and is wanted no longer.
    #[non_exhaustive]
    GivenUp {
        /// The claim.
        claim: &'a Claim,
        /// How long it is since the lock was asked for.
        waited: Duration,
        /// Whether [`Event::Waiting`] was told of it.
        was_waiting: bool,
        /// Why.
        why: NotGranted<'a>,
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
    /// The manager and all that it held are gone, and its store had not answered until then.
    #[non_exhaustive]
    StoreLeft {
        /// The store's address, as people may see it.
        store: &'a str,
        /// How long it had not.
        away: Duration,
    },
    /// A request to the store has ended. It is told to observers that
    /// [hear of requests](super::Observer::hears_requests) alone.
    #[non_exhaustive]
    Request {
        /// What was asked.
        operation: Operation,
        /// What came of it.
        answer: Answer<'a>,
        /// How long it took.
        took: Duration,
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

/// Why a lock that was asked for was not granted.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum NotGranted<'a> {
    /// Somebody else had it, and it was not waited for.
    Taken,
    /// Its wait ended.
    TimedOut,
    /// The call was dropped, or the manager was closed.
    Cancelled,
    /// Somebody took the waiting claim out of its queue.
    Evicted(&'a Eviction),
    /// The call failed with this error, such as that of a store that did not answer.
    Failed(&'a Error),
}

impl<'a> NotGranted<'a> {
    /// Why a call that ends with this error was not granted.
    pub(crate) fn by(error: &'a Error) -> Self {
        match error {
            Error::TimedOut { .. } => NotGranted::TimedOut,
            Error::Closed => NotGranted::Cancelled,
            Error::Evicted { eviction, .. } => NotGranted::Evicted(eviction),
            error => NotGranted::Failed(error),
        }
    }
}

impl fmt::Display for NotGranted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotGranted::Taken => f.write_str("it is taken"),
            NotGranted::TimedOut => f.write_str("its wait ended"),
            NotGranted::Cancelled => f.write_str("it was given up by its caller"),
            NotGranted::Evicted(eviction) => write!(f, "it was evicted by {eviction}"),
            NotGranted::Failed(error) => error.fmt(f),
        }
    }
}

/// What a store is asked, as a word for metrics: the verbs of [`Backend`](crate::Backend) that are one
/// request. A wait for a change is none, because it lasts as long as others hold the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// To accept a connection.
    Connect,
    /// To put a claim into its queue.
    Enqueue,
    /// To extend the leases of claims.
    Renew,
    /// To keep a claim for a time, whatever becomes of its owner.
    Keep,
    /// To take a claim out of its queue.
    Release,
    /// To write the value of a name.
    SetValue,
    /// To list the claims of a name.
    Inspect,
    /// To sum up names, up to the first of them.
    List,
    /// To take somebody's claim out of its queue.
    Evict,
}

impl Operation {
    /// Every operation.
    pub const ALL: [Operation; 9] = [
        Operation::Connect,
        Operation::Enqueue,
        Operation::Renew,
        Operation::Keep,
        Operation::Release,
        Operation::SetValue,
        Operation::Inspect,
        Operation::List,
        Operation::Evict,
    ];

    /// Its word, such as `set_value`.
    ///
    /// ```
    /// assert_eq!(globallock::Operation::SetValue.as_str(), "set_value");
    /// ```
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Operation::Connect => "connect",
            Operation::Enqueue => "enqueue",
            Operation::Renew => "renew",
            Operation::Keep => "keep",
            Operation::Release => "release",
            Operation::SetValue => "set_value",
            Operation::Inspect => "inspect",
            Operation::List => "list",
            Operation::Evict => "evict",
        }
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Answer<'a> {
    /// The store did what it was asked, or said what it knew.
    Given,
    /// It failed with this error.
    Failed(&'a Error),
    /// Nobody waited for its end any longer: the call was dropped, or the store was silent for too long.
    NotAwaited,
}

impl Event<'_> {
    /// What has happened, apart from what it happened to and why.
    pub(super) fn text(&self) -> &'static str {
        match self {
            Event::Asked { .. } => "asked for",
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
            Event::StoreLeft { .. } => "the store did not answer until its manager ended",
            Event::Request { .. } => "a request has ended",
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
            Event::Asked { claim }
            | Event::Waiting { claim, .. }
            | Event::WaitsForItself { claim, .. }
            | Event::Granted { claim, .. }
            | Event::GivenUp { claim, .. }
            | Event::Renewed { claim, .. }
            | Event::Released { claim, .. }
            | Event::LostBeforeRelease { claim, .. } => write!(f, ": {:?}", claim.name.as_str()),
            Event::Kept { claim, left, .. } | Event::CutShort { claim, left, .. } => {
                write!(f, ": {:?}: {}", claim.name.as_str(), Shown(*left))
            }
            Event::Deadlock { cycle, .. } => write!(f, ": {}", Circle(cycle)),
            Event::Lost { claim, loss, .. } => write!(f, ": {:?}: {loss}", claim.name.as_str()),
            Event::ReleaseFailed { claim, error } | Event::ReleaseUnanswered { claim, error } => {
                write!(f, ": {:?}: {error}", claim.name.as_str())
            }
            Event::RenewalFailed { error, .. } | Event::StoreLost { error } => write!(f, ": {error}"),
            Event::StoreBack { store, away } | Event::StoreLeft { store, away } => {
                write!(f, ": {store}, after {}", Shown(*away))
            }
            Event::Request { operation, took, .. } => {
                write!(f, ": {}, after {}", operation.as_str(), Shown(*took))
            }
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
pub(super) struct Circle<'a>(pub(super) &'a [Wait]);

impl fmt::Display for Circle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, wait) in self.0.iter().enumerate() {
            write!(f, "{}{wait}", if at == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::ClaimId;
    use crate::name::Name;

    #[test]
    fn an_event_is_one_line_that_says_what_happened_to_what_and_why() {
        let claim = Claim::new(ClaimId::new(1, 1), Name::new("a\"b").unwrap(), crate::queue::Permits::MUTEX);
        let (loss, held) = (Loss::MaxHold, Duration::ZERO);
        let notice = StoreNotice::new(StoreNoticeKind::NotDeleted, "it is full").with_host("h:1");
        let notice = notice.with_name(Name::new("a").unwrap());
        let error = &Error::unavailable("redis://h", "no answer");
        for (event, line) in [
            (Event::StoreLost { error }, "the store does not answer: redis://h is unavailable: no answer"),
            (
                Event::StoreBack { store: "redis://h", away: Duration::from_millis(1234) },
                "the store answers again: redis://h, after 1.2 s",
            ),
            (
                Event::Lost { claim: &claim, fencing_token: 1, loss, held },
                r#"a lock is lost: "a\"b": it was held for its max hold time"#,
            ),
            (
                Event::StoreNotice { store: "redis://h", notice: &notice },
                r#"a claim is released but not deleted: redis://h, h:1, "a": it is full"#,
            ),
        ] {
            assert_eq!(event.to_string(), line);
        }
    }
}
