//! Listing thousands of names over a slow network.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use globallock::backend::{Claim, ClaimId, ClaimStatus};
use globallock::queue::Permits;
use globallock::{LockKind, Name, Summary};
use globallock_conformance::fixtures::{calm_manager, patient};
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::ZooKeeper;

const NAMES: u64 = 3000;
const DELAY: Duration = Duration::from_millis(20);

#[tokio::test]
async fn thousands_of_names_are_listed_over_a_slow_network() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let owner = globallock::connect_backend(&patient(&ensemble.url())).await.unwrap();
    // Half of the names are nodes within nodes.
    let name =
        |number: u64| if number.is_multiple_of(2) { format!("n-{number}") } else { format!("in/n-{number}") };
    let claim = |number: u64| {
        Claim::new(ClaimId::new(7, number), Name::new(name(number)).unwrap(), Permits::MUTEX)
            .with_lease(Duration::from_secs(60))
    };
    let held = |number| {
        let (owner, claim) = (&owner, claim(number));
        async move { matches!(owner.enqueue(&claim).await.unwrap(), ClaimStatus::Held(_)) }
    };
    let all_held = stream::iter(0..NAMES).map(held).buffer_unordered(200).all(async |held| held).await;
    assert!(all_held);
    let proxy = Proxy::start(ensemble.port(0)).await.unwrap();
    let onlooker = calm_manager(&format!("zookeeper://127.0.0.1:{}", proxy.port())).await;
    proxy.requests(Flow::Delay(DELAY));
    proxy.answers(Flow::Delay(DELAY));
    for prefix in ["", "in/n", "n-1", "no"] {
        let since = Instant::now();
        let listed: Vec<Summary> = onlooker.list(prefix).try_collect().await.unwrap();
        // One round trip a name would take two minutes.
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        assert!(since.elapsed() >= DELAY, "the proxy delays");
        let names: BTreeSet<&str> = listed.iter().map(|summary| summary.name.as_str()).collect();
        let all: Vec<String> = (0..NAMES).map(name).collect();
        let wanted: BTreeSet<&str> =
            all.iter().map(String::as_str).filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(names, wanted);
        assert_eq!(listed.len(), names.len(), "each comes once");
        let good =
            |summary: &Summary| (&summary.kind, summary.holders, summary.waiters) == (&LockKind::Mutex, 1, 0);
        assert!(listed.iter().all(|summary| good(summary) && summary.fencing_token > 0));
    }
}
