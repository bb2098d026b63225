//! The golden test of all nodes and their data.

use std::time::Duration;

use globallock::backend::{Backend, ValueWrite};
use globallock::{EntryKey, Eviction, Owner, Release};
use globallock_conformance::golden::{claims, compare, fill, masked};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::{ZooKeeper, set, tree};

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

#[tokio::test]
async fn values_never_change() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let backend = globallock::connect_backend(&ensemble.url()).await.unwrap();
    // A mutex, and a reader.
    let claims = claims();
    for claim in [&claims[0], &claims[3]] {
        backend.enqueue(claim).await.unwrap();
        for bytes in ["before", "done: 1"] {
            let written = backend.set_value(claim, bytes.as_bytes(), Duration::from_secs(3600)).await;
            assert_eq!(written.unwrap(), ValueWrite::Written);
        }
        backend.release(claim).await.unwrap();
    }
    let values = tree(&ensemble.hosts(), "/_glocks/%values");
    for (name, value) in [("nightly%", "done: 1"), ("a%2Fb {c} %25é.%", "done: 1")] {
        let line = values.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{values}"));
        assert!(line.contains("glk1v:") && line.contains(":3600000:") && line.contains(value), "{line}");
    }
}

#[tokio::test]
async fn what_stands_in_the_place_of_a_value_breaks_no_grant() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let manager = globallock::LockManager::connect(&ensemble.url()).await.unwrap();
    let lock = manager.mutex("a").with_value();
    let long = Duration::from_secs(3600);
    for garbage in ["", "text", "glk1v:7:8:x:", "glk1v:99999999999999999999:8:9:a"] {
        let guard = lock.acquire().await.unwrap();
        guard.set_value(b"a", long).await.unwrap();
        set(&ensemble.hosts(), "/_glocks/%values/a%", garbage);
        guard.release().await.unwrap();
        let guard = lock.acquire().await.unwrap();
        assert_eq!(guard.value(), None, "{garbage}");
        assert_eq!(guard.set_value(b"b", long).await.unwrap(), ValueWrite::Written);
        guard.release().await.unwrap();
        let guard = lock.acquire().await.unwrap();
        assert_eq!(guard.value().unwrap().bytes(), b"b");
        guard.release().await.unwrap();
    }
    manager.close().await;
}
