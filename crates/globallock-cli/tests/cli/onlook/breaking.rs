//! `break`: exactly the claim that was seen is broken, and its owner is told who did it and why.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use globallock_conformance::proxy::{Flow, Proxy};
use serde_json::Value;

use super::Store;
use crate::support::{LIMIT, Running, TestStore, ended};

/// A command that ends when it is told to, and says so.
const COMMAND: &str = "trap 'echo told; exit 0' TERM; echo ready; while read _; do :; done";

/// The claims of a name.
fn claims(store: &Store, name: &str) -> Vec<Value> {
    store.json(&["inspect", name]).remove(0)["claims"].as_array().unwrap().clone()
}

fn text<'a>(claim: &'a Value, field: &str) -> &'a str {
    claim[field].as_str().unwrap()
}

/// Breaks a claim without being asked.
fn broken(store: &Store, arguments: &[&str]) -> (Option<i32>, String) {
    let ended = store.ended(&[&["break", "--yes"], arguments].concat());
    assert_eq!(ended.output, "");
    (ended.status, ended.error)
}

/// What holds on every store.
fn is_broken(store: &Store) {
    let run = store.start(&["run", "--label", "report", "job/a", "--", "bash", "-c", COMMAND]);
    run.says("ready");
    let waits = store.start(&["run", "--label", "import", "job/a", "--", "echo", "ran"]);
    let queue = crate::support::eventually(|| Some(claims(store, "job/a")).filter(|queue| queue.len() == 2));
    let queue = queue.unwrap();
    let (holder, waiter) = (text(&queue[0], "claim"), text(&queue[1], "claim"));
    let (status, error) = broken(store, &["job/a", "--claim", waiter]);
    assert_eq!(status, Some(1));
    assert!(
        error.ends_with("that claim holds nothing, but waits: --waiter takes it out of the queue\n"),
        "{error}"
    );
    let (status, error) = broken(store, &["job/a", "--claim", holder, "--reason", "it hangs"]);
    assert_eq!(status, Some(0), "{error}");
    let by = format!("@{}: it hangs; store {}", globallock::Owner::current().host, store.url());
    let line = error.lines().next().unwrap();
    assert!(line.starts_with(&format!("globallock: \"job/a\": claim {holder} of report (pid ")), "{error}");
    assert!(
        line.contains(", held for ") && line.contains(", is broken by ") && line.ends_with(&by),
        "{error}"
    );
    let lost = run.warns("\"job/a\" is lost: it was broken by ");
    assert!(lost.ends_with(": it hangs; the command is told to end"), "{lost}");
    run.says("told");
    assert_eq!(run.end(), Some(76));
    waits.says("ran");
    assert_eq!(waits.end(), Some(0));
    let _next = store.hold(&[], "job/a");
    for guard in
        [["--claim", holder].map(str::to_owned), ["--token".into(), queue[0]["fencing_token"].to_string()]]
    {
        let (status, error) = broken(store, &["job/a", &guard[0], &guard[1]]);
        assert_eq!(status, Some(1), "the next holder is never hit: {error}");
        assert!(error.contains("has no such claim any more, held by "), "{error}");
    }
    assert_eq!(claims(store, "job/a").len(), 1);
}

#[test]
fn a_claim_in_a_directory_is_broken_and_no_other() {
    let store = Store::file();
    is_broken(&store);
    stale_is_not_known(&store);
}

#[test]
fn a_claim_in_redis_is_broken_and_no_other() {
    is_broken(&Store::redis());
}

#[test]
fn a_claim_in_etcd_is_broken_and_no_other() {
    is_broken(&Store::etcd());
}

#[test]
fn a_claim_in_zookeeper_is_broken_and_no_other() {
    let store = Store::zookeeper();
    is_broken(&store);
    stale_is_not_known(&store);
}

