//! A manager is made while its store is not there; its first request waits for the store.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt};
use globallock::{EntryKey, Error, LockManager, ManagerOptions, Options, Release, Result};
use globallock_conformance::context::eventually;
use globallock_conformance::proxy::Proxy;
use globallock_conformance::server::free_port;

use crate::store::{BUSY, Store};

const LEASE: Duration = Duration::from_secs(5);

pub(crate) async fn the_first_request_waits_for_the_store(store: Store) {
    let proxy = Proxy::start(free_port()).await.unwrap();
    let open = |locks: Options| {
        LockManager::connect_lazy(&store.behind(proxy.port()), ManagerOptions::new().locks(locks)).unwrap()
    };
    let patient = Options::new().lease(LEASE).store_timeout(LEASE * 20);
    let owner = open(patient.clone());
    let lock = owner.mutex("a");
    let acquired = tokio::spawn(async move { lock.acquire().await });
    eventually("it has tried more than once", async || proxy.connections() >= 3).await;
    assert!(!acquired.is_finished());

    // Others give up when their wait or their store timeout has passed, with the reason.
    let limit = Duration::from_secs(1);
    for impatient in [patient.clone().wait(limit), patient.store_timeout(limit)] {
        let began = Instant::now();
        let manager = open(impatient);
        let refused = manager.mutex("b").acquire().await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
        let told = refused.to_string();
        assert!(told.contains(&store.kind[..4]) && told.contains("connection"), "{told}");
        assert!(began.elapsed() < limit + BUSY, "{:?}", began.elapsed());
        manager.close().await;
    }

    proxy.redirect_to(store.port());
    let guard = acquired.await.unwrap().unwrap();
    assert!(guard.is_held());
    guard.release().await.unwrap();
    let left = ["a", "b"].map(str::to_owned);
    eventually("nothing is left", async || store.leftovers(&left).is_empty()).await;
}

/// What onlookers ask of a lock that somebody has.
type Look = for<'a> fn(&'a LockManager) -> BoxFuture<'a, Result<()>>;

const LOOKS: [(&str, Look); 4] = [
    ("inspect", |manager| {
        async { manager.inspect("a").await.map(|found| assert_eq!(found.len(), 1)) }.boxed()
    }),
    ("list", |manager| {
        async { manager.list("").try_collect::<Vec<_>>().await.map(|found| assert_eq!(found.len(), 1)) }
            .boxed()
    }),
    ("watch", |manager| {
        async { manager.watch("", LEASE).next().await.expect("it goes on").map(drop) }.boxed()
    }),
    ("evict", |manager| {
        async {
            let nobody = manager.evict("a", &EntryKey::new("none"), "").await?;
            assert_eq!(nobody, Release::NotHeld);
            Ok(())
        }
        .boxed()
    }),
];

pub(crate) async fn onlookers_wait_for_the_store_as_locks_do(store: Store) {
    let direct = LockManager::connect(&store.url()).await.unwrap();
    let held = direct.mutex("a").acquire().await.unwrap();
    for (what, look) in LOOKS {
        let proxy = Proxy::start(free_port()).await.unwrap();
        let open = |timeout: Duration| {
            let locks = Options::new().lease(LEASE).store_timeout(timeout);
            LockManager::connect_lazy(&store.behind(proxy.port()), ManagerOptions::new().locks(locks))
                .unwrap()
        };
        let limit = Duration::from_secs(1);
        let (began, impatient) = (Instant::now(), open(limit));
        let refused = look(&impatient).await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable { .. }), "{what}: {refused:?}");
        let took = began.elapsed();
        assert!(limit / 2 < took && took < limit + BUSY, "{what}: {took:?}");
        let tried = proxy.connections();
        assert!(tried >= 3, "{what}: {tried}");

        let patient = open(LEASE * 20);
        let looked = tokio::spawn(async move { look(&patient).await });
        eventually("it has tried more than once", async || proxy.connections() >= tried + 3).await;
        assert!(!looked.is_finished(), "{what}");
        proxy.redirect_to(store.port());
        looked.await.unwrap().unwrap();
    }
    held.release().await.unwrap();
}
