//! The terminal is given back at a panic, before that is told.

use std::process::{Command, Stdio};

use crate::top::terminal::Screen;

/// Runs only where the next test starts it, on a terminal.
#[test]
#[ignore = "it is started by the test below, on a terminal of its own"]
#[should_panic(expected = "as planned")]
fn a_panic_while_the_terminal_is_taken_over() {
    let _screen = Screen::enter().expect("as planned there is a terminal");
    panic!("as planned");
}

#[test]
fn a_panic_is_told_on_the_terminal_as_it_was() {
    let program = std::env::current_exe().unwrap();
    let name = "top::tests::terminal::a_panic_while_the_terminal_is_taken_over";
    let line = format!(
        "stty -g; {} --exact {name} --ignored --nocapture --test-threads 1; stty -g",
        program.display()
    );
    let mut script = Command::new("script");
    script.args(["-qefc", &line, "/dev/null"]).env("TERM", "xterm").env("SHELL", "/bin/sh");
    let output = script.stdin(Stdio::null()).output().unwrap().stdout;
    let said = String::from_utf8_lossy(&output);
    let place = |text: &str| said.find(text).unwrap_or_else(|| panic!("no {text:?} in {said:?}"));
    assert!(place("\u{1b}[?1049h") < place("\u{1b}[?1049l"), "{said:?}");
    assert!(place("\u{1b}[?1049l") < place("as planned"), "{said:?}");
    assert!(place("\u{1b}[?25h") < place("as planned") && said.contains("1 passed"), "{said:?}");
    let settings: Vec<&str> =
        said.lines().map(str::trim).filter(|line| line.matches(':').count() > 20).collect();
    assert!(settings.len() == 2 && settings[0] == settings[1], "{settings:?}");
}
