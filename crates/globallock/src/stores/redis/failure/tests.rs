//! Tests of what failures mean.

use std::error::Error as _;
use std::io;

use super::*;
use proptest::prelude::*;

/// An error that the server answers, as the client reports it.
fn answer(line: &str) -> RedisError {
    let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
    answer.extract_error().unwrap_err()
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
        ("MASTERDOWN Link with MASTER is down", Kind::Disconnected, "a replica that has lost its primary"),
        ("CLUSTERDOWN The cluster is down", Kind::NotNow, "CLUSTERDOWN (The cluster is down)"),
        ("TRYAGAIN Multiple keys request during rehashing", Kind::NotNow, "TRYAGAIN (Multiple keys"),
        ("NOREPLICAS Not enough good replicas to write.", Kind::NotNow, "NOREPLICAS (Not enough good"),
        ("NOREPLICAS", Kind::NotNow, ": NOREPLICAS"),
        ("NOAUTH Authentication required.", Kind::PermissionDenied, "put user and password into the address"),
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
        ("MISCONF Redis is configured to save RDB snapshots", Kind::NotNow, "stop-writes-on-bgsave-error"),
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
        ("ERR unknown command 'EVALSHA'", Kind::FailedPrecondition, "it does not know EVALSHA"),
        ("ERR unknown command `HELLO`, with args", Kind::FailedPrecondition, "is too old"),
        ("ERR Unknown Redis command called from script", Kind::FailedPrecondition, "rename-command"),
        (
            "ERR ACL failure in script: User u has no permissions to run the 'set' command script: f, on \
             @user_script:1.",
            Kind::PermissionDenied,
            "the user lacks a right (ACL failure in script: User u has no permissions to run the 'set' \
             command): locks need",
        ),
        ("ERR DB index is out of range", Kind::FailedPrecondition, "choose a lower one"),
        ("ERR max number of clients reached", Kind::NotNow, "raise maxclients"),
        ("ERR this is new", Kind::FailedPrecondition, "it answered: "),
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
            Kind::NotNow,
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
        let said =
            format!("ERR unknown command {quote}HELLO{quote}, with args beginning with: '3' 'AUTH' 'sEcReT'");
        let failure = Failure::from(answer(&said));
        assert!(failure.lacks_resp3());
        let error = failure.into_error("redis://h");
        assert!(!format!("{error} {error:?} {}", error.source().unwrap()).contains("sEcReT"), "{error:?}");
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
            "it does not know HELLO: it is too old",
        ),
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
