//! What can go wrong, named by what the caller should do about it.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use crate::duration::Shown;
use crate::eviction::Eviction;
use crate::loss::Loss;

/// The result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause of a failure as the store's own client reported it.
pub type Source = Box<dyn StdError + Send + Sync + 'static>;

/// Why an operation did not do what it was asked.
///
/// The variants are named by what the caller should do; the store's own error is the `source`.
/// "Somebody else has the lock" is not among them: [`Lock::try_acquire`](crate::Lock::try_acquire) answers
/// `Ok(None)`. No variant ever carries a password.
///
/// ```
/// use std::time::Duration;
/// use globallock::{Error, LockManager};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let manager = LockManager::connect("memory:errors").await?;
/// let taken = manager.mutex("a").acquire().await?;
/// match manager.mutex("a").wait(Duration::from_millis(10)).acquire().await {
///     Ok(guard) => drop(guard),
///     Err(Error::TimedOut { waited, .. }) => println!("somebody else had it for {waited:?}"),
///     Err(error) if error.is_unavailable() => println!("try again later: {error}"),
///     Err(error) => return Err(error),
/// }
/// # drop(taken);
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The name cannot name a lock: choose another.
    #[error("invalid lock name {name}: {reason}")]
    #[non_exhaustive]
    InvalidName {
        /// The name, escaped and cut for display.
        name: String,
        /// The rule that it breaks.
        reason: String,
    },

    /// An option is outside its range, or asks for what this store cannot do: change the option.
    #[error("invalid {option}: {reason}")]
    #[non_exhaustive]
    InvalidOption {
        /// The option's name.
        option: String,
        /// The rule that it breaks.
        reason: String,
    },

    /// The address of the store cannot be understood: change the address.
    #[error("invalid address {address}: {reason}")]
    #[non_exhaustive]
    InvalidAddress {
        /// The address, without its password.
        address: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The lock was not granted within the waiting limit: wait longer, or do without.
    #[error("{name} was not granted within {}: it is still taken", Shown(*.waited))]
    #[non_exhaustive]
    TimedOut {
        /// The lock's name.
        name: String,
        /// How long the claim waited.
        waited: Duration,
    },

    /// The lock was lost while the work went on, which was stopped: do it again, with care for what it has
    /// done already.
    #[error("{name} was lost: {loss}")]
    #[non_exhaustive]
    Lost {
        /// The lock's name.
        name: String,
        /// Why it was lost.
        loss: Loss,
    },

    /// The claim was taken out of the queue while it waited: ask whoever did it before you wait again.
    #[error("{name} is not waited for any more: the claim was evicted by {eviction}")]
    #[non_exhaustive]
    Evicted {
        /// The lock's name.
        name: String,
        /// Who did it, and why.
        eviction: Arc<Eviction>,
    },

    /// The store did not answer, or not in time: try again later.
    #[error("{store} is unavailable: {reason}")]
    #[non_exhaustive]
    Unavailable {
        /// The store's address, without its password.
        store: String,
        /// What happened, and what to check.
        reason: String,
        /// The client's own error, where there is one.
        #[source]
        source: Option<Source>,
    },

    /// The store refused the user's credentials or rights: an operator must change one or the other.
    #[error("{store} denied access: {reason}")]
    #[non_exhaustive]
    PermissionDenied {
        /// The store's address, without its password.
        store: String,
        /// What was refused, and what to change.
        reason: String,
        /// The client's own error, where there is one.
        #[source]
        source: Option<Source>,
    },

    /// The store answered, but cannot serve locks as it is (its version, its memory, its disk, what stands at
    /// the key): an operator must change the store.
    #[error("{store} cannot do this: {reason}")]
    #[non_exhaustive]
    FailedPrecondition {
        /// The store's address, without its password.
        store: String,
        /// What is in the way, and what to change.
        reason: String,
        /// The client's own error, where there is one.
        #[source]
        source: Option<Source>,
    },

    /// The lock is held around the very work that asks for it, as by [`Lock::run`](crate::Lock::run), which
    /// would wait for itself for ever: acquire it once, around all of the work.
    #[error(
        "{name} is held around this very work, which would wait for itself for ever: acquire it once, around \
         all of the work, or set a limit to the wait"
    )]
    #[non_exhaustive]
    WouldDeadlock {
        /// The lock's name.
        name: String,
    },

    /// This process was forked from the one that made the manager: make a new manager in the child.
    #[error("this lock manager belongs to process {pid}, from which this one was forked: connect again here")]
    #[non_exhaustive]
    Forked {
        /// The process that made the manager.
        pid: u32,
    },

    /// The manager has been closed: connect again.
    #[error("the lock manager is closed")]
    Closed,
}

