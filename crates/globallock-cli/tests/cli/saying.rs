//! What is said on standard error: for people, for programs, and on a terminal.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use globallock_conformance::server::redis::Redis;
use serde_json::Value;

use crate::support::{Running, TestStore, ended, eventually, globallock, on_terminal};

/// Runs that hold a lock until a line is written to them.
const HOLDS: [&str; 4] = ["--", "sh", "-c", "echo ready; read _"];

/// What a program writes to its terminal.
struct Screen {
    child: Child,
    written: Arc<Mutex<String>>,
}

impl Screen {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (written, mut output) = (Arc::new(Mutex::new(String::new())), child.stdout.take().unwrap());
        let to = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut bytes) {
                *to.lock().unwrap() += &String::from_utf8_lossy(&bytes[..length]);
            }
        });
        Screen { child, written }
    }

    /// Waits until this has been written, and returns all that was.
    fn shows(&self, text: &str) -> String {
        let seen = || Some(self.written.lock().unwrap().clone()).filter(|written| written.contains(text));
        eventually(seen).unwrap_or_else(|| panic!("{text:?} is not in {:?}", self.written.lock().unwrap()))
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_outage_is_told_once_with_its_length_and_every_line_is_ours() {
    let mut server = Redis::start().unwrap();
    let mut command = globallock();
    command.args(["run", "--lease", "1500ms", "--url", &server.url(), "a", "--"]);
    let mut run = Running::start(command.args(["sh", "-c", "echo ready; read _"]));
    run.says("ready");
    server.kill();
    let mut said = run.all_warned_until("the command is told to end");
    run.close_input();
    said.retain(|line| !line.contains("told to end"));
    assert_eq!(said.len(), 2, "the outage and its sum: {said:?}");
    assert!(said.iter().all(|line| line.starts_with("globallock: ")), "{said:?}");
    assert!(said[1].starts_with("globallock: renewal failed "), "{said:?}");
    assert_eq!(run.end(), Some(76));
}

#[test]
fn a_store_that_is_back_is_told_with_how_long_it_was_away() {
    let mut server = Redis::start().unwrap();
    let mut command = globallock();
    command.args(["run", "--lease", "120s", "--wait", "120s", "--url", &server.url(), "a", "--"]);
    server.kill();
    let run = Running::start(command.args(["echo", "ran"]));
    let away = run.warns("globallock: the store does not answer: ");
    assert!(away.contains("refused"), "{away}");
    server.resume_after_kill().unwrap();
    let back = run.warns("globallock: the store answers again after ");
    assert!(back.ends_with("s"), "{back}");
    run.says("ran");
    assert_eq!(run.end(), Some(0));
}

#[test]
fn a_store_that_is_never_there_is_told_once() {
    let told = ended(globallock().args([
        "run",
        "--url",
        "redis://127.0.0.1:1",
        "-n",
        "--lease",
        "500ms",
        "a",
        "--",
        "true",
    ]));
    assert_eq!((told.status, told.error.lines().count()), (Some(69), 1), "{}", told.error);
    assert!(told.error.starts_with("globallock: redis://127.0.0.1:1 is unavailable: "), "{}", told.error);
}

#[test]
fn programs_read_a_json_object_a_line() {
    let store = TestStore::new();
    let first = store.start(&[&["--label", "the first", "a\n"], &HOLDS[..]].concat());
    first.says("ready");
    let options = ["-v", "--log-format", "json", "--wait", "900ms"];
    let refused = store.run(&[&options[..], &["a\n", "--", "true"]].concat());
    assert_eq!(refused.status, Some(75));
    let lines: Vec<Value> =
        refused.error.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    let events: Vec<&Value> = lines.iter().map(|line| &line["event"]).collect();
    assert_eq!(events, ["waiting", "taken"]);
    for line in &lines {
        assert_eq!(line["name"], "a\n");
        assert_eq!(
            (&line["holders"][0]["label"], &line["holders"][0]["pid"]),
            (&"the first".into(), &first.id().into())
        );
        assert!(line["holders"][0]["held_seconds"].as_f64().unwrap() > 0.0);
        assert_eq!((&line["place"], &line["waiters"]), (&1.into(), &1.into()), "{line}");
    }
    assert_eq!(lines[1]["store"], store.url());
    let granted = store.run(&["-v", "--log-format", "json", "b", "--", "true"]);
    let events = granted.error.lines().map(|line| serde_json::from_str::<Value>(line).expect(line));
    let events: Vec<Value> = events.map(|mut line| line["event"].take()).collect();
    assert_eq!(events, ["granted", "released"]);
}

#[test]
fn a_wait_without_a_terminal_is_told_at_changes_and_only_if_asked_for() {
    let store = TestStore::new();
    let mut first = store.start(&[&["--label", "first", "a"], &HOLDS[..]].concat());
    first.says("ready");
    let mut second = store.start(&[&["--label", "second", "a"], &HOLDS[..]].concat());
    assert!(eventually(|| (store.claims("a").len() == 2).then_some(())).is_some());
    let waits = store.start(&["-v", "a", "--", "true"]);
    let silent = store.start(&["b-is-free", "--", "true"]);
    waits.warns("globallock: waiting for \"a\", held by first (pid ");
    first.write("\n");
    second.says("ready");
    let changed = waits.warns("globallock: waiting for \"a\", held by second (pid ");
    assert!(changed.ends_with("; place 1 of 1"), "{changed}");
    second.write("\n");
    assert_eq!((first.end(), second.end(), waits.end(), silent.end()), (Some(0), Some(0), Some(0), Some(0)));
    let held = store.start(&[&["a"], &HOLDS[..]].concat());
    held.says("ready");
    let refused = store.run(&["--wait", "700ms", "a", "--", "true"]);
    assert_eq!(refused.error.lines().count(), 1, "nothing is said while it waits: {}", refused.error);
}

#[test]
fn a_terminal_shows_one_line_that_goes_on_and_is_erased() {
    let store = TestStore::new();
    let mut first = store.start(&[&["--label", "first", "a"], &HOLDS[..]].concat());
    first.says("ready");
    let program = globallock().get_program().to_string_lossy().into_owned();
    let mut command = on_terminal(&store, "xterm", &format!("{program} run a -- echo got-it"));
    let screen = Screen::start(&mut command);
    // The line is drawn again and again, so it never ends while the first holds.
    screen.shows("waiting for \"a\", 1 s, place 1 of 1, held by first for ");
    screen.shows("waiting for \"a\", 3 s");
    first.write("\n");
    let all = screen.shows("got-it\r\n");
    let (drawn, after) = all.rsplit_once("waiting for").unwrap();
    assert!(drawn.contains("\r\u{1b}[Kgloballock: "), "{drawn:?}");
    assert!(after.contains("\r\u{1b}[K"), "it is erased before the command runs: {after:?}");
    assert_eq!(all.matches('\n').count(), 1, "it stays on one line: {all:?}");
}

#[test]
fn a_lock_that_is_held_for_long_is_told_at_twice_the_time_again() {
    let store = TestStore::new();
    let mut run = store.start(&[&["--warn-held-over", "100ms", "a"], &HOLDS[..]].concat());
    run.says("ready");
    for time in ["100 ms", "200 ms", "400 ms"] {
        run.warns(&format!("globallock: \"a\" has been held for {time} now"));
    }
    run.write("\n");
    assert_eq!(run.end(), Some(0));
}

#[test]
fn a_run_within_a_run_of_the_same_lock_is_told_at_once() {
    let store = TestStore::new();
    let program = globallock().get_program().to_string_lossy().into_owned();
    let nested = |outer: &[&str], inner: &str| {
        let script = format!("{program} run b -- {program} run {inner} -- echo ran");
        store.run(&[outer, &["a", "--", "sh", "-c", &script]].concat())
    };
    for (outer, inner) in [(&[][..], "a"), (&["--shared"], "a"), (&["--permits", "2/3"], "--permits 2/3 a")] {
        let told = nested(outer, inner);
        assert_eq!((told.status, told.output.as_str()), (Some(64), ""), "{}", told.error);
        let expected = "globallock: \"a\" is held by the run that this command is part of, sh (pid ";
        assert!(told.error.starts_with(expected), "{}", told.error);
        assert_eq!(told.error.lines().count(), 1);
    }
    for (outer, inner) in
        [(&["--shared"][..], "--shared a"), (&["--permits", "2/3"], "--permits 1/3 a"), (&[], "c")]
    {
        let ran = nested(outer, inner);
        assert_eq!((ran.status, ran.output.as_str()), (Some(0), "ran\n"), "{}", ran.error);
    }
    let other = TestStore::new();
    let ran = nested(&[], &format!("--url {} a", other.url()));
    assert_eq!((ran.status, ran.output.as_str()), (Some(0), "ran\n"), "another store: {}", ran.error);
}

#[test]
fn the_numbers_of_runs_are_kept_in_a_file() {
    let store = TestStore::new();
    let file = store.path("runs.prom");
    let options = ["--metrics-file", file.to_str().unwrap()];
    let run = |words: &[&str]| store.run(&[&options[..], words].concat()).status;
    let numbers = || {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines
            .map(|line| line.rsplit_once(' ').unwrap())
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect::<std::collections::BTreeMap<String, f64>>()
    };
    let of = |name: &str| numbers().get(&format!("globallock_run_{name}{{name=\"a\"}}")).copied();
    assert_eq!(run(&["a", "--", "true"]), Some(0));
    let success = of("last_success_timestamp_seconds").unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!(success <= now && success > now - 600.0, "{success}");
    assert_eq!(run(&["a", "--", "sh", "-c", "exit 7"]), Some(7));
    let first = store.start(&[&options[..], &["a"], &HOLDS[..]].concat());
    first.says("ready");
    assert_eq!(of("starts_total"), Some(3.0), "a run is counted when it starts");
    assert_eq!(run(&["-n", "a", "--", "true"]), Some(75));
    assert_eq!(first.end(), Some(1), "its input has ended");
    for (name, value) in [
        ("starts_total", 3.0),
        ("successes_total", 1.0),
        ("skipped_total", 1.0),
        ("last_exit_status", 1.0),
        ("lost_total", 0.0),
        ("last_success_timestamp_seconds", success),
    ] {
        assert_eq!(of(name), Some(value), "{name}");
    }
    assert!(of("last_held_seconds").unwrap() > 0.0 && of("last_start_timestamp_seconds").unwrap() >= success);
    let link = store.path("link.prom");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let by_link = store.run(&["--metrics-file", link.to_str().unwrap(), "a", "--", "true"]);
    assert_eq!((by_link.status, by_link.error.as_str(), of("starts_total")), (Some(0), "", Some(4.0)));
    assert!(link.is_symlink());
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o640);
    let other = store.path("precious");
    std::fs::write(&other, "text of somebody else\n").unwrap();
    for foreign in [other.to_str().unwrap(), "/dev/null", "/dev/zero"] {
        let left = store.run(&["--metrics-file", foreign, "a", "--", "echo", "ran"]);
        assert_eq!((left.status, left.output.as_str()), (Some(0), "ran\n"));
        assert!(left.error.contains("something else is there, and is left as it is"), "{}", left.error);
    }
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "text of somebody else\n");
    let bad = store.run(&["--metrics-file", "/proc/no/such", "a", "--", "echo", "ran"]);
    assert_eq!((bad.status, bad.output.as_str()), (Some(0), "ran\n"));
    assert!(bad.error.starts_with("globallock: --metrics-file /proc/no/such: "), "{}", bad.error);
}

