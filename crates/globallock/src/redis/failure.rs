//! What Redis and its client report, in the words of this crate's errors.

use redis::{ErrorKind, RedisError};

use crate::error::Error;

/// The least that a user of the store needs, in the words of ACL SETUSER.
const RIGHTS: &str = "~<prefix>* ~{<prefix>* &globallock:* +@scripting +@string +@hash +@sortedset +@keyspace +time \
                      +publish +subscribe +hello +ping";

/// What failed, before the store's address is put to it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    reason: String,
    source: Option<RedisError>,
}

/// What is to be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection is of no use any more, or leads to the wrong server: find another.
    Disconnected,
    /// The server will do it later.
    NotNow,
    /// The server does not know the script any more: load it and repeat.
    NoScript,
    /// An operator must change the user.
    Denied,
    /// An operator must change the server.
    Unfit,
}

impl Failure {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Failure { kind, reason: reason.into(), source: None }
    }

    pub(super) fn into_error(self, store: &str) -> Error {
        let error = match self.kind {
            Kind::Disconnected | Kind::NotNow | Kind::NoScript => Error::unavailable(store, self.reason),
            Kind::Denied => Error::denied(store, self.reason),
            Kind::Unfit => Error::unfit(store, self.reason),
        };
        match self.source {
            Some(source) => error.because(source),
            None => error,
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let (kind, reason) = judge(&error);
        Failure { kind, reason, source: Some(error) }
    }
}

fn judge(error: &RedisError) -> (Kind, String) {
    let detail = error.detail().unwrap_or_default().escape_debug().to_string();
    let with = |text: &str| {
        if detail.is_empty() { text.to_owned() } else { format!("{text} ({detail})") }
    };
    match error.code().unwrap_or_default() {
        "NOSCRIPT" => (Kind::NoScript, "it has forgotten a script".to_owned()),
        "READONLY" => (
            Kind::Disconnected,
            "it is a read-only replica: give the primary's address, or redis+sentinel://".to_owned(),
        ),
        "LOADING" => (Kind::NotNow, "it is still loading its data".to_owned()),
        "BUSY" => (Kind::NotNow, "it is busy with somebody's script; SCRIPT KILL may end it".to_owned()),
        "MASTERDOWN" => (Kind::Disconnected, "it is a replica that has lost its primary".to_owned()),
        code @ ("CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS") => (Kind::NotNow, with(code)),
        "NOAUTH" => (Kind::Denied, "it wants a password: put user and password into the address".to_owned()),
        "WRONGPASS" => (Kind::Denied, "the user name or the password in the address is wrong".to_owned()),
        "NOPERM" => (Kind::Denied, with(&format!("the user lacks a right; locks need: {RIGHTS}"))),
        "OOM" => (
            Kind::Unfit,
            "it is out of memory: raise maxmemory, or give locks a server of their own".to_owned(),
        ),
        "MISCONF" => (
            Kind::Unfit,
            "it refuses writes since it cannot save to its disk: free the disk, or set \
             stop-writes-on-bgsave-error to no"
                .to_owned(),
        ),
        "MOVED" | "ASK" | "CROSSSLOT" => (
            Kind::Unfit,
            "it is a node of a Redis Cluster, which is not supported: use a single server".to_owned(),
        ),
        "WRONGTYPE" => (
            Kind::Unfit,
            with("another program has put something else at a key of this lock: choose another prefix"),
        ),
        _ => judge_kind(error, &detail),
    }
}

fn judge_kind(error: &RedisError, detail: &str) -> (Kind, String) {
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            (Kind::Denied, format!("the user name or the password in the address is wrong ({detail})"))
        }
        ErrorKind::RESP3NotSupported => {
            (Kind::Unfit, "it is too old: globallock needs Redis 7 or newer, or a server that speaks RESP3".to_owned())
        }
        ErrorKind::MasterNameNotFoundBySentinel => (
            Kind::Disconnected,
            "the sentinels know no primary of that name: check the service in the address and the sentinels' hosts"
                .to_owned(),
        ),
        ErrorKind::InvalidClientConfig => (Kind::Unfit, format!("the client refuses the address ({error})")),
        _ if error.is_timeout() => (Kind::Disconnected, "it did not answer in time".to_owned()),
        _ if error.is_io_error() || error.is_unrecoverable_error() || error.is_connection_dropped() => {
            (Kind::Disconnected, format!("no connection: {}", cause(error)))
        }
        ErrorKind::Parse | ErrorKind::UnexpectedReturnType => {
            (Kind::Unfit, format!("it does not answer as Redis does ({error}): check the address"))
        }
        _ => (Kind::Unfit, format!("it answered: {}", error.to_string().escape_debug())),
    }
}

/// What the operating system or TLS said.
fn cause(error: &RedisError) -> String {
    let text = error.to_string();
    let io = std::error::Error::source(error).map(ToString::to_string);
    io.unwrap_or(text).escape_debug().to_string()
}
