//! Turns what PostgreSQL, poolers and the client report into this crate's errors.

use std::io::{self, ErrorKind};
use std::sync::Arc;

use tokio_postgres::error::DbError;

use crate::error::Error;
use crate::stores::address::password::NoLogin;
use crate::stores::address::printable;
use crate::stores::transport::{ToldBy, Unreached, causes};

/// What failed, before the store's address is added to it.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    reason: String,
    told_by: ToldBy,
    /// What the server calls it: five characters.
    code: String,
    source: Option<Arc<tokio_postgres::Error>>,
}

/// What is to be done about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The connection is not usable any more, or leads to the wrong server: connect again.
    Disconnected,
    /// The server cannot do it now: repeat the request later.
    NotNow,
    /// The schema lacks what locks need: somebody must set it up.
    NotSetUp,
    /// An operator must change the user.
    PermissionDenied,
    /// An operator must change the server.
    FailedPrecondition,
}

/// What is told of a server that takes no writes.
pub(super) const STANDBY: &str = "it is a read-only standby: name the primary, or all servers in one \
                                  address, as in <scheme>://h1,h2/database";

impl Failure {
    pub(super) fn new(kind: Kind, reason: impl Into<String>) -> Self {
        let (told_by, code) = (ToldBy::Server, String::new());
        Failure { kind, reason: reason.into(), told_by, code, source: None }
    }

    /// Whether the server itself has told it.
    pub(super) fn is_of_server(&self) -> bool {
        self.told_by == ToldBy::Server
    }

    /// Whether the server knows no such user, or the user has another password.
    pub(super) fn is_wrong_login(&self) -> bool {
        self.code == "28P01" || self.code == "08P01" && self.kind == Kind::PermissionDenied
    }

    /// Whether the server wants a password, and none was there.
    pub(super) fn wants_password(&self) -> bool {
        self.reason == WANTS_PASSWORD
    }

    /// Whether the server's rules refuse the login as it was made, with TLS or without.
    pub(super) fn is_of_rules(&self) -> bool {
        self.code == "28000"
    }

    /// Whether transactions were in each other's way, so that this one was undone and can be repeated.
    pub(super) fn is_conflict(&self) -> bool {
        matches!(self.code.as_str(), "40001" | "40P01")
    }

    /// Whether a function refused to run in a transaction that is not read committed.
    pub(super) fn is_of_isolation(&self) -> bool {
        self.code == "GL002"
    }

    /// The same failure of a login, which is told so.
    pub(super) fn of_login(self, NoLogin { why, may_heal }: NoLogin) -> Self {
        let kind = if may_heal { Kind::NotNow } else { Kind::PermissionDenied };
        Failure { kind, reason: why, ..self }
    }

    /// The same failure, with which a connection has ended.
    pub(super) fn of_end(self) -> Self {
        Failure { kind: Kind::Disconnected, ..self }
    }

    /// The same failure, met at one of several servers.
    pub(super) fn of_host(self, host: &str) -> Self {
        let reason = match self.reason.as_str() {
            STANDBY => format!("{host}: it is a read-only standby, and no other of the servers takes writes"),
            reason => format!("{host}: {reason}"),
        };
        Failure { reason, ..self }
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
        matches!(self.kind, Kind::Disconnected | Kind::NotNow)
    }

    /// The error that the user of a store with this schema sees.
    pub(super) fn into_error_of(self, store: &str, schema: &str, user: &str) -> Error {
        let reason = self.reason_of(store, schema, user);
        let error = match self.kind {
            Kind::Disconnected | Kind::NotNow => Error::unavailable(store, reason),
            Kind::PermissionDenied => Error::permission_denied(store, reason),
            Kind::NotSetUp | Kind::FailedPrecondition => Error::failed_precondition(store, reason),
        };
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }

    /// The reason in the words of this address: its schema, its user, and its scheme.
    pub(super) fn reason_of(&self, store: &str, schema: &str, user: &str) -> String {
        let scheme = store.split(':').next().unwrap_or_default();
        self.reason.replace("<schema>", schema).replace("<user>", &quoted(user)).replace("<scheme>", scheme)
    }
}

/// A name as it stands in a statement.
fn quoted(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(is_plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        name.to_owned()
    } else {
        format!("\"{}\"", printable(name).replace('"', "\"\""))
    }
}

