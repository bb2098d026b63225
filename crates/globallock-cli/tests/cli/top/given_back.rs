//! However it ends or stops, the terminal is as it was before.

use super::window::Window;
use crate::support::{TestStore, kill, wait_gone};

/// What the table says above its columns.
const TABLE: &str = "longest held first";

fn begin(window: &Window<'_>) {
    window.line("clear; echo be''fore; stty -g >before");
    window.prompt();
    window.line("$TOP");
    let screen = window.until(TABLE);
    assert!(!screen.contains("before"), "{screen}");
    assert_eq!(window.asks(&["display", "-p", "#{alternate_on} #{cursor_flag}"]).trim(), "1 0");
}

/// Fails if the terminal is not as it was.
fn check(window: &Window<'_>, status: &str) {
    let screen = window.prompt();
    assert!(screen.starts_with("before\n") && !screen.contains(TABLE), "{screen}");
    window.line("echo sta''tus=$?; stty -g | cmp - before && echo sa''me");
    let screen = window.until("same");
    assert!(screen.contains(status), "{screen}");
}

#[test]
fn when_it_is_quit() {
    let store = TestStore::new();
    let window = Window::open(&store, 80, 24);
    for key in ["q", "C-c"] {
        begin(&window);
        window.keys(&[key]);
        check(&window, "status=0");
    }
}

#[test]
fn when_a_signal_ends_it() {
    let store = TestStore::new();
    let window = Window::open(&store, 80, 24);
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129), ("QUIT", 131)] {
        begin(&window);
        assert!(kill(signal, &window.child()));
        check(&window, &format!("status={status}"));
    }
}

#[test]
fn while_it_is_stopped() {
    let store = TestStore::new();
    let window = Window::open(&store, 80, 24);
    begin(&window);
    for stop in ["C-z", "TSTP"] {
        match stop {
            "C-z" => window.keys(&["C-z"]),
            signal => assert!(kill(signal, &window.child())),
        }
        let screen = window.prompt();
        assert!(screen.starts_with("before\n") && screen.contains("Stopped"), "{screen}");
        window.line("stty -g | cmp - before && echo sa''me; clear; echo be''fore");
        window.prompt();
        window.line("fg");
        window.until(TABLE);
    }
    // By a signal that nobody can handle, the screen stays; it is drawn anew afterwards.
    assert!(kill("STOP", &window.child()));
    window.until("Stopped");
    window.line("fg");
    window.until_it(|screen| screen.contains(TABLE) && !screen.contains("fg\n"));
    window.keys(&["q"]);
    let screen = window.prompt();
    assert!(screen.starts_with("before\n") && !screen.contains(TABLE), "{screen}");
    window.line("stty -g | cmp - before && echo the-sa''me");
    window.until("the-same");
}

#[test]
fn a_window_of_its_own_cannot_be_stopped() {
    let store = TestStore::new();
    let window = Window::with(&store, (80, 24), &format!("{} top", env!("CARGO_BIN_EXE_globallock")));
    window.until(TABLE);
    window.keys(&["C-z"]);
    window.keys(&["?"]);
    window.until("Keys of globallock top");
}

#[test]
fn it_ends_when_the_terminal_is_gone_even_if_it_is_told_to_ignore_that() {
    let store = TestStore::new();
    for before in ["true", "trap '' HUP"] {
        let window = Window::open(&store, 80, 24);
        window.line(before);
        begin(&window);
        let process = window.child();
        window.close();
        wait_gone(&process);
    }
}
