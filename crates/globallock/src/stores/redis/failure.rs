//! Turns what Redis and its client report into this crate's errors.

use redis::{ErrorKind, RedisError, Value};

use crate::error::Error;
use crate::stores::address::password::NoLogin;
use crate::stores::address::printable;
use crate::stores::transport::{ToldBy, Unreached};

/// The least rights that a user of the store needs, as ACL SETUSER takes them.
const RIGHTS: &str = "resetchannels ~<prefix>* ~{<prefix>* &globallock:* +@scripting +@string +@hash \
                      +@sortedset +@keyspace +time +publish +subscribe +hello +ping";

/// Where an answer begins to repeat the request that it refuses.
const REPEATED: &str = ", with args beginning with";

/// What failed, before the store's address is added to it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    reason: String,
    told_by: ToldBy,
    source: Option<RedisError>,
}

/// What a user has no right to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lacking {
    Command,
    Key,
    Channel,
}

/// What is to be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection is not usable any more, or leads to the wrong server: connect again.
    Disconnected,
    /// The server cannot do it now: repeat the request later.
    NotNow,
    /// The server does not know the script any more: load it and repeat the request.
    NoScript,
    /// An operator must change the user.
    PermissionDenied,
    /// An operator must change the server.
    FailedPrecondition,
}

impl Failure {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Self {
        Failure { kind, reason: reason.into(), told_by: ToldBy::Server, source: None }
    }

    /// Whether the server itself has told it.
    pub(super) fn is_of_server(&self) -> bool {
        self.told_by == ToldBy::Server
    }

    /// Whether the server does not know a command.
    pub(super) fn is_unknown_command(&self) -> bool {
        let source = self.source.as_ref().filter(|source| source.code() == Some("ERR"));
        let detail = source.and_then(RedisError::detail).unwrap_or_default();
        detail.to_ascii_lowercase().starts_with("unknown command")
    }

    /// Whether the server refuses this to the user, or to everybody.
    pub(super) fn is_refused(&self) -> bool {
        self.kind == Kind::PermissionDenied || self.is_unknown_command()
    }

    /// Which right the user lacks, if the server names it.
    pub(super) fn lacking(&self) -> Option<Lacking> {
        let source = self.source.as_ref().filter(|source| source.code() == Some("NOPERM"))?;
        // Every version of Redis has other words for it.
        let detail = source.detail().unwrap_or_default();
        match detail {
            _ if detail.contains("channel") => Some(Lacking::Channel),
            _ if detail.contains(" key") => Some(Lacking::Key),
            _ if detail.contains("command") => Some(Lacking::Command),
            _ => None,
        }
    }

    /// Whether the server refused the database that the address names.
    pub(super) fn is_of_database(&self) -> bool {
        let detail = self.source.as_ref().and_then(RedisError::detail).unwrap_or_default();
        detail.to_ascii_lowercase().contains("select") || detail.contains("DB index")
    }

    /// Whether the server knows no such user, or the user has another password.
    pub(super) fn is_wrong_login(&self) -> bool {
        self.source.as_ref().is_some_and(|source| {
            source.code() == Some("WRONGPASS") || source.kind() == ErrorKind::AuthenticationFailed
        })
    }

    /// Whether the server does not speak RESP3, or does not say so.
    pub(super) fn lacks_resp3(&self) -> bool {
        self.reason == unknown("HELLO")
    }

    /// The same failure of a login, which is told so.
    pub(super) fn of_login(self, NoLogin { why, may_heal }: NoLogin) -> Self {
        let kind = if may_heal { Kind::NotNow } else { Kind::PermissionDenied };
        Failure { kind, reason: why, ..self }
    }

    /// The same failure, met at a sentinel.
    pub(super) fn of_sentinel(self, host: &str) -> Self {
        let code = self.source.as_ref().and_then(RedisError::code).unwrap_or_default();
        let remedy = match (self.kind, code) {
            (Kind::PermissionDenied, "NOAUTH") => {
                "wants a password of its own: name it by ?sentinel_password=PASSWORD, and a user of its \
                 own by sentinel_user; if it is no sentinel but a server, write <scheme>://"
            }
            (Kind::PermissionDenied, "NOPERM") => {
                "does not let its user ask for the primary: give that user +sentinel|master +hello"
            }
            (Kind::FailedPrecondition, "ERR") if self.reason.contains("SENTINEL") => {
                "is no sentinel but a server: name the sentinels, or write <scheme>:// for that server"
            }
            (Kind::FailedPrecondition, "ERR") if self.reason.contains("No such master") => {
                "knows no primary of that name: check the service in the address, as /main in \
                 <scheme>+sentinel://host/main"
            }
            _ => return Failure { reason: format!("the sentinel {host}: {}", self.reason), ..self },
        };
        Failure { reason: format!("the sentinel {host} {remedy}"), ..self }
    }

