//! Tests of what failures mean.

use super::*;

/// What an error of this code and text means to the user.
fn report(code: &str, message: &str) -> (Kind, String) {
    let (kind, reason) = judged(code, message);
    let failure = Failure::new(kind, reason);
    (kind, failure.into_error_of("postgres://h/d", "locks", "app").to_string())
}

#[test]
fn each_refusal_of_the_server_names_its_remedy() {
    use Kind::{Disconnected, FailedPrecondition, NotNow, NotSetUp, PermissionDenied};
    for (code, message, kind, remedy) in [
        (
            "28P01",
            "password authentication failed for user \"QQQ\"",
            PermissionDenied,
            "the password is wrong",
        ),
        (
            "28000",
            "no pg_hba.conf entry for host \"::1\", user \"QQQ\", database \"d\", no encryption",
            PermissionDenied,
            "add a line for this user, database and host without TLS, or change the option sslmode",
        ),
        (
            "28000",
            "pg_hba.conf rejects connection for host \"::1\", user \"QQQ\", database \"d\", SSL encryption",
            PermissionDenied,
            "database and host with TLS",
        ),
        ("28000", "role \"QQQ\" does not exist", PermissionDenied, "it has no such user"),
        ("28000", "Peer authentication failed for user \"QQQ\"", PermissionDenied, "run this as that one"),
        ("28000", "role \"QQQ\" is not permitted to log in", PermissionDenied, "ALTER ROLE app LOGIN"),
        (
            "28000",
            "connection requires a valid client certificate",
            PermissionDenied,
            "?sslcert=FILE&sslkey=FILE",
        ),
        ("3D000", "database \"QQQ\" does not exist", FailedPrecondition, "check the path of the address"),
        ("3F000", "schema \"locks\" does not exist", NotSetUp, "its schema locks is not set up"),
        ("42P01", "relation \"locks.claims\" does not exist", NotSetUp, "run `globallock setup`"),
        ("42883", "function locks.enqueue(text) does not exist", NotSetUp, "run `globallock setup`"),
        (
            "42501",
            "permission denied for schema locks",
            PermissionDenied,
            "GRANT USAGE ON SCHEMA locks TO app",
        ),
        (
            "42501",
            "permission denied for function enqueue",
            PermissionDenied,
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA locks TO app",
        ),
        (
            "42501",
            "permission denied for table claims",
            PermissionDenied,
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA locks TO app",
        ),
        (
            "42501",
            "permission denied for sequence s",
            PermissionDenied,
            "GRANT USAGE, UPDATE ON ALL SEQUENCES",
        ),
        ("42501", "permission denied for database d", PermissionDenied, "GRANT CREATE ON DATABASE"),
        ("42501", "must be owner of table claims", PermissionDenied, "(must be owner of table claims)"),
        ("25006", "cannot execute INSERT in a read-only transaction", Disconnected, "it takes no writes now"),
        ("53300", "sorry, too many clients already", NotNow, "raise max_connections"),
        ("53100", "could not extend file", NotNow, "its disk is full"),
        ("53200", "out of memory", NotNow, "it is out of memory"),
        ("53400", "temporary file size exceeds", NotNow, "it cannot do that now"),
        ("58030", "could not read file", NotNow, "(could not read file)"),
        ("57P01", "terminating connection due to administrator command", Disconnected, "(terminating"),
        ("57P02", "terminating connection because of crash", Disconnected, "it closed the connection"),
        ("57P03", "the database system is starting up", Disconnected, "(the database system is starting up)"),
        ("57P05", "terminating connection due to idle-session timeout", Disconnected, "idle-session timeout"),
        ("57014", "canceling statement due to statement timeout", NotNow, "after its statement_timeout"),
        ("57014", "canceling statement due to user request", NotNow, "(canceling statement due to user"),
        ("55P03", "canceling statement due to lock timeout", NotNow, "longer than lock_timeout"),
        ("40001", "could not serialize access", NotNow, "in each other's way"),
        ("40P01", "deadlock detected", NotNow, "in each other's way (deadlock detected)"),
        ("25P03", "terminating connection due to idle-in-transaction", Disconnected, "idle-in-transaction"),
        (
            "26000",
            "unnamed prepared statement does not exist",
            FailedPrecondition,
            "sessions or transactions",
        ),
        ("08006", "connection failure", Disconnected, "no connection (connection failure)"),
        ("GL001", "the tables are those of a newer version", FailedPrecondition, "those of a newer version"),
        ("GL002", "not read committed", FailedPrecondition, "not read committed"),
        ("22012", "division by zero", FailedPrecondition, "it answered: division by zero (22012)"),
        ("08P01", "no such database: QQQ", FailedPrecondition, "the pooler knows no database of that name"),
        ("08P01", "password authentication failed", PermissionDenied, "the password is wrong"),
        ("08P01", "SASL authentication failed", PermissionDenied, "the password is wrong"),
        ("08P01", "no such user: QQQ", PermissionDenied, "the user name or the password is wrong"),
        ("08P01", "no more connections allowed (max_client_conn)", NotNow, "raise its max_client_conn"),
        (
            "08P01",
            "unsupported startup parameter: x",
            FailedPrecondition,
            "add it to ignore_startup_parameters",
        ),
        ("08P01", "query_wait_timeout", Disconnected, "raise its default_pool_size"),
        (
            "08P01",
            "server login has been failing, try again later",
            Disconnected,
            "cannot connect to the server",
        ),
        (
            "08P01",
            "pgbouncer cannot connect to server",
            Disconnected,
            "cannot connect to the server behind it",
        ),
        ("08P01", "server conn crashed?", Disconnected, "it ended the connection (server conn crashed?)"),
    ] {
        let (found, text) = report(code, message);
        assert_eq!(found, kind, "{code} {message}: {text}");
        assert!(text.contains(remedy), "{code} {message}: {text}");
        assert!(!text.contains("QQQ") && !text.contains('<'), "{code} {message}: {text}");
    }
}

