//! Signals, the terminal, and the end of the program itself.

use std::fs;
use std::process::Command;

use crate::support::{self, Running, TestStore, globallock};

#[test]
fn signals_pass_to_the_command() {
    let store = TestStore::new();
    for (signal, status) in [("INT", 3), ("TERM", 4), ("HUP", 5), ("QUIT", 6), ("USR1", 7), ("USR2", 8)] {
        // The loop reads its input, so that it ends at the end of the input if the signal never comes.
        let script = format!(
            "trap 'echo heard {signal}; exit {status}' {signal}; echo ready; while read _; do :; done"
        );
        let run = store.start(&["a", "--", "bash", "-c", &script]);
        run.says("ready");
        run.signal(signal);
        run.says(&format!("heard {signal}"));
        assert_eq!(run.end(), Some(status));
    }
    assert!(store.claims("a").is_empty());
}

#[test]
fn a_signal_reaches_the_processes_that_the_command_has_started() {
    let store = TestStore::new();
    let script = "trap 'wait; exit 9' TERM; \
                  (trap 'echo below; exit' TERM; echo ready; while :; do read _ || wait; done) & wait";
    let run = store.start(&["a", "--", "bash", "-c", script]);
    run.says("ready");
    run.signal("TERM");
    run.says("below");
    assert_eq!(run.end(), Some(9));
}

#[test]
fn a_signal_ends_the_wait_and_leaves_the_queue() {
    let store = TestStore::new();
    let first = store.start(&["a", "--", "sh", "-c", "echo ready; read _"]);
    first.says("ready");
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let waits = store.start(&["-v", "a", "--", "echo", "ran"]);
        waits.warns("waiting for");
        assert_eq!(store.claims("a").len(), 2);
        waits.signal(signal);
        assert_eq!(waits.end(), Some(status));
        assert_eq!(store.claims("a").len(), 1);
    }
}

#[test]
fn an_ignored_signal_stays_ignored() {
    let store = TestStore::new();
    let program = env!("CARGO_BIN_EXE_globallock");
    let script =
        format!("trap '' HUP; exec {program} run a -- sh -c 'echo ready; read line; echo got $line'");
    let mut command = Command::new("sh");
    let mut run = Running::start(command.args(["-c", &script]).env("GLOBALLOCK_URL", store.url()));
    run.says("ready");
    run.signal("HUP");
    run.write("on\n");
    run.says("got on");
    assert_eq!(run.end(), Some(0));
}

/// Starts a command line on a terminal on which the cursor cannot be moved.
fn on_terminal(store: &TestStore, line: &str) -> Running {
    Running::start(support::on_terminal(store, "dumb", line).env("PS1", "prompt> "))
}

#[test]
fn the_keyboard_reaches_the_command() {
    let store = TestStore::new();
    let program = globallock().get_program().to_string_lossy().into_owned();
    let script = "trap 'echo caught; exit 7' INT; echo ready; while read line; do echo got $line; done";
    let mut run =
        on_terminal(&store, &format!("{program} run a -- bash -c \"{}\"", script.replace('$', "\\$")));
    run.says("ready");
    run.write("typed\n");
    run.says("got typed");
    // If the signal arrives just before the shell reads, the shell handles it after the next line. So send a
    // line.
    run.write("\u{3}\n");
    run.says("caught");
    assert_eq!(run.end(), Some(7));
    assert!(store.claims("a").is_empty());
}

#[test]
fn waiting_is_announced_on_a_terminal() {
    let store = TestStore::new();
    let first = store.start(&["a", "--", "sh", "-c", "echo ready; read _"]);
    first.says("ready");
    let program = globallock().get_program().to_string_lossy().into_owned();
    let mut run = on_terminal(&store, &format!("{program} run a -- true"));
    run.says("globallock: waiting for \"a\", held by sh (pid");
    run.write("\u{3}");
    assert_eq!(run.end(), Some(130));
}

#[test]
fn a_job_stops_and_continues_with_its_command() {
    let store = TestStore::new();
    let program = globallock().get_program().to_string_lossy().into_owned();
    let mut shell = on_terminal(&store, "bash --norc --noprofile -i");
    shell.write(&format!(
        "{program} run a -- bash -c 'echo rea\"\"dy; while read line; do echo got $line; done'\n"
    ));
    shell.says("ready");
    shell.write("\u{1a}");
    shell.says("Stopped");
    shell.write("echo still-$((40+2))\n");
    shell.says("still-42");
    shell.write("fg\n");
    shell.says("run a");
    shell.write("again\n");
    shell.says("got again");
    shell.write("\u{4}");
    shell.write("echo status-$?\n");
    shell.says("status-0");
    shell.write("exit 0\n");
    assert_eq!(shell.end(), Some(0));
}

#[test]
fn a_pager_behind_a_pipe_keeps_the_terminal() {
    let store = TestStore::new();
    let program = globallock().get_program().to_string_lossy().into_owned();
    // The program behind the pipe reads the keyboard, as a pager does. The command may read it as well.
    let reader = "bash -c \"read line </dev/tty; echo piped \\$line; cat\"";
    let mut run =
        on_terminal(&store, &format!("{program} run a -- bash -c \"echo from-command\" | {reader}"));
    run.write("key\n");
    run.says("piped key");
    run.says("from-command");
    assert_eq!(run.end(), Some(0));
}

#[test]
fn who_looks_for_a_run_by_its_words_ends_its_command_too() {
    let store = TestStore::new();
    let name = "looked-for-by-its-words";
    let run = store.start(&[name, "--", "sh", "-c", "echo ready; exec sleep 1000"]);
    run.says("ready");
    let has_its_words = |id: &String| {
        let words = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&words).contains(name)
    };
    let ids = fs::read_dir("/proc").unwrap().flatten();
    let ids: Vec<String> = ids.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let found: Vec<&str> = ids.iter().filter(|id| has_its_words(id)).map(String::as_str).collect();
    assert_eq!(found.len(), 3, "front, guardian and starter");
    assert!(Command::new("kill").arg("-TERM").args(found).status().unwrap().success());
    assert_eq!(run.end(), Some(143));
    assert_eq!(store.claims(name).len(), 0);
}
