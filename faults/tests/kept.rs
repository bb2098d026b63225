//! Logs that were kept: those of a run that was cut short are judged, always alike; unreadable ones are
//! refused.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use globallock_faults::check::History;
use globallock_faults::history::{FaultEvent, Kind, Mode, OwnerEvent};
use globallock_faults::log::Log;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_globallock-faults");

/// The process ids of the owners, from their logs.
fn owners(directory: &Path) -> Vec<u32> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let logs = entries.map(|entry| entry.path()).filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("owner-") && name.ends_with(".jsonl")
    });
    let first = |path| std::fs::read_to_string(path).ok()?.lines().next().map(str::to_owned);
    let pid = |line: String| match serde_json::from_str(&line) {
        Ok(OwnerEvent::Start { pid, .. }) => Some(pid),
        _ => None,
    };
    logs.filter_map(first).filter_map(pid).collect()
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(120);
    while !is_so() {
        assert!(Instant::now() < until, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_killed_run_is_judged_by_its_logs() {
    let parent = TempDir::new().unwrap();
    let directory = parent.path().join("faults-file-5");
    let mut program = Command::new(PROGRAM);
    program.args(["run", "file", "--for", "60s", "--seed", "5", "--directory"]).arg(parent.path());
    let mut child = program.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let granted = || {
        let log = std::fs::read_to_string(directory.join("owner-0.jsonl")).unwrap_or_default();
        log.contains("granted") && directory.join("observer.jsonl").exists()
    };
    wait_for("an owner is granted a lock", granted);
    child.kill().unwrap();
    child.wait().unwrap();
    // Its owners end when their standard input does.
    let alive = || owners(&directory).into_iter().any(|pid| Path::new(&format!("/proc/{pid}/root")).exists());
    wait_for("all owners end", || !alive());
    let verdict = || {
        let output = Command::new(PROGRAM).arg("check").arg(&directory).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = verdict();
    assert_eq!(code, Some(1), "{text}");
    let violations: Vec<&str> = text.lines().filter(|line| line.contains("VIOLATION")).collect();
    assert!(violations.iter().all(|line| line.contains("VIOLATION of Left")), "{text}");
    assert!(text.contains("the run did not come to its end"), "{text}");
    assert_eq!(verdict(), (code, text));
}

#[test]
fn an_unreadable_log_is_refused() {
    let directory = TempDir::new().unwrap();
    for name in ["register.jsonl", "observer.jsonl", "faults.jsonl"] {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    assert!(History::read(directory.path()).is_ok());
    let log = directory.path().join("owner-1.jsonl");
    for text in ["nonsense\n", "{\"event\":\"release\",\"at\":1,\"claim\":2}\n"] {
        std::fs::write(&log, text).unwrap();
        let error = History::read(directory.path()).unwrap_err();
        assert!(error.to_string().contains("owner-1"), "{error}");
    }
}

#[test]
fn only_a_killed_owners_last_line_may_be_cut() {
    let directory = TempDir::new().unwrap();
    for name in ["register.jsonl", "observer.jsonl", "faults.jsonl"] {
        std::fs::write(directory.path().join(name), "").unwrap();
    }
    let log = Log::create(&directory.path().join("owner-1.jsonl")).unwrap();
    log.write(&OwnerEvent::Start { at: 0, pid: 1, owner: 1, language: "rust".to_owned(), lease: 1 });
    let mode = Mode::Wait(1);
    let (name, kind, claim, count, capacity) = ("a".to_owned(), Kind::Mutex, 1, 1, 1);
    log.write(&OwnerEvent::Invoke { at: 1, claim, name, kind, count, capacity, mode });
    let log = directory.path().join("owner-1.jsonl");
    let whole = std::fs::read_to_string(&log).unwrap();
    std::fs::write(&log, format!("{whole}{{\"event\":\"gra")).unwrap();
    // If the run was killed, all its owners were killed with it.
    assert!(History::read(directory.path()).is_ok());
    Log::open(&directory.path().join("faults.jsonl")).unwrap().write(&FaultEvent::End { at: 4 });
    assert!(History::read(directory.path()).unwrap_err().to_string().contains("cut"));
    let (kind, owner, proof, took_effect, forgets) =
        ("owner_kill".to_owned(), Some(1), String::new(), true, false);
    let faults = Log::open(&directory.path().join("faults.jsonl")).unwrap();
    faults.write(&FaultEvent::Fault { at: 2, mended: 3, kind, owner, proof, took_effect, forgets });
    History::read(directory.path()).unwrap();
}
