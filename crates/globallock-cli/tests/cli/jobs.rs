//! Jobs that many hosts start and one does: once in a while, or with others kept out for a time.

use std::time::{Duration, Instant};

use globallock_conformance::server::redis::Redis;

use crate::support::{Running, TestStore, ended, eventually, globallock, kill, stat_fields};

/// The stores: one that is a server with a clock of its own, and one that is a directory.
fn stores() -> (Redis, TestStore, [String; 2]) {
    let (server, store) = (Redis::start().unwrap(), TestStore::new());
    let urls = [server.url(), store.url()];
    (server, store, urls)
}

fn run(url: &str, words: &[&str]) -> crate::support::Ended {
    ended(globallock().env("GLOBALLOCK_URL", url).arg("run").args(words))
}

#[test]
fn a_success_is_not_repeated_and_a_failure_is() {
    let (_server, _store, urls) = stores();
    for url in &urls {
        let job =
            |command: &[&str]| run(url, &[&["-v", "--every", "20h", "nightly", "--"], command].concat());
        assert_eq!(job(&["sh", "-c", "exit 3"]).status, Some(3));
        assert_eq!(job(&["sh", "-c", "kill -KILL $$"]).status, Some(137));
        let done = job(&["echo", "ran"]);
        assert_eq!((done.status, done.output.as_str()), (Some(0), "ran\n"), "{}", done.error);
        assert!(done.error.ends_with("is released, and the success recorded\n"), "{}", done.error);
        let skipped = job(&["echo", "ran"]);
        assert_eq!((skipped.status, skipped.output.as_str()), (Some(0), ""));
        let said = skipped.error.strip_prefix("globallock: \"nightly\" is skipped: a run that began ");
        assert!(said.is_some_and(|said| said.ends_with(" ago has succeeded\n")), "{}", skipped.error);
        let silent = run(url, &["--every", "20h", "nightly", "--", "echo", "ran"]);
        assert_eq!((silent.output.as_str(), silent.error.as_str()), ("", ""));
        let again = run(url, &["--every", "1ms", "nightly", "--", "echo", "ran"]);
        assert_eq!(again.output, "ran\n", "that is long ago");
    }
}

#[test]
fn six_hosts_whose_clocks_are_apart_do_a_short_job_once() {
    let (_server, _store, urls) = stores();
    // Clocks that are apart let cron start the same job at moments that are apart. Here the hosts start one
    // after another, each when the one before has ended or was refused.
    for url in &urls {
        for options in [&["--every", "20h"][..], &["--no-wait", "-E", "0", "--hold-at-least", "60s"]] {
            let name = options[0].trim_start_matches('-');
            let mut ran = 0;
            for host in 0..6 {
                let label = format!("host{host}");
                let words = ["-q", "--label", &label, name, "--", "echo", "ran"];
                let ended = run(url, &[options, &words].concat());
                assert_eq!((ended.status, ended.error.as_str()), (Some(0), ""));
                ran += usize::from(ended.output == "ran\n");
            }
            assert_eq!(ran, 1, "{options:?} {url}");
            // And all at the same moment, with a job that takes a while.
            let name = format!("{name} at once");
            let runs: Vec<Running> = (0..6)
                .map(|_| {
                    let mut command = globallock();
                    command.env("GLOBALLOCK_URL", url).arg("run").args(options).args(["-q", &name, "--"]);
                    Running::start(command.args(["sh", "-c", "echo ran; sleep 0.2"]))
                })
                .collect();
            let ran =
                runs.into_iter().filter_map(|run| run.all_said().into_iter().find(|line| line == "ran"));
            let ran = ran.count();
            assert_eq!(ran, 1, "{options:?} {url}");
        }
    }
}

