//! `globallock run`: what passes through, how it waits, and the exit status.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{TestStore, ended, globallock};
use globallock_conformance::server::redis::Redis;

#[test]
fn the_exit_status_of_the_command_passes() {
    let store = TestStore::new();
    for status in [0, 1, 3, 75, 255] {
        assert_eq!(store.run(&["a", "--", "sh", "-c", &format!("exit {status}")]).status, Some(status));
    }
}

#[test]
fn a_command_that_a_signal_ended_gives_128_and_its_number() {
    let store = TestStore::new();
    for (signal, status) in [("TERM", 143), ("KILL", 137), ("SEGV", 139)] {
        assert_eq!(store.run(&["a", "--", "sh", "-c", &format!("kill -{signal} $$")]).status, Some(status));
    }
}

#[test]
fn input_and_output_pass_byte_for_byte() {
    let store = TestStore::new();
    let bytes: Vec<u8> =
        (0..1_000_000_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut command = store.command();
    command.args(["run", "a", "--", "sh", "-c", "echo to-error >&2; cat"]);
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || input.write_all(&sent).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.stdout == bytes, "the output is the input");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "to-error\n");
}

#[test]
fn the_command_knows_the_name_and_a_token_that_rises() {
    let store = TestStore::new();
    let mut last = 0;
    for _ in 0..3 {
        let script = "echo $GLOBALLOCK_NAME; echo $GLOBALLOCK_FENCING_TOKEN";
        let ended = store.run(&["näme/x", "--", "sh", "-c", script]);
        let (name, token) = ended.output.trim_end().split_once('\n').unwrap();
        assert_eq!(name, "näme/x");
        let token: u64 = token.parse().unwrap();
        assert!(token > last);
        last = token;
    }
    assert!(store.claims("n%C3%A4me%2Fx").is_empty());
}

#[test]
fn a_second_run_waits_for_the_first_and_says_so() {
    let store = TestStore::new();
    let mut first = store.start(&["--label", "the first", "a", "--", "sh", "-c", "echo ready; read _"]);
    first.says("ready");
    let second = store.start(&["-v", "a", "--", "echo", "second"]);
    let waits = second.warns("waiting for \"a\"");
    assert!(waits.contains("held by the first (pid") && waits.contains("; place 1 of 1"), "{waits}");
    first.write("\n");
    assert_eq!(first.end(), Some(0));
    second.says("second");
    assert_eq!(second.end(), Some(0));
}

#[test]
fn many_runs_hold_the_lock_one_after_the_other() {
    let store = TestStore::new();
    let file = store.path("counter");
    std::fs::write(&file, "0").unwrap();
    let script = format!("n=$(cat {0}); echo $((n+1)) > {0}", file.display());
    let runs: Vec<_> = (0..12).map(|_| store.start(&["a", "--", "sh", "-c", &script])).collect();
    for run in runs {
        assert_eq!(run.end(), Some(0));
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), "12");
}

#[test]
fn a_taken_lock_is_refused_at_once_with_no_wait() {
    let store = TestStore::new();
    let first = store.start(&["a", "--", "sh", "-c", "echo ready; read _"]);
    first.says("ready");
    let refused = store.run(&["--no-wait", "a", "--", "true"]);
    assert_eq!(refused.status, Some(75));
    assert!(refused.error.contains("\"a\" is taken, held by sh (pid"), "{}", refused.error);
    assert_eq!(store.run(&["-n", "-E", "0", "a", "--", "false"]).status, Some(0));
    let quiet = store.run(&["-q", "-n", "--conflict-exit-code", "9", "a", "--", "true"]);
    assert_eq!((quiet.status, quiet.error.as_str()), (Some(9), ""));
    assert_eq!(store.run(&["--no-wait", "b", "--", "true"]).status, Some(0));
}

