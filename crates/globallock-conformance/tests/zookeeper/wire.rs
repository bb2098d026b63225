//! Every node and what it holds, as it always was.

use globallock_conformance::golden::{claims, compare, fill, masked};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::{ZooKeeper, tree};

#[tokio::test]
async fn nodes_and_what_they_hold_are_as_they_always_were() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let mut written = String::new();
    for (naming, root, url) in [
        ("kazoo", "/_glocks", ensemble.url()),
        ("Curator", "/curator", format!("{}/curator?naming=curator", ensemble.url())),
    ] {
        let backend = globallock::connect_backend(&url).await.unwrap();
        fill(&*backend).await;
        // The servers take out what is empty at a time of their own.
        written += &format!("Joined, as {naming}:\n{}\n", tree(&ensemble.hosts(), root));
        for claim in claims() {
            backend.release(&claim).await.unwrap();
        }
    }
    compare(&masked(written.trim_end()), include_str!("wire.txt"));
}