    /// Why none of several servers could be used. What may heal at one of them may heal; what cannot is told
    /// first, and what a server has said before what is known of the others.
    pub(super) fn of_all(failures: &[Failure]) -> Self {
        let kind = failures.iter().find(|failure| failure.may_heal()).map(|failure| failure.kind);
        // Of those that tell as much, the first.
        let most = failures.iter().rev().max_by_key(|failure| failure.told_by);
        let told = failures.iter().find(|failure| !failure.may_heal()).or(most).cloned();
        let told = told.unwrap_or_else(|| Failure::new(Kind::Disconnected, "no server was named"));
        Failure { kind: kind.unwrap_or(told.kind), ..told }
    }

    /// Whether a later try may succeed though nobody has changed anything.
    pub(super) fn may_heal(&self) -> bool {
        !matches!(self.kind, Kind::PermissionDenied | Kind::FailedPrecondition)
    }

    #[cfg(test)]
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// The error that the user of a store with this prefix sees.
    pub(super) fn into_error_of(self, store: &str, prefix: &str) -> Error {
        Failure { reason: self.reason_of(store, prefix), ..self }.into_error(store)
    }

    /// The reason in the words of this address: its prefix, and its scheme without the way to the server.
    pub(super) fn reason_of(&self, store: &str, prefix: &str) -> String {
        let scheme = store.split(['+', ':']).next().unwrap_or_default();
        self.reason.replace("<prefix>", &printable(prefix)).replace("<scheme>", scheme)
    }

    pub(super) fn into_error(self, store: &str) -> Error {
        let error = match self.kind {
            Kind::Disconnected | Kind::NotNow | Kind::NoScript => Error::unavailable(store, self.reason),
            Kind::PermissionDenied => Error::permission_denied(store, self.reason),
            Kind::FailedPrecondition => Error::failed_precondition(store, self.reason),
        };
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let error = without_request(error);
        let (kind, reason) = judge(&error);
        let told_by = if error.kind() == ErrorKind::Io { ToldBy::Silence } else { ToldBy::Server };
        Failure { kind, reason, told_by, source: Some(error) }
    }
}

impl From<Unreached> for Failure {
    fn from(unreached: Unreached) -> Self {
        let told_by = unreached.told_by();
        let failure = match unreached {
            Unreached::Refused(reason) => Failure::new(Kind::FailedPrecondition, reason),
            other => Failure::new(Kind::Disconnected, other.reason()),
        };
        Failure { told_by, ..failure }
    }
}

/// The same error without the request that the server repeats in it: that may have a password in it.
fn without_request(error: RedisError) -> RedisError {
    let Some((said, _)) = error.detail().and_then(|detail| detail.split_once(REPEATED)) else { return error };
    let line = format!("-{} {said}\r\n", error.code().unwrap_or("ERR"));
    let again = redis::parse_redis_value(line.as_bytes()).and_then(Value::extract_error);
    again.err().unwrap_or_else(|| (ErrorKind::UnexpectedReturnType, "an error").into())
}

/// The code of what the server answered, and what follows it. Redis 6 puts the answer to a command in a
/// script behind the place in the script.
fn answered(error: &RedisError) -> (&str, &str) {
    let (code, detail) = (error.code().unwrap_or_default(), error.detail().unwrap_or_default());
    let Some((_, mut said)) =
        detail.strip_prefix("Error running script (call to f_").and_then(|rest| rest.split_once("): "))
    else {
        return (code, detail);
    };
    while let Some((_, rest)) = said.strip_prefix("@user_script:").and_then(|rest| rest.split_once(": ")) {
        said = rest;
    }
    let said = said.strip_prefix('-').unwrap_or(said);
    match said.split_once(' ') {
        Some((code, detail)) if code.bytes().all(|byte| byte.is_ascii_uppercase()) => (code, detail),
        _ => (code, said),
    }
}