/// What is told of a connection that has ended without a word.
pub(super) const CLOSED: &str = "the server has closed the connection";
/// How a failure begins that a missing password causes, before it is known where one is looked for.
const WANTS_PASSWORD: &str = "it wants a password";

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let (kind, reason) = match error.as_db_error() {
            Some(told) => judge(told),
            None => judge_client(&error),
        };
        let code = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        let told_by = if code.is_empty() { ToldBy::Silence } else { ToldBy::Server };
        Failure { kind, reason, told_by, code, source: Some(Arc::new(error)) }
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

/// What an error of the server, or of a pooler, means.
fn judge(told: &DbError) -> (Kind, String) {
    if told.code().code() == "42501" && told.detail().is_some_and(|detail| detail.contains("CONNECT")) {
        let reason = "the user may not connect to this database: its owner may allow it by GRANT CONNECT ON \
                      DATABASE … TO <user>";
        return (Kind::PermissionDenied, reason.to_owned());
    }
    judged(told.code().code(), told.message())
}

fn judged(code: &str, message: &str) -> (Kind, String) {
    let message = printable(message);
    let (kind, reason) = match code {
        "28P01" => (Kind::PermissionDenied, "the user name or the password is wrong"),
        "28000" => return (Kind::PermissionDenied, refused_login(&message)),
        "3D000" => (
            Kind::FailedPrecondition,
            "it has no database of that name: check the path of the address, or create the database",
        ),
        "3F000" | "42P01" | "42883" => {
            let text = "its schema <schema> is not set up for this version: run `globallock setup` with the \
                        whole address";
            return (Kind::NotSetUp, format!("{text} ({message})"));
        }
        "42501" => return (Kind::PermissionDenied, lacks(&message)),
        "25006" => {
            (Kind::Disconnected, "it takes no writes now: it is a standby, or was set to be read-only")
        }
        "53300" => (
            Kind::NotNow,
            "it has as many connections as it accepts: raise max_connections, or write ?connections=1, or \
             put a pooler in front of it",
        ),
        "53100" => (Kind::NotNow, "its disk is full: free some of it"),
        "53200" => (Kind::NotNow, "it is out of memory: give it more, or let fewer clients connect"),
        "57014" if message.contains("statement timeout") => (
            Kind::NotNow,
            "it cancelled a statement after its statement_timeout: raise that for the user of the locks, or \
             look for what blocks them",
        ),
        "57014" => return (Kind::NotNow, format!("a statement was cancelled there ({message})")),
        "57P03" => return (Kind::Disconnected, format!("it accepts no connections now ({message})")),
        "57P01" | "57P02" => return (Kind::Disconnected, format!("it closed the connection ({message})")),
        "55P03" => (
            Kind::NotNow,
            "another transaction holds what this one needs for longer than lock_timeout: look for it in \
             pg_stat_activity",
        ),
        "40001" | "40P01" => {
            return (Kind::NotNow, format!("transactions were in each other's way ({message})"));
        }
        "26000" | "42P05" | "34000" => (
            Kind::FailedPrecondition,
            "a pooler between here and the server mixes up statements of several clients: let it pool \
             sessions or transactions, not statements",
        ),
        // What this store's own functions tell is complete.
        "GL001" | "GL002" => return (Kind::FailedPrecondition, message),
        "08P01" => return judge_pooler(&message),
        "25P02" | "25P03" | "57P04" | "57P05" => {
            return (Kind::Disconnected, format!("it closed the connection ({message})"));
        }
        code if code.starts_with("08") => return (Kind::Disconnected, format!("no connection ({message})")),
        // It lacks something, or its files cannot be read or written.
        code if code.starts_with("53") || code.starts_with("58") => {
            return (Kind::NotNow, format!("it cannot do that now ({message})"));
        }
        code => return (Kind::FailedPrecondition, format!("it answered: {message} ({code})")),
    };
    (kind, reason.to_owned())
}

/// What the rules of the server refuse. Its own words have the user in them, which may be a password whose
/// user was forgotten.
fn refused_login(message: &str) -> String {
    let reason = if message.contains("pg_hba.conf") {
        let encryption = match message {
            _ if message.contains("no encryption") || message.contains("SSL off") => " without TLS",
            _ if message.contains("SSL encryption") || message.contains("SSL on") => " with TLS",
            _ => "",
        };
        return format!(
            "its pg_hba.conf lets nobody log in so: add a line for this user, database and host{encryption}, \
             or change the option sslmode"
        );
    } else if message.contains("does not exist") {
        "it has no such user: write the one that locks are for, as user:password@host"
    } else if message.starts_with("Peer") || message.starts_with("Ident") {
        "it lets a user log in here only from the user of the operating system of the same name: run this as \
         that one, or connect to a host with a password"
    } else if message.contains("not permitted to log in") {
        "the user may not log in there: run ALTER ROLE <user> LOGIN"
    } else if message.contains("client certificate") {
        "it asks for a certificate of the client: name its files by ?sslcert=FILE&sslkey=FILE"
    } else {
        "it refuses the login of this user: check the user in the address, and pg_hba.conf"
    };
    reason.to_owned()
}

