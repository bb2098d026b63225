//! Commands that use the terminal themselves, and waits that are stopped.

use crate::support::TestStore;

use super::shell::{Kind, Shell};

/// A shell in whose variable RUN is the beginning of a command line.
fn shell(store: &TestStore) -> Shell {
    let run = format!("{} run --url {} job --", env!("CARGO_BIN_EXE_globallock"), store.url());
    Shell::start(Kind::Bash, &store.path("."), &[("RUN", &run)])
}

#[test]
fn a_command_with_other_input_asks_on_the_terminal() {
    let store = TestStore::new();
    let mut shell = shell(&store);
    shell.line(
        "echo data | $RUN sh -c 'echo Pass''phrase: >/dev/tty; read word </dev/tty; echo got:$word; cat'",
    );
    shell.until("Passphrase:");
    shell.line("secret");
    shell.until("got:secret");
    shell.until("data");
    assert_eq!(shell.status(), "status=0");
}

#[test]
fn a_job_that_reads_is_stopped_in_the_background_and_answered_in_the_foreground() {
    let store = TestStore::new();
    let mut shell = shell(&store);
    shell.line("$RUN sh -c 'read line; echo got:$line' &");
    shell.prompt();
    shell.line("until jobs | grep Stop; do sleep 0.02; done; echo it-has-stop''ped");
    shell.until("it-has-stopped");
    assert_eq!(store.run(&["-n", "job", "--", "true"]).status, Some(75), "it keeps its lock");
    shell.line("fg");
    shell.until("$RUN");
    shell.line("hello");
    shell.until("got:hello");
    assert_eq!(shell.status(), "status=0");
}

#[test]
fn a_wait_that_is_stopped_takes_no_lock_and_goes_on() {
    let store = TestStore::new();
    let mut holder = store.start(&["job", "--", "sh", "-c", "echo ready; read _"]);
    holder.says("ready");
    let mut shell = shell(&store);
    shell.line("$RUN echo gran''ted");
    shell.until("waiting for \"job\"");
    shell.keys("\u{1a}");
    shell.until("Stopped");
    holder.write("\n");
    assert_eq!(holder.end(), Some(0));
    assert_eq!(store.run(&["job", "--", "true"]).status, Some(0), "others do not wait for a stopped job");
    shell.line("fg");
    shell.until("granted");
    assert_eq!(shell.status(), "status=0");
}

#[test]
fn a_script_ends_at_one_ctrl_c() {
    let store = TestStore::new();
    let mut shell = shell(&store);
    shell.line("sh -c 'for i in 1 2 3; do $RUN sh -c \"echo beg\"\"un; exec sleep 1000\"; done'");
    shell.until("begun");
    shell.keys("\u{3}");
    shell.prompt();
    assert_eq!(shell.status(), "status=130");
    assert_eq!(store.run(&["job", "--", "true"]).status, Some(0));
}
