//! The store of a run: its servers, the proxies in front of them, and the faults that only this store can
//! have.

use std::io::{Error, Result};
use std::net::Ipv4Addr;
use std::time::Duration;

use globallock_conformance::proxy::Proxy;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;
use globallock_conformance::server::zookeeper::{self, ZooKeeper};
use globallock_conformance::server::{Cluster, wait_ready};
use tempfile::TempDir;

use super::network::Network;

/// The stores that a run can have.
pub const STORES: [&str; 7] =
    ["file", "redis", "redis-replica", "etcd-1", "etcd-3", "zookeeper-1", "zookeeper-3"];

/// User and password of the owners at an etcd with users.
const USER: &str = "owner:ownerpw";

/// A store that runs.
pub(super) struct Store {
    pub(super) kind: String,
    server: Server,
    /// One in front of each server.
    pub(super) proxies: Vec<Proxy>,
}

enum Server {
    File(TempDir),
    Redis(Redis),
    /// A primary and its replica.
    Pair(Redis, Redis),
    Etcd(Etcd),
    ZooKeeper(ZooKeeper),
}

impl Store {
    /// Starts it. If the run has a network, the proxies listen there.
    pub(super) async fn start(kind: &str, has_network: bool) -> Result<Self> {
        let server = match kind {
            "file" => Server::File(TempDir::new()?),
            "redis" => Server::Redis(Redis::start_with_clock()?),
            "redis-replica" => {
                let primary = Redis::start()?;
                let replica = Redis::start()?;
                follow(&replica, primary.port())?;
                Server::Pair(primary, replica)
            }
            "etcd-1" => {
                let mut cluster = Etcd::start(1)?;
                cluster.enable_auth(USER)?;
                Server::Etcd(cluster)
            }
            "etcd-3" => Server::Etcd(Etcd::start(3)?),
            "zookeeper-1" => Server::ZooKeeper(ZooKeeper::start(1)?),
            "zookeeper-3" => Server::ZooKeeper(ZooKeeper::start(3)?),
            _ => return Err(Error::other(format!("the stores are {}", STORES.join(", ")))),
        };
        let mut store = Store { kind: kind.to_owned(), server, proxies: Vec::new() };
        let address = if has_network { Network::store() } else { Ipv4Addr::LOCALHOST.into() };
        let ports = store.cluster().map(|cluster| cluster.ports()).unwrap_or_default();
        for port in ports {
            store.proxies.push(Proxy::start_at(address, port).await?);
        }
        Ok(store)
    }

    pub(super) fn cluster(&mut self) -> Option<&mut dyn Cluster> {
        match &mut self.server {
            Server::File(_) => None,
            Server::Redis(server) | Server::Pair(server, _) => Some(server),
            Server::Etcd(cluster) => Some(cluster),
            Server::ZooKeeper(ensemble) => Some(ensemble),
        }
    }

    /// The address of the store through the proxies.
    pub(super) fn url(&self) -> String {
        let hosts: Vec<String> = self.proxies.iter().map(|proxy| proxy.address().to_string()).collect();
        let hosts = hosts.join(",");
        match &self.server {
            Server::File(directory) => format!("file://{}", directory.path().display()),
            Server::Redis(_) | Server::Pair(..) => format!("redis://{hosts}"),
            Server::Etcd(_) => format!("etcd://{}{hosts}", self.user()),
            Server::ZooKeeper(_) => format!("zookeeper://{hosts}"),
        }
    }

    /// The address of the servers themselves, which network faults do not affect.
    pub(super) fn direct(&self) -> String {
        match &self.server {
            Server::File(_) => self.url(),
            // It moves with the primary.
            Server::Redis(server) | Server::Pair(server, _) => server.url(),
            Server::Etcd(cluster) => cluster.url().replace("etcd://", &format!("etcd://{}", self.user())),
            Server::ZooKeeper(ensemble) => ensemble.url(),
        }
    }

    /// The part of the address before the hosts.
    fn user(&self) -> String {
        if self.has_auth() { format!("{USER}@") } else { String::new() }
    }

    fn has_auth(&self) -> bool {
        self.kind == "etcd-1"
    }

    /// The observer's address. With a replica it goes through the proxy too, because the primary moves.
    pub(super) fn for_observer(&self) -> String {
        if matches!(self.server, Server::Pair(..)) { self.url() } else { self.direct() }
    }

    /// Whether the store loses its data when the process of a server is killed.
    pub(super) fn forgets_when_killed(&self) -> bool {
        matches!(self.server, Server::Redis(_))
    }

    /// Runs a command by redis-cli.
    pub(super) fn redis(&self, arguments: &[&str]) -> String {
        match &self.server {
            Server::Redis(server) | Server::Pair(server, _) => server.cli(arguments),
            _ => unreachable!("only Redis is given this fault"),
        }
    }

