//! Evictions of other programs' claims and of owners that are cut off, and the rights that an eviction needs.

use std::time::Duration;

use globallock::{Error, Loss, Release};
use globallock_conformance::fixtures::{connect, connect_for, manager, queue_is, waits};
use globallock_conformance::proxy::Flow;
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use tokio::time::timeout;

use super::late::{LONG, behind_a_proxy};
use super::{end, etcdctl_lock};

/// Long before a renewal of a claim with the lease [`LONG`] is due.
const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn claims_of_another_program_are_evicted_and_their_successors_are_not() {
    let cluster = Etcd::start(1).unwrap();
    let manager = manager(&cluster.url()).await;
    let mut theirs = Vec::new();
    for waiting in 0..3 {
        theirs.push(etcdctl_lock(&cluster, "a"));
        queue_is(&manager, "a", 1, waiting).await;
    }
    let ours = waits(&manager, "a");
    queue_is(&manager, "a", 1, 3).await;
    let queue = manager.inspect("a").await.unwrap();
    assert!(queue[..3].iter().all(|entry| entry.id.is_none() && entry.key.as_str().starts_with("etcd:")));
    // A waiter, and then the holder.
    for (seen, waiting, holder) in [(1, 2, 0), (0, 1, 2)] {
        assert_eq!(manager.evict("a", &queue[seen].key, "").await.unwrap(), Release::Released);
        assert_eq!(manager.evict("a", &queue[seen].key, "").await.unwrap(), Release::NotHeld);
        queue_is(&manager, "a", 1, waiting).await;
        assert_eq!(manager.inspect("a").await.unwrap()[0].key, queue[holder].key);
    }
    assert!(!ours.is_finished());
    assert_eq!(manager.evict("a", &queue[2].key, "").await.unwrap(), Release::Released);
    let guard = ours.await.unwrap().unwrap();
    assert!(guard.renew().await.unwrap());
    guard.release().await.unwrap();
    theirs.into_iter().for_each(end);
}

#[tokio::test]
async fn with_interop_an_eviction_gives_back_the_python_etcd3_key_too() {
    let cluster = Etcd::start(1).unwrap();
    let url = format!("{}?interop=python-etcd3", cluster.url());
    // The one that evicts does not have the option, and takes no such key.
    let [owner, waiter, other] = [manager(&url).await, manager(&url).await, manager(&cluster.url()).await];
    let key = || cluster.ctl(&["get", "--keys-only", "/locks/_glocks/a"]);
    let guard = owner.mutex("a").acquire().await.unwrap();
    assert!(!key().is_empty());
    let claim = other.inspect("a").await.unwrap().remove(0).key;
    assert_eq!(other.evict("a", &claim, "").await.unwrap(), Release::Released);
    assert!(matches!(guard.lost().await, Loss::Evicted(_)));
    assert_eq!(key(), "");
    let guard = owner.mutex("a").acquire().await.unwrap();
    let waits = waits(&waiter, "a");
    queue_is(&other, "a", 1, 1).await;
    let claim = other.inspect("a").await.unwrap().remove(0).key;
    assert_eq!(other.evict("a", &claim, "").await.unwrap(), Release::Released);
    let next = waits.await.unwrap().unwrap();
    assert!(matches!(guard.lost().await, Loss::Evicted(_)));
    drop(guard);
    assert!(next.renew().await.unwrap() && !key().is_empty());
    next.release().await.unwrap();
    assert_eq!(key(), "");
}

#[tokio::test]
async fn owners_that_were_cut_off_are_told_as_soon_as_they_are_back() {
    let cluster = Etcd::start(1).unwrap();
    let (proxy, url) = behind_a_proxy(&cluster, "?timeout=500ms").await;
    let owner = connect_for(&url, LONG).await.unwrap();
    let other = connect_for(&cluster.url(), LONG).await.unwrap();
    let guard = owner.mutex("a").acquire().await.unwrap();
    let before = other.mutex("b").acquire().await.unwrap();
    let waiter = waits(&owner, "b");
    queue_is(&other, "b", 1, 1).await;
    proxy.requests(Flow::Hold);
    proxy.answers(Flow::Hold);
    for (name, nth) in [("a", 0), ("b", 1)] {
        let key = other.inspect(name).await.unwrap().swap_remove(nth).key;
        assert_eq!(other.evict(name, &key, "no").await.unwrap(), Release::Released);
    }
    let next = other.mutex("a").acquire().await.unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
    assert!(guard.is_held() && !waiter.is_finished(), "nobody could tell them");
    proxy.cut();
    proxy.requests(Flow::Pass);
    proxy.answers(Flow::Pass);
    let loss = timeout(SOON, guard.lost()).await.expect("its renewal is due only after 20 s");
    assert!(matches!(&loss, Loss::Evicted(by) if by.reason == "no"), "{loss}");
    let refused = timeout(SOON, waiter).await.expect("its renewal is due only after 20 s").unwrap();
    assert!(matches!(refused.err(), Some(Error::Evicted { .. })));
    assert!(next.renew().await.unwrap() && before.renew().await.unwrap());
}

#[tokio::test]
async fn whoever_evicts_needs_no_more_than_rights_on_the_prefix() {
    let mut cluster = Etcd::start(1).unwrap();
    cluster.enable_auth("app:pw").unwrap();
    for command in [
        "role add narrow",
        "role grant-permission narrow --prefix=true readwrite /locks/_glocks/a/",
        "user add narrow:pw",
        "user grant-role narrow narrow",
    ] {
        let output = cluster.ctl(&command.split(' ').collect::<Vec<_>>());
        assert!(!output.contains("Error"), "{output}");
    }
    let url = |user: &str| cluster.url().replace("etcd://", &format!("etcd://{user}:pw@"));
    let owner = connect_for(&url("app"), LONG).await.unwrap();
    let other = connect(&url("app")).await.unwrap();
    let narrow = connect(&url("narrow")).await.unwrap();
    let guard = owner.mutex("a").acquire().await.unwrap();
    let key = narrow.inspect("a").await.unwrap().remove(0).key;
    let refused = narrow.evict("a", &key, "").await.unwrap_err();
    assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
    assert!(refused.to_string().contains("read and write on the prefix"), "{refused}");
    assert!(guard.renew().await.unwrap());
    assert_eq!(other.evict("a", &key, "").await.unwrap(), Release::Released);
    let loss = timeout(SOON, guard.lost()).await.expect("its renewal is due only after 20 s");
    assert!(matches!(loss, Loss::Evicted(_)), "{loss}");
}
