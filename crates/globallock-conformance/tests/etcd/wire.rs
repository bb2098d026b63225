//! The golden test of every key and value in the cluster.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use globallock::backend::{ClaimStatus, ValueWrite};
use globallock::{Eviction, Owner, Release};
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

/// What is left of a claim that was evicted, once its owner has gone.
async fn evicted(cluster: &Etcd) -> String {
    let url = cluster.url();
    let [owner, other] = [globallock::connect_backend(&url).await, globallock::connect_backend(&url).await];
    let [owner, other] = [owner.unwrap(), other.unwrap()];
    let claim = &claims()[0];
    assert!(matches!(owner.enqueue(claim).await.unwrap(), ClaimStatus::Held(_)));
    let keys = || dump(cluster).lines().filter(|line| line.starts_with('"')).count();
    eventually("the lease has its sentinel key", async || keys() == 2).await;
    let eviction = Eviction::new(Owner::default().with_label("alice"), "since \"noon\" ☃");
    assert_eq!(other.evict(&claim.name, &claim.id.into(), &eviction).await.unwrap(), Release::Released);
    assert_eq!(keys(), 3);
    drop(owner);
    eventually("the sentinel key is gone", async || keys() == 2).await;
    dump(cluster)
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
    let evicted = evicted(&cluster).await;
    let written = format!("Joined:\n{joined}\nLeft:\n{left}\nEvicted:\n{evicted}");
    compare(&masked(&written), include_str!("wire.txt"));
}

#[tokio::test]
async fn values_are_as_they_always_were() {
    let cluster = Etcd::start(1).unwrap();
    let backend = globallock::connect_backend(&cluster.url()).await.unwrap();
    // A mutex, and a reader.
    for claim in [&claims()[0], &claims()[3]] {
        assert!(matches!(backend.enqueue(claim).await.unwrap(), ClaimStatus::Held(_)));
        for bytes in ["before", "done: \u{1}"] {
            let written = backend.set_value(claim, bytes.as_bytes(), Duration::from_secs(3600)).await;
            assert_eq!(written.unwrap(), ValueWrite::Written);
        }
        backend.release(claim).await.unwrap();
    }
    let keys = dump(&cluster);
    let values: Vec<&str> = keys.lines().skip_while(|line| !line.contains("/value/")).take(4).collect();
    let (one, other) = (values.join("\n"), cluster.ctl(&["lease", "list"]));
    let token = one.split(':').nth(1).unwrap();
    assert!(token.parse::<u64>().is_ok(), "{one}");
    // Of each value only the last has a lease, and the claims have one.
    assert_eq!(other.lines().next(), Some("found 3 leases"), "{other}");
    assert!(one.contains("\"/locks/_glocks//value/nightly\"") && one.contains("a%2Fb {c} %25"), "{one}");
    assert!(one.contains(":3600000:1") && one.contains("\"glk1v:"), "{one}");
}
