//! A pooler between: no session belongs to anybody.

use std::time::Duration;

use futures_util::future::join_all;
use globallock_conformance::fixtures::{connect_for, queue_is, waits};
use globallock_conformance::server::postgres::{Pooler, Postgres, USER};

/// Claims are renewed after 10 s.
const LEASE: Duration = Duration::from_secs(30);
/// Before any renewal.
const SOON: Duration = Duration::from_secs(8);

#[tokio::test]
async fn a_waiter_is_granted_soon_in_each_mode_of_a_pooler() {
    let server = Postgres::start().unwrap();
    for mode in ["transaction", "session", "statement"] {
        let pooler = Pooler::start_with(server.port(), &format!("pool_mode = {mode}")).unwrap();
        // Without functions, a request is several statements.
        let plain = (mode != "statement").then(|| "?plain=yes".to_owned());
        let pushed = format!("?listen=127.0.0.1:{}", server.port());
        for options in [Some(String::new()), Some(pushed), plain].into_iter().flatten() {
            let url = format!("{}{options}", pooler.url());
            let [one, other] =
                [connect_for(&url, LEASE).await.unwrap(), connect_for(&url, LEASE).await.unwrap()];
            let guard = one.mutex("a").acquire().await.unwrap();
            let waiter = waits(&other, "a");
            queue_is(&one, "a", 1, 1).await;
            guard.release().await.unwrap();
            let granted = tokio::time::timeout(SOON, waiter).await;
            let granted = granted.unwrap_or_else(|_| panic!("{mode}{options}: it needs no renewal"));
            granted.unwrap().unwrap().release().await.unwrap();
        }
    }
}

#[tokio::test]
async fn nothing_listens_through_a_pooler_that_pools_transactions() {
    let server = Postgres::start().unwrap();
    let pooler = Pooler::start(server.port()).unwrap();
    let url = pooler.url();
    let managers = join_all((0..5).map(|_| connect_for(&url, LEASE))).await;
    for manager in &managers {
        manager.as_ref().unwrap().mutex("a").acquire().await.unwrap().release().await.unwrap();
    }
    // A session of the pooler that listened would get messages for nobody.
    let listens = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'LISTEN%'";
    assert_eq!(server.sql(listens), "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_managers_share_the_few_connections_of_a_pooler() {
    let server = Postgres::start().unwrap();
    let pooler = Pooler::start_with(server.port(), "default_pool_size = 2").unwrap();
    let urls = [pooler.url(), format!("{}?plain=yes", pooler.url())];
    let managers = join_all((0..20).map(|number| connect_for(&urls[number % 2], LEASE))).await;
    let turns = managers.iter().map(|manager| {
        let lock = manager.as_ref().unwrap().mutex("a");
        async move { lock.acquire().await.unwrap().release().await.unwrap() }
    });
    join_all(turns).await;
    let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}'");
    assert!(server.sql(&count).parse::<u32>().unwrap() <= 2);
}

#[tokio::test]
async fn a_pooler_that_restarts_loses_no_lock() {
    let server = Postgres::start().unwrap();
    let mut pooler = Pooler::start(server.port()).unwrap();
    let manager = connect_for(&pooler.url(), LEASE).await.unwrap();
    let guard = manager.mutex("a").acquire().await.unwrap();
    pooler.kill();
    pooler.resume_after_kill().unwrap();
    assert!(guard.renew().await.unwrap());
    guard.release().await.unwrap();
}