#[test]
fn a_server_keeps_others_out_with_no_process_left() {
    let server = Redis::start().unwrap();
    let url = server.url();
    let began = Instant::now();
    let done = run(&url, &["--hold-at-least", "3s", "a", "--", "true"]);
    assert_eq!((done.status, done.error.as_str()), (Some(0), ""));
    let refused = run(&url, &["--no-wait", "a", "--", "true"]);
    assert_eq!(refused.status, Some(75), "{}", refused.error);
    assert!(refused.error.contains("held by true (pid "), "{}", refused.error);
    let next = run(&url, &["--wait", "60s", "a", "--", "true"]);
    assert_eq!(next.status, Some(0), "{}", next.error);
    assert!(began.elapsed() >= Duration::from_secs(3));
}

#[test]
fn a_killed_run_keeps_others_out_as_well() {
    let server = Redis::start().unwrap();
    let url = server.url();
    let mut command = globallock();
    command.args(["run", "--url", &url, "--lease", "300ms", "--hold-at-least", "3s", "a", "--"]);
    let began = Instant::now();
    let job = Running::start(command.args(["sh", "-c", "echo ready; exec sleep 1000"]));
    job.says("ready");
    // The process that has the lock, so that nobody releases it.
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", job.id())).unwrap();
    assert!(kill("KILL", children.trim()));
    assert_eq!(job.end(), Some(76));
    let next = run(&url, &["--wait", "60s", "a", "--", "true"]);
    assert_eq!(next.status, Some(0), "{}", next.error);
    assert!(began.elapsed() >= Duration::from_secs(3));
}

#[test]
fn a_process_stays_where_the_store_keeps_nothing_and_says_so() {
    let store = TestStore::new();
    let began = Instant::now();
    let done = store.run(&["--hold-at-least", "3s", "a", "--", "echo", "done"]);
    assert_eq!((done.status, done.output.as_str()), (Some(0), "done\n"));
    let (before, after) = done.error.split_once(" by process ").expect(&done.error);
    assert!(before.starts_with("globallock: \"a\" is kept for another "), "{before}");
    let process = after.split_once(',').unwrap().0;
    assert!(began.elapsed() < Duration::from_secs(3), "the run ends with its command");
    assert_eq!(store.run(&["--no-wait", "a", "--", "true"]).status, Some(75));
    assert_eq!(store.run(&["--wait", "60s", "a", "--", "true"]).status, Some(0));
    assert!(began.elapsed() >= Duration::from_secs(3));
    assert!(eventually(|| stat_fields(process).is_none().then_some(())).is_some(), "it has ended");
    assert!(store.claims("a").is_empty());
}

#[test]
fn a_command_that_cannot_start_keeps_nobody_out() {
    let (_server, _store, urls) = stores();
    for url in &urls {
        let failed = run(url, &["--hold-at-least", "60s", "a", "--", "no-such-program"]);
        assert_eq!((failed.status, failed.error.lines().count()), (Some(127), 1), "{}", failed.error);
        assert_eq!(run(url, &["--no-wait", "a", "--", "true"]).status, Some(0));
    }
}

#[test]
fn a_success_is_recorded_before_others_are_kept_out() {
    let (_server, _store, urls) = stores();
    for url in &urls {
        let words = ["--every", "20h", "--hold-at-least", "400ms", "a", "--", "echo", "ran"];
        assert_eq!(run(url, &words).output, "ran\n");
        // It waits for the end of that time, and is skipped then.
        let skipped = run(url, &words);
        assert_eq!((skipped.status, skipped.output.as_str()), (Some(0), ""), "{}", skipped.error);
        let at_once = run(url, &[&["--no-wait"], &words[..]].concat());
        assert_eq!(at_once.status, Some(0), "a skip keeps nobody out: {}", at_once.error);
    }
}

#[test]
fn times_that_cannot_go_together_are_wrong_usage() {
    let store = TestStore::new();
    for words in [
        &["--hold-at-least", "2m", "--max-hold", "1m"][..],
        &["--hold-at-least", "0"],
        &["--every", "0"],
        &["--every", "2000d"],
        &["--every", "1h", "--shared"],
        &["--every", "1h", "--permits", "3"],
    ] {
        let told = store.run(&[words, &["a", "--", "true"]].concat());
        assert_eq!((told.status, told.error.lines().count()), (Some(64), 1), "{words:?}: {}", told.error);
    }
    assert!(store.claims("a").is_empty());
}
