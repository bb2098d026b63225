//! Why no connection to a server could be used, and how much that tells.

use std::error::Error as StdError;
use std::{fmt, io};

use crate::stores::address::printable;

/// Why no connection to a server could be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreached {
    /// Nobody has accepted a connection. The next try may succeed.
    NotThere(String),
    /// A server has accepted it and said nothing. The next try may succeed.
    Silent(String),
    /// The server closed the connection before anything was said, at this moment. The next try may succeed.
    Closed(&'static str),
    /// The server has said why. The next try may succeed.
    Away(String),
    /// Somebody has to change something before a try can succeed.
    Refused(String),
}

/// Who tells that a server cannot be used. Of several servers, the one that says something itself is heard
/// rather than those of which only the network tells, whatever their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ToldBy {
    Network,
    Silence,
    Server,
}

impl Unreached {
    pub(crate) fn reason(&self) -> &str {
        match self {
            Unreached::NotThere(reason)
            | Unreached::Silent(reason)
            | Unreached::Away(reason)
            | Unreached::Refused(reason) => reason,
            Unreached::Closed(reason) => reason,
        }
    }

    pub(crate) fn told_by(&self) -> ToldBy {
        match self {
            Unreached::NotThere(_) => ToldBy::Network,
            Unreached::Silent(_) | Unreached::Closed(_) => ToldBy::Silence,
            Unreached::Away(_) | Unreached::Refused(_) => ToldBy::Server,
        }
    }

    /// No connection could be made, for a reason of the operating system's.
    pub(super) fn not_there(error: &io::Error) -> Self {
        Unreached::NotThere(format!("no connection: {}", printable(&error.to_string())))
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl StdError for Unreached {}
