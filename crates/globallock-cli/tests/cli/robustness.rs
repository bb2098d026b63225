//! Hostile arguments, and text of other programs that would control the user's terminal.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStringExt;
use std::process::Command;

use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;

use crate::support::{Ended, TestStore, ended, globallock};

const USAGE: Option<i32> = Some(64);
/// Characters that clear the screen, write the clipboard, start a new line, and reverse the text that
/// follows.
const ESCAPES: &str = "\u{1b}[2J\u{1b}]52;c;aGk=\u{7}\r\nroot# \u{202e}\u{2066}\u{9b}31m";

/// Runs the program with these arguments and the test's store.
fn runs(store: &TestStore, words: &[OsString]) -> Ended {
    let mut command = store.command();
    ended(command.args(words))
}

/// Checks that a message has no control characters but line breaks.
fn assert_plain(text: &str) {
    let bad = |c: char| {
        (c.is_control() && c != '\n') || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!text.contains(bad), "{text:?}");
}

fn did_not_panic(words: &[OsString], ended: &Ended) {
    let status = ended.status.unwrap_or_else(|| panic!("{words:?}: killed: {}", ended.error));
    assert!(status != 101 && !ended.error.contains("panicked"), "{words:?}: {}", ended.error);
}

#[test]
fn hostile_arguments_are_wrong_usage() {
    let store = TestStore::new();
    let long = "x".repeat(100_000);
    let cases: &[&[&str]] = &[
        &[],
        &[""],
        &["--"],
        &["-"],
        &["runs"],
        &["run"],
        &["run", "a"],
        &["run", "a", "--"],
        &["run", "--", "true"],
        &["run", "", "--", "true"],
        &["run", &long, "--", "true"],
        &["run", "a", "b", "--", "true"],
        &["run", "a", "true"],
        &["run", "-q", "-v", "a", "--", "true"],
        &["run", "-n", "-w", "1s", "a", "--", "true"],
        &["run", "--shared", "--permits", "1/2", "a", "--", "true"],
        &["run", "--permits", "2/1", "a", "--", "true"],
        &["run", "--permits", "0/1", "a", "--", "true"],
        &["run", "--permits", "1/4294967295", "a", "--", "true"],
        &["run", "--permits", "-1/-1", "a", "--", "true"],
        &["run", "--permits", "99999999999999999999", "a", "--", "true"],
        &["run", "--wait", "-1s", "a", "--", "true"],
        &["run", "--wait", "nan", "a", "--", "true"],
        &["run", "--wait", "99999999999999999999d", "a", "--", "true"],
        &["run", "--wait", "9999d", "a", "--", "true"],
        &["run", "--lease", "0", "a", "--", "true"],
        &["run", "--lease", "1ms", "a", "--", "true"],
        &["run", "--lease", "9999d", "a", "--", "true"],
        &["run", "--max-hold", "1ms", "a", "--", "true"],
        &["run", "-E", "256", "a", "--", "true"],
        &["run", "-E", "-1", "a", "--", "true"],
        &["run", "--url", "", "a", "--", "true"],
        &["run", "--url", "nonsense", "a", "--", "true"],
        &["run", "--url", "ftp://h", "a", "--", "true"],
        &["run", "--url", "redis://", "a", "--", "true"],
        &["run", "--url", "redis://[::1", "a", "--", "true"],
        &["run", "--url", "etcd://h\u{1b}[2J", "a", "--", "true"],
        &["run", "--url", "zookeeper://h/\u{202e}?x=1", "a", "--", "true"],
        &["run", "--url", "file://host/x", "a", "--", "true"],
        &["run", "--url", "file:", "--url-file", "/dev/null", "a", "--", "true"],
        &["run", "--url-file", "/does/not/exist", "a", "--", "true"],
        &["run", "--url-file", "/dev/null", "a", "--", "true"],
        &["run", "--url-file", "/", "a", "--", "true"],
        &["completions"],
        &["completions", "sh"],
        &["man", "x"],
    ];
    for words in cases {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        let ended = runs(&store, &words);
        did_not_panic(&words, &ended);
        assert_eq!(ended.status, USAGE, "{words:?}: {}", ended.error);
        assert!(!ended.error.is_empty(), "{words:?}");
    }
    assert!(!store.path("locks").join("a").exists(), "no lock is taken");
}

#[test]
fn arguments_that_are_not_text_are_refused_or_passed_on() {
    let store = TestStore::new();
    let bytes = || OsString::from_vec(vec![b'a', 0xff, 0xfe]);
    let word = OsString::from;
    for (words, status) in [
        (vec![bytes()], USAGE),
        (vec![word("run"), bytes(), word("--"), word("true")], USAGE),
        (vec![word("run"), word("--label"), bytes(), word("a"), word("--"), word("true")], USAGE),
        (vec![word("run"), word("--url"), bytes(), word("a"), word("--"), word("true")], USAGE),
        (vec![word("run"), word("a"), word("--"), bytes()], Some(127)),
        (vec![word("run"), word("a"), word("--"), word("true"), bytes()], Some(0)),
    ] {
        let ended = runs(&store, &words);
        did_not_panic(&words, &ended);
        assert_eq!(ended.status, status, "{words:?}: {}", ended.error);
    }
    assert!(store.claims("a").is_empty());
}

#[test]
fn variables_that_are_not_text_are_refused() {
    for variable in ["GLOBALLOCK_URL", "RUST_LOG"] {
        for value in [OsString::from_vec(vec![0xff]), OsString::from(ESCAPES), OsString::from("")] {
            let store = TestStore::new();
            let mut command = store.command();
            let ended = ended(command.env(variable, &value).args(["run", "a", "--", "true"]));
            did_not_panic(std::slice::from_ref(&value), &ended);
            let refused = variable == "GLOBALLOCK_URL";
            assert_eq!(ended.status == Some(0), !refused, "{variable}={value:?}: {}", ended.error);
        }
    }
}

