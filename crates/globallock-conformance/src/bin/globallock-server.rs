//! Starts a real server for tests in other languages: `globallock-server redis|etcd|zookeeper`.
//!
//! Prints one line of JSON with its address and port, and lives until its standard input is closed.

use std::io::Read;

use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;
use globallock_conformance::server::zookeeper::ZooKeeper;

fn main() -> std::io::Result<()> {
    let kind = std::env::args().nth(1).unwrap_or_default();
    match kind.as_str() {
        "redis" => {
            let server = Redis::start()?;
            serve(&server.url());
        }
        "etcd" => {
            let cluster = Etcd::start(1)?;
            serve(&cluster.url());
        }
        "zookeeper" => {
            let ensemble = ZooKeeper::start(1)?;
            serve(&ensemble.url());
        }
        _ => return Err(std::io::Error::other("say which: redis, etcd or zookeeper")),
    }
    Ok(())
}

fn serve(url: &str) {
    let port: u16 =
        url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an address ends with a port");
    println!("{}", serde_json::json!({ "url": url, "port": port }));
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