impl Error {
    /// Whether the same call may succeed later with nothing changed by anybody.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::TimedOut { .. } | Error::Unavailable { .. })
    }

    /// Whether it is the store's silence that failed the call, so that its outcome there is unknown.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Error::Unavailable { .. })
    }

    /// Says that `store` did not answer, for `reason`.
    pub fn unavailable(store: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::Unavailable { store: store.into(), reason: reason.into(), source: None }
    }

    /// Says that `store` cannot serve locks as it is, for `reason`.
    pub fn failed_precondition(store: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::FailedPrecondition { store: store.into(), reason: reason.into(), source: None }
    }

    /// Says that `store` refused the user, for `reason`.
    pub fn permission_denied(store: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::PermissionDenied { store: store.into(), reason: reason.into(), source: None }
    }

    /// Says that a lock was not granted within the time that it was waited for.
    pub fn timed_out(name: impl Into<String>, waited: Duration) -> Self {
        Error::TimedOut { name: name.into(), waited }
    }

    /// Says that the name, as it is shown, breaks a rule.
    pub fn invalid_name(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::InvalidName { name: name.into(), reason: reason.into() }
    }

    /// Says that the address, without its password, cannot be understood.
    pub fn invalid_address(address: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::InvalidAddress { address: address.into(), reason: reason.into() }
    }

    /// Says that `option` is out of its range, for `reason`.
    pub fn invalid_option(option: impl Into<String>, reason: impl Into<String>) -> Self {
        Error::InvalidOption { option: option.into(), reason: reason.into() }
    }

    /// Keeps `cause` as the source of an error that a store caused.
    #[must_use]
    pub fn with_source(mut self, cause: impl Into<Source>) -> Self {
        if let Error::Unavailable { source, .. }
        | Error::PermissionDenied { source, .. }
        | Error::FailedPrecondition { source, .. } = &mut self
        {
            *source = Some(cause.into());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_what_may_succeed_later() {
        let timed_out = || Error::TimedOut { name: "\"a\"".to_owned(), waited: Duration::from_secs(1) };
        for (error, retryable, unavailable) in [
            (Error::unavailable("redis", "down"), true, true),
            (timed_out(), true, false),
            (Error::failed_precondition("redis", "old"), false, false),
            (Error::permission_denied("redis", "no"), false, false),
            (Error::invalid_option("lease", "long"), false, false),
            (Error::WouldDeadlock { name: "\"a\"".to_owned() }, false, false),
            (Error::Closed, false, false),
            (Error::Forked { pid: 7 }, false, false),
        ] {
            assert_eq!((error.is_retryable(), error.is_unavailable()), (retryable, unavailable), "{error}");
        }
    }

    #[test]
    fn an_error_says_where_and_why_and_keeps_its_cause() {
        let (store, reason) = ("redis://h", "because of this");
        for error in [
            Error::unavailable(store, reason),
            Error::failed_precondition(store, reason),
            Error::permission_denied(store, reason),
        ] {
            assert!(error.source().is_none());
            let error = error.with_source("the cause");
            let shown = error.to_string();
            assert!(shown.contains(store) && shown.contains(reason), "{shown}");
            assert_eq!(error.source().unwrap().to_string(), "the cause");
        }
        // The user's mistakes have no cause.
        assert!(Error::invalid_option("lease", "long").with_source("x").source().is_none());
    }
}