    /// Runs a command by etcdctl.
    pub(super) fn etcd(&self, arguments: &[&str]) -> String {
        match &self.server {
            Server::Etcd(cluster) => cluster.ctl(arguments),
            _ => unreachable!("only etcd is given this fault"),
        }
    }

    /// Sets the wall clock of the server.
    pub(super) fn set_clock(&self, seconds: i64) -> Result<()> {
        match &self.server {
            Server::Redis(server) => server.clock().map_or(Ok(()), |clock| clock.set(seconds)),
            _ => unreachable!("only Redis is given this fault"),
        }
    }

    /// How many authentication tokens etcd has given out to users.
    pub(super) fn tokens(&self) -> Result<u64> {
        match &self.server {
            Server::Etcd(cluster) => cluster.tokens(0),
            _ => unreachable!("only etcd is given this fault"),
        }
    }

    /// Invalidates the authentication tokens of etcd's users.
    pub(super) fn invalidate_tokens(&self) -> Result<()> {
        match &self.server {
            Server::Etcd(cluster) => cluster.invalidate_tokens(),
            _ => unreachable!("only etcd is given this fault"),
        }
    }

    /// Closes one of ZooKeeper's sessions that have claims, and says which; `None` if there is none. `choose`
    /// returns an index below the number of sessions.
    pub(super) fn end_session(&mut self, choose: impl Fn(usize) -> usize) -> Result<Option<String>> {
        let Some(cluster) = self.cluster() else { return Ok(None) };
        let port = cluster.ports()[cluster.leader().unwrap_or(0)];
        let sessions = zookeeper::sessions(port)?;
        let Some(&session) = sessions.get(choose(sessions.len())) else { return Ok(None) };
        for tries in 1..=5 {
            zookeeper::end_session(port, session)?;
            if !zookeeper::sessions(port)?.contains(&session) {
                return Ok(Some(format!(
                    "session {session:#x} was closed by somebody else in {tries} tries"
                )));
            }
        }
        Ok(None)
    }

    /// Deletes the files of a lock, and returns how many there were.
    pub(super) fn remove_files(&self, name: &str) -> usize {
        let Server::File(directory) = &self.server else { unreachable!("only files are given this fault") };
        // Owners create and delete the directory and the files in it meanwhile, so errors are expected.
        let files = std::fs::read_dir(directory.path().join(name)).into_iter().flatten().flatten();
        files.filter(|file| std::fs::remove_file(file.path()).is_ok()).count()
    }

    /// Cuts the replica off, kills the primary, and makes the replica the primary. The replica has missed the
    /// last writes by then.
    pub(super) async fn promote(&mut self) -> Result<String> {
        let Server::Pair(primary, replica) = &mut self.server else {
            unreachable!("only a pair is given this fault")
        };
        replica.cli(&["REPLICAOF", "127.0.0.1", "1"]);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let offset = |server: &Redis| -> u64 {
            let info = server.cli(&["INFO", "replication"]);
            let field = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
            field.and_then(|field| field.trim().parse().ok()).unwrap_or(0)
        };
        let missed = offset(primary).saturating_sub(offset(replica));
        primary.kill();
        replica.cli(&["REPLICAOF", "NO", "ONE"]);
        self.proxies[0].redirect_to(replica.port());
        self.proxies[0].cut();
        primary.resume_after_kill()?;
        follow(primary, replica.port())?;
        std::mem::swap(primary, replica);
        Ok(format!("{missed} bytes had not been replicated"))
    }

    /// What is left of claims in the store, as its own tool lists it.
    pub(super) fn left(&self, names: &[String]) -> Vec<String> {
        match &self.server {
            Server::File(directory) => {
                let inside = |name: &String| directory.path().join(name);
                names
                    .iter()
                    .map(inside)
                    .filter(|path| path.exists())
                    .map(|path| path.display().to_string())
                    .collect()
            }
            Server::Redis(server) | Server::Pair(server, _) => {
                // The counters of fencing tokens may outlive their locks, but only if they expire.
                let keys = server.cli(&["--scan"]);
                keys.lines()
                    .filter(|key| !key.ends_with(":fence") || server.cli(&["TTL", key]) == "-1")
                    .map(str::to_owned)
                    .collect()
            }
            Server::Etcd(cluster) => {
                let keys = cluster.ctl(&["get", "--prefix", "--keys-only", "/locks/_glocks/"]);
                keys.lines().filter(|key| !key.is_empty()).map(str::to_owned).collect()
            }
            Server::ZooKeeper(ensemble) => names
                .iter()
                .flat_map(|name| zookeeper::children(&ensemble.hosts(), &format!("/_glocks/{name}")))
                .collect(),
        }
    }
}

fn follow(replica: &Redis, primary: u16) -> Result<()> {
    replica.cli(&["REPLICAOF", "127.0.0.1", &primary.to_string()]);
    let synced = || replica.cli(&["INFO", "replication"]).contains("master_link_status:up");
    wait_ready("the replica", &replica.directory().join("log"), synced)
}
