//! The cost of a claim in a long queue.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use globallock::backend::{Claim, ClaimId, ClaimStatus};
use globallock::queue::Permits;
use globallock::{Backend, Name};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;

const MUTEX: Permits = Permits::MUTEX;
const READ: Permits = Permits::READ;

/// How many bytes the member has sent to its clients.
fn sent(cluster: &Etcd) -> u64 {
    let address = cluster.url().replace("etcd://", "");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let counted =
        text.lines().find_map(|line| line.strip_prefix("etcd_network_client_grpc_sent_bytes_total "));
    counted.and_then(|count| count.parse::<f64>().ok()).unwrap() as u64
}

fn claim(manager: u128, number: u64, permits: Permits) -> Claim {
    Claim::new(ClaimId::new(manager, number), Name::new("a").unwrap(), permits)
        .with_lease(Duration::from_secs(120))
}

/// Enqueues these claims, and returns how many bytes the answers had for each.
async fn join(cluster: &Etcd, store: &Arc<dyn Backend>, claims: impl Iterator<Item = Claim>) -> u64 {
    let before = sent(cluster);
    let mut count = 0;
    for claim in claims {
        assert_eq!(store.enqueue(&claim).await.unwrap(), ClaimStatus::Waiting);
        count += 1;
    }
    (sent(cluster) - before) / count
}

/// Joins behind 20 claims and behind 2,000, and compares the bytes of the answers for each join.
async fn costs_the_same(permits: Permits) {
    let cluster = Etcd::start(1).unwrap();
    let store = || async { globallock::connect_backend(&cluster.url()).await.unwrap() };
    let (crowd, same, first, last) = (store().await, 1, store().await, store().await);
    let holder = claim(9, 0, MUTEX);
    assert!(matches!(crowd.enqueue(&holder).await.unwrap(), ClaimStatus::Held(_)));
    let of = |manager: u128, numbers: std::ops::Range<u64>| numbers.map(move |n| claim(manager, n, permits));
    join(&cluster, &crowd, of(same, 0..20)).await;
    let few = [join(&cluster, &crowd, of(same, 20..30)).await, join(&cluster, &first, of(2, 0..10)).await];
    join(&cluster, &crowd, of(same, 30..2000)).await;
    let many =
        [join(&cluster, &crowd, of(same, 2000..2010)).await, join(&cluster, &last, of(3, 0..10)).await];
    println!(
        "bytes for each join behind 20 and 2,000, from the same store and from another: {few:?}, {many:?}"
    );
    assert!(many[0] <= few[0] * 2, "{many:?} after {few:?}");
    assert!(many[1] <= few[1] * 2 || permits == READ, "{many:?} after {few:?}");
    assert_eq!(crowd.inspect(&holder.name).await.unwrap().len(), 2031);
}

#[tokio::test]
async fn a_mutex_joins_behind_many_at_the_same_cost_as_behind_few() {
    costs_the_same(MUTEX).await;
}

#[tokio::test]
async fn a_reader_joins_behind_many_readers_at_the_same_cost_as_behind_few() {
    costs_the_same(READ).await;
}
