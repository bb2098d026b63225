//! The verbs that look at a store, and act on what others hold.

mod asking;
mod breaking;
mod costs;
mod listing;
mod queues;
mod schema;
mod steps;
mod stores;
mod watching;

use std::process::Command;

use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;
use globallock_conformance::server::zookeeper::ZooKeeper;
use serde_json::Value;

use crate::support::{Ended, Running, TestStore, ended, eventually, globallock};

/// A store of each kind, as a user has it.
pub(crate) enum Store {
    File(TestStore),
    Redis(Redis),
    Etcd(Etcd),
    ZooKeeper(ZooKeeper),
}

impl Store {
    pub(crate) fn file() -> Self {
        Store::File(TestStore::new())
    }

    pub(crate) fn redis() -> Self {
        Store::Redis(Redis::start().unwrap())
    }

    pub(crate) fn etcd() -> Self {
        Store::Etcd(Etcd::start(1).unwrap())
    }

    pub(crate) fn zookeeper() -> Self {
        Store::ZooKeeper(ZooKeeper::start(1).unwrap())
    }

    pub(crate) fn url(&self) -> String {
        match self {
            Store::File(store) => store.url(),
            Store::Redis(server) => server.url(),
            Store::Etcd(cluster) => cluster.url(),
            Store::ZooKeeper(ensemble) => ensemble.url(),
        }
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = globallock();
        command.env("GLOBALLOCK_URL", self.url()).args(arguments);
        command
    }

    /// Runs the program to its end.
    pub(crate) fn ended(&self, arguments: &[&str]) -> Ended {
        ended(&mut self.command(arguments))
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        Running::start(&mut self.command(arguments))
    }

    /// Holds a lock until the end of its input; with these options.
    pub(crate) fn hold(&self, options: &[&str], name: &str) -> Running {
        let running = self.start(&[&["hold", "-v"], options, &["--", name]].concat());
        running.says("");
        running
    }

    /// Waits for a lock, which somebody holds, and holds it then.
    pub(crate) fn queue(&self, options: &[&str], name: &str) -> Running {
        let running = self.start(&[&["hold", "-v"], options, &["--", name]].concat());
        running.warns("waiting for");
        running
    }

    /// The objects of `-o json`.
    pub(crate) fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let listed = self.ended(&[arguments, &["-o", "json"]].concat());
        assert_eq!(listed.status, Some(0), "{}", listed.error);
        listed.output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Waits until the claims of a name are such.
pub(crate) fn until(store: &Store, name: &str, are_such: impl Fn(&[Value]) -> bool) -> Vec<Value> {
    let look = || store.json(&["inspect", name]).remove(0)["claims"].as_array().unwrap().clone();
    eventually(|| Some(look()).filter(|claims| are_such(claims))).expect("the queue becomes such")
}
