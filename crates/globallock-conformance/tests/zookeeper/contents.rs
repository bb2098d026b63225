//! Foreign nodes in the place of locks in ZooKeeper.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use globallock_conformance::fixtures::connect_for;
use globallock_conformance::server::Cluster;
use globallock_conformance::server::peers;
use globallock_conformance::server::zookeeper::ZooKeeper;
use serde_json::{Value, json};

use globallock_conformance::garbage::panics;
use globallock_conformance::garbage::{Garbage, Pair, close, for_seeds, is_free, listed, pair, used};

/// Makes or deletes the nodes that are listed on the standard input, with their parents.
const PROGRAM: &str = "
import json, sys
from kazoo.client import KazooClient
from kazoo.exceptions import NodeExistsError, NoNodeError
client = KazooClient(hosts=sys.argv[1])
client.start()
for path, data in json.load(sys.stdin):
    try:
        if data is None:
            client.delete(path, recursive=True)
        else:
            client.create(path, bytes.fromhex(data), makepath=True)
    except (NodeExistsError, NoNodeError):
        pass
client.stop()
";

fn change(hosts: &str, nodes: &[Value]) {
    let python = peers::python().expect("kazoo can be installed");
    let mut command = Command::new(python);
    let mut child = command.args(["-c", PROGRAM, hosts]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(json!(nodes).to_string().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn node(path: &str, data: &[u8]) -> Value {
    let data: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
    json!([path, data])
}

/// The name of a claim's node, or garbage in place of it.
fn claim(garbage: &mut Garbage) -> String {
    let permits = match garbage.random.u32(..3) {
        0 => String::new(),
        _ => format!(".{}.{}", garbage.number(), garbage.number()),
    };
    let owner = match garbage.random.u32(..5) {
        0 => "somebody \u{202e}".to_owned(),
        _ => garbage.digits(32) + &permits,
    };
    let kind = garbage.one_of(&["__lock__", "__lock__", "__rlock__", "-lock-", "x"]);
    let sequence = [
        "0000000000",
        "-2147483648",
        "-2147483647",
        "2147483647",
        "9999999999",
        "-000000001",
        "+000000001",
        "1",
        "",
    ];
    format!("{owner}{kind}{}", garbage.one_of(&sequence))
}

fn contents(seed: u64) -> Vec<Value> {
    let mut garbage = Garbage::new(seed);
    let lock = format!("/_glocks/lock-{seed}");
    let mut nodes = Vec::new();
    for _ in 0..garbage.random.u32(1..6) {
        let mut data = garbage.owner();
        if garbage.random.bool() {
            data = [garbage.number().into_bytes(), b" ".to_vec(), data].concat();
        }
        nodes.push(node(&format!("{lock}/{}", claim(&mut garbage)), &data));
    }
    nodes
}

async fn fixture(seed: u64, managers: Pair) {
    used(&format!("zookeeper, seed {seed}"), &format!("lock-{seed}"), &managers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_nodes_do_no_harm() {
    const SEEDS: std::ops::Range<u64> = 0..60;
    let panics = panics();
    let ensemble = ZooKeeper::start(1).unwrap();
    let hosts = ensemble.hosts();
    let managers = Arc::new(pair(&ensemble.url()).await);
    let foreign_nodes = [
        "/_glocks",
        "/_glocks/%1B%5B2J/a__lock__0000000000",
        "/_glocks/%FF/a__lock__0000000000",
        "/_glocks/a__lock__0000000000/b",
    ];
    change(&hosts, &foreign_nodes.map(|path| node(path, b"\x1b[2J")));
    assert_eq!(listed("zookeeper", &managers[0]).await, ["\u{1b}[2J"]);
    let all: Vec<Value> = SEEDS.flat_map(contents).collect();
    change(&hosts, &all);
    for_seeds(SEEDS, |seed| fixture(seed, Arc::clone(&managers))).await;
    // The parents stay, with our own claims below them.
    let gone: Vec<Value> = all.iter().map(|node| json!([node[0], null])).collect();
    change(&hosts, &gone);
    for seed in SEEDS {
        is_free(&format!("zookeeper, seed {seed}"), &format!("lock-{seed}"), &managers[1]).await;
    }
    assert_eq!(panics.load(Ordering::SeqCst), 0, "nothing panicked, in no task");
    close(Arc::into_inner(managers).expect("all fixtures have ended")).await;
}

#[tokio::test]
async fn forged_sequence_numbers_put_nobody_in_front_of_a_holder() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let url = ensemble.url();
    let [one, other] = [(); 2].map(|()| connect_for(&url, std::time::Duration::from_secs(10)));
    let (one, other) = (one.await.unwrap(), other.await.unwrap());
    for sequence in
        ["-2147483648", "-2147483647", "-2147483646", "-2147483600", "2147483647", "2147483600", "1073741824"]
    {
        let name = format!("lock{sequence}");
        let guard = one.mutex(&name).acquire().await.unwrap();
        // So many that one of them is listed first.
        let foreign_nodes: Vec<Value> = (0..20)
            .map(|number| node(&format!("/_glocks/{name}/foreign-{number}__lock__{sequence}"), b""))
            .collect();
        change(&ensemble.hosts(), &foreign_nodes);
        let second = other.mutex(&name).try_acquire().await.unwrap();
        assert!(second.is_none() || !guard.is_held(), "{sequence}: two hold it");
        guard.release().await.unwrap();
    }
}
