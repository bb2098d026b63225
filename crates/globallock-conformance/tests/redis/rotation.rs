//! Passwords that change while locks are held and waited for.

use std::path::Path;
use std::time::Duration;

use globallock::{Error, LockManager, Options, StoreNoticeKind};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, observed, queue_is, waits};
use globallock_conformance::server::redis::Redis;
use tempfile::TempDir;

/// How often the password changes, and how many times.
const CHANGES: (Duration, usize) = (Duration::from_secs(2), 4);
const LEASE: Duration = Duration::from_secs(6);

/// Gives the server's user another password. The earlier one is wrong from then on.
fn change(server: &Redis, password: &str) {
    let rights = include_str!("../../../../docs/redis.md");
    let rights = rights.lines().find_map(|line| line.trim().strip_prefix("ACL SETUSER locks on >PASSWORD "));
    let password = format!(">{password}");
    let mut arguments = vec!["ACL", "SETUSER", "locks", "reset", "on", &password];
    arguments.extend(rights.expect("the manual lists the rights").split(' '));
    let mut answer = server.cli(&arguments);
    if answer.contains("Syntax error") {
        // Redis 6.0 has no rights for channels.
        arguments.retain(|word| !word.starts_with('&') && *word != "resetchannels");
        answer = server.cli(&arguments);
    }
    assert_eq!(answer, "OK");
}

/// Puts the password into a file, as those do who change it: the file is never there without it.
fn publish(file: &Path, password: &str) {
    let new = file.with_extension("new");
    std::fs::write(&new, password).unwrap();
    std::fs::rename(new, file).unwrap();
}

async fn survives(option: impl Fn(&Path) -> String) {
    let server = Redis::start().unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("password");
    change(&server, "CANARY0");
    publish(&file, "CANARY0\n");
    let url = format!("redis://locks@127.0.0.1:{}?{}", server.port(), option(&file));
    let holder = connect_for(&url, LEASE).await.unwrap();
    let (other, notices) = observed(&url, LEASE).await;
    let guard = holder.mutex("held").acquire().await.unwrap();
    let shared = holder.rwlock("shared").read().acquire().await.unwrap();
    let waiter = waits(&other, "held");
    let operator = connect_for(&server.url(), LEASE).await.unwrap();
    queue_is(&operator, "held", 1, 1).await;
    let mut every = tokio::time::interval(CHANGES.0);
    for number in 1..=CHANGES.1 {
        every.tick().await;
        let password = format!("CANARY{number}");
        change(&server, &password);
        // Connections that break now find no right password until the file is written too.
        server.cli(&["CLIENT", "KILL", "USER", "locks"]);
        let meanwhile = waits(&other, &format!("meanwhile-{number}"));
        // More than one try fails, so that the file is written after whoever waits has heard of it.
        let failed = || notices.of(StoreNoticeKind::NotConnected).len();
        let before = failed();
        eventually("two more logins are refused", async || failed() >= before + 2).await;
        publish(&file, &password);
        assert!(meanwhile.await.unwrap().expect("it is waited for").is_held());
        assert!(guard.is_held() && shared.is_held() && !waiter.is_finished());
    }
    // They have been renewed since, over connections with the last password.
    guard.renew().await.unwrap();
    guard.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    assert!(guard.is_held() && shared.is_held());
    assert!(!format!("{holder:?}").contains("CANARY"));
}

#[tokio::test]
async fn locks_survive_a_password_in_a_file_that_changes_every_two_seconds() {
    survives(|file| format!("password_file={}", file.display())).await;
}

#[tokio::test]
async fn locks_survive_a_password_of_a_command_that_changes_every_two_seconds() {
    survives(|file| format!("password_command=cat%20{}", file.display())).await;
}

#[tokio::test]
async fn a_password_that_is_wrong_or_missing_is_told_at_once() {
    let server = Redis::start().unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("password");
    change(&server, "right");
    let url = |option: &str| format!("redis://locks@127.0.0.1:{}?{option}", server.port());
    let of_file = url(&format!("password_file={}", file.display()));
    let shown = format!("redis://…@127.0.0.1:{}", server.port());
    let refusal = async |url: &str| {
        let lazy = LockManager::connect_lazy(url, Options::new()).unwrap();
        let refused = lazy.mutex("a").acquire().await.unwrap_err();
        assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
        refused.to_string()
    };
    let missing = format!("the option password_file: {file:?}: No such file or directory (os error 2)");
    assert_eq!(refusal(&of_file).await, format!("{shown} denied access: {missing}"));
    publish(&file, "CANARY");
    let wrong = "the user name or the password in the file of the option password_file is wrong";
    assert_eq!(refusal(&of_file).await, format!("{shown} denied access: {wrong}"));
    let failing = url("password_command=sh%20-c%20'echo%20CANARY;%20echo%20no%20ticket%20>%262;%20exit%202'");
    let failed = "the option password_command: \"sh\": it failed (exit status: 2): no ticket";
    assert_eq!(refusal(&failing).await, format!("{shown} denied access: {failed}"));
    let of_command = url("password_command=echo%20CANARY");
    let wrong = "the user name or the password that the option password_command writes is wrong";
    assert_eq!(refusal(&of_command).await, format!("{shown} denied access: {wrong}"));
}
