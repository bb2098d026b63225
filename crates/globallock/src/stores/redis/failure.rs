//! Turns what Redis and its client report into this crate's errors.

use redis::{ErrorKind, RedisError, Value};

use crate::error::Error;

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
    source: Option<RedisError>,
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
        Failure { kind, reason: reason.into(), source: None }
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether it may pass without anybody's doing.
    pub(super) fn heals(&self) -> bool {
        !matches!(self.kind, Kind::PermissionDenied | Kind::FailedPrecondition)
    }

    /// Whether the server does not know the command, as where the operator has renamed it.
    pub(super) fn is_unknown_command(&self) -> bool {
        let detail = self.source.as_ref().and_then(RedisError::detail).unwrap_or_default();
        detail.to_ascii_lowercase().starts_with("unknown command")
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
        Failure { kind, reason, source: Some(error) }
    }
}

/// The same error without the request that the server repeats in it, which may have a password in it.
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

/// Whether an answer without a code of its own says that the user lacks a right to what the script does: as
/// Redis 7 says it, and as Redis 6 does.
fn lacks_a_right(detail: &str) -> bool {
    detail.starts_with("ACL failure in script") || detail.starts_with("The user executing the script can't ")
}

fn judge(error: &RedisError) -> (Kind, String) {
    let (code, detail) = answered(error);
    let lacks_a_right = code == "NOPERM" || code == "ERR" && lacks_a_right(detail);
    let detail = detail.escape_debug().to_string();
    let with = |text: &str| {
        if detail.is_empty() { text.to_owned() } else { format!("{text} ({detail})") }
    };
    let (kind, reason) = match code {
        "NOSCRIPT" => (Kind::NoScript, "it has forgotten a script"),
        "READONLY" => (
            Kind::Disconnected,
            "it is a read-only replica: give the primary's address, or redis+sentinel://",
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
        "LOADING" => (Kind::NotNow, "it is still loading its data"),
        "BUSY" => (Kind::NotNow, "it is busy with a script that runs too long; SCRIPT KILL may end it"),
        "MASTERDOWN" => (Kind::Disconnected, "it is a replica that has lost its primary"),
        code @ ("CLUSTERDOWN" | "TRYAGAIN" | "NOREPLICAS") => return (Kind::NotNow, with(code)),
        "NOAUTH" => (Kind::PermissionDenied, "it wants a password: put user and password into the address"),
        "WRONGPASS" => (Kind::PermissionDenied, "the user name or the password in the address is wrong"),
        _ if lacks_a_right => {
            let text = format!("the user lacks a right; locks need: {RIGHTS}");
            return (Kind::PermissionDenied, with(&text));
        }
        // Renewals and releases need no memory, so that room comes back.
        "OOM" => (Kind::NotNow, "it is out of memory: raise maxmemory, or give locks a server of their own"),
        "MISCONF" => (
            Kind::FailedPrecondition,
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
        _ => return judge_kind(error, &detail),
    };
    (kind, reason.to_owned())
}

fn judge_kind(error: &RedisError, detail: &str) -> (Kind, String) {
    match error.kind() {
        ErrorKind::AuthenticationFailed => {
            let reason = format!("the user name or the password in the address is wrong ({detail})");
            (Kind::PermissionDenied, reason)
        }
        ErrorKind::RESP3NotSupported => {
            let reason = "it is too old: globallock needs Redis 6.0 or newer, or a server that speaks RESP3";
            (Kind::FailedPrecondition, reason.to_owned())
        }
        ErrorKind::MasterNameNotFoundBySentinel => (
            Kind::Disconnected,
            "the sentinels know no primary of that name: check the service in the address and the hosts of \
             the sentinels"
                .to_owned(),
        ),
        ErrorKind::InvalidClientConfig => {
            (Kind::FailedPrecondition, format!("the client refuses the address ({error})"))
        }
        ErrorKind::Io if error.is_timeout() => (Kind::Disconnected, "it did not answer in time".to_owned()),
        ErrorKind::Io => (Kind::Disconnected, format!("no connection: {}", cause(error))),
        // After it the client cannot tell where the next answer on this connection begins.
        ErrorKind::Parse => (Kind::Disconnected, not_redis(error)),
        ErrorKind::UnexpectedReturnType => (Kind::FailedPrecondition, not_redis(error)),
        _ => (Kind::FailedPrecondition, format!("it answered: {}", error.to_string().escape_debug())),
    }
}

fn not_redis(error: &RedisError) -> String {
    format!("it does not answer as Redis does ({}): check the address", error.to_string().escape_debug())
}

/// What the operating system or TLS reported.
fn cause(error: &RedisError) -> String {
    let text = error.to_string();
    let io = std::error::Error::source(error).map(ToString::to_string);
    io.unwrap_or(text).escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;
    use std::io;

    use super::*;
    use proptest::prelude::*;

    /// An error that the server answers, as the client reports it.
    fn answer(line: &str) -> RedisError {
        let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
        value.extract_error().unwrap_err()
    }

    fn client(kind: ErrorKind) -> RedisError {
        (kind, "what it met", "the details".to_owned()).into()
    }

    fn report(error: RedisError) -> (Kind, String) {
        let failure = Failure::from(error);
        let kind = failure.kind;
        (kind, failure.into_error("redis://h").to_string())
    }

    #[test]
    fn each_refusal_of_the_server_names_its_remedy() {
        for (line, kind, remedy) in [
            ("NOSCRIPT No matching script. Please use EVAL.", Kind::NoScript, "forgotten a script"),
            (
                "READONLY You can't write against a read only replica.",
                Kind::Disconnected,
                "the primary's address",
            ),
            ("LOADING Redis is loading the dataset in memory", Kind::NotNow, "still loading its data"),
            ("BUSY Redis is busy running a script.", Kind::NotNow, "SCRIPT KILL may end it"),
            (
                "MASTERDOWN Link with MASTER is down",
                Kind::Disconnected,
                "a replica that has lost its primary",
            ),
            ("CLUSTERDOWN The cluster is down", Kind::NotNow, "CLUSTERDOWN (The cluster is down)"),
            ("TRYAGAIN Multiple keys request during rehashing", Kind::NotNow, "TRYAGAIN (Multiple keys"),
            ("NOREPLICAS Not enough good replicas to write.", Kind::NotNow, "NOREPLICAS (Not enough good"),
            ("NOREPLICAS", Kind::NotNow, ": NOREPLICAS"),
            (
                "NOAUTH Authentication required.",
                Kind::PermissionDenied,
                "put user and password into the address",
            ),
            ("WRONGPASS invalid username-password pair", Kind::PermissionDenied, "in the address is wrong"),
            (
                "NOPERM this user has no permissions to run 'eval'",
                Kind::PermissionDenied,
                "&globallock:* +@scripting",
            ),
            (
                "NOPERM this user has no permissions to run 'eval'",
                Kind::PermissionDenied,
                "(this user has no permissions",
            ),
            ("OOM command not allowed when used memory > 'maxmemory'.", Kind::NotNow, "raise maxmemory"),
            (
                "ERR ACL failure in script: User u has no permissions to run the 'set' command script: f, on \
                 @user_script:1.",
                Kind::PermissionDenied,
                "+@scripting",
            ),
            (
                "MISCONF Redis is configured to save RDB snapshots",
                Kind::FailedPrecondition,
                "stop-writes-on-bgsave-error",
            ),
            ("MOVED 3999 127.0.0.1:6381", Kind::FailedPrecondition, "use a single server"),
            ("ASK 3999 127.0.0.1:6381", Kind::FailedPrecondition, "use a single server"),
            (
                "CROSSSLOT Keys in request don't hash to the same slot",
                Kind::FailedPrecondition,
                "use a single server",
            ),
            (
                "WRONGTYPE Operation against a key of the wrong kind",
                Kind::FailedPrecondition,
                "choose another prefix",
            ),
            ("ERR unknown command 'EVALSHA'", Kind::FailedPrecondition, "it answered: "),
            ("ERR unknown command 'EVALSHA'", Kind::FailedPrecondition, "unknown command"),
            ("WHATEVER is new", Kind::FailedPrecondition, "it answered: "),
        ] {
            let (judged, text) = report(answer(line));
            assert_eq!(judged, kind, "{line}");
            assert!(text.contains(remedy), "{line}: {text}");
        }
    }

    #[test]
    fn what_redis_6_puts_around_an_answer_to_a_script_hides_nothing() {
        const CALL: &str = "ERR Error running script (call to f_a8e045687019c1230c01d4717e0579b12b1a1b50): ";
        for (said, kind, remedy) in [
            (
                "@user_script:1: @user_script: 1: -OOM command not allowed when used memory > 'maxmemory'.",
                Kind::NotNow,
                "raise maxmemory",
            ),
            (
                "@user_script:1: @user_script: 1: -READONLY You can't write against a read only replica.",
                Kind::Disconnected,
                "the primary's address",
            ),
            (
                "@user_script:163: WRONGTYPE Operation against a key holding the wrong kind of value",
                Kind::FailedPrecondition,
                "choose another prefix (Operation against a key",
            ),
            (
                "@user_script:1: @user_script: 1: -MISCONF Redis is configured to save RDB snapshots",
                Kind::FailedPrecondition,
                "stop-writes-on-bgsave-error",
            ),
            (
                "@user_script:1: The user executing the script can't run this command or subcommand",
                Kind::PermissionDenied,
                "+@scripting",
            ),
            (
                "@user_script:1: The user executing the script can't access at least one of the keys",
                Kind::PermissionDenied,
                "~<prefix>*",
            ),
            ("@user_script:7: attempt to index a nil value", Kind::FailedPrecondition, "it answered: "),
            ("ERR syntax error", Kind::FailedPrecondition, "syntax error"),
            ("@user_script:", Kind::FailedPrecondition, "it answered: "),
            ("", Kind::FailedPrecondition, "it answered: "),
        ] {
            let (judged, text) = report(answer(&format!("{CALL}{said}")));
            assert_eq!(judged, kind, "{said}");
            assert!(text.contains(remedy), "{said}: {text}");
        }
    }

    #[test]
    fn a_request_that_an_answer_repeats_is_not_shown() {
        for quote in ["'", "`"] {
            let said = format!("ERR unknown command {quote}INFO{quote}, with args beginning with: 'sEcReT'");
            let failure = Failure::from(answer(&said));
            assert!(failure.is_unknown_command(), "{failure:?}");
            let error = failure.into_error("redis://h");
            let shown = format!("{error} {error:?} {}", error.source().unwrap());
            assert!(shown.contains("unknown command") && !shown.contains("sEcReT"), "{shown}");
        }
    }

    #[test]
    fn each_failure_of_the_client_names_its_remedy() {
        for (error, kind, remedy) in [
            (
                client(ErrorKind::AuthenticationFailed),
                Kind::PermissionDenied,
                "in the address is wrong (the details)",
            ),
            (
                client(ErrorKind::RESP3NotSupported),
                Kind::FailedPrecondition,
                "too old: globallock needs Redis 6.0",
            ),
            (client(ErrorKind::MasterNameNotFoundBySentinel), Kind::Disconnected, "check the service"),
            (
                client(ErrorKind::InvalidClientConfig),
                Kind::FailedPrecondition,
                "the client refuses the address (what it met",
            ),
            (client(ErrorKind::Io), Kind::Disconnected, "no connection: what it met"),
            (client(ErrorKind::Parse), Kind::Disconnected, "as Redis does (what it met"),
            (client(ErrorKind::Parse), Kind::Disconnected, "check the address"),
            (client(ErrorKind::UnexpectedReturnType), Kind::FailedPrecondition, "as Redis does (what it met"),
            (client(ErrorKind::UnexpectedReturnType), Kind::FailedPrecondition, "check the address"),
            (client(ErrorKind::Client), Kind::FailedPrecondition, "it answered: what it met"),
        ] {
            let (judged, text) = report(error.clone());
            assert_eq!(judged, kind, "{error}");
            assert!(text.contains(remedy), "{error}: {text}");
        }
    }

    #[test]
    fn every_failure_of_the_connection_asks_for_a_new_one() {
        use io::ErrorKind::{
            BrokenPipe, ConnectionRefused, ConnectionReset, InvalidData, NotFound, Other, PermissionDenied,
            TimedOut, UnexpectedEof, WouldBlock,
        };
        for kind in [
            BrokenPipe,
            ConnectionRefused,
            ConnectionReset,
            InvalidData,
            NotFound,
            Other,
            PermissionDenied,
            UnexpectedEof,
        ] {
            let (judged, text) = report(io::Error::new(kind, "what the system said").into());
            assert_eq!(judged, Kind::Disconnected, "{kind:?}");
            assert!(text.ends_with("no connection: what the system said"), "{kind:?}: {text}");
        }
        for kind in [TimedOut, WouldBlock] {
            let (judged, text) = report(io::Error::new(kind, "what the system said").into());
            assert_eq!(judged, Kind::Disconnected, "{kind:?}");
            assert!(text.contains("did not answer in time"), "{kind:?}: {text}");
        }
    }

    #[test]
    fn a_server_that_is_no_redis_is_reported_as_such() {
        let http = redis::parse_redis_value(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap_err();
        let (_, text) = report(http);
        assert!(text.contains("does not answer as Redis does"), "{text}");
        assert!(!text.contains("no connection"), "{text}");
    }

    #[test]
    fn an_error_says_what_its_caller_must_do_and_keeps_its_source() {
        for kind in [Kind::Disconnected, Kind::NotNow, Kind::NoScript] {
            let error = Failure::new(kind, "some reason").into_error("redis://h");
            assert!(matches!(error, Error::Unavailable { .. }), "{kind:?}");
            assert_eq!(error.to_string(), "redis://h is unavailable: some reason");
            assert!(error.source().is_none());
        }
        let denied = Failure::new(Kind::PermissionDenied, "some reason").into_error("redis://h");
        assert_eq!(denied.to_string(), "redis://h denied access: some reason");
        let failed = Failure::new(Kind::FailedPrecondition, "some reason").into_error("redis://h");
        assert_eq!(failed.to_string(), "redis://h cannot do this: some reason");
        let error = Failure::from(answer("OOM it is full")).into_error("redis://h");
        assert!(error.source().is_some_and(|source| source.to_string().contains("OOM")));
    }

    proptest! {
        #[test]
        fn nothing_that_a_server_answers_can_steer_a_terminal(
            code in "ERR|NOPERM|WRONGTYPE|CLUSTERDOWN|WHATEVER",
            detail in "[^\r\n]{1,20}",
        ) {
            let (_, text) = report(answer(&format!("{code} {detail}")));
            prop_assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
}
