//! `break` on a terminal: it shows what it is about to break, and asks.

use std::time::Duration;

use globallock_conformance::proxy::{Flow, Proxy};

use super::Store;
use crate::support::TestStore;
use crate::terminals::{Kind, Shell};

/// A shell in whose variable BREAK is the beginning of a command line, for the store of these tests.
fn shell(store: &Store) -> Shell {
    let Store::File(directory) = store else { unreachable!() };
    let line = format!("{} break --url {}", env!("CARGO_BIN_EXE_globallock"), store.url());
    Shell::start(Kind::Bash, &directory.path("."), &[("BREAK", &line)])
}

fn holders(store: &Store) -> usize {
    store.json(&["inspect", "a"])[0]["claims"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|row| row["held"] == true)
        .count()
}

#[test]
fn a_claim_is_broken_only_after_it_was_shown_and_the_word_was_typed() {
    let store = Store::file();
    let held = store.hold(&["--label", "report"], "a");
    let _waits = store.queue(&["--label", "import"], "a");
    let mut shell = shell(&store);
    for answer in ["", "n", "b", "Y E S"] {
        shell.line("$BREAK a");
        let shown = shell.until("to go on: ");
        for part in
            ["label     report", "process   ", "held for  ", "waiting   1, first import (pid ", "claim     "]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        shell.line(answer);
        shell.until("nothing is broken: the answer was no");
        assert_eq!(shell.status(), "status=1");
    }
    shell.line("$BREAK a --reason 'it hangs'");
    shell.until("to go on: ");
    shell.line("a");
    shell.until(" is broken by ");
    assert_eq!(shell.status(), "status=0");
    assert!(held.warns("is lost: it was broken by ").contains(": it hangs"));
    assert_eq!(held.end(), Some(76));
}

#[test]
fn of_several_holders_one_is_chosen_by_its_number_and_no_other_is_hit() {
    let store = Store::file();
    let _held = ["one", "two", "three"].map(|label| store.hold(&["--shared", "--label", label], "a"));
    let _waits = store.queue(&["--label", "writer"], "a");
    let mut shell = shell(&store);
    for wrong in ["0", "4", "9", "x", ""] {
        shell.line("$BREAK a");
        shell.until("Type its number: ");
        shell.line(wrong);
        shell.until("nothing is broken: no claim was chosen");
    }
    shell.line("$BREAK a");
    let shown = shell.until("Type its number: ");
    assert!(shown.contains("WAITS-FOR") && shown.contains("2  held"), "{shown}");
    shell.line("2");
    assert!(shell.until("to go on: ").contains("label     two"));
    shell.line("y");
    shell.until(" is broken by ");
    assert_eq!(holders(&store), 2);
    let rest = store.json(&["inspect", "a"]);
    assert_eq!(
        (&rest[0]["claims"][0]["label"], &rest[0]["claims"][1]["label"]),
        (&"one".into(), &"three".into())
    );
}

#[test]
fn a_lock_that_changes_hands_while_the_question_stands_is_not_broken() {
    let store = Store::file();
    let held = store.hold(&[], "a");
    let _next = store.queue(&[], "a");
    let mut shell = shell(&store);
    shell.line("$BREAK a");
    shell.until("to go on: ");
    held.end();
    super::until(&store, "a", |claims| claims.len() == 1 && claims[0]["held"] == true);
    shell.line("y");
    shell.until("nothing is broken: the claim ended by itself");
    assert_eq!(shell.status(), "status=1");
    assert_eq!(holders(&store), 1);
}

#[test]
fn a_waiter_that_is_granted_the_lock_while_the_question_stands_is_asked_about_again() {
    let store = Store::file();
    let held = store.hold(&[], "a");
    let waits = store.queue(&[], "a");
    let claim = store.json(&["inspect", "a"])[0]["claims"][1]["claim"].as_str().unwrap().to_owned();
    let mut shell = shell(&store);
    shell.line(&format!("$BREAK a --waiter --claim {claim}"));
    assert!(shell.until("to go on: ").contains("is about to be taken out of the queue"));
    held.end();
    super::until(&store, "a", |claims| claims.len() == 1 && claims[0]["held"] == true);
    shell.line("y");
    let asked = shell.until("to go on: ");
    let told = "It has been granted the lock meanwhile, and holds it now. Nothing is broken yet.";
    assert!(asked.contains(told) && asked.contains("is about to be broken"), "{asked}");
    assert_eq!(holders(&store), 1);
    shell.line("y");
    let done = shell.until(" is broken by ");
    assert!(done.contains(", held"), "{done}");
    assert_eq!(waits.end(), Some(76));
}

#[test]
fn a_question_ends_at_ctrl_c_and_at_the_end_of_input() {
    let store = Store::file();
    let _held = store.hold(&[], "a");
    let mut shell = shell(&store);
    for (key, status) in [("\u{3}", "status=130"), ("\u{4}", "status=1")] {
        shell.line("$BREAK a");
        shell.until("to go on: ");
        shell.keys(key);
        shell.prompt();
        assert_eq!(shell.status(), status);
    }
    assert_eq!(holders(&store), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_does_not_answer_leaves_a_line_that_says_so() {
    let store = Store::redis();
    let Store::Redis(server) = &store else { unreachable!() };
    let held = store.hold(&[], "a");
    let proxy = Proxy::start(server.port()).await.unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let told = tokio::task::spawn_blocking(move || {
        let directory = TestStore::new();
        let line = format!("{} break --url {url} --timeout 4s", env!("CARGO_BIN_EXE_globallock"));
        let mut shell = Shell::start(Kind::Bash, &directory.path("."), &[("BREAK", &line)]);
        shell.line("$BREAK a --reason 'it hangs'");
        shell.until("to go on: ");
        // The claim is looked at once more, and then broken. The answer to that is lost on its way.
        proxy.answers(Flow::Delay(Duration::from_millis(1500)));
        shell.line("y");
        held.warns("is lost: it was broken by ");
        proxy.answers(Flow::Swallow);
        (shell.prompt(), shell.status(), held.end())
    });
    let (told, status, ended) = told.await.unwrap();
    assert!(told.contains(" may be broken, which the store did not answer, by "), "{told}");
    assert!(told.contains(" is unavailable: "), "{told}");
    assert_eq!((&*status, ended), ("status=69", Some(76)));
}
