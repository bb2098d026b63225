//! What a store notices that is no answer to a request.

use crate::name::Name;

/// What a store says that nobody has asked for, such as that it has lost its connection.
///
/// ```
/// use globallock::{StoreNotice, StoreNoticeKind};
///
/// let notice = StoreNotice::new(StoreNoticeKind::ConnectionLost, "end of file").with_host("db2:6379");
/// assert_eq!((notice.host.as_deref(), notice.reason.as_str()), (Some("db2:6379"), "end of file"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreNotice {
    /// What has happened.
    pub kind: StoreNoticeKind,
    /// Why, for people to read. Like errors, it never has a password.
    pub reason: String,
    /// The lock that it concerns, if the store knows.
    pub name: Option<Name>,
    /// The host that it concerns, of a store that has several.
    pub host: Option<String>,
}

/// What has happened in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreNoticeKind {
    /// A connection was lost, and is made again.
    ConnectionLost,
    /// A connection could not be made again, which is repeated.
    NotConnected,
    /// The server is set up in a way that may lose claims.
    MayLoseClaims,
    /// The server is of a release with known faults that can break locks, which a newer one has not.
    KnownFaults,
    /// The store is not shared with all who may be thought to use it.
    NotShared,
    /// What a released claim has left in the store could not be deleted.
    NotDeleted,
    /// A released lock was not handed over to the next waiter. It will be, at the renewal of a waiter.
    NotHandedOver,
    /// The owner of an evicted claim is told late: at its next renewal.
    EvictionToldLate,
    /// The owner of an evicted claim is told that the claim is gone, and not who evicted it and why.
    EvictionNotTold,
    /// The store cannot be watched for changes any more, so that waiters learn of them late.
    NotWatched,
    /// What no other kind says, as of a store of one's own.
    Other,
}

impl StoreNotice {
    /// A notice about no lock and no host: the methods below set these.
    #[must_use]
    pub fn new(kind: StoreNoticeKind, reason: impl Into<String>) -> Self {
        StoreNotice { kind, reason: reason.into(), name: None, host: None }
    }

    /// Sets [`StoreNotice::name`].
    #[must_use]
    pub fn with_name(self, name: Name) -> Self {
        StoreNotice { name: Some(name), ..self }
    }

    /// Sets [`StoreNotice::host`].
    #[must_use]
    pub fn with_host(self, host: impl Into<String>) -> Self {
        StoreNotice { host: Some(host.into()), ..self }
    }
}
