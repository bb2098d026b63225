//! Evictions: past broken connections, and by hand.

use globallock::{Error, Loss, Release};
use globallock_conformance::fixtures::{queue_is, waits};
use globallock_conformance::proxy::Flow;
use globallock_conformance::server::postgres::Postgres;

use crate::{LEASE, behind_proxy, manager};

#[tokio::test]
async fn an_owner_that_was_away_is_told_of_its_eviction_when_it_is_back() {
    let server = Postgres::start().unwrap();
    let (proxy, url) = behind_proxy(&server, "?timeout=300ms").await;
    let [owner, other] = [manager(&url).await, manager(&server.url()).await];
    let guard = owner.mutex("a").acquire().await.unwrap();
    proxy.requests(Flow::Hold);
    proxy.cut();
    let key = other.inspect("a").await.unwrap().swap_remove(0).key;
    assert_eq!(other.evict("a", &key, "because").await.unwrap(), Release::Released);
    proxy.requests(Flow::Pass);
    let loss = guard.lost().await;
    assert!(matches!(&loss, Loss::Evicted(eviction) if eviction.reason == "because"), "{loss}");
}

#[tokio::test]
async fn a_waiter_is_evicted_by_a_push() {
    let server = Postgres::start().unwrap();
    let [owner, other] = [manager(&server.url()).await, manager(&server.url()).await];
    let _guard = other.mutex("a").acquire().await.unwrap();
    let waiter = waits(&owner, "a");
    queue_is(&other, "a", 1, 1).await;
    let key = other.inspect("a").await.unwrap().swap_remove(1).key;
    other.evict("a", &key, "because").await.unwrap();
    let error = tokio::time::timeout(LEASE, waiter).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, Error::Evicted { .. }), "{error}");
}

#[tokio::test]
async fn the_statement_of_the_document_breaks_a_lock_and_grants_it_to_the_next() {
    let server = Postgres::start().unwrap();
    let [owner, other] = [manager(&server.url()).await, manager(&server.url()).await];
    let guard = owner.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&other, "a", 1, 1).await;
    let document = include_str!("../../../../docs/postgres.md").replace('\n', " ");
    let begin = document.find("SELECT globallock.evict_2").expect("the document has it");
    let statement = &document[begin..begin + document[begin..].find('`').unwrap()];
    let statement = statement.replace("NAME", "a").replace('…', "granted IS NOT NULL");
    assert_eq!(server.sql(&statement), "released", "{statement}");
    assert!(waiter.await.unwrap().unwrap().is_held());
    assert!(matches!(guard.lost().await, Loss::Evicted(_)));
}
