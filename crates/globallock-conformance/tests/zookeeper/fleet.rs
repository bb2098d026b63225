//! kazoo's locks on the same path, and the names of Curator's nodes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use globallock_conformance::fixtures::{calm_manager, queue_is, waits};
use globallock_conformance::fleet::{Fleet, TIME};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::peers;
use globallock_conformance::server::zookeeper::{ZooKeeper, children};

/// Takes one of kazoo's locks in a loop. Its arguments are the hosts, the path, the kind, the seconds, and a
/// file that only one owner at a time can create. Prints how often it had the lock, and how often another
/// owner had the file.
const KAZOO_TURNS: &str = r#"
import os, random, sys, time
from kazoo.client import KazooClient
hosts, path, kind, seconds, file = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5]
client = KazooClient(hosts=hosts)
client.start()
lock = {"mutex": client.Lock, "read": client.ReadLock, "write": client.WriteLock}[kind](path)
turns = overlaps = 0
until = time.monotonic() + seconds
while time.monotonic() < until:
    with lock:
        inside = random.uniform(0.001, 0.003)
        if kind == "read":
            before = os.path.exists(file)
            time.sleep(inside)
            overlaps += before or os.path.exists(file)
        else:
            try:
                os.close(os.open(file, os.O_CREAT | os.O_EXCL))
                time.sleep(inside)
                os.unlink(file)
            except FileExistsError:
                overlaps += 1
        turns += 1
    time.sleep(random.uniform(0.005, 0.02))
client.stop()
print(turns, overlaps)
"#;

/// Requests one of kazoo's locks, prints that and the grant, and holds the lock until a line arrives.
const KAZOO_HOLDS: &str = r#"
import sys
from kazoo.client import KazooClient
hosts, path, kind, patterns = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
client = KazooClient(hosts=hosts)
client.start()
make = {"mutex": client.Lock, "read": client.ReadLock, "write": client.WriteLock}[kind]
lock = make(path, "somebody", extra_lock_patterns=patterns)
print("asking", flush=True)
with lock:
    print("granted", flush=True)
    sys.stdin.readline()
client.stop()
"#;

/// A process that takes one of kazoo's locks.
pub(crate) struct Kazoo {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Kazoo {
    pub(crate) fn acquire(ensemble: &ZooKeeper, path: &str, kind: &str, patterns: &[&str]) -> Self {
        let mut command = Command::new(peers::python().unwrap());
        command.args(["-c", KAZOO_HOLDS, &ensemble.hosts(), path, kind]).args(patterns);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut kazoo = Kazoo { process, output };
        kazoo.expect("asking");
        kazoo
    }

    fn expect(&mut self, wanted: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), wanted);
    }

    pub(crate) fn wait_granted(&mut self) {
        self.expect("granted");
    }

    pub(crate) fn release(mut self) {
        self.process.stdin.take().unwrap().write_all(b"\n").unwrap();
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Kazoo {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn kazoo_turns(ensemble: &ZooKeeper, name: &str, kind: &str) -> Command {
    let mut command = Command::new(peers::python().unwrap());
    command.args(["-c", KAZOO_TURNS, &ensemble.hosts(), &format!("/_glocks/{name}"), kind, TIME]);
    command
}

fn take_turns(kinds: &[&str]) {
    let ensemble = ZooKeeper::start(1).unwrap();
    let mut fleet = Fleet::new();
    for kind in kinds {
        fleet.add(&mut kazoo_turns(&ensemble, "shared", kind));
        fleet.add_ours(env!("CARGO_BIN_EXE_globallock-child").as_ref(), &ensemble.url(), "shared", kind);
    }
    fleet.finish();
    assert_eq!(children(&ensemble.hosts(), "/_glocks/shared"), [""; 0]);
}

#[test]
fn processes_with_kazoo_and_ours_take_turns() {
    take_turns(&["mutex", "mutex", "mutex"]);
}

#[test]
fn readers_and_writers_of_kazoo_and_ours_take_turns() {
    take_turns(&["write", "read", "read"]);
}

#[tokio::test]
async fn kazoo_and_ours_queue_with_each_other() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let manager = calm_manager(&ensemble.url()).await;
    let mut theirs = Kazoo::acquire(&ensemble, "/_glocks/a/b", "mutex", &[]);
    theirs.wait_granted();
    let queue = manager.inspect("a/b").await.unwrap();
    assert_eq!((queue.len(), queue[0].id, queue[0].owner.to_string()), (1, None, "somebody".to_owned()));
    let ours = waits(&manager, "a/b");
    queue_is(&manager, "a/b", 1, 1).await;
    let mut behind = Kazoo::acquire(&ensemble, "/_glocks/a/b", "mutex", &[]);
    queue_is(&manager, "a/b", 1, 2).await;
    theirs.release();
    let guard = ours.await.unwrap().unwrap();
    queue_is(&manager, "a/b", 1, 1).await;
    guard.release().await.unwrap();
    behind.wait_granted();
    assert!(manager.mutex("a/b").try_acquire().await.unwrap().is_none());
    behind.release();
    queue_is(&manager, "a/b", 0, 0).await;
}

#[tokio::test]
async fn readers_and_writers_of_kazoo_queue_with_ours() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let manager = calm_manager(&ensemble.url()).await;
    let lock = manager.rwlock("a");
    let mut reader = Kazoo::acquire(&ensemble, "/_glocks/a", "read", &[]);
    reader.wait_granted();
    let ours = lock.read().acquire().await.unwrap();
    assert!(lock.write().try_acquire().await.unwrap().is_none());
    let mut writer = Kazoo::acquire(&ensemble, "/_glocks/a", "write", &[]);
    queue_is(&manager, "a", 2, 1).await;
    assert!(lock.read().try_acquire().await.unwrap().is_none(), "a reader does not pass the waiting writer");
    reader.release();
    ours.release().await.unwrap();
    writer.wait_granted();
    let wait = lock.read();
    let ours = tokio::spawn(async move { wait.acquire().await });
    queue_is(&manager, "a", 1, 1).await;
    writer.release();
    assert!(ours.await.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn a_semaphore_keeps_kazoo_out() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let manager = calm_manager(&ensemble.url()).await;
    let semaphore = manager.semaphore("a", 3);
    let permit = semaphore.permits(1).acquire().await.unwrap();
    let mut theirs = Kazoo::acquire(&ensemble, "/_glocks/a", "mutex", &[]);
    queue_is(&manager, "a", 1, 1).await;
    permit.release().await.unwrap();
    theirs.wait_granted();
    assert!(semaphore.permits(1).try_acquire().await.unwrap().is_none());
    theirs.release();
}

#[tokio::test]
async fn claims_are_named_as_curator_names_them_on_request() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let manager = calm_manager(&format!("{}?naming=curator&prefix=/mutexes", ensemble.url())).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let nodes = children(&ensemble.hosts(), "/mutexes/a");
    let parts: Vec<&str> = nodes[0].split('-').collect();
    let [first, _, _, _, _, kind, sequence] = parts[..] else { panic!("{nodes:?}") };
    assert_eq!((nodes[0].len(), &first[..3], kind, sequence), (3 + 36 + 16, "_c_", "lock", "0000000000"));
    // With an extra pattern, kazoo takes such nodes for claims.
    let mut theirs = Kazoo::acquire(&ensemble, "/mutexes/a", "mutex", &["-lock-"]);
    let others = async || children(&ensemble.hosts(), "/mutexes/a").len();
    globallock_conformance::context::eventually("kazoo waits", async || others().await == 2).await;
    guard.release().await.unwrap();
    theirs.wait_granted();
    theirs.release();
}
