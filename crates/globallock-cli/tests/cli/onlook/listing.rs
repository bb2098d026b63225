//! `ls`: which locks are listed, and how.

use std::process::Command;

use globallock_conformance::server::free_port;
use serde_json::Value;

use super::Store;
use crate::support::{Running, TestStore, ended, eventually, globallock};

fn names(store: &Store, arguments: &[&str]) -> Vec<String> {
    let listed = store.ended(&[&["ls", "-o", "name"], arguments].concat());
    assert_eq!((listed.status, listed.error.as_str()), (Some(0), ""), "{arguments:?}");
    listed.output.lines().map(str::to_owned).collect()
}

#[test]
fn locks_are_listed_with_holder_and_waiters_in_the_asked_order() {
    let store = Store::redis();
    let _all = [
        store.hold(&["--label", "report"], "nightly"),
        store.queue(&["--label", "import"], "nightly"),
        store.hold(&["--permits", "2/5"], "imports"),
        store.hold(&["--shared", "--label", "young"], "data"),
    ];
    let listed = store.ended(&["ls"]);
    assert_eq!((listed.status, listed.error.as_str()), (Some(0), ""));
    let lines: Vec<&str> = listed.output.lines().collect();
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines[0]), ["NAME", "MODE", "HOLDER", "HELD-FOR", "LEASE-LEFT", "WAITING"]);
    assert_eq!(words(lines[1])[..3], ["data", "read", "young"]);
    assert_eq!(words(lines[2])[..2], ["imports", "2/5"]);
    assert_eq!(words(lines[3])[..4], ["nightly", "mutex", "report", "(pid"]);
    assert!(words(lines[3])[words(lines[3]).len() - 2] == "1", "{}", lines[3]);
    assert_eq!(lines.len(), 4);
    let wide = store.ended(&["ls", "-o", "wide", "n"]);
    let row = store.json(&["ls", "n"]).remove(0);
    for column in ["fencing_token", "pid", "claim", "label"] {
        let value = &row["holder"][column];
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let last = words(wide.output.lines().nth(1).unwrap());
        assert!(last[last.len() - 4..].contains(&text), "{column} {text}: {}", wide.output);
    }
    assert_eq!(names(&store, &[]), ["data", "imports", "nightly"]);
    assert_eq!(names(&store, &["--sort", "queue"])[0], "nightly");
    assert_eq!(names(&store, &["--sort", "age"])[0], "nightly");
    assert_eq!(names(&store, &["--waiting"]), ["nightly"]);
    assert_eq!(names(&store, &["i"]), ["imports"]);
    assert_eq!(names(&store, &["--foreign"]), [""; 0]);
    assert_eq!(names(&store, &["--host", "elsewhere"]), [""; 0]);
    assert_eq!(names(&store, &["--older-than", "1h"]), [""; 0]);
    assert_eq!(store.ended(&["ls", "--fail-empty", "none"]).status, Some(1));
    assert_eq!(store.ended(&["ls", "--fail-empty", "n"]).status, Some(0));
    assert_eq!(store.ended(&["ls", "none"]).status, Some(0));
    let no_time = store.ended(&["ls", "--timeout", "0s"]);
    assert_eq!(no_time.status, Some(64));
    assert!(no_time.error.contains("--timeout") && no_time.error.contains("no time"), "{}", no_time.error);
    assert_eq!(store.ended(&["ls", "--fail-found", "none"]).status, Some(0));
    assert_eq!(store.ended(&["ls", "--fail-found", "--waited", "1ms"]).status, Some(1));
    assert_eq!(store.ended(&["ls", "--fail-found", "--waited", "1h"]).status, Some(0));
}

#[test]
fn a_name_that_cannot_be_read_hides_no_other_and_is_told() {
    let store = Store::redis();
    let _held = ["a", "b", "c"].map(|name| store.hold(&[], name));
    let Store::Redis(server) = &store else { unreachable!() };
    server.cli(&["SET", "{_glocks:b}:queue", "what another program has put there"]);
    let listed = store.ended(&["ls", "-o", "name"]);
    assert_eq!((listed.status, listed.output.as_str()), (Some(69), "a\nc\n"));
    assert!(listed.error.contains("choose another prefix"), "{}", listed.error);
}

#[test]
fn a_holder_that_gives_no_signs_of_life_is_stale_and_one_that_does_is_not() {
    let store = Store::redis();
    let _well = store.hold(&["--lease", "4s"], "well");
    let stuck = store.hold(&["--lease", "60s"], "stuck");
    // All processes of the holder stop, as on a host that hangs. Half of a long lease is too long for a test,
    // so the store is told that most of it has passed.
    stuck.signal("STOP");
    let listing = store.start(&["ls", "--stale", "-o", "name"]);
    let Store::Redis(server) = &store else { unreachable!() };
    eventually(|| server.cli(&["INFO", "commandstats"]).contains("cmdstat_scan").then_some(())).unwrap();
    server.cli(&["PEXPIRE", "_glocks:stuck", "20000"]);
    assert_eq!(listing.all_said(), ["stuck"]);
    stuck.signal("CONT");
}

