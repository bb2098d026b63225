//! A manager is made while its store is not there; its first request waits for the store.

use std::time::{Duration, Instant};

use globallock::{Error, LockManager, ManagerOptions, Options};
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