#[test]
fn a_wait_that_runs_out_is_refused() {
    let store = TestStore::new();
    let first = store.start(&["a", "--", "sh", "-c", "echo ready; read _"]);
    first.says("ready");
    let refused = store.run(&["--wait", "120ms", "a", "--", "true"]);
    assert_eq!(refused.status, Some(75));
    let (before, after) = refused.error.split_once(", held by sh (pid ").expect(&refused.error);
    assert!(before.starts_with("globallock: \"a\" was not granted within "), "{before}");
    assert!(after.ends_with(&format!("; store {}\n", store.url())), "{after}");
    assert_eq!(store.claims("a").len(), 1, "it has left the queue");
}

#[test]
fn shared_runs_hold_together_and_exclude_exclusive_ones() {
    let store = TestStore::new();
    let first = store.start(&["--shared", "a", "--", "sh", "-c", "echo ready; read _"]);
    let second = store.start(&["-s", "a", "--", "sh", "-c", "echo ready; read _"]);
    first.says("ready");
    second.says("ready");
    assert_eq!(store.run(&["-n", "a", "--", "true"]).status, Some(75));
    assert_eq!(first.end(), Some(1));
    assert_eq!(store.run(&["-n", "a", "--", "true"]).status, Some(75));
    assert_eq!(second.end(), Some(1));
    assert_eq!(store.run(&["-n", "a", "--", "true"]).status, Some(0));
}

#[test]
fn as_many_run_as_there_are_permits() {
    let store = TestStore::new();
    let two = store.start(&["--permits", "2/3", "a", "--", "sh", "-c", "echo ready; read _"]);
    two.says("ready");
    let one = store.start(&["--permits", "3", "a", "--", "sh", "-c", "echo ready; read _"]);
    one.says("ready");
    assert_eq!(store.run(&["-n", "--permits", "1/3", "a", "--", "true"]).status, Some(75));
    assert_eq!(two.end(), Some(1));
    assert_eq!(store.run(&["-n", "--permits", "2/3", "a", "--", "true"]).status, Some(0));
    assert_eq!(one.end(), Some(1));
}

#[test]
fn a_command_that_cannot_run_releases_the_lock() {
    let store = TestStore::new();
    let missing = store.run(&["a", "--", "/does/not/exist"]);
    assert_eq!(missing.status, Some(127));
    assert!(missing.error.contains("/does/not/exist: it was not found"), "{}", missing.error);
    let file = store.path("plain");
    std::fs::write(&file, "text").unwrap();
    assert_eq!(store.run(&["a", "--", file.to_str().unwrap()]).status, Some(126));
    assert_eq!(store.run(&["-n", "a", "--", "true"]).status, Some(0));
}

#[test]
fn an_error_of_usage_says_what_to_change() {
    let store = TestStore::new();
    let long = "x".repeat(513);
    for (arguments, text) in [
        (&["", "--", "true"][..], "it is empty"),
        (&[&long, "--", "true"], "the limit is 512"),
        (&["a"], "<COMMAND>"),
        (&["a", "true"], "--"),
        (&["--lease", "1ms", "a", "--", "true"], "lease"),
        (&["--max-hold", "soon", "a", "--", "true"], "such as 250ms"),
        (&["--permits", "4/3", "a", "--", "true"], "K from 1 to N"),
        (&["--permits", "1/3", "--shared", "a", "--", "true"], "cannot be used with"),
        (&["--wait", "1s", "--no-wait", "a", "--", "true"], "cannot be used with"),
        (&["--url", "redis://h:x", "a", "--", "true"], "port"),
        (&["--url", "ftp://h", "a", "--", "true"], "known are memory, file, redis"),
        (&["--url", "file:locks", "a", "--", "true"], "relative"),
        (&["--url", "redis://127.0.0.1?x=1", "a", "--", "true"], "no option \"x\""),
        (&["--url-file", "/does/not/exist", "a", "--", "true"], "/does/not/exist: No such file"),
        (&["--url", "file:", "--url-file", "x", "a", "--", "true"], "one of --url and --url-file"),
        (&["--conflict-exit-code", "300", "a", "--", "true"], "300"),
    ] {
        let refused = store.run(arguments);
        assert_eq!(refused.status, Some(64), "{arguments:?}: {}", refused.error);
        assert!(refused.error.contains(text), "{arguments:?}: {}", refused.error);
    }
    assert_eq!(ended(globallock().arg("walk")).status, Some(64));
    assert_eq!(ended(&mut globallock()).status, Some(64));
}