fn judge(error: &RedisError) -> (Kind, String) {
    let (code, detail) = answered(error);
    // Scripts add their place to what a command answers.
    let in_script = detail.rsplit_once(" script: ").filter(|(_, place)| place.contains("@user_script"));
    let detail = printable(in_script.map_or(detail, |(said, _)| said));
    let with = |text: &str| {
        if detail.is_empty() { text.to_owned() } else { format!("{text} ({detail})") }
    };
    let (kind, reason) = match code {
        "NOSCRIPT" => (Kind::NoScript, "it has forgotten a script"),
        "READONLY" => (
            Kind::Disconnected,
            "it is a read-only replica: give the primary's address, or <scheme>+sentinel://",
        ),
        "ERR" if detail.starts_with("max number of clients") => (
            Kind::NotNow,
            "it has as many connections as it accepts: raise maxclients, or let fewer clients connect",
        ),
        "DENIED" => (
            Kind::PermissionDenied,
            "it runs in protected mode, and accepts no other hosts: give it a password (requirepass or \
             users), and put that into the address",
        ),
        "LOADING" => (Kind::NotNow, "it is still loading its data: try again when it has"),
        "BUSY" => (Kind::NotNow, "it is busy with a script that runs too long; SCRIPT KILL may end it"),
        "MASTERDOWN" => (
            Kind::Disconnected,
            "it is a replica that has lost its primary: check that the primary runs, and name that",
        ),
        code @ ("CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS") => return (Kind::NotNow, with(code)),
        "NOAUTH" => (Kind::PermissionDenied, "it wants a password: put user and password into the address"),
        "WRONGPASS" => (Kind::PermissionDenied, "the user name or the password in the address is wrong"),
        "NOPERM" => return (Kind::PermissionDenied, lacks(&detail)),
        // Renewals and releases need no memory, so that room comes back.
        "OOM" => (Kind::NotNow, "it is out of memory: raise maxmemory, or give locks a server of their own"),
        "MISCONF" => (
            Kind::NotNow,
            "it refuses writes because it cannot save to its disk: free the disk, or set \
             stop-writes-on-bgsave-error to no",
        ),
        "MOVED" | "ASK" | "CROSSSLOT" => (
            Kind::FailedPrecondition,
            "it is a node of a Redis Cluster, which is not supported: use a single server",
        ),
        "WRONGTYPE" => {
            let text = "another program has put something else at a key of this lock: choose another prefix";
            return (Kind::FailedPrecondition, with(text));
        }
        "ERR" if detail.to_ascii_lowercase().starts_with("unknown command") => {
            let command = detail.split(['\'', '`']).nth(1).unwrap_or(&detail);
            return (Kind::FailedPrecondition, unknown(command));
        }
        "ERR" if detail.contains("Unknown Redis command called from script") => {
            let text = "it lacks a command that locks need: take rename-command out of its configuration";
            return (Kind::FailedPrecondition, with(text));
        }
        "ERR"
            if detail.starts_with("The user executing the script can't ")
                || detail.contains("ACL failure in script") =>
        {
            return (Kind::PermissionDenied, lacks(&detail));
        }
        "ERR" if detail.contains("DB index is out of range") => (
            Kind::FailedPrecondition,
            "it has no database of that number: choose a lower one, such as 0 in <scheme>://host/0, or raise \
             databases in its configuration",
        ),
        _ => return judge_kind(error, &detail),
    };
    (kind, reason.to_owned())
}

fn unknown(command: &str) -> String {
    if command == "HELLO" {
        let text = "it does not know HELLO: it is too old, since globallock needs Redis 6.0 or newer, or \
                    rename-command has taken it away";
        return text.to_owned();
    }
    format!(
        "it does not know {command}, which locks need: take it out of rename-command, or name a server \
         that has it"
    )
}

fn lacks(detail: &str) -> String {
    format!("the user lacks a right ({detail}): locks need {RIGHTS}")
}

fn judge_kind(error: &RedisError, detail: &str) -> (Kind, String) {
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            let reason = format!("the user name or the password in the address is wrong ({detail})");
            (Kind::PermissionDenied, reason)
        }
        ErrorKind::RESP3NotSupported => (Kind::FailedPrecondition, unknown("HELLO")),
        ErrorKind::InvalidClientConfig => {
            (Kind::FailedPrecondition, format!("the client refuses the address ({error})"))
        }
        ErrorKind::Io if error.is_timeout() => (Kind::Disconnected, "it did not answer in time".to_owned()),
        ErrorKind::Io => (Kind::Disconnected, format!("no connection: {}", cause(error))),
        // After it the client cannot tell where the next answer on this connection begins.
        ErrorKind::Parse => (Kind::Disconnected, not_redis(error)),
        ErrorKind::UnexpectedReturnType => (Kind::FailedPrecondition, not_redis(error)),
        _ => (Kind::FailedPrecondition, format!("it answered: {}", printable(&error.to_string()))),
    }
}

fn not_redis(error: &RedisError) -> String {
    format!("it does not answer as Redis does ({}): check the address", printable(&error.to_string()))
}

/// What the operating system or TLS reported.
fn cause(error: &RedisError) -> String {
    let text = error.to_string();
    let io = std::error::Error::source(error).map(ToString::to_string);
    printable(&io.unwrap_or(text))
}

#[cfg(test)]
mod tests;
