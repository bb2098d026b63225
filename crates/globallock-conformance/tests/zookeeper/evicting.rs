//! Evictions of claims of other programs, of owners that cannot be reached, and by onlookers that end.
//!
//! The tests wait for other programs in between. Other threads keep the managers' sessions alive meanwhile.

use std::time::{Duration, Instant};

use globallock::{Error, LockManager, Loss, ManagerOptions, Options, Release};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{LEASE, calm_manager, queue_is, waits};
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::{ZooKeeper, children};

use crate::fleet::Kazoo;

/// Evicts the claim at this place of a queue.
async fn evict(manager: &LockManager, name: &str, nth: usize, reason: &str) -> Release {
    let key = manager.inspect(name).await.unwrap().swap_remove(nth).key;
    manager.evict(name, &key, reason).await.unwrap()
}

/// A manager with a lease that reaches one server through a proxy.
async fn behind_proxy(ensemble: &ZooKeeper, lease: Duration) -> (Proxy, LockManager) {
    let proxy = Proxy::start(ensemble.port(0)).await.unwrap();
    let url = format!("zookeeper://127.0.0.1:{}?timeout=1s", proxy.port());
    let locks = Options::new().lease(lease).store_timeout(Some(Duration::from_secs(120)));
    let manager = LockManager::connect_with(&url, ManagerOptions::new().locks(locks)).await.unwrap();
    (proxy, manager)
}

