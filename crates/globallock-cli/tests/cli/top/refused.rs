//! Where it cannot begin, one sentence says why.

use super::window::Window;
use crate::support::{TestStore, ended, on_terminal};

const TOP: &str = concat!(env!("CARGO_BIN_EXE_globallock"), " top");

#[test]
fn without_a_terminal_it_refuses() {
    let store = TestStore::new();
    let ran = ended(store.command().arg("top"));
    let says =
        |what: &str| format!("globallock: top needs a terminal: {what}; scripts use globallock ls -o json");
    assert_eq!((ran.status, ran.error.trim_end()), (Some(64), &*says("standard output is none")));
    for (terminal, line, what) in [
        ("xterm", format!("{TOP} </dev/null"), "standard input is none"),
        ("dumb", TOP.to_owned(), "the variable TERM says that this one cannot move its cursor"),
        ("", TOP.to_owned(), "the variable TERM says that this one cannot move its cursor"),
    ] {
        let ran = ended(&mut on_terminal(&store, terminal, &line));
        assert_eq!((ran.status, ran.output.trim_end()), (Some(64), &*says(what)), "{line}");
    }
}

#[test]
fn a_store_that_cannot_serve_is_told_at_the_prompt() {
    let store = TestStore::new();
    let window = Window::open(&store, 80, 24);
    for (arguments, status, says) in [
        ("--url file:/dev/null/x", 69, "globallock: file:///dev/null/x cannot do this: "),
        ("--url ftp://h", 64, "globallock: invalid address ftp://h: "),
        ("--interval 10ms", 64, "the shortest is 100ms"),
    ] {
        window.line(&format!("${{TOP% --*}} {arguments}; echo sta''tus=$?"));
        let screen = window.until(&format!("status={status}"));
        assert!(screen.contains(says), "{screen}");
        window.line("clear");
        window.until_not("status=");
    }
}