#[test]
fn names_and_labels_never_drive_a_terminal_and_stay_one_line_each() {
    let store = Store::redis();
    let hostile = ["a\u{1b}]0;owned\u{7}", "b\nglobal", "c\u{202e}d", "名前"];
    let _held = hostile.map(|name| store.hold(&["--label", "\u{1b}[2J\u{9b}31m\u{2066}x"], name));
    let unsafe_ones =
        |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c) || c == '\u{2066}';
    for name in hostile {
        for arguments in [&["inspect"][..], &["inspect", "-o", "json"], &["status"], &["wait", "-w", "0s"]] {
            let told = store.ended(&[arguments, &["--", name]].concat());
            let said = told.output + &told.error;
            assert!(!said.contains(unsafe_ones) && said.contains("[2J"), "{arguments:?}: {said:?}");
        }
    }
    for output in ["table", "wide", "json", "name"] {
        let listed = store.ended(&["ls", "-o", output]);
        assert!(!listed.output.contains(unsafe_ones), "{output}: {:?}", listed.output);
        let headings = usize::from(["table", "wide"].contains(&output));
        assert_eq!(listed.output.lines().count(), hostile.len() + headings, "{output}: {}", listed.output);
    }
    let listed: Vec<Value> = store.json(&["ls"]);
    let listed: Vec<&str> = listed.iter().map(|row| row["name"].as_str().unwrap()).collect();
    assert_eq!(listed, hostile, "programs read the names as they are");
}

#[test]
fn a_terminal_gets_colours_and_lines_of_its_width_and_a_pipe_neither() {
    let store = Store::file();
    let long = "n".repeat(200);
    let _held = store.hold(&[], &long);
    let _waits = store.queue(&[], &long);
    let program = format!("{} ls --url {}", env!("CARGO_BIN_EXE_globallock"), store.url());
    let on_terminal = |before: &str| {
        let line = format!("stty rows 24 cols 70; {before} {program}");
        let mut command = Command::new("script");
        command.args(["-qefc", &line, "/dev/null"]).env("TERM", "xterm").env("SHELL", "/bin/bash");
        let ended = ended(command.env_remove("NO_COLOR"));
        assert_eq!(ended.status, Some(0), "{ended:?}");
        ended.output
    };
    let coloured = on_terminal("");
    assert!(
        coloured.contains("\u{1b}[1mNAME\u{1b}[0m") && coloured.contains("\u{1b}[33m1 ("),
        "{coloured:?}"
    );
    for plain in [on_terminal("NO_COLOR=1"), on_terminal("TERM=dumb")] {
        assert!(!plain.contains('\u{1b}'), "{plain:?}");
        assert!(plain.lines().all(|line| line.chars().count() <= 70), "{plain}");
        assert!(plain.contains('…') && plain.contains(" 1 ("), "{plain}");
    }
    let piped = store.ended(&["ls"]).output;
    assert!(piped.contains(&long) && !piped.contains('\u{1b}'), "{piped}");
}

#[test]
fn a_store_that_cannot_be_asked_is_told_without_its_secrets() {
    let gone = free_port();
    for (url, status) in [
        (format!("redis://user:hunter2@127.0.0.1:{gone}"), 69),
        (format!("etcd://user:hunter2@127.0.0.1:{gone}"), 69),
        (format!("zookeeper://user:hunter2@127.0.0.1:{gone}"), 69),
        ("redis://user:hunter2@127.0.0.1:1?colour=red".to_owned(), 64),
        ("ftp://user:hunter2@127.0.0.1".to_owned(), 64),
    ] {
        for verb in ["ls", "inspect x", "status x", "wait x", "break x -y --claim y"] {
            let mut command = globallock();
            command.args(verb.split(' ')).args(["--timeout", "300ms"]).env("GLOBALLOCK_URL", &url);
            let told = ended(&mut command);
            assert_eq!(
                (told.status, told.output.as_str()),
                (Some(status), ""),
                "{verb} {url}: {}",
                told.error
            );
            assert!(
                told.error.starts_with("globallock: ") && !told.error.contains("hunter2"),
                "{}",
                told.error
            );
        }
    }
}

#[test]
fn a_reader_that_has_read_enough_is_no_failure_and_a_full_disk_is() {
    let store = TestStore::new();
    let mut held = store.command();
    let held = Running::start(held.args(["hold", "x"]));
    held.says("");
    let line = format!("{} ls --url {}", env!("CARGO_BIN_EXE_globallock"), store.url());
    let script =
        format!("{line} --watch | head -n1 >&2; echo ${{PIPESTATUS[0]}}; {line} >/dev/full; echo $?");
    let ended = ended(Command::new("bash").args(["-c", &script]));
    assert_eq!(ended.output, "0\n70\n", "{}", ended.error);
    assert!(ended.error.contains("No space left on device"), "{}", ended.error);
}
