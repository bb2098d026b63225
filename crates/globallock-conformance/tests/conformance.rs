//! Runs the conformance suite on every store. Tests are named `store::promise::sentence[/kind]`, and filtered
//! as usual.

use std::path::PathBuf;
use std::sync::Arc;

use futures_util::StreamExt;
use globallock::{Backend, LockManager, ManagerOptions, Memory, Name};
use globallock_conformance::cases::{Trial, trials};
use globallock_conformance::faulty::Faulty;
use globallock_conformance::fixtures::patient;
use globallock_conformance::pauses::busy;
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::{self, Etcd};
use globallock_conformance::server::redis::Redis;
use globallock_conformance::server::zookeeper::{self, ZooKeeper};
use globallock_conformance::store_under_test::StoreUnderTest;
use libtest_mimic::{Arguments, Failed};

fn main() {
    let (filters, mut arguments) = arguments();
    // The cases mostly wait, so many can run at once. With more than 16, two processors would be the
    // bottleneck.
    arguments.test_threads.get_or_insert(16);
    let directory = tempfile::tempdir().expect("a directory can be made");
    let wanted = |kind: &str| {
        let concerns = |filter: &String| !filter.contains("::") || filter.starts_with(kind);
        filters.is_empty() || filters.iter().any(concerns)
    };
    let redis = wanted("redis").then(|| Redis::start().expect("a Redis server starts"));
    let mut stores = vec![memory(), transparent(), file(directory.path().join("locks"))];
    stores.extend(redis.as_ref().map(on_redis));
    let etcd =
        wanted("etcd").then(|| [1, 3].map(|members| Etcd::start(members).expect("an etcd cluster starts")));
    for (cluster, kind) in etcd.iter().flatten().zip(["etcd", "etcd-3"]) {
        stores.push(on_etcd(cluster, kind, ""));
    }
    if let Some([alone, _]) = &etcd {
        stores.push(on_etcd(alone, "etcd-interop", "?interop=python-etcd3&prefix=/locks/interop/"));
    }
    let ensembles = wanted("zookeeper")
        .then(|| [1, 3].map(|servers| ZooKeeper::start(servers).expect("a ZooKeeper ensemble starts")));
    for (ensemble, kind) in ensembles.iter().flatten().zip(["zookeeper", "zookeeper-3"]) {
        stores.push(on_zookeeper(ensemble, kind, ""));
    }
    if let Some([alone, _]) = &ensembles {
        stores.push(on_zookeeper(alone, "zookeeper-curator", "?naming=curator&prefix=/curator"));
    }
    let busy = busy();
    for store in &mut stores {
        store.lease *= busy;
    }
    let is_named = |trial: &Trial| {
        let names = |filter: &String| {
            if arguments.exact { trial.name() == *filter } else { trial.name().contains(filter.as_str()) }
        };
        filters.is_empty() || filters.iter().any(names)
    };
    let tests = side_by_side(stores.iter().map(trials).collect())
        .into_iter()
        .filter(is_named)
        .map(|trial| {
            libtest_mimic::Trial::test(trial.name(), move || {
                trial.run();
                Ok::<(), Failed>(())
            })
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, tests);
    // The exit drops nothing, so the servers are dropped here.
    drop((redis, etcd, ensembles, directory));
    conclusion.exit();
}

/// The filters of the cases, of which there may be several, and the other arguments.
fn arguments() -> (Vec<String>, Arguments) {
    const WITH_VALUE: [&str; 5] = ["--test-threads", "--logfile", "--skip", "--color", "--format"];
    let (mut filters, mut others) = (Vec::new(), Vec::new());
    let mut given = std::env::args();
    others.extend(given.next());
    while let Some(argument) = given.next() {
        if argument.starts_with('-') {
            let value = WITH_VALUE.contains(&argument.as_str()).then(|| given.next()).flatten();
            others.extend([argument].into_iter().chain(value));
        } else {
            filters.push(argument);
        }
    }
    (filters, Arguments::from_iter(others))
}

/// Interleaves the stores' cases, so that other stores use the machine while the cases of one store wait.
/// Each store starts at another case, so that the heaviest case does not run on all of them at once.
fn side_by_side(stores: Vec<Vec<Trial>>) -> Vec<Trial> {
    let count = stores.len();
    let mut numbered = Vec::new();
    for (store, mut trials) in stores.into_iter().enumerate() {
        let first = trials.len() * store / count;
        trials.rotate_left(first);
        numbered.extend(trials.into_iter().enumerate());
    }
    numbered.sort_by_key(|(number, _)| *number);
    numbered.into_iter().map(|(_, trial)| trial).collect()
}

/// The program of the owners that the cases kill.
fn child() -> Option<PathBuf> {
    Some(PathBuf::from(env!("CARGO_BIN_EXE_globallock-child")))
}

fn memory() -> StoreUnderTest {
    let store = Memory::new();
    let (opened, residue) = (Arc::clone(&store), Arc::clone(&store));
    StoreUnderTest::new("memory", move || {
        let store = Arc::clone(&opened) as Arc<dyn Backend>;
        async move { Ok(store) }
    })
    .with_sabotage(take_all_out(store))
    .with_residue(move |name| still_listed(Arc::clone(&residue) as Arc<dyn Backend>, name))
}

/// The wrapper that can fail. Without a fault it must change nothing.
fn transparent() -> StoreUnderTest {
    let store = Memory::new();
    StoreUnderTest::new("faulty", move || {
        let store = Faulty::new(Arc::clone(&store) as Arc<dyn Backend>) as Arc<dyn Backend>;
        async move { Ok(store) }
    })
}

fn file(directory: PathBuf) -> StoreUnderTest {
    let url = format!("file://{}", directory.display());
    // The cases' names have no character that the store escapes, so a lock's directory has the lock's name.
    let (for_sabotage, for_residue) = (directory.clone(), directory);
    StoreUnderTest::at("file", &url, child())
        .with_sabotage(move |name| {
            let directory = for_sabotage.join(name.as_str());
            async move {
                for claim in std::fs::read_dir(directory).expect("the name has claims").flatten() {
                    std::fs::remove_file(claim.path()).expect("the claim can be removed");
                }
            }
        })
        .with_residue(move |name| {
            let directory = for_residue.join(name.as_str());
            async move { directory.exists().then(|| directory.display().to_string()).into_iter().collect() }
        })
}

fn on_redis(server: &Redis) -> StoreUnderTest {
    let (for_sabotage, for_residue) = (server.port(), server.port());
    StoreUnderTest::at("redis", &patient(&server.url()), child())
        .with_sabotage(move |name| async move {
            let keys = redis_keys(for_sabotage, name.as_str());
            let mut delete = vec!["DEL"];
            delete.extend(keys.iter().map(String::as_str));
            redis_cli(for_sabotage, &delete);
        })
        .with_residue(move |name| async move {
            // The counter of fencing tokens may stay for a while, but only with an expiry.
            let keys = redis_keys(for_residue, name.as_str());
            keys.into_iter()
                .filter(|key| redis_cli(for_residue, &["TTL", key]) == "-1" || !is_counter(key))
                .collect()
        })
}

fn on_etcd(cluster: &Etcd, kind: &str, options: &str) -> StoreUnderTest {
    let (for_sabotage, for_residue) = (cluster.endpoints(), cluster.endpoints());
    let root = if options.is_empty() { "/locks/_glocks" } else { "/locks/interop" };
    // A prefix of the claims' keys, which are below the name, and of the python-etcd3 key, which is the name
    // itself.
    let range = move |name: &Name| format!("{root}/{}", name.as_str());
    let store = StoreUnderTest::at(kind, &patient(&format!("{}{options}", cluster.url())), child())
        .with_sabotage(move |name| {
            let mut delete = etcd::ctl(&for_sabotage);
            delete.args(["del", "--prefix", &range(&name)]);
            async move { drop(delete.output().expect("etcdctl is installed")) }
        })
        .with_residue(move |name| {
            let mut get = etcd::ctl(&for_residue);
            get.args(["get", "--prefix", "--keys-only", &range(&name)]);
            async move {
                let output = get.output().expect("etcdctl is installed");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
            }
        });
    // Longer, because etcd counts leases in whole seconds and an election takes time.
    StoreUnderTest { lease: std::time::Duration::from_secs(2), ..store }
}

fn on_zookeeper(ensemble: &ZooKeeper, kind: &str, options: &str) -> StoreUnderTest {
    let url = patient(&format!("{}{options}", ensemble.url()));
    let root = if options.is_empty() { "/_glocks" } else { "/curator" };
    let (for_sabotage, for_residue) = (ensemble.hosts(), ensemble.hosts());
    let store = StoreUnderTest::at(kind, &url, child())
        .with_sabotage(move |name| {
            zookeeper::delete_children(&for_sabotage, &format!("{root}/{}", name.as_str()));
            async {}
        })
        .with_residue(move |name| {
            // The lock's node is a container, which the servers delete once it is empty. So only its children
            // count.
            let left = zookeeper::children(&for_residue, &format!("{root}/{}", name.as_str()));
            async move { left }
        });
    StoreUnderTest { lease: std::time::Duration::from_secs(2), ..store }
}

fn is_counter(key: &str) -> bool {
    key.ends_with(":fence")
}

fn redis_keys(port: u16, name: &str) -> Vec<String> {
    let keys = redis_cli(port, &["--scan", "--pattern", &format!("*{name}*")]);
    keys.lines().map(str::to_owned).collect()
}

fn redis_cli(port: u16, arguments: &[&str]) -> String {
    globallock_conformance::server::redis::cli(port, arguments)
}

/// Releases all claims of a name. The store in memory does not check who asks.
fn take_all_out(store: Arc<Memory>) -> impl Fn(Name) -> futures_util::future::BoxFuture<'static, ()> {
    move |name| {
        let store = Arc::clone(&store);
        Box::pin(async move {
            for entry in store.inspect(&name).await.expect("memory answers").into_iter().rev() {
                let claim = globallock::backend::Claim::new(
                    entry.id.expect("the claim is ours"),
                    name.clone(),
                    entry.permits,
                )
                .with_wait_mode(globallock::backend::WaitMode::Try)
                .with_lease(std::time::Duration::from_secs(1));
                store.release(&claim).await.expect("memory answers");
            }
        })
    }
}

async fn still_listed(store: Arc<dyn Backend>, name: Name) -> Vec<String> {
    let manager = LockManager::with_backend(store, ManagerOptions::default()).expect("the options are good");
    let names = manager.names(name.as_str());
    names.filter_map(async |name| name.ok()).map(|name| name.to_string()).collect().await
}
