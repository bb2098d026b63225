//! Why requests fail, and what that means to the user.

use std::fmt;

use super::config::Config;
use super::wire::ErrorCode;
use crate::error::Error;
use crate::stores::transport::Unreached;

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection was lost or could not be made: the request may have been carried out.
    Lost(String),
    /// No connection was made for a session, and others may be tried.
    Unreached(Unreached),
    /// No connection can be used before somebody has changed something.
    FailedPrecondition(String),
    /// The user cannot log in before somebody has changed something.
    Denied(String),
    /// The server refused it.
    Refused(ErrorCode),
    /// The session has expired, and its nodes with it.
    Expired,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Lost(reason) | Failure::FailedPrecondition(reason) | Failure::Denied(reason) => {
                f.write_str(reason)
            }
            Failure::Unreached(unreached) => f.write_str(unreached.reason()),
            Failure::Refused(ErrorCode(code)) => write!(f, "the server refused it with error {code}"),
            Failure::Expired => f.write_str("the session has expired"),
        }
    }
}

impl Failure {
    pub(super) fn unreached(unreached: Unreached) -> Self {
        match unreached {
            Unreached::Refused(reason) => Failure::FailedPrecondition(reason),
            other => Failure::Unreached(other),
        }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Lost(error.to_string())
    }
}

/// The body of an answer, or why there is none.
pub(super) type Outcome = Result<Vec<u8>, Failure>;

impl Config {
    pub(super) fn error(&self, failure: Failure) -> Error {
        let store = &self.shown;
        let code = match failure {
            Failure::Lost(reason) => return Error::unavailable(store, reason),
            Failure::Unreached(unreached) => return Error::unavailable(store, unreached.reason()),
            Failure::FailedPrecondition(reason) => return Error::failed_precondition(store, reason),
            Failure::Denied(reason) => return Error::permission_denied(store, reason),
            Failure::Expired => return Error::unavailable(store, "the session has expired"),
            Failure::Refused(code) => code,
        };
        match code {
            ErrorCode::NO_AUTH => Error::permission_denied(
                store,
                "the nodes' ACL does not let this user in: it needs read, create and delete on the lock's \
                 node and on those above, and read on the claims of others",
            ),
            ErrorCode::AUTH_FAILED => Error::permission_denied(
                store,
                "user or password is wrong, or the servers do not support this scheme (auth=)",
            ),
            ErrorCode::INVALID_ACL => Error::permission_denied(
                store,
                "the servers refuse the ACL in the option acl: creator needs a user that they know, \
                 digest:USER:HASH both, ip:ADDRESS an address, and sasl: and x509: servers that have these \
                 users",
            ),
            ErrorCode::UNIMPLEMENTED => Error::failed_precondition(
                store,
                "the server is too old: globallock needs ZooKeeper 3.5 or newer",
            ),
            ErrorCode::QUOTA_EXCEEDED => Error::failed_precondition(
                store,
                "the quota of the nodes above is used up: raise it, or take it away (setquota, delquota)",
            ),
            ErrorCode::THROTTLED => Error::unavailable(store, "the server is overloaded"),
            ErrorCode(code) => {
                Error::failed_precondition(store, format!("the server refuses the request with error {code}"))
            }
        }
    }
}
