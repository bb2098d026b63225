//! The golden test of every key and value in the cluster.

use std::fmt::Write as _;
use std::sync::Arc;

use globallock_conformance::context::eventually;
use globallock_conformance::golden::{claims, compare, fill, masked};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;

/// All keys with their values, and whether they are attached to a lease.
fn dump(cluster: &Etcd) -> String {
    let fields = cluster.ctl(&["get", "--prefix", "", "-w", "fields"]);
    let mut written = String::new();
    for line in fields.lines() {
        let Some((field, value)) = line.split_once(" : ") else { continue };
        match field {
            "\"Key\"" => writeln!(written, "{value}").unwrap(),
            "\"Value\"" => writeln!(written, "    {value}").unwrap(),
            "\"Lease\"" if value == "0" => writeln!(written, "    without a lease").unwrap(),
            _ => {}
        }
    }
    written
}

#[tokio::test]
async fn keys_and_values_are_as_they_always_were() {
    let cluster = Etcd::start(1).unwrap();
    let backend = globallock::connect_backend(&cluster.url()).await.unwrap();
    fill(&*backend).await;
    let joined = dump(&cluster);
    let claims = claims();
    let all: Vec<_> = claims.iter().cloned().map(Arc::new).collect();
    assert!(backend.renew(&all).await.iter().all(Result::is_ok));
    assert_eq!(dump(&cluster), joined, "a renewal writes nothing");
    for claim in &claims {
        backend.release(claim).await.unwrap();
    }
    let left = dump(&cluster);
    drop(backend);
    eventually("everything ends with its lease", async || dump(&cluster).is_empty()).await;
    compare(&masked(&format!("Joined:\n{joined}\nLeft:\n{left}")), include_str!("wire.txt"));
}