#[test]
fn a_name_is_quoted_where_a_statement_needs_it() {
    for (name, shown) in
        [("app", "app"), ("a_1", "a_1"), ("1a", "\"1a\""), ("App", "\"App\""), ("a\"b", "\"a\"\"b\"")]
    {
        assert_eq!(quoted(name), shown);
    }
}

#[test]
fn of_several_servers_the_one_that_says_most_is_heard() {
    let away = Failure::from(Unreached::NotThere("refused".to_owned()));
    let silent = Failure::from(Unreached::Silent("silent".to_owned()));
    let standby = Failure::new(Kind::Disconnected, STANDBY).of_host("h2:5432");
    let denied = Failure::new(Kind::PermissionDenied, "wrong");
    for (failures, kind, reason) in [
        (vec![away.clone(), silent.clone()], Kind::Disconnected, "silent"),
        (
            vec![away.clone(), standby.clone()],
            Kind::Disconnected,
            "h2:5432: it is a read-only standby, and no other",
        ),
        (vec![away.clone(), denied.clone()], Kind::Disconnected, "wrong"),
        (vec![denied], Kind::PermissionDenied, "wrong"),
        (vec![], Kind::Disconnected, "no server"),
    ] {
        let told = Failure::of_all(&failures);
        assert_eq!(told.kind, kind);
        assert!(told.reason.starts_with(reason), "{}", told.reason);
    }
}

#[test]
fn only_what_needs_somebody_does_not_heal() {
    for (kind, heals) in [
        (Kind::Disconnected, true),
        (Kind::NotNow, true),
        (Kind::NotSetUp, false),
        (Kind::PermissionDenied, false),
        (Kind::FailedPrecondition, false),
    ] {
        let failure = Failure::new(kind, "x");
        assert_eq!(failure.may_heal(), heals);
        assert_eq!(failure.into_error_of("s", "", "").is_unavailable(), heals);
    }
}