/// What the user lacks a right to, and who gives it.
fn lacks(message: &str) -> String {
    let object = message.strip_prefix("permission denied for ").unwrap_or_default();
    let grant = match object.split(' ').next().unwrap_or_default() {
        "schema" => "GRANT USAGE ON SCHEMA <schema> TO <user>",
        "table" | "relation" | "view" => {
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA <schema> TO <user>"
        }
        "sequence" => "GRANT USAGE, UPDATE ON ALL SEQUENCES IN SCHEMA <schema> TO <user>",
        "function" | "routine" => "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA <schema> TO <user>",
        "database" => {
            "GRANT CREATE ON DATABASE to whoever sets it up, or let its owner run \
             `globallock setup` with the whole address"
        }
        _ => return format!("the user lacks a right ({message})"),
    };
    format!("the user lacks a right ({message}): its owner may give it by {grant}")
}

/// What a pooler says. It has one code for all.
fn judge_pooler(message: &str) -> (Kind, String) {
    let text = message.to_ascii_lowercase();
    let has = |part: &str| text.contains(part);
    if has("no such database") {
        let reason = "the pooler knows no database of that name: check the path of the address, or add it to \
                      [databases] in its configuration";
        (Kind::FailedPrecondition, reason.to_owned())
    } else if has("no such user") || has("authentication failed") {
        (Kind::PermissionDenied, "the user name or the password is wrong".to_owned())
    } else if has("no more connections") || has("too many") {
        let reason = "the pooler has as many connections as it accepts: raise its max_client_conn, or write \
                      ?connections=1";
        (Kind::NotNow, format!("{reason} ({message})"))
    } else if has("unsupported startup parameter") {
        let reason =
            "the pooler refuses a parameter: add it to ignore_startup_parameters in its configuration";
        (Kind::FailedPrecondition, format!("{reason} ({message})"))
    } else if has("query_wait_timeout") {
        let reason = "the pooler had no connection to the server for so long: raise its default_pool_size, \
                      or look for what keeps its connections";
        (Kind::Disconnected, format!("{reason} ({message})"))
    } else if has("server login has been failing") || has("cannot connect to server") || has("server down") {
        (Kind::Disconnected, format!("the pooler cannot connect to the server behind it ({message})"))
    } else {
        (Kind::Disconnected, format!("it ended the connection ({message})"))
    }
}

/// What the client reports by itself.
fn judge_client(error: &tokio_postgres::Error) -> (Kind, String) {
    let text = error.to_string();
    let cause = causes(error).last().map(ToString::to_string).unwrap_or_default();
    let cause = printable(&cause);
    let io = causes(error).skip(1).find_map(|cause| cause.downcast_ref::<io::Error>());
    let io = io.filter(|_| !text.contains("parsing"));
    match io.map(io::Error::kind) {
        None if error.is_closed() => return (Kind::Disconnected, CLOSED.to_owned()),
        Some(ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
            return (Kind::Disconnected, CLOSED.to_owned());
        }
        Some(_) => return (Kind::Disconnected, format!("no connection: {cause}")),
        None => {}
    }
    match text.as_str() {
        "invalid configuration" if cause.contains("password missing") => {
            (Kind::PermissionDenied, WANTS_PASSWORD.to_owned())
        }
        "authentication error" if cause.contains("unsupported") => (
            Kind::FailedPrecondition,
            "it wants a login by Kerberos, GSSAPI or something else that is not supported: let pg_hba.conf \
             accept scram-sha-256 for this user"
                .to_owned(),
        ),
        "authentication error" => {
            (Kind::FailedPrecondition, format!("it does not prove that it knows the password ({cause})"))
        }
        // After it the client cannot tell where the next answer on this connection begins.
        "unexpected message from server" | "error parsing response from server" => {
            (Kind::Disconnected, format!("it does not answer as PostgreSQL does ({text}): check the address"))
        }
        _ => (Kind::FailedPrecondition, format!("the client failed: {text} ({cause})")),
    }
}

#[cfg(test)]
mod tests;
