//! Whoever leaves while a claim is being broken is told what became of it.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::redis::Redis;

use super::window::Window;
use crate::support::{LIMIT, Running, TestStore, kill};

fn holds(store: &TestStore, url: &str) -> Running {
    let mut command = store.command();
    command.args(["run", "--url", url, "job", "--", "sh", "-c", "echo ready; read _; read _"]);
    let run = Running::start(&mut command);
    run.says("ready");
    run
}

/// Leaves when the claim is gone, but the store's answer is on its way, and expects a line that says so.
async fn leaves(leave: impl Fn(&Window<'_>), comes_the_answer: bool, expected: &str) {
    let (redis, store) = (Redis::start().unwrap(), TestStore::new());
    let proxy = Proxy::start(redis.port()).await.unwrap();
    let log = UnixDatagram::bind(store.path("syslog")).unwrap();
    log.set_read_timeout(Some(LIMIT)).unwrap();
    let run = holds(&store, &redis.url());
    let window = Window::open(&store, 80, 24);
    let (port, syslog) = (proxy.port(), store.path("syslog"));
    window.line(&format!("$TOP --url 'redis://127.0.0.1:{port}' --syslog '{}'", syslog.display()));
    window.until("1 held, 0 waited for");
    window.text("u");
    window.text("it hangs");
    window.keys(&["Enter"]);
    window.text("y");
    window.until("y, or the name, breaks it: y");
    proxy.answers(Flow::Delay(Duration::from_millis(1500)));
    window.keys(&["Enter"]);
    run.warns("is lost: it was broken by ");
    if !comes_the_answer {
        // What is on its way does not arrive.
        proxy.answers(Flow::Swallow);
    }
    leave(&window);
    window.prompt();
    let screen = window.unwrapped();
    let mut bytes = [0; 1000];
    let length = log.recv(&mut bytes).unwrap();
    let (_, told) = std::str::from_utf8(&bytes[..length]).unwrap().split_once("]: ").unwrap();
    assert!(told.contains(expected) && told.contains(": it hangs; store "), "{told}");
    assert!(screen.contains(&format!("globallock: {told}")), "{screen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_quits_is_told_what_was_broken() {
    leaves(|window| window.keys(&["q"]), true, " is broken by ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_quits_is_told_that_the_store_has_not_answered() {
    leaves(|window| window.keys(&["q"]), false, " may be broken, which the store did not answer, by ").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_keeps_nothing_from_being_told() {
    let signal = |window: &Window<'_>| assert!(kill("TERM", &window.child()));
    leaves(signal, false, " may be broken, which the store did not answer, by ").await;
}

#[test]
fn a_waiter_that_became_the_holder_during_a_pause_is_asked_about_again() {
    let store = TestStore::new();
    let first = holds(&store, &store.url());
    let mut command = store.command();
    command.args(["run", "job", "--", "sh", "-c", "echo ready; read _; read _"]);
    let second = Running::start(&mut command);
    let window = Window::open(&store, 80, 24);
    window.line("$TOP");
    window.until("1 held, 1 waited for");
    window.keys(&["Enter"]);
    window.until("1 holder, 1 waiter");
    window.text(" ");
    window.until("PAUSED");
    drop(first);
    second.says("ready");
    window.text("ju");
    window.until("waits for");
    window.keys(&["Enter"]);
    window.text("y");
    window.until("y, or the name, breaks it: y");
    window.keys(&["Enter"]);
    let asked = window.until("It has been granted the lock since, and holds it");
    assert!(asked.contains("holds it for"), "{asked}");
    window.keys(&["Escape"]);
    window.until_not("Break this claim?");
    window.keys(&["q"]);
    window.prompt();
    assert_eq!(store.claims("job").len(), 1, "it holds on");
}
