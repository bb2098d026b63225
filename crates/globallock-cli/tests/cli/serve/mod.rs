//! `globallock serve` from the outside: requests over TCP, as clients and attackers send them.

mod api;
mod audit;
mod documented;
mod events;
mod exposure;
mod fuzz;
mod gate;
mod http;
mod slow;
mod stores;
mod tls;

use std::process::Command;

use crate::support::{Running, TestStore, globallock};
use http::{Connection, Reply};
use serde_json::Value;

/// A server of pages that runs until this is dropped.
struct Server {
    running: Running,
    port: u16,
    url: String,
}

impl Server {
    /// Serves this store, on a free port of this host, and looks often.
    fn of(store: &str, arguments: &[&str]) -> Self {
        let mut command = globallock();
        command.env("GLOBALLOCK_URL", store);
        Server::start(&mut command, arguments)
    }

    fn start(command: &mut Command, arguments: &[&str]) -> Self {
        command.args(["serve", "--interval", "100ms"]).args(arguments);
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let running = Running::start(command);
        let url = running.first().expect("it says where it listens");
        let port = url.trim_end_matches('/').rsplit_once(':').unwrap().1.parse().unwrap();
        Server { running, port, url }
    }

    fn connect(&self) -> Connection {
        Connection::open(self.port)
    }

    fn get(&self, path: &str) -> Reply {
        self.connect().request("GET", path, &[], "")
    }

    /// The token that a page of this server sends.
    fn token(&self) -> String {
        self.get("/api/session").json()["token"].as_str().unwrap().to_owned()
    }

    /// Asks to break a claim that holds, as the page does.
    fn break_claim(&self, name: &str, claim: &str, reason: &str) -> Reply {
        let mut client = self.connect();
        self.order(&mut client, &order(name, claim, true, reason));
        client.reply().expect("there is an answer")
    }

    /// Sends an order of a page.
    fn order(&self, client: &mut Connection, order: &Value) {
        let token = self.token();
        let headers = [("content-type", "application/json"), ("x-globallock-token", &*token)];
        client.send("POST", "/api/break", &headers, &order.to_string());
    }

    /// The claims of a lock.
    fn queue(&self, name: &str) -> Vec<Value> {
        self.get(&format!("/api/lock?name={name}")).json()["claims"].as_array().unwrap().clone()
    }
}

/// What a page sends to break a claim that it has seen to hold or to wait.
fn order(name: &str, claim: &str, held: bool, reason: &str) -> Value {
    serde_json::json!({ "name": name, "confirm": name, "claim": claim, "held": held, "reason": reason })
}

/// A store, and a server that shows it.
fn served(arguments: &[&str]) -> (TestStore, Server) {
    let store = TestStore::new();
    let server = Server::of(&store.url(), arguments);
    (store, server)
}

/// Runs a command that ends when this closes its input, once it holds the lock.
fn holder(store: &TestStore, name: &str) -> Running {
    let running = store.start(&[name, "--", "sh", "-c", "echo ready; read _; true"]);
    running.says("ready");
    running
}
