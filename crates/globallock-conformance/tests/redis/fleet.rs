//! Other programs' locks on the same key.

use std::path::Path;
use std::process::{Command, Stdio};

use globallock_conformance::server::peers;
use globallock_conformance::server::redis::Redis;
use tempfile::TempDir;

/// How long they share the lock, in seconds.
const TIME: &str = "5";

/// A loop over redis-py's Lock: argument by argument the port, the key, the seconds, and a file that only one owner at
/// a time can make. Prints how often it had the lock, and how often somebody else had the file.
const REDIS_PY: &str = r#"
import os, random, sys, time, redis
port, key, seconds, path = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4]
client = redis.Redis(port=port)
turns = overlaps = 0
until = time.monotonic() + seconds
while time.monotonic() < until:
    with client.lock(key, timeout=10, sleep=0.01):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
            time.sleep(random.uniform(0.001, 0.003))
            os.unlink(path)
        except FileExistsError:
            overlaps += 1
        turns += 1
    time.sleep(random.uniform(0.005, 0.02))
print(turns, overlaps)
"#;

fn turns(mut command: Command) -> impl FnOnce() -> (u64, u64) {
    let child = command.stdout(Stdio::piped()).spawn().unwrap();
    move || {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (turns, overlaps) = text.trim().split_once(' ').expect("two numbers");
        (turns.parse().unwrap(), overlaps.parse().unwrap())
    }
}

fn redis_py(python: &Path, server: &Redis, file: &Path) -> impl FnOnce() -> (u64, u64) + use<> {
    let mut command = Command::new(python);
    command.args(["-c", REDIS_PY, &server.port().to_string(), "_glocks:shared", TIME]).arg(file);
    turns(command)
}

fn ours(server: &Redis, file: &Path) -> impl FnOnce() -> (u64, u64) + use<> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_globallock-child"));
    command.args(["turns", &server.url(), "shared", TIME]).arg(file);
    turns(command)
}

#[test]
fn processes_with_redis_py_and_ours_take_turns() {
    let python = peers::python().unwrap();
    let server = Redis::start().unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("one-at-a-time");
    let theirs: Vec<_> = (0..3).map(|_| redis_py(&python, &server, &file)).collect();
    let ours: Vec<_> = (0..3).map(|_| ours(&server, &file)).collect();
    let theirs: Vec<(u64, u64)> = theirs.into_iter().map(|wait| wait()).collect();
    let ours: Vec<(u64, u64)> = ours.into_iter().map(|wait| wait()).collect();
    println!("redis-py: {theirs:?}, globallock: {ours:?}");
    for (turns, overlaps) in theirs.into_iter().chain(ours) {
        assert_eq!(overlaps, 0, "somebody else was inside");
        assert!(turns >= 5, "each goes on");
    }
    assert_eq!(server.cli(&["EXISTS", "_glocks:shared"]), "0");
}
