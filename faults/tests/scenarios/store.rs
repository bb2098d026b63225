//! The stores of the scenarios, each with a server of its own.

use std::time::Duration;

use globallock::{LockManager, ManagerOptions, Options};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::{self, Etcd};
use globallock_conformance::server::redis::{self, Redis};
use globallock_conformance::server::zookeeper::{self, ZooKeeper};

/// How much later than promised something may happen, because the machine is busy.
pub(crate) const BUSY: Duration = Duration::from_secs(3);

/// A kind of lock, and a kind that excludes it.
pub(crate) const KINDS: [(&str, &str); 3] = [("mutex", "mutex"), ("read", "write"), ("1/2", "2/2")];

/// A store with one server.
pub(crate) struct Store {
    pub(crate) kind: &'static str,
    cluster: Box<dyn Cluster + Send + Sync>,
}

impl Store {
    pub(crate) fn redis() -> Self {
        Store { kind: "redis", cluster: Box::new(Redis::start().unwrap()) }
    }

    pub(crate) fn etcd() -> Self {
        Store { kind: "etcd", cluster: Box::new(Etcd::start(1).unwrap()) }
    }

    pub(crate) fn zookeeper() -> Self {
        Store { kind: "zookeeper", cluster: Box::new(ZooKeeper::start(1).unwrap()) }
    }

    pub(crate) fn port(&self) -> u16 {
        self.cluster.ports()[0]
    }

    pub(crate) fn url(&self) -> String {
        self.cluster.url()
    }

    /// The address of a proxy in front of the server, at `port`. The timeout of requests is short, so that
    /// several requests fail within one lease.
    pub(crate) fn behind(&self, port: u16) -> String {
        format!("{}://127.0.0.1:{port}?timeout=300ms", self.kind)
    }

    /// What the server still has of all locks, except what is meant to stay for a while.
    pub(crate) fn leftovers(&self, names: &[String]) -> Vec<String> {
        match self.kind {
            "redis" => {
                let keys = redis::cli(self.port(), &["--scan"]);
                let expires = |key: &str| redis::cli(self.port(), &["PTTL", key]) != "-1";
                // The counter of fencing tokens outlives the lock by some days, but must expire.
                keys.lines()
                    .filter(|key| !key.ends_with(":fence") || !expires(key))
                    .map(str::to_owned)
                    .collect()
            }
            "etcd" => {
                let mut get = etcd::ctl(&format!("http://127.0.0.1:{}", self.port()));
                let output = get.args(["get", "--prefix", "--keys-only", "/"]).output().unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
            }
            _ => {
                let hosts = format!("127.0.0.1:{}", self.port());
                let left = |name: &String| zookeeper::children(&hosts, &format!("/_glocks/{name}"));
                names.iter().flat_map(left).collect()
            }
        }
    }
}

/// Options with a store timeout of one second.
pub(crate) fn options(lease: Duration) -> Options {
    Options::new().lease(lease).store_timeout(Some(Duration::from_secs(1)))
}

/// Connects with these options.
pub(crate) async fn connect(url: &str, lease: Duration) -> globallock::Result<LockManager> {
    let options = ManagerOptions::new().locks(options(lease));
    LockManager::connect_with(url, options).await
}
