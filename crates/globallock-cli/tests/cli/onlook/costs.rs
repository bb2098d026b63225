//! What a list costs: few requests however many names there are, on every store that is asked by requests.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use globallock::backend::{Claim, ClaimId, ClaimStatus};
use globallock::queue::Permits;
use globallock::{Name, connect_backend};
use globallock_conformance::fixtures::patient;
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::redis::Redis;

use super::Store;
use crate::support::{ended, globallock};

const NAMES: u64 = 1500;
/// How long each answer takes, so that requests which wait for each other are told from those which do not.
const DELAY: Duration = Duration::from_millis(20);
/// How many times the store may be asked.
const MOST: u64 = NAMES / 15;
// One round trip a name would take twice as long.
const LIMIT: Duration = Duration::from_secs(15);
const _: () = assert!(NAMES * DELAY.as_millis() as u64 >= 2 * LIMIT.as_millis() as u64);

/// Lists names of which each has a holder, over a network that takes its time.
async fn is_listed_in_few_requests(store: &Store, scheme: &str, port: u16) {
    let owner = connect_backend(&patient(&store.url())).await.unwrap();
    let held = stream::iter(0..NAMES).map(|number| {
        let name = Name::new(format!("many/{number}")).unwrap();
        let claim = Claim::new(ClaimId::new(7, number), name, Permits::MUTEX).with_lease(10 * LIMIT);
        let owner = &owner;
        async move { matches!(owner.enqueue(&claim).await.unwrap(), ClaimStatus::Held(_)) }
    });
    assert!(held.buffer_unordered(64).all(async |held| held).await);
    let proxy = Proxy::start(port).await.unwrap();
    proxy.answers(Flow::Delay(DELAY));
    let url = patient(&format!("{scheme}://127.0.0.1:{}", proxy.port()));
    let begun = Instant::now();
    let listing = tokio::task::spawn_blocking(move || {
        ended(globallock().args(["ls", "many/", "-o", "name"]).env("GLOBALLOCK_URL", url))
    });
    let listed = listing.await.unwrap();
    let (took, asked) = (begun.elapsed(), proxy.asked());
    println!("{scheme}: {NAMES} names in {took:.1?}, asked {asked} times");
    assert_eq!((listed.status, listed.error.as_str()), (Some(0), ""));
    assert_eq!(listed.output.lines().count() as u64, NAMES);
    assert!(asked < MOST && took < LIMIT, "{asked} {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_asked_a_few_times_for_many_names() {
    let store = Store::redis();
    let Store::Redis(server) = &store else { unreachable!() };
    is_listed_in_few_requests(&store, "redis", server.port()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_is_asked_a_few_times_for_many_names() {
    let store = Store::etcd();
    let Store::Etcd(cluster) = &store else { unreachable!() };
    is_listed_in_few_requests(&store, "etcd", cluster.ports()[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn zookeeper_is_asked_a_few_times_for_many_names() {
    let store = Store::zookeeper();
    let Store::ZooKeeper(ensemble) = &store else { unreachable!() };
    is_listed_in_few_requests(&store, "zookeeper", ensemble.port(0)).await;
}

#[test]
fn ten_thousand_names_are_listed_in_a_moment_by_a_page_of_names_at_a_time() {
    let server = Redis::start().unwrap();
    let script = "
        local now = redis.call('TIME')
        for number = 1, 10000 do
            local value = string.format('glk1:%032x:%.0f::0:1/1:x', number, now[1] * 1000000 + number)
            redis.call('SET', '_glocks:many-' .. number, value, 'PX', 600000)
        end";
    assert_eq!(server.cli(&["EVAL", script, "0"]), "");
    let begun = Instant::now();
    let listed = ended(globallock().args(["ls", "--sort", "age"]).env("GLOBALLOCK_URL", server.url()));
    println!("10000 names in {:.1?}", begun.elapsed());
    assert_eq!((listed.status, listed.output.lines().count()), (Some(0), 10_001));
    // On an idle machine it is half a second.
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    let statistics = server.cli(&["INFO", "commandstats"]);
    let calls = |command: &str| {
        let (_, rest) = statistics.split_once(&format!("cmdstat_{command}:calls=")).unwrap();
        rest.split(',').next().unwrap().parse::<u64>().unwrap()
    };
    // A few hundred are asked again, because the server does not have the script at first.
    assert!(calls("scan") <= 12 && calls("evalsha") <= 11_000, "{statistics}");
}
