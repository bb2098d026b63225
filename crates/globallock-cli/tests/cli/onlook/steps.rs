//! The steps of docs/operations.md that find and end a stuck lock, typed on a terminal as they stand there.

use std::path::Path;

use super::Store;
use crate::terminals::{Kind, Shell};

const DOCUMENT: &str = include_str!("../../../../../docs/operations.md");

#[test]
fn the_steps_of_the_document_find_and_end_a_stuck_lock() {
    let (_, rest) = DOCUMENT.split_once("\n## 3 a.m.: find and end a stuck lock\n").unwrap();
    let (_, rest) = rest.split_once("```sh\n").unwrap();
    let steps: Vec<&str> = rest.split("```").next().unwrap().lines().collect();
    let [list, inspect, end, status] = steps[..] else { panic!("{steps:?}") };
    let store = Store::file();
    let script = "trap 'echo told; exit 0' TERM; echo ready; while read _; do :; done";
    let stuck = store.start(&["run", "--label", "report", "nightly", "--", "bash", "-c", script]);
    stuck.says("ready");
    let mut next = store.start(&["run", "-v", "--label", "import", "nightly", "--", "bash", "-c", script]);
    next.warns("waiting for");
    let _idle = store.hold(&[], "idle");
    let Store::File(directory) = &store else { unreachable!() };
    let programs = Path::new(env!("CARGO_BIN_EXE_globallock")).parent().unwrap().display();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let mut shell =
        Shell::start(Kind::Bash, &directory.path("."), &[("PATH", &path), ("STORE", &store.url())]);
    shell.line("export GLOBALLOCK_URL=$STORE; stty rows 40 cols 200");
    shell.prompt();
    shell.line(list);
    let listed = shell.prompt();
    assert!(
        listed.contains("nightly") && listed.contains(" report (pid ") && !listed.contains("idle"),
        "{listed}"
    );
    shell.line(inspect);
    let queue = shell.prompt();
    assert!(
        queue.contains("\"nightly\": one holds it, one waits; store ") && queue.contains("import"),
        "{queue}"
    );
    shell.line(end);
    let question = shell.until("to go on: ");
    assert!(question.contains("label     report") && question.contains("first import (pid "), "{question}");
    shell.line("y");
    shell.until(" is broken by ");
    assert!(stuck.warns("it was broken by ").contains(": it hangs since midnight"));
    stuck.says("told");
    assert_eq!(stuck.end(), Some(76));
    next.says("ready");
    shell.prompt();
    shell.line(status);
    assert!(shell.prompt().contains("\"nightly\" is taken, held by import (pid "));
    next.close_input();
    assert_eq!(next.end(), Some(0));
}
