//! How many connections a store has, and what it does where it may have no more.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, waits};
use globallock_conformance::server::postgres::{Postgres, USER};

use crate::{LEASE, connections, manager, refusal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_locks_of_a_manager_share_few_connections() {
    let server = Postgres::start().unwrap();
    let manager = manager(&server.url()).await;
    let all = (0..100).map(|number| {
        let lock = manager.mutex(format!("many-{number}"));
        async move { lock.acquire().await.unwrap().release().await.unwrap() }
    });
    join_all(all).await;
    assert!((1..=4).contains(&connections(&server)), "{}", connections(&server));
    manager.close().await;
}

#[tokio::test]
async fn a_full_server_is_told_and_waited_for() {
    let server = Postgres::start().unwrap();
    server.sql(&format!("ALTER ROLE {USER} CONNECTION LIMIT 0"));
    let url = format!("{}?connections=1", server.url());
    let error = refusal(&url).await;
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("connections"), "{error}");
    let patient = tokio::spawn(async move { connect_for(&url, Duration::from_secs(30)).await });
    server.sql(&format!("ALTER ROLE {USER} CONNECTION LIMIT 1"));
    let manager = patient.await.unwrap().unwrap();
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn a_full_disk_is_told_and_waited_for() {
    let server = Postgres::start_with_disk().unwrap();
    let disk = server.disk().unwrap();
    disk.be_full(true).unwrap();
    // The first claim of all needs the first page of the table.
    let error = refusal(&server.url()).await;
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("its disk is full: free some of it"), "{error}");
    let manager = connect_for(&server.url(), Duration::from_secs(30)).await.unwrap();
    let lock = manager.mutex("a");
    let patient = tokio::spawn(async move { lock.acquire().await });
    disk.be_full(false).unwrap();
    assert!(patient.await.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn a_store_makes_do_with_the_one_connection_that_it_gets() {
    let server = Postgres::start().unwrap();
    server.sql(&format!("ALTER ROLE {USER} CONNECTION LIMIT 1"));
    eventually("who has set it up is gone", async || connections(&server) == 0).await;
    let manager = manager(&server.url()).await;
    let all = (0..30).map(|number| {
        let lock = manager.mutex(format!("many-{number}"));
        async move { lock.acquire().await.unwrap().release().await.unwrap() }
    });
    join_all(all).await;
    assert_eq!(connections(&server), 1);
}

#[tokio::test]
async fn connections_are_idle_between_requests() {
    let server = Postgres::start().unwrap();
    let manager = manager(&server.url()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let waiter = waits(&manager, "a");
    globallock_conformance::fixtures::queue_is(&manager, "a", 1, 1).await;
    let busy = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{USER}' AND state <> 'idle'");
    eventually("nobody is in a transaction", async || server.sql(&busy) == "0").await;
    // A waiter asks about as often as it renews, which is every third of a lease.
    let calls = "SELECT sum(xact_commit) FROM pg_stat_database WHERE datname = 'app'";
    let (since, before) = (Instant::now(), server.sql(calls).parse::<u64>().unwrap());
    eventually("a lease has passed", async || since.elapsed() > LEASE).await;
    let spent = server.sql(calls).parse::<u64>().unwrap() - before;
    println!("{spent} transactions within {:.1?}", since.elapsed());
    // Those of this test and of autovacuum among them.
    assert!(spent < 200, "{spent} transactions within {:.1?}", since.elapsed());
    guard.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn a_database_whose_transactions_are_serialisable_is_used_as_any() {
    let server = Postgres::start().unwrap();
    for isolation in ["serializable", "repeatable read"] {
        server.sql(&format!("ALTER ROLE {USER} SET default_transaction_isolation = '{isolation}'"));
        let managers = [manager(&server.url()).await, manager(&server.url()).await];
        let turns = (0..40).map(|number| {
            let lock = managers[number % 2].mutex("a");
            async move { lock.acquire().await.unwrap().release().await.unwrap() }
        });
        join_all(turns).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_that_share_a_connection_are_not_in_one_transaction() {
    let server = Postgres::start().unwrap();
    server.sql(&format!("ALTER ROLE {USER} SET default_transaction_isolation = 'serializable'"));
    for options in ["connections=1", "connections=1&plain=yes"] {
        let manager = manager(&format!("{}?{options}", server.url())).await;
        let owners = (0..8).map(|number| {
            let lock = manager.mutex(format!("shared-{number}"));
            tokio::spawn(async move {
                for _ in 0..40 {
                    lock.acquire().await.unwrap().release().await.unwrap();
                }
            })
        });
        join_all(owners).await.into_iter().for_each(Result::unwrap);
        let log = std::fs::read_to_string(server.log()).unwrap();
        assert!(!log.contains("already a transaction in progress"), "{options}");
    }
}
