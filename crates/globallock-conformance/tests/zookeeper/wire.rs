//! The golden test of all nodes and their data.

use globallock::backend::Backend;
use globallock::{EntryKey, Eviction, Owner, Release};
use globallock_conformance::golden::{claims, compare, fill, masked};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::{ZooKeeper, tree};

#[tokio::test]
async fn nodes_and_their_data_never_change() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let mut written = String::new();
    for (naming, root, url) in [
        ("kazoo", "/_glocks", ensemble.url()),
        ("Curator", "/curator", format!("{}/curator?naming=curator", ensemble.url())),
    ] {
        let backend = globallock::connect_backend(&url).await.unwrap();
        fill(&*backend).await;
        // The tree is read before the release, because servers delete empty containers at any time.
        written += &format!("Joined, as {naming}:\n{}\n", tree(&ensemble.hosts(), root));
        evict_last(&*backend).await;
        let notices = tree(&ensemble.hosts(), &format!("{}/%evicted", root_of(root)));
        written += &format!("Evicted, as {naming}:\n{notices}\n");
        for claim in claims() {
            backend.release(&claim).await.unwrap();
        }
    }
    compare(&masked(written.trim_end()), include_str!("wire.txt"));
}

/// The node below which an address without a prefix has its locks.
fn root_of(chroot: &str) -> String {
    if chroot == "/_glocks" { chroot.to_owned() } else { format!("{chroot}/_glocks") }
}

async fn evict_last(backend: &dyn Backend) {
    let claim = claims().pop().unwrap();
    let eviction = Eviction::new(Owner::from_text(&claim.owner), "it hangs since \"noon\"");
    let evicted = backend.evict(&claim.name, &EntryKey::from(claim.id), &eviction).await.unwrap();
    assert_eq!(evicted, Release::Released);
}
