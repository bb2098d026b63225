//! Curator's own locks beside ours of `?naming=curator`: which of them exclude which.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use globallock::LockManager;
use globallock_conformance::context::lock_of;
use globallock_conformance::fixtures::{calm_manager, queue_is};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::{ZooKeeper, class_path};

/// How long Curator waits for a lock that it should not be granted, and for one that it should.
const BRIEFLY: u32 = 700;
const LONG: u32 = 60_000;

const KINDS: [&str; 3] = ["mutex", "read", "write"];

/// Whether Curator's lock of this kind waits for ours: Curator looks at the nodes of its own recipe only.
fn waits_for_ours(theirs: &str, ours: &str) -> bool {
    matches!((theirs, ours), ("mutex", "mutex") | ("read", "write") | ("write", "read" | "write"))
}

/// A process with Curator's locks.
struct Curator {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Curator {
    fn start(ensemble: &ZooKeeper) -> Self {
        let jars = ["curator-recipes", "curator-framework", "curator-client", "guava", "zookeeper-jute"];
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/zookeeper/Curator.java");
        let mut command = Command::new("java");
        command.arg("-Dorg.slf4j.simpleLogger.defaultLogLevel=error");
        command.args(["-XX:TieredStopAtLevel=1", "-cp", &class_path(&jars), source, &ensemble.hosts()]);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        let mut curator = Curator { process, input, output: BufReader::new(output) };
        assert_eq!(curator.answer(), "connected", "the packages of install-tools.sh are needed");
        curator
    }

    fn answer(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn acquire(&mut self, kind: &str, path: &str, milliseconds: u32) -> String {
        writeln!(self.input, "{kind} {path} {milliseconds}").unwrap();
        self.answer()
    }

    fn release(&mut self) {
        writeln!(self.input).unwrap();
        assert_eq!(self.answer(), "released");
    }
}

impl Drop for Curator {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn ours(manager: &LockManager, kind: &str) -> globallock::Guard {
    lock_of(manager, "a", kind).unwrap().acquire().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_excludes_the_same_kind_and_ours_wait_for_all_of_curators() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let manager = calm_manager(&format!("{}?naming=curator&prefix=/locks", ensemble.url())).await;
    let mut curator = Curator::start(&ensemble);
    for kind in KINDS {
        for theirs in KINDS {
            let guard = ours(&manager, kind).await;
            let (limit, expected) = match waits_for_ours(theirs, kind) {
                true => (BRIEFLY, "refused"),
                false => (LONG, "granted"),
            };
            assert_eq!(curator.acquire(theirs, "/locks/a", limit), expected, "{theirs} beside our {kind}");
            if expected == "granted" {
                curator.release();
            }
            guard.release().await.unwrap();
            assert_eq!(curator.acquire(theirs, "/locks/a", LONG), "granted", "{theirs} after our {kind}");
            let shares = (theirs, kind) == ("read", "read");
            let waiter = tokio::spawn({
                let (manager, kind) = (manager.clone(), kind.to_owned());
                async move { ours(&manager, &kind).await }
            });
            match shares {
                true => queue_is(&manager, "a", 2, 0).await,
                false => queue_is(&manager, "a", 1, 1).await,
            }
            curator.release();
            assert!(waiter.await.unwrap().release().await.is_ok(), "our {kind} after their {theirs}");
        }
    }
    let permits = manager.semaphore("a", 3).permits(1).acquire().await.unwrap();
    assert_eq!(curator.acquire("mutex", "/locks/a", BRIEFLY), "refused", "a mutex beside our permits");
    permits.release().await.unwrap();
    assert_eq!(curator.acquire("mutex", "/locks/a", LONG), "granted");
    curator.release();
}