#[test]
fn a_closed_or_full_standard_error_changes_nothing() {
    let store = TestStore::new();
    let program = env!("CARGO_BIN_EXE_globallock");
    for redirected in [">&- 2>&-", ">/dev/full 2>/dev/full", "<&- >&- 2>&-"] {
        for (line, status) in [
            ("--verbose a -- true", 0),
            ("--verbose --max-hold 300ms a -- sleep 60", 76),
            ("a -- /does/not/exist", 127),
            ("'' -- true", 64),
        ] {
            let mut shell = Command::new("sh");
            shell.args(["-c", &format!("{program} run {line} {redirected}")]);
            let ended = ended(shell.env("GLOBALLOCK_URL", store.url()));
            assert_eq!(ended.status, Some(status), "{line} {redirected}: {}", ended.error);
            assert!(store.claims("a").is_empty());
        }
    }
}

#[test]
fn a_password_is_in_no_message() {
    for url in [
        "redis://user:s3cretQQ@127.0.0.1:1?timeout=100ms",
        "redis://user:1s3cretQQ?@127.0.0.1:1",
        "user:s3cretQQ@127.0.0.1:1",
        "redis:/user:s3cretQQ@127.0.0.1:1",
        "redis://user:s3cretQQ/127.0.0.1:1",
        "redis://users3cretQQ@127.0.0.1:1",
        "etcd://user:s3cretQQ@127.0.0.1:1?timeout=100ms",
        "zookeeper://user:s3cretQQ@127.0.0.1:1?timeout=100ms",
        "redis+sentinel://user:s3cretQQ@127.0.0.1:1/main?sentinel_password=s3cretQQ&timeout=100ms",
    ] {
        let mut command = globallock();
        let ended = ended(
            command
                .args(["run", "-v", "--lease", "300ms", "--wait", "300ms", "--url", url, "a", "--", "true"]),
        );
        assert!(!matches!(ended.status, Some(0 | 101) | None), "{url}: {}", ended.error);
        assert!(!format!("{}{}", ended.output, ended.error).contains("s3cret"), "{url}: {}", ended.error);
    }
}

/// Asks for a lock that another owner holds: without a wait, and with one.
fn refused(url: &str, name: &str) -> [Ended; 2] {
    [["--no-wait", "--verbose"], ["--wait=700ms", "--verbose"]].map(|options| {
        let mut command = globallock();
        ended(command.args(["run", "--url", url]).args(options).args([name, "--", "true"]))
    })
}

fn assert_shown_escaped(url: &str, name: &str) {
    for ended in refused(url, name) {
        assert_eq!(ended.status, Some(75), "{}", ended.error);
        assert!(ended.error.contains("\\u{1b}[2J"), "the holder is shown: {}", ended.error);
        assert!(ended.error.lines().all(|line| !line.starts_with("root#")), "{}", ended.error);
        assert_plain(&ended.error);
    }
}

#[test]
fn a_holder_in_redis_cannot_control_the_terminal() {
    let server = Redis::start().unwrap();
    for (number, value) in [
        ESCAPES.to_owned(),
        format!("glk1:{}:1:1:0:1/1:{ESCAPES}", "a".repeat(32)),
        format!("glk1:{ESCAPES}"),
        "glk1:00000000000000000000000000000000:1:1:0:1/1:\
         {\"host\":\"\\u001b[2J\\n\\u202e\",\"label\":\"\\u001b[2J\\r\"}"
            .to_owned(),
    ]
    .iter()
    .enumerate()
    {
        server.cli(&["SET", &format!("_glocks:{number}"), value]);
        assert_shown_escaped(&server.url(), &number.to_string());
    }
}

#[test]
fn a_holder_in_etcd_cannot_control_the_terminal() {
    let cluster = Etcd::start(1).unwrap();
    let claim = format!("/locks/_glocks/b/{}.0.1.1", "a".repeat(20));
    for (name, key, value) in [
        ("a", "/locks/_glocks/a/694d80".to_owned(), ESCAPES.to_owned()),
        ("b", claim, format!("1700000000000 {} {ESCAPES}", "b".repeat(32))),
    ] {
        cluster.ctl(&["put", &key, &value]);
        assert_shown_escaped(&cluster.url(), name);
    }
}

#[test]
fn a_holder_in_a_directory_cannot_control_the_terminal() {
    let store = TestStore::new();
    let directory = store.path("locks").join("a");
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("{:020}.{}.1.1.0.1", 7, "a".repeat(32)));
    std::fs::write(&path, ESCAPES.replace('\n', " ")).unwrap();
    let owner = File::open(&path).unwrap();
    owner.lock().unwrap();
    assert_shown_escaped(&store.url(), "a");
}

#[test]
fn a_name_cannot_control_the_terminal() {
    let store = TestStore::new();
    let name = format!("a{ESCAPES}");
    let mut holder = store.start(&[&name, "--", "sh", "-c", "echo ready; read _"]);
    holder.says("ready");
    let refused = store.run(&["--no-wait", &name, "--", "true"]);
    assert_eq!(refused.status, Some(75));
    assert_plain(&refused.error);
    holder.write("\n");
    assert_eq!(holder.end(), Some(0));
    let granted = store.run(&["--verbose", &name, "--", "true"]);
    assert_eq!(granted.status, Some(0));
    assert!(granted.error.contains("is granted"));
    assert_plain(&granted.error);
}