#[test]
fn a_command_that_cannot_run_is_told_with_the_reason() {
    let store = TestStore::new();
    let script = store.path("script");
    std::fs::write(&script, "#!/no/such/interpreter -x\n").unwrap();
    let mode = |mode| std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(mode));
    mode(0o755).unwrap();
    let path = script.to_str().unwrap();
    let told = |command: &str| {
        let told = store.run(&["a", "--", command]);
        (told.status.unwrap(), told.error)
    };
    let expected = |why: &str| format!("globallock: {path}: {why}\n");
    assert_eq!(told(path), (127, expected("its interpreter was not found: \"/no/such/interpreter -x\"")));
    mode(0o644).unwrap();
    assert_eq!(
        told(path),
        (126, expected("it may not be executed: see its permissions, and its interpreter"))
    );
    assert_eq!(told("/"), (126, "globallock: /: it is a directory\n".to_owned()));
    assert_eq!(told("no-such-program"), (127, "globallock: no-such-program: it was not found\n".to_owned()));
    assert!(store.claims("a").is_empty(), "nothing is left");
}

#[test]
fn wrong_usage_is_one_line_and_takes_nothing() {
    let store = TestStore::new();
    for words in [
        &["a", "echo"][..],
        &["-n", "--wait", "1s", "a", "--", "true"],
        &["--shared", "--permits", "1/2", "a", "--", "true"],
        &["-q", "-v", "a", "--", "true"],
        &["--wait", "-5s", "a", "--", "true"],
        &["--wait", "1h30", "a", "--", "true"],
        &["--lease", "0", "a", "--", "true"],
        &["--lease", "400d", "a", "--", "true"],
        &["--max-hold", "0", "a", "--", "true"],
        &["--max-hold", "180000000000000d", "--grace", "180000000000000d", "a", "--", "true"],
        &["--grace", "366d", "a", "--", "true"],
        &["--warn-held-over", "366d", "a", "--", "true"],
        &["--url-file", "/dev/zero", "a", "--", "true"],
        &["--warn-held-over", "0", "a", "--", "true"],
        &["--permits", "0/3", "a", "--", "true"],
        &["--log-format", "xml", "a", "--", "true"],
        &["", "--", "true"],
        &["a"],
        &["a", "--"],
    ] {
        let told = store.run(words);
        assert_eq!((told.status, told.error.lines().count()), (Some(64), 1), "{words:?}: {}", told.error);
        assert!(told.error.starts_with("globallock: ") && told.output.is_empty(), "{words:?}: {told:?}");
    }
    assert!(!store.path("locks").exists(), "no lock was taken");
    let empty = ended(globallock().env("GLOBALLOCK_URL", "").args(["run", "a", "--", "true"]));
    assert_eq!(empty.error, "globallock: GLOBALLOCK_URL is empty: unset it, or put an address into it\n");
    let told = store.run(&["--log-format", "json", "a", "echo"]).error;
    let told: Value = serde_json::from_str(&told).expect(&told);
    assert_eq!((&told["level"], &told["event"]), (&"error".into(), &"usage".into()));
    for name in ["\u{1b}[2J", "a\nb", "a\u{7f}"] {
        let ran = ended(store.command().args(["run", "-v", name, "--", "true"]));
        assert_eq!(ran.status, Some(0), "{}", ran.error);
        assert!(!ran.error.chars().any(|c| c.is_control() && c != '\n'), "{:?}", ran.error);
        assert!(ran.error.lines().all(|line| line.starts_with("globallock: ")), "{:?}", ran.error);
    }
}