fn cut_off(proxy: &Proxy, flow: Flow) {
    proxy.requests(flow);
    proxy.answers(flow);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_of_kazoo_is_evicted_and_its_successor_is_not() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let manager = calm_manager(&ensemble.url()).await;
    let mut theirs = Kazoo::acquire(&ensemble, "/_glocks/a", "mutex", &[]);
    theirs.wait_granted();
    let mut next = Kazoo::acquire(&ensemble, "/_glocks/a", "mutex", &[]);
    queue_is(&manager, "a", 1, 1).await;
    let queue = manager.inspect("a").await.unwrap();
    let key = queue[0].key.clone();
    let node = format!("/_glocks/a/{}", key.as_str().rsplit(':').next().unwrap());
    assert!(key.as_str().starts_with(&format!("zk:{}:", queue[0].fencing_token)), "{key}");
    assert!(children(&ensemble.hosts(), "/_glocks/a").iter().any(|child| node.ends_with(child)), "{key}");
    assert_eq!(manager.evict("a", &key, "").await.unwrap(), Release::Released);
    next.wait_granted();
    for _ in 0..2 {
        assert_eq!(manager.evict("a", &key, "").await.unwrap(), Release::NotHeld);
    }
    // Another node of the same name is another claim.
    let other = key.as_str().replace("zk:", "zk:1");
    assert_eq!(manager.evict("a", &globallock::EntryKey::new(other), "").await.unwrap(), Release::NotHeld);
    queue_is(&manager, "a", 1, 0).await;
    theirs.release();
    queue_is(&manager, "a", 1, 0).await;
    next.release();
    assert_eq!(children(&ensemble.hosts(), "/_glocks/%evicted"), [""; 0], "nobody of ours is to be told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_of_kazoo_is_evicted_and_the_one_behind_it_is_not() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let [holder, behind] = [calm_manager(&ensemble.url()).await, calm_manager(&ensemble.url()).await];
    let guard = holder.mutex("a").acquire().await.unwrap();
    let theirs = Kazoo::acquire(&ensemble, "/_glocks/a", "mutex", &[]);
    queue_is(&holder, "a", 1, 1).await;
    let ours = waits(&behind, "a");
    queue_is(&holder, "a", 1, 2).await;
    let before = holder.inspect("a").await.unwrap();
    assert_eq!(evict(&behind, "a", 1, "").await, Release::Released);
    let after = holder.inspect("a").await.unwrap();
    assert_eq!((after.len(), &after[0].key, &after[1].key), (2, &before[0].key, &before[2].key));
    guard.release().await.unwrap();
    let ours = ours.await.unwrap().unwrap();
    // kazoo's waiter joins again, as it does whenever its node was deleted.
    queue_is(&holder, "a", 1, 1).await;
    ours.release().await.unwrap();
    queue_is(&holder, "a", 1, 0).await;
    theirs.release();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_ours_has_no_key_of_a_foreign_claim() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let manager = calm_manager(&ensemble.url()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let node = children(&ensemble.hosts(), "/_glocks/a").remove(0);
    let key = globallock::EntryKey::new(format!("zk:{}:{node}", guard.fencing_token()));
    assert_eq!(manager.evict("a", &key, "").await.unwrap(), Release::NotHeld, "its owner would not be told");
    assert!(guard.renew().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_were_cut_off_are_told_when_they_are_back() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let (proxy, owner) = behind_proxy(&ensemble, Duration::from_secs(60)).await;
    let other = calm_manager(&ensemble.url()).await;
    let held = owner.mutex("a").acquire().await.unwrap();
    let busy = other.mutex("b").acquire().await.unwrap();
    let waiter = waits(&owner, "b");
    queue_is(&other, "b", 1, 1).await;
    cut_off(&proxy, Flow::Hold);
    assert_eq!(evict(&other, "a", 0, "first").await, Release::Released);
    assert_eq!(evict(&other, "b", 1, "second").await, Release::Released);
    let next = other.mutex("a").acquire().await.unwrap();
    assert!(held.is_held() && !waiter.is_finished(), "they cannot know");
    cut_off(&proxy, Flow::Pass);
    let Loss::Evicted(eviction) = held.lost().await else { panic!("{:?}", held.lost().await) };
    assert_eq!(eviction.reason, "first");
    let refused = waiter.await.unwrap().unwrap_err();
    assert!(
        matches!(&refused, Error::Evicted { eviction, .. } if eviction.reason == "second"),
        "{refused:?}"
    );
    assert!(next.renew().await.unwrap() && busy.renew().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_is_told_at_once_also_after_an_outage_that_outlasted_a_request() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let other = calm_manager(&ensemble.url()).await;
    let (proxy, manager) = behind_proxy(&ensemble, Duration::from_secs(90)).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    cut_off(&proxy, Flow::Hold);
    proxy.cut();
    let since = Instant::now();
    eventually("requests have timed out", async || since.elapsed() > Duration::from_secs(4)).await;
    // The connection that is being made goes on, and no other one is lost.
    cut_off(&proxy, Flow::Pass);
    eventually("the session is back", async || guard.renew().await.is_ok_and(|held| held)).await;
    assert_eq!(evict(&other, "a", 0, "now").await, Release::Released);
    let told = tokio::time::timeout(Duration::from_secs(15), guard.lost()).await;
    let loss = told.expect("its next renewal is due only after 30 s");
    assert!(matches!(&loss, Loss::Evicted(eviction) if eviction.reason == "now"), "{loss:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_whose_sessions_expire_before_they_are_told_do_not_join_again() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let (proxy, owner) = behind_proxy(&ensemble, LEASE).await;
    let other = calm_manager(&ensemble.url()).await;
    let held = owner.mutex("a").acquire().await.unwrap();
    let busy = other.mutex("b").acquire().await.unwrap();
    let waiter = waits(&owner, "b");
    queue_is(&other, "b", 1, 1).await;
    cut_off(&proxy, Flow::Hold);
    assert_eq!(evict(&other, "b", 1, "no").await, Release::Released);
    // The session expires: the holder's claim goes with it.
    queue_is(&other, "a", 0, 0).await;
    assert_eq!(held.lost().await, Loss::Expired);
    cut_off(&proxy, Flow::Pass);
    let refused = waiter.await.unwrap().unwrap_err();
    assert!(matches!(&refused, Error::Evicted { eviction, .. } if eviction.reason == "no"), "{refused:?}");
    busy.release().await.unwrap();
    queue_is(&other, "b", 0, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_outlives_the_process_that_has_written_it() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let (proxy, owner) = behind_proxy(&ensemble, Duration::from_secs(60)).await;
    let held = owner.mutex("a").acquire().await.unwrap();
    cut_off(&proxy, Flow::Hold);
    let url = ensemble.url();
    // Its runtime ends with it, and all its connections are closed.
    let onlooker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async { evict(&calm_manager(&url).await, "a", 0, "bye").await })
    });
    assert_eq!(onlooker.join().unwrap(), Release::Released);
    cut_off(&proxy, Flow::Pass);
    let Loss::Evicted(eviction) = held.lost().await else { panic!("{:?}", held.lost().await) };
    assert_eq!(eviction.reason, "bye");
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_many_managers_are_evicted_one_after_the_other() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let other = calm_manager(&ensemble.url()).await;
    let owners = [calm_manager(&ensemble.url()).await, calm_manager(&ensemble.url()).await];
    let mut held = Vec::new();
    for owner in owners.iter().chain(&owners) {
        held.push(owner.mutex(format!("a{}", held.len())).acquire().await.unwrap());
    }
    // The first notice of all, the first to another manager, and further ones.
    for (number, guard) in held.iter().enumerate() {
        assert_eq!(evict(&other, &format!("a{number}"), 0, "").await, Release::Released);
        assert!(matches!(guard.lost().await, Loss::Evicted(_)));
    }
    let notices = children(&ensemble.hosts(), "/_glocks/%evicted");
    assert_eq!(notices.len(), 2, "one node for each manager: {notices:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_users_with_rights_evict() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let host = ensemble.hosts();
    let url = |user: &str| format!("zookeeper://{user}@{host}?acl=creator&prefix=/private");
    let owner = calm_manager(&url("app:secret")).await;
    let guard = owner.mutex("a").acquire().await.unwrap();
    let key = owner.inspect("a").await.unwrap().remove(0).key;
    let stranger = calm_manager(&url("other:secret")).await;
    let refused = stranger.evict("a", &key, "").await.unwrap_err();
    assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
    assert!(guard.renew().await.unwrap());
    let colleague = calm_manager(&url("app:secret")).await;
    assert_eq!(colleague.evict("a", &key, "mine").await.unwrap(), Release::Released);
    assert!(matches!(guard.lost().await, Loss::Evicted(eviction) if eviction.reason == "mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_may_not_read_the_notice_is_told_that_there_is_one() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let host = ensemble.hosts();
    let owner = calm_manager(&ensemble.url()).await;
    let guard = owner.mutex("a").acquire().await.unwrap();
    let onlooker = calm_manager(&format!("zookeeper://other:secret@{host}?acl=creator")).await;
    assert_eq!(evict(&onlooker, "a", 0, "secret").await, Release::Released);
    // It may not list the notices either, so it looks at its next renewal.
    assert!(!guard.renew().await.unwrap());
    assert!(matches!(guard.lost().await, Loss::Evicted(eviction) if eviction.reason.contains("ACL")));
}
