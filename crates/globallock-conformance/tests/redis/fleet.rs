//! Locks of other programs on the same key.

use std::process::Command;

use globallock_conformance::fleet::{Fleet, TIME};
use globallock_conformance::server::peers;
use globallock_conformance::server::redis::Redis;

/// A loop over redis-py's Lock. The arguments are the port, the key, the seconds, and a file that only one
/// owner at a time can make. Prints how often it held the lock, and how often somebody else had the file.
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

#[test]
fn processes_with_redis_py_and_ours_take_turns() {
    let python = peers::python().unwrap();
    let server = Redis::start().unwrap();
    let mut fleet = Fleet::new();
    for _ in 0..3 {
        let port = server.port().to_string();
        fleet.add(Command::new(&python).args(["-c", REDIS_PY, &port, "_glocks:shared", TIME]));
        fleet.add_ours(env!("CARGO_BIN_EXE_globallock-child").as_ref(), &server.url(), "shared", "mutex");
    }
    fleet.finish();
    assert_eq!(server.cli(&["EXISTS", "_glocks:shared"]), "0");
}

/// One lock whose owners use different forms of the scripts, as while servers are replaced one by one.
#[test]
fn owners_that_use_the_commands_of_redis_6_and_of_redis_7_take_turns() {
    let server = Redis::start().unwrap();
    let older = format!("{}?commands=6", server.url());
    let child = env!("CARGO_BIN_EXE_globallock-child").as_ref();
    let mut fleet = Fleet::new();
    for url in [&server.url(), &older] {
        for kind in ["mutex", "write", "2/2"] {
            fleet.add_ours(child, url, "shared", kind);
        }
    }
    fleet.finish();
    assert_eq!(server.cli(&["EXISTS", "_glocks:shared", "{_glocks:shared}:queue"]), "0");
}
