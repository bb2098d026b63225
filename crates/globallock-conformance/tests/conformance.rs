//! Runs the conformance suite on every store: `store::promise::sentence[/kind]`, filtered as any test.

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
    // The cases wait far more than they compute; with more of them at a time, two processors are what they wait for.
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
    // Dropped before the exit, which drops nothing.
    drop((redis, etcd, ensembles, directory));
    conclusion.exit();
}

/// What cases are to be run, by any number of filters, and how.
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

/// One case of each store after the other: while the cases of one store wait, others use the machine. Each store begins
/// elsewhere, so that the heaviest case does not come on all of them at once.
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

/// The program that `kill -9` is tried on.
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

/// The wrapper that can fail, with nothing set to fail, must change nothing.
fn transparent() -> StoreUnderTest {
    let store = Memory::new();
    StoreUnderTest::new("faulty", move || {
        let store = Faulty::new(Arc::clone(&store) as Arc<dyn Backend>) as Arc<dyn Backend>;
        async move { Ok(store) }
    })
}

fn file(directory: PathBuf) -> StoreUnderTest {
    let url = format!("file://{}", directory.display());
    // What a lock's directory is called is the store's own affair: those of one name are found by listing it alone.
    let (losing, leaving) = (directory.clone(), directory);
    StoreUnderTest::at("file", &url, child())
        .with_sabotage(move |name| {
            let directory = losing.join(name.as_str());
            async move {
                for claim in std::fs::read_dir(directory).expect("the name has claims").flatten() {
                    std::fs::remove_file(claim.path()).expect("the claim can be removed");
                }
            }
        })
        .with_residue(move |name| {
            let directory = leaving.join(name.as_str());
            async move { directory.exists().then(|| directory.display().to_string()).into_iter().collect() }
        })
}

fn on_redis(server: &Redis) -> StoreUnderTest {
    let (losing, leaving) = (server.port(), server.port());
    StoreUnderTest::at("redis", &patient(&server.url()), child())
        .with_sabotage(move |name| async move {
            let keys = redis_keys(losing, name.as_str());
            let mut delete = vec!["DEL"];
            delete.extend(keys.iter().map(String::as_str));
            redis_cli(losing, &delete);
        })
        .with_residue(move |name| async move {
            // The counter of fencing tokens stays for a while, and says so.
            let keys = redis_keys(leaving, name.as_str());
            keys.into_iter()
                .filter(|key| redis_cli(leaving, &["TTL", key]) == "-1" || !is_counter(key))
                .collect()
        })
}

fn on_etcd(cluster: &Etcd, kind: &str, options: &str) -> StoreUnderTest {
    let (losing, leaving) = (cluster.endpoints(), cluster.endpoints());
    let root = if options.is_empty() { "/locks/_glocks" } else { "/locks/interop" };
    // Below the name, and what is called as the name itself.
    let range = move |name: &Name| format!("{root}/{}", name.as_str());
    let store = StoreUnderTest::at(kind, &patient(&format!("{}{options}", cluster.url())), child())
        .with_sabotage(move |name| {
            let mut delete = etcd::ctl(&losing);
            delete.args(["del", "--prefix", &range(&name)]);
            async move { drop(delete.output().expect("etcdctl is installed")) }
        })
        .with_residue(move |name| {
            let mut get = etcd::ctl(&leaving);
            get.args(["get", "--prefix", "--keys-only", &range(&name)]);
            async move {
                let output = get.output().expect("etcdctl is installed");
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
            }
        });
    // Whole seconds, and an election on top.
    StoreUnderTest { lease: std::time::Duration::from_secs(2), ..store }
}

fn on_zookeeper(ensemble: &ZooKeeper, kind: &str, options: &str) -> StoreUnderTest {
    let url = patient(&format!("{}{options}", ensemble.url()));
    let root = if options.is_empty() { "/_glocks" } else { "/curator" };
    let (losing, leaving) = (ensemble.hosts(), ensemble.hosts());
    let store = StoreUnderTest::at(kind, &url, child())
        .with_sabotage(move |name| {
            zookeeper::delete_children(&losing, &format!("{root}/{}", name.as_str()));
            async {}
        })
        .with_residue(move |name| {
            // The empty node above the claims vanishes by itself.
            let left = zookeeper::children(&leaving, &format!("{root}/{}", name.as_str()));
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

/// Takes the claims of a name out by the store's own means, which a store in memory lets anybody do.
fn take_all_out(store: Arc<Memory>) -> impl Fn(Name) -> futures_util::future::BoxFuture<'static, ()> {
    move |name| {
        let store = Arc::clone(&store);
        Box::pin(async move {
            for entry in store.inspect(&name).await.expect("memory answers").into_iter().rev() {
                let claim = globallock::backend::Claim {
                    id: entry.id.expect("the claim is ours"),
                    name: name.clone(),
                    permits: entry.permits,
                    wait_mode: globallock::backend::WaitMode::Try,
                    lease: std::time::Duration::from_secs(1),
                    max_hold: None,
                    owner: "".into(),
                };
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
