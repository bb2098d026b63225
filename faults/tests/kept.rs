//! A run that is cut short leaves logs that are judged, and each time alike.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use globallock_faults::history::OwnerEvent;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_globallock-faults");

/// The owner processes that the logs tell of.
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
fn a_run_that_is_killed_is_judged_by_what_it_left() {
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
    // Its owners end when their input does.
    let alive = || owners(&directory).into_iter().any(|pid| Path::new(&format!("/proc/{pid}/root")).exists());
    wait_for("all owners end", || !alive());
    let verdict = || {
        let told = Command::new(PROGRAM).arg("check").arg(&directory).output().unwrap();
        (told.status.code(), String::from_utf8(told.stdout).unwrap())
    };
    let (code, text) = verdict();
    assert_eq!(code, Some(1), "{text}");
    let violations: Vec<&str> = text.lines().filter(|line| line.contains("VIOLATION")).collect();
    assert!(violations.iter().all(|line| line.contains("VIOLATION of Left")), "{text}");
    assert!(text.contains("the run did not come to its end"), "{text}");
    assert_eq!(verdict(), (code, text));
}
