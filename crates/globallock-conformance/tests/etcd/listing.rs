//! The cost of a list of many names.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use globallock::backend::{Claim, ClaimId, ClaimStatus};
use globallock::queue::Permits;
use globallock::{LockKind, Name, Summary};
use globallock_conformance::fixtures::{calm_manager, patient};
use globallock_conformance::proxy::Flow;
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;

use super::late::behind_a_proxy;

const NAMES: u64 = 3000;
const DELAY: Duration = Duration::from_millis(20);
const LIMIT: Duration = Duration::from_secs(20);
// One round trip a name would take several times as long.
const _: () = assert!(NAMES * 2 * DELAY.as_millis() as u64 > 5 * LIMIT.as_millis() as u64);

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_names_are_listed_in_a_few_round_trips() {
    let cluster = Etcd::start(1).unwrap();
    let store = globallock::connect_backend(&patient(&cluster.url())).await.unwrap();
    let name = |number: u64| format!("many/{number:05}");
    let joins = stream::iter(0..NAMES).map(|number| {
        let (store, name) = (store.clone(), Name::new(name(number)).unwrap());
        let claim = Claim::new(ClaimId::new(9, number), name, Permits::READ).with_lease(LIMIT * 6);
        async move { assert!(matches!(store.enqueue(&claim).await.unwrap(), ClaimStatus::Held(_))) }
    });
    joins.buffer_unordered(64).collect::<()>().await;
    let (proxy, url) = behind_a_proxy(&cluster, "").await;
    let manager = calm_manager(&url).await;
    proxy.requests(Flow::Delay(DELAY));
    proxy.answers(Flow::Delay(DELAY));
    let begin = Instant::now();
    let listed: Vec<Summary> = manager.list("many/").try_collect().await.unwrap();
    let (took, asked) = (begin.elapsed(), proxy.held());
    println!("{NAMES} names in {took:?}, {asked} delayed parts");
    assert!(took < LIMIT, "{took:?}");
    let names: BTreeSet<&str> = listed.iter().map(|summary| summary.name.as_str()).collect();
    assert_eq!((listed.len() as u64, names.len() as u64), (NAMES, NAMES));
    for summary in &listed {
        assert_eq!((summary.kind, summary.holders, summary.waiters), (LockKind::Read, 1, 0));
        assert!(summary.fencing_token > 0 && summary.oldest.is_some());
    }
    let some: Vec<Summary> = manager.list("many/0012").try_collect().await.unwrap();
    assert_eq!(some.len(), 10);
}
