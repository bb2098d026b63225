//! A cluster whose database is full: it refuses what takes room, until an operator makes some.

use std::time::{Duration, Instant};

use globallock::{Error, LockManager, Options, Release};
use globallock_conformance::context::{LIMIT, eventually, lock_of};
use globallock_conformance::fixtures::{LEASE, calm_manager, connect, manager, queue_is};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;

/// How many bytes its database has room for.
const SMALL: usize = 1 << 20;
/// What holds, and what waits for it.
const KINDS: [(&str, &str); 4] = [("mutex", "mutex"), ("read", "write"), ("write", "read"), ("1/2", "2/2")];

fn small() -> Etcd {
    Etcd::start_small(1, SMALL).unwrap()
}

/// The keys of all claims, and of what else globallock has put.
fn keys(cluster: &Etcd) -> String {
    cluster.ctl(&["get", "--prefix", "--keys-only", "/locks/"])
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_of_a_full_cluster_renew_and_release_and_waiters_are_granted() {
    let cluster = small();
    let [holder, other] = [manager(&cluster.url()).await, manager(&cluster.url()).await];
    let mut held = Vec::new();
    for (kind, against) in KINDS {
        let name = kind.replace('/', "-");
        let guard = lock_of(&holder, &name, kind).unwrap().acquire().await.unwrap();
        let waiter = lock_of(&other, &name, against).unwrap();
        let waiter = tokio::spawn(async move { waiter.acquire().await });
        queue_is(&holder, &name, 1, 1).await;
        held.push((name, guard, waiter));
    }
    cluster.fill().unwrap();
    let since = Instant::now();
    eventually("three leases have passed", async || since.elapsed() > LEASE * 3).await;
    let mut next = Vec::new();
    for (name, guard, waiter) in held {
        assert!(guard.is_held() && !waiter.is_finished(), "{name}");
        assert_eq!(guard.release().await.unwrap(), Release::Released, "{name}");
        let granted = tokio::time::timeout(LIMIT, waiter).await.expect("it is granted").unwrap().unwrap();
        assert!(granted.is_held(), "{name}");
        next.push((name, granted));
    }
    let since = Instant::now();
    eventually("two leases have passed", async || since.elapsed() > LEASE * 2).await;
    for (name, guard) in next {
        assert!(guard.is_held(), "{name}");
        assert_eq!(guard.release().await.unwrap(), Release::Released, "{name}");
        queue_is(&holder, &name, 0, 0).await;
    }
    assert!(cluster.is_full());
    drop((holder, other));
    eventually("nothing is left", async || keys(&cluster).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_cluster_is_told_with_the_remedy_and_nothing_is_left() {
    let cluster = small();
    let expected = format!(
        "{} is unavailable: its database is full (etcdserver: mvcc: database space exceeded): compact and \
         defragment it, or raise --quota-backend-bytes; then run etcdctl alarm disarm",
        cluster.url()
    );
    let briefly = Options::new().lease(LEASE).store_timeout(Some(Duration::from_millis(300)));
    let refused = async |manager: &LockManager| {
        let lock = manager.mutex("b").with_options(briefly.clone());
        let tried = lock.try_acquire().await.unwrap_err();
        let waited = lock.wait(Duration::from_millis(200)).acquire().await.unwrap_err();
        for error in [tried, waited] {
            assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
            assert_eq!(error.to_string(), expected);
        }
    };
    // It has a lease already, and the other manager asks for one.
    let first = calm_manager(&cluster.url()).await;
    let guard = first.mutex("a").acquire().await.unwrap();
    cluster.fill().unwrap();
    refused(&connect(&cluster.url()).await.unwrap()).await;
    refused(&first).await;
    queue_is(&first, "b", 0, 0).await;
    guard.release().await.unwrap();
    drop(first);
    eventually("nothing is left", async || keys(&cluster).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_a_full_cluster_is_granted_once_there_is_room() {
    let cluster = small();
    let [first, second] = [calm_manager(&cluster.url()).await, calm_manager(&cluster.url()).await];
    first.mutex("a").acquire().await.unwrap().release().await.unwrap();
    cluster.fill().unwrap();
    let asks = [&first, &second].map(|manager| {
        let lock = manager.mutex("a");
        tokio::spawn(async move { lock.acquire().await?.release().await })
    });
    let since = Instant::now();
    eventually("a second has passed", async || since.elapsed() > Duration::from_secs(1)).await;
    assert!(asks.iter().all(|asks| !asks.is_finished()));
    cluster.make_room();
    for asks in asks {
        let released = tokio::time::timeout(LIMIT, asks).await.expect("it is granted").unwrap();
        assert_eq!(released.unwrap(), Release::Released);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_interop_a_full_cluster_renews_and_releases_and_grants_once_there_is_room() {
    let cluster = small();
    let url = format!("{}?interop=python-etcd3", cluster.url());
    let [holder, other] = [manager(&url).await, calm_manager(&url).await];
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = other.mutex("a");
    let waiter = tokio::spawn(async move { waiter.acquire().await });
    eventually("it waits", async || holder.inspect("a").await.unwrap().len() == 2).await;
    cluster.fill().unwrap();
    let since = Instant::now();
    eventually("two leases have passed", async || since.elapsed() > LEASE * 2).await;
    assert!(guard.is_held() && !waiter.is_finished());
    match guard.release().await {
        // It refuses every transaction. The release goes on in the background.
        Err(error) if cluster.version() == "3.5.1" => {
            assert!(error.to_string().contains("database is full"), "{error}");
        }
        released => assert_eq!(released.unwrap(), Release::Released),
    }
    // It has to put the python-etcd3 key.
    let since = Instant::now();
    eventually("a second has passed", async || since.elapsed() > Duration::from_secs(1)).await;
    assert!(!waiter.is_finished());
    cluster.make_room();
    let granted = tokio::time::timeout(LIMIT, waiter).await.expect("it is granted").unwrap().unwrap();
    assert_eq!(granted.release().await.unwrap(), Release::Released);
}