#[test]
fn without_an_address_the_lock_lives_in_a_directory_of_the_user() {
    let name = format!("globallock-test-{}", std::process::id());
    let mut command = globallock();
    let script = format!("ls /tmp/globallock-$(id -u)/{name}");
    let ended = ended(command.args(["run", &name, "--", "sh", "-c", &script]));
    assert_eq!(ended.status, Some(0), "{}", ended.error);
    assert_eq!(ended.output.lines().count(), 1, "the claim is there: {}", ended.output);
}

#[test]
fn a_store_in_redis_is_named_by_argument_variable_or_file() {
    let server = Redis::start().unwrap();
    let store = TestStore::new();
    let file = store.path("url");
    std::fs::write(&file, format!("{}\n", server.url())).unwrap();
    let by_argument: &mut Command = &mut globallock();
    by_argument.args(["run", "--url", &server.url(), "a"]);
    let by_variable: &mut Command = &mut globallock();
    by_variable.env("GLOBALLOCK_URL", server.url()).args(["run", "a"]);
    let by_file: &mut Command = &mut globallock();
    by_file.env("GLOBALLOCK_URL", "redis://127.0.0.1:1").args([
        "run",
        "--url-file",
        file.to_str().unwrap(),
        "a",
    ]);
    let script = format!("redis-cli -p {} get _glocks:a", server.port());
    let mut values = BTreeSet::new();
    for command in [by_argument, by_variable, by_file] {
        let ended = ended(command.args(["--", "sh", "-c", &script]));
        assert_eq!(ended.status, Some(0), "{}", ended.error);
        assert!(ended.output.starts_with("glk1:"), "the lock is held meanwhile: {}", ended.output);
        values.insert(ended.output);
    }
    assert_eq!(values.len(), 3);
    assert_eq!(server.cli(&["EXISTS", "_glocks:a"]), "0");
}

#[test]
fn a_store_that_cannot_be_reached_or_refuses_is_reported() {
    let server = Redis::start_with(&["--requirepass", "CANARY-right"]).unwrap();
    let run = |url: &str| ended(globallock().env("GLOBALLOCK_URL", url).args(["run", "a", "--", "true"]));
    let unreachable = run("redis://127.0.0.1:1");
    assert_eq!(unreachable.status, Some(69));
    assert!(unreachable.error.contains("127.0.0.1:1 is unavailable"), "{}", unreachable.error);
    let denied = run(&format!("redis://:CANARY-wrong@127.0.0.1:{}", server.port()));
    assert_eq!(denied.status, Some(77), "{}", denied.error);
    assert!(denied.error.contains("password"), "{}", denied.error);
    let granted = run(&format!("redis://:CANARY-right@127.0.0.1:{}", server.port()));
    assert_eq!(granted.status, Some(0), "{}", granted.error);
}

#[test]
fn a_password_is_never_printed() {
    let server = Redis::start_with(&["--requirepass", "CANARY"]).unwrap();
    let right = format!("redis://:CANARY@127.0.0.1:{}", server.port());
    let wrong = format!("redis://:xCANARYx@127.0.0.1:{}", server.port());
    for url in [
        &right,
        &wrong,
        "redis://u:CANARY@127.0.0.1:1",
        "redis://u:CANARY@h:x",
        "redis://u:CA/CANARY#@h?CANARY",
    ] {
        for arguments in [&["run", "-v", "a", "--", "true"][..], &["run", "--help"], &["run", "a"], &["man"]]
        {
            let by_variable = ended(globallock().env("GLOBALLOCK_URL", url).args(arguments));
            assert!(!format!("{by_variable:?}").contains("CANARY"), "{by_variable:?}");
        }
        let by_argument = ended(globallock().args(["run", "-v", "--url", url, "a", "--", "true"]));
        assert!(!format!("{by_argument:?}").contains("CANARY"), "{by_argument:?}");
    }
    let warned = ended(globallock().args(["run", "--url", &right, "a", "--", "true"]));
    assert!(warned.error.contains("list of processes"), "{}", warned.error);
}