#[test]
fn the_system_log_has_who_broke_what_and_nothing_that_others_wrote_makes_a_second_line() {
    let directory = TestStore::new();
    let socket = directory.path("log");
    let log = UnixDatagram::bind(&socket).unwrap();
    log.set_read_timeout(Some(LIMIT)).unwrap();
    let store = Store::redis();
    let name = "a\nfake: root broke everything\u{1b}[2J";
    let _held = store.hold(&["--label", "x\n<85>su: session opened"], name);
    let claim = claims(&store, name).remove(0);
    let token = claim["fencing_token"].to_string();
    let reason = "it hangs\n\u{202e}";
    let mut command = store.command(&["break", "-y", name, "--token", &token, "--reason", reason]);
    command.args(["--syslog", socket.to_str().unwrap(), "--log-format", "json"]).env("SUDO_USER", "bob");
    let ended = ended(&mut command);
    assert_eq!(ended.status, Some(0), "{}", ended.error);
    let mut bytes = vec![0; 10_000];
    let length = log.recv(&mut bytes).unwrap();
    let line = String::from_utf8(bytes[..length].to_vec()).unwrap();
    assert!(line.starts_with("<85>globallock[") && !line.contains(char::is_control), "{line}");
    for part in
        ["x\\n<85>su: session opened", "(sudo by bob): it hangs\\n\\u{202e}; store ", text(&claim, "claim")]
    {
        assert!(line.contains(part), "{part}: {line}");
    }
    let said: Value = serde_json::from_str(ended.error.lines().next().unwrap()).unwrap();
    assert_eq!((text(&said, "event"), text(&said, "claim")), ("broken", text(&claim, "claim")));
    assert_eq!((text(&said, "reason"), said["fencing_token"].to_string()), (reason, token));
    assert!(text(&said, "by").ends_with(" (sudo by bob)"), "{said}");
    log.set_nonblocking(true).unwrap();
    let (status, _) = broken(&store, &["nobody", "--claim", "x", "--syslog", socket.to_str().unwrap()]);
    assert_eq!(status, Some(1));
    assert_eq!(log.recv(&mut bytes).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing was done");
}

#[test]
fn the_holder_of_another_program_is_broken_by_its_own_key() {
    let store = Store::redis();
    let Store::Redis(server) = &store else { unreachable!() };
    server.cli(&["SET", "_glocks:theirs", "8f4c", "PX", "600000"]);
    let claim = claims(&store, "theirs").remove(0);
    assert_eq!(claim["foreign"], true);
    let key = text(&claim, "claim").to_owned();
    server.cli(&["SET", "_glocks:theirs", "another", "PX", "600000"]);
    let (status, error) = broken(&store, &["theirs", "--claim", &key]);
    assert_eq!(status, Some(1), "{error}");
    assert_eq!(server.cli(&["GET", "_glocks:theirs"]), "another");
    let key = text(&claims(&store, "theirs")[0], "claim").to_owned();
    let (status, error) = broken(&store, &["theirs", "--claim", &key]);
    assert_eq!(status, Some(0), "{error}");
    assert!(error.contains(" (foreign), held"), "{error}");
    assert_eq!(store.ended(&["status", "theirs"]).status, Some(0));
}

#[test]
fn of_two_operators_at_once_one_breaks_the_claim_and_the_other_none() {
    let store = Store::redis();
    let _held = store.hold(&[], "a");
    let _next = store.queue(&[], "a");
    let claim = claims(&store, "a").remove(0);
    let breaks = ["one", "two"].map(|reason| {
        store.start(&["break", "-y", "a", "--claim", text(&claim, "claim"), "--reason", reason])
    });
    let mut statuses = breaks.map(Running::end);
    statuses.sort_unstable();
    assert_eq!(statuses, [Some(0), Some(1)]);
    let left = super::until(&store, "a", |claims| claims.len() == 1 && claims[0]["held"] == true);
    assert_ne!(left[0]["claim"], claim["claim"]);
}

#[test]
fn a_waiter_is_taken_out_of_the_queue_and_told() {
    let store = Store::file();
    let _held = store.hold(&[], "a");
    let waits = store.queue(&[], "a");
    let waiter = claims(&store, "a").remove(1);
    let arguments = ["a", "--waiter", "--claim", text(&waiter, "claim"), "--reason", "not today"];
    let (status, error) = broken(&store, &arguments);
    assert_eq!(status, Some(0), "{error}");
    assert!(error.contains(", waiting for ") && error.contains(" is taken out of the queue by "), "{error}");
    waits.warns("is not waited for any more");
    assert_eq!(waits.end(), Some(76));
    assert_eq!(claims(&store, "a").len(), 1);
}

#[test]
fn what_was_a_waiter_is_not_broken_as_the_holder_without_a_question() {
    let store = Store::file();
    let held = store.hold(&[], "a");
    let claim = claims(&store, "a").remove(0);
    let (status, error) = broken(&store, &["a", "--waiter", "--claim", text(&claim, "claim")]);
    assert_eq!(status, Some(1), "{error}");
    assert!(error.contains("that claim waits no more, but holds the lock: leave out --waiter"), "{error}");
    assert_eq!(claims(&store, "a").len(), 1, "it holds on");
    // Who names a fencing token means a holder.
    let token = claim["fencing_token"].to_string();
    let (status, error) = broken(&store, &["a", "--waiter", "--token", &token]);
    assert_eq!(status, Some(0), "{error}");
    assert_eq!(held.end(), Some(76));
}

/// Ends `break` by a signal while the claim is gone already, but the store's answer is on its way. Returns
/// the lines of standard error, and what the system's log was told.
async fn interrupted(signal: &str, comes_the_answer: bool) -> (Option<i32>, Vec<String>, String) {
    let store = Store::redis();
    let Store::Redis(server) = &store else { unreachable!() };
    let files = TestStore::new();
    let log = UnixDatagram::bind(files.path("log")).unwrap();
    log.set_read_timeout(Some(LIMIT)).unwrap();
    let held = store.hold(&[], "a");
    let claim = claims(&store, "a").remove(0);
    let proxy = Proxy::start(server.port()).await.unwrap();
    proxy.answers(Flow::Delay(Duration::from_secs(1)));
    let (url, log_at) = (format!("redis://127.0.0.1:{}", proxy.port()), files.path("log"));
    let breaks = store.start(
        &[
            &["break", "-y", "--url", &url, "a", "--claim", text(&claim, "claim"), "--timeout", "20s"][..],
            &["--reason", "it hangs", "--syslog", log_at.to_str().unwrap()],
        ]
        .concat(),
    );
    held.warns("is lost: it was broken by ");
    if !comes_the_answer {
        // What is on its way does not arrive.
        proxy.answers(Flow::Swallow);
    }
    breaks.signal(signal);
    let (status, warned) = breaks.end_and_warned();
    let mut bytes = [0; 2000];
    let length = log.recv(&mut bytes).unwrap();
    (status, warned, String::from_utf8_lossy(&bytes[..length]).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_does_not_keep_what_was_done_from_being_written_down() {
    for (signal, status, is_answered, done) in [
        ("TERM", 143, true, " is broken by "),
        ("INT", 130, false, " may be broken, which the store did not answer, by "),
    ] {
        let (ended, warned, told) = interrupted(signal, is_answered).await;
        assert_eq!(ended, Some(status), "{warned:?}");
        assert!(warned[0].contains(done) && warned[0].contains(": it hangs; store "), "{warned:?}");
        assert!(told.ends_with(warned[0].strip_prefix("globallock: ").unwrap()), "{told}");
    }
}

#[test]
fn only_a_holder_without_signs_of_life_is_broken_where_that_is_asked_for() {
    let store = Store::redis();
    let Store::Redis(server) = &store else { unreachable!() };
    let _well = store.hold(&["--lease", "4s"], "well");
    let stuck = store.hold(&["--lease", "60s"], "stuck");
    stuck.signal("STOP");
    let started = Instant::now();
    let well = claims(&store, "well").remove(0);
    let (status, error) = broken(&store, &["well", "--stale", "--claim", text(&well, "claim")]);
    assert_eq!(status, Some(1));
    assert!(error.ends_with("its owner is alive: it has just renewed its lease\n"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    let claim = claims(&store, "stuck").remove(0);
    let mut breaks =
        store.command(&["break", "-y", "-v", "stuck", "--stale", "--claim", text(&claim, "claim")]);
    let breaks = Running::start(&mut breaks);
    breaks.warns("looking for signs of life");
    // Half of a long lease is too long for a test, so the store is told that most of it has passed.
    server.cli(&["PEXPIRE", "_glocks:stuck", "20000"]);
    breaks.warns(" is broken by ");
    assert_eq!(breaks.end(), Some(0));
    stuck.signal("CONT");
    assert_eq!(stuck.end(), Some(76));
}

/// In a store that does not tell leases, nobody is taken for dead or alive.
fn stale_is_not_known(store: &Store) {
    let _held = store.hold(&[], "job/b");
    let claim = claims(store, "job/b").remove(0);
    let (status, error) = broken(store, &["job/b", "--stale", "--claim", text(&claim, "claim")]);
    assert_eq!(status, Some(1));
    assert!(error.contains(" has no lease from which --stale could tell"), "{error}");
    let listed = store.ended(&["ls", "--stale"]);
    assert_eq!((listed.status, listed.output.as_str()), (Some(0), ""));
    assert!(listed.error.contains(" does not tell whether holders are alive"), "{}", listed.error);
    assert_eq!(store.json(&["ls"])[0]["stale"], Value::Null);
}

#[test]
fn nothing_is_broken_without_a_terminal_or_a_claim() {
    let store = Store::file();
    let _held = store.hold(&[], "a");
    let claim = claims(&store, "a").remove(0);
    let long = "x".repeat(257);
    for (arguments, why) in [
        (&["a", "-y", "--claim", "x", "--reason", &long][..], "a reason has at most 256 characters"),
        (&["a", "--claim", text(&claim, "claim")], "there is no terminal: add --yes"),
        (&["a"], "there is no terminal: add --yes"),
        (&["a", "-y"], "say which claim is to be broken: --claim or --token"),
        (&["a", "-y", "--claim", "x", "--token", "1"], "cannot be used with"),
        (&["a", "-y", "--token", "0"], "invalid value '0' for '--token <N>'"),
        (&["", "-y", "--claim", "x"], "name"),
    ] {
        let refused = store.ended(&[&["break"], arguments].concat());
        assert_eq!((refused.status, refused.output.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(refused.error.contains(why), "{arguments:?}: {}", refused.error);
    }
    let (status, error) = broken(&store, &["free", "--claim", "x"]);
    assert_eq!(
        (status, error.as_str()),
        (Some(1), "globallock: nothing is broken: nobody holds \"free\" or waits for it\n")
    );
    assert_eq!(claims(&store, "a")[0]["claim"], claim["claim"], "it is still there");
}
