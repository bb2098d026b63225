//! Every example is run, and says what its comments promise.

#[path = "../custom_store/ledger.rs"]
mod ledger;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use globallock::{Entry, LockManager, ManagerOptions, Release};

/// Runs an example to its successful end, and returns what it printed.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let shown = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
    assert!(output.status.success(), "{}\n{}", shown(&output.stdout), shown(&output.stderr));
    shown(&output.stdout)
}

#[test]
fn a_mutex_is_held_while_the_report_is_written() {
    let printed = run(env!("CARGO_BIN_EXE_mutex"), &[]);
    assert_eq!(printed, "the report has 3 lines\nthe report has 3 lines again\n");
}

#[test]
fn a_late_write_is_refused_by_its_fencing_token() {
    let printed = run(env!("CARGO_BIN_EXE_guarded_write"), &[]);
    assert!(printed.starts_with("the new write: Ok(())\nthe late write: Err(\"token "), "{printed}");
}

#[test]
fn two_replicas_lead_one_after_the_other() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file:{}", directory.path().display());
    let (one, other) = std::thread::scope(|scope| {
        let replica = || scope.spawn(|| run(env!("CARGO_BIN_EXE_leader"), &[&url]));
        let (one, other) = (replica(), replica());
        (one.join().unwrap(), other.join().unwrap())
    });
    let mut tokens = Vec::new();
    for printed in [one, other] {
        assert!(printed.contains("term 3 ended after 3 steps"), "{printed}");
        let told = printed.lines().filter_map(|line| line.split_once("fencing token "));
        tokens.extend(told.map(|(_, token)| token.parse::<u64>().unwrap()));
    }
    tokens.sort_unstable();
    assert_eq!(tokens.len(), 6);
    assert!(tokens.windows(2).all(|pair| pair[0] < pair[1]), "each term has a token of its own: {tokens:?}");
}

#[test]
fn no_more_than_three_licences_are_in_use() {
    let printed = run(env!("CARGO_BIN_EXE_semaphore"), &[]);
    let most: u32 =
        printed.trim().strip_prefix("at most ").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((1..=3).contains(&most), "{printed}");
}

#[test]
fn an_hour_passes_at_once_in_paused_time() {
    let printed = run(env!("CARGO_BIN_EXE_paused_time"), &[]);
    assert!(printed.starts_with("more than an hour and ten minutes passed in "), "{printed}");
}

#[test]
fn a_store_of_ones_own_is_used_by_its_address() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("ledger://{}", directory.path().join("new").display());
    for token in [1, 2] {
        let printed = run(env!("CARGO_BIN_EXE_custom_store"), &[&url]);
        assert_eq!(printed, format!("example holds it with fencing token {token}\n"));
    }
}

#[test]
fn the_command_line_knows_the_store_of_ones_own() {
    let directory = tempfile::tempdir().unwrap();
    let program = env!("CARGO_BIN_EXE_custom_store");
    let url = format!("ledger://{}", directory.path().display());
    let printed =
        run(program, &["run", "--url", &url, "a", "--", "sh", "-c", "echo $GLOBALLOCK_FENCING_TOKEN"]);
    assert_eq!(printed, "1\n");
    let form = "  ledger:///directory (the processes of one host)\n";
    let help = run(program, &["run", "--help"]);
    assert!(help.contains(form) && help.contains("redis://"), "{help}");
    assert!(run(program, &["man", "run"]).contains(form), "the manual has it too");
    let refused =
        Command::new(program).args(["run", "--url", "ftp://h", "a", "--", "true"]).output().unwrap();
    assert_eq!(refused.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("known are memory, "), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ledger"), "{refused:?}");
}

/// Starts the command line with the store of one's own.
fn start(url: &str, arguments: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_custom_store"));
    command.arg("run").args(arguments).env("GLOBALLOCK_URL", url);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The queue of the lock `a`, once it has this many claims.
async fn queue(manager: &LockManager, count: usize) -> Vec<Entry> {
    loop {
        let queue = manager.inspect("a").await.unwrap();
        if queue.len() == count {
            return queue;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_evicted_waiter_runs_nothing_and_an_evicted_command_is_told_to_end() {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("ledger://{}", directory.path().display());
    let options = ManagerOptions::new().label("alice");
    let alice = LockManager::connect_by(&ledger::schemes(), &url, options).await.unwrap();
    let script = "trap 'echo told; exit 0' TERM; echo ready; while read _; do :; done";
    let mut holder = start(&url, &["a", "--", "bash", "-c", script]);
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");

    // Neither the status of a lock that is taken nor silence is for it.
    let waiter = start(&url, &["-q", "-E", "0", "a", "--", "echo", "ran"]);
    let waiting = queue(&alice, 2).await.remove(1);
    assert_eq!(alice.evict("a", &waiting.key, "not today").await.unwrap(), Release::Released);
    let ended = waiter.wait_with_output().unwrap();
    assert_eq!((ended.status.code(), ended.stdout.as_slice()), (Some(76), &b""[..]), "{ended:?}");
    let said = message(&ended);
    assert!(said.contains("the claim was evicted by alice (pid ") && said.contains("not today"), "{said}");

    let held = queue(&alice, 1).await.remove(0);
    assert_eq!(alice.evict("a", &held.key, "it hangs").await.unwrap(), Release::Released);
    assert_eq!(lines.next().unwrap().unwrap(), "told");
    let ended = holder.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(76), "{ended:?}");
    let said = message(&ended);
    assert!(said.contains("\"a\" is lost: it was broken by alice (pid "), "{said}");
    assert!(said.contains(": it hangs; the command is told to end"), "{said}");
    assert!(queue(&alice, 0).await.is_empty());
}
