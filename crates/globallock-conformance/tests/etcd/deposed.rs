//! A leader whose disk hangs: the others elect another one, and it does not learn that it was deposed.
//!
//! Before 3.4.31 and 3.5.13 it goes on to answer keep-alives, while the next leader lets the lease expire.

use std::time::{Duration, Instant};

use globallock::{Guard, LockManager, Loss, Options, Result};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, queue_is, waits};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::{Etcd, HungDisk};
use tokio::task::JoinHandle;

/// The owner's address, which begins with the leader, and an address without the leader.
fn urls(cluster: &Etcd, leader: usize, timeout: Duration) -> [String; 2] {
    let mut ports = cluster.ports();
    let leader = ports.remove(leader);
    let others: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let (others, timeout) = (others.join(","), timeout.as_millis());
    [
        format!("etcd://127.0.0.1:{leader},{others}?timeout={timeout}ms"),
        format!("etcd://{others}?timeout={timeout}ms"),
    ]
}

/// An owner that talks to the leader holds a lock, and another waits for it that does not.
async fn contended(
    cluster: &Etcd,
    leader: usize,
    lease: Duration,
    timeout: Duration,
) -> (Guard, JoinHandle<Result<Guard>>) {
    let [first, others] = urls(cluster, leader, timeout);
    let owner = connect_for(&first, lease).await.unwrap();
    // While the next leader is elected, nobody answers.
    let patient = Options::new().lease(lease).store_timeout(Duration::from_secs(60));
    let other = LockManager::connect_with(&others, patient).await.unwrap();
    let guard = owner.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&other, "a", 1, 1).await;
    (guard, waiter)
}

/// Makes the leader's disk hang, and waits until there are two leaders.
async fn deposed(cluster: &Etcd, leader: usize) -> HungDisk {
    let hung = cluster.hang_disk(leader).unwrap();
    eventually("there is another leader", async || cluster.leaders().len() == 2).await;
    assert!(cluster.leaders().contains(&leader), "it does not know");
    hung
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_that_only_a_deposed_leader_renews_is_lost_before_the_next_owner_has_it() {
    let cluster = Etcd::start(3).unwrap();
    let leader = cluster.leader().unwrap();
    // A request waits for the deposed leader longer than the next one keeps the lease.
    let (lease, timeout) = (Duration::from_secs(3), Duration::from_secs(20));
    let (guard, waiter) = contended(&cluster, leader, lease, timeout).await;
    let hung = deposed(&cluster, leader).await;
    let next = tokio::spawn(async move {
        let next = waiter.await.unwrap().unwrap();
        (next, Instant::now())
    });
    assert_eq!(guard.lost().await, Loss::Expired);
    let lost = Instant::now();
    let (next, granted) = next.await.unwrap();
    assert!(lost < granted && !guard.is_held(), "two owners held it for {:?}", lost - granted);
    assert_eq!(cluster.leaders().len(), 2, "it was deposed all the time");
    assert!(next.is_held() && next.fencing_token() > guard.fencing_token());
    drop(hung);
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_whose_leader_is_deposed_is_renewed_with_the_next_one() {
    let cluster = Etcd::start(3).unwrap();
    let leader = cluster.leader().unwrap();
    let (lease, timeout) = (Duration::from_secs(8), Duration::from_secs(2));
    let (guard, waiter) = contended(&cluster, leader, lease, timeout).await;
    let hung = deposed(&cluster, leader).await;
    let since = Instant::now();
    eventually("two leases have passed", async || since.elapsed() > lease * 2).await;
    assert_eq!(cluster.leaders().len(), 2, "it was deposed all the time");
    assert!(guard.is_held() && !waiter.is_finished());
    drop(hung);
    guard.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
}
