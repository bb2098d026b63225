//! Many names are listed in few round trips.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use globallock::{Error, LockKind, Summary};
use globallock_conformance::proxy::Flow;
use globallock_conformance::server::postgres::Postgres;

use crate::{behind_proxy, manager};

/// Makes so many names that have a holder each.
fn fill(server: &Postgres, count: u32) {
    let said = server.sql(&format!(
        "INSERT INTO globallock.claims
             (number, id, key, count, capacity, node, lease, joined, granted, expires, owner)
         SELECT n, gen_random_uuid(), '_glocks:many-' || n, 1, 1, '', 600000, now(), now(),
             now() + interval '10 minutes', 'host=db1'
         FROM generate_series(1, {count}) n"
    ));
    assert_eq!(said, "");
}

#[tokio::test]
async fn thousands_of_names_are_listed_in_seconds_over_a_slow_network() {
    const NAMES: u32 = 10_000;
    let server = Postgres::start().unwrap();
    fill(&server, NAMES);
    let (proxy, url) = behind_proxy(&server, "").await;
    let manager = manager(&url).await;
    for flow in [Flow::Delay(Duration::from_millis(20)), Flow::Pass] {
        proxy.answers(flow);
        let since = Instant::now();
        let listed: Vec<Summary> = manager.list("many-").try_collect().await.unwrap();
        println!("{NAMES} names with {flow:?}: {:.1?}", since.elapsed());
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        let mut names: Vec<&str> = listed.iter().map(|summary| summary.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NAMES as usize);
        let is_one =
            |listed: &Summary| (listed.kind, listed.holders, listed.waiters) == (LockKind::Mutex, 1, 0);
        assert!(listed.iter().all(is_one));
    }
}

#[tokio::test]
async fn only_names_that_begin_so_are_listed_whatever_characters_they_have() {
    let server = Postgres::start().unwrap();
    let manager = manager(&server.url()).await;
    let names = ["a%b", "a_b", "a\\b", "a'b", "a\"b", "aé", "a", "b", "A"];
    let mut guards = Vec::new();
    for name in names {
        guards.push(manager.mutex(name).acquire().await.unwrap());
    }
    for prefix in ["", "a", "a%", "a_", "a\\", "a'", "a\"", "aé", "nothing"] {
        let listed: Vec<Summary> = manager.list(prefix).try_collect().await.unwrap();
        let mut listed: Vec<&str> = listed.iter().map(|summary| summary.name.as_str()).collect();
        let mut expected: Vec<&str> = names.into_iter().filter(|name| name.starts_with(prefix)).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected, "{prefix}");
    }
}

#[tokio::test]
async fn a_list_from_a_server_that_has_gone_ends_with_one_error() {
    let mut server = Postgres::start().unwrap();
    let backend = globallock::connect_backend(&format!("{}?timeout=300ms", server.url())).await.unwrap();
    server.kill();
    let listed: Result<Vec<Summary>, Error> = backend.list("").try_collect().await;
    assert!(listed.as_ref().is_err_and(Error::is_unavailable), "{listed:?}");
}
