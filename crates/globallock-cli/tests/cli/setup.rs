//! The verb `setup`.

use std::io::Write;
use std::process::{Command, Stdio};

use globallock_conformance::server::free_port;
use globallock_conformance::server::postgres::{Pooler, Postgres, USER};

use crate::support::{Ended, TestStore, ended, globallock};

fn set_up(arguments: &[&str]) -> Ended {
    ended(globallock().arg("setup").args(arguments))
}

/// In this store, whose password nobody else should read.
fn set_up_in(url: &str, arguments: &[&str]) -> Ended {
    ended(globallock().env("GLOBALLOCK_URL", url).arg("setup").args(arguments))
}

fn run_in(url: &str) -> Ended {
    ended(globallock().env("GLOBALLOCK_URL", url).args(["run", "-n", "a", "--", "true"]))
}

fn tables(server: &Postgres) -> String {
    server.sql("SELECT count(*) FROM pg_tables WHERE schemaname = 'globallock'")
}

#[test]
fn a_store_that_needs_no_setup_says_so() {
    let store = TestStore::new();
    let done = set_up(&[&store.url()]);
    assert_eq!((done.status, done.error.as_str()), (Some(0), ""));
    assert!(done.output.contains("nothing needs to be set up"), "{}", done.output);
    assert!(done.output.contains(&store.url()), "{}", done.output);
    let quiet = set_up(&["--quiet", "--url", &store.url()]);
    assert_eq!((quiet.status, quiet.output.as_str(), quiet.error.as_str()), (Some(0), "", ""));
    let printed = set_up(&["--print", &store.url()]);
    assert_eq!((printed.status, printed.output.as_str()), (Some(0), ""));
    assert!(printed.error.contains("needs no setup"), "{}", printed.error);
}

#[test]
fn a_database_is_set_up_as_often_as_one_likes_and_keeps_its_locks() {
    let server = Postgres::start_bare(&[]).unwrap();
    let refused = run_in(&server.url());
    assert_eq!(refused.status, Some(69), "{}", refused.error);
    assert!(refused.error.contains("globallock setup"), "{}", refused.error);
    let first = set_up_in(&server.url(), &[]);
    assert_eq!((first.status, first.error.as_str()), (Some(0), ""));
    assert!(
        first.output.contains("schema globallock") && !first.output.contains("password"),
        "{}",
        first.output
    );
    let run = format!("{0} setup && {0} ls -o name", env!("CARGO_BIN_EXE_globallock"));
    let held =
        ended(globallock().env("GLOBALLOCK_URL", server.url()).args(["run", "a", "--", "sh", "-c", &run]));
    assert_eq!(held.status, Some(0), "{}", held.error);
    assert!(held.output.ends_with("\na\n"), "{}", held.output);
}

#[test]
fn what_is_printed_sets_a_database_up_too() {
    let server = Postgres::start_bare(&[]).unwrap();
    // Nobody is asked.
    let nowhere = format!("postgres://127.0.0.1:{}?schema=other", free_port());
    let printed = set_up(&["--print", &nowhere]);
    assert_eq!((printed.status, printed.error.as_str()), (Some(0), ""));
    assert!(printed.output.contains("\"other\".claims"), "{}", printed.output);
    let printed = set_up_in(&server.url(), &["--print"]);
    assert_eq!(tables(&server), "0");
    let said = server.tools().sql_as(USER, &printed.output);
    assert!(!said.contains("ERROR"), "{said}");
    let done = set_up_in(&server.url(), &[]);
    assert_eq!(done.status, Some(0), "{}", done.error);
    let run = run_in(&server.url());
    assert_eq!(run.status, Some(0), "{}", run.error);
}

#[test]
fn a_setup_that_is_printed_goes_through_a_pipe() {
    let server = Postgres::start_bare(&[]).unwrap();
    let mut psql = Command::new("psql");
    psql.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-h"]).arg(server.directory());
    psql.args(["-p", &server.port().to_string(), "-U", USER, "-d", USER]).stdin(Stdio::piped());
    let mut psql = psql.stdout(Stdio::null()).spawn().unwrap();
    let printed = set_up_in(&server.url(), &["--print"]).output;
    psql.stdin.take().unwrap().write_all(printed.as_bytes()).unwrap();
    assert!(psql.wait().unwrap().success());
    assert_ne!(tables(&server), "0");
}

#[test]
fn a_database_is_set_up_through_a_pooler() {
    let server = Postgres::start_bare(&[]).unwrap();
    let pooler = Pooler::start(server.port()).unwrap();
    let done = set_up_in(&pooler.url(), &[]);
    assert_eq!(done.status, Some(0), "{}", done.error);
    assert_ne!(tables(&server), "0");
}

#[test]
fn who_lacks_a_right_is_told_which() {
    let server = Postgres::start_bare(&[]).unwrap();
    server.sql(&format!("REVOKE CREATE ON DATABASE {USER} FROM {USER}"));
    let refused = set_up_in(&server.url(), &[]);
    assert_eq!((refused.status, refused.output.as_str()), (Some(77), ""));
    assert!(refused.error.contains("GRANT CREATE"), "{}", refused.error);
    assert_eq!(refused.error.lines().count(), 1, "{}", refused.error);
}

#[test]
fn a_server_that_is_away_is_asked_again_for_a_time() {
    let url = format!("postgres://app@127.0.0.1:{}", free_port());
    let since = std::time::Instant::now();
    let refused = set_up(&["--timeout", "1s", &url]);
    assert_eq!((refused.status, refused.output.as_str()), (Some(69), ""));
    assert!(since.elapsed() >= std::time::Duration::from_millis(700), "{:?}", since.elapsed());
    assert!(refused.error.contains(url.trim_start_matches("postgres://app@")), "{}", refused.error);
}

#[test]
fn a_wrong_address_is_wrong_usage() {
    let refused = set_up(&["nowhere://a"]);
    assert_eq!((refused.status, refused.output.as_str()), (Some(64), ""));
    let twice = set_up(&["--url", "file:", "file:"]);
    assert_eq!(twice.status, Some(64), "{}", twice.error);
}
