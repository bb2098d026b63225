//! What the leader knows of an owner's signs of life, if the member that has them stops before it reports
//! them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_calmly, connect_for, queue_is};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::{Setup, ZooKeeper};
use rustix::process::Signal;

const LEASE: Duration = Duration::from_secs(2);
/// Each has a session of its own, so that the member stops in as many places between two signs.
const OWNERS: usize = 12;

/// The leader rounds the end of a session up to its next tick. With short ticks that hides nothing.
#[tokio::test]
async fn an_owner_whose_member_stops_is_told_before_the_next_is_granted() {
    told_before_the_next(Duration::from_millis(100)).await;
}

/// The lease is two ticks, which is the shortest that the servers allow. Then reports are as rare as can be,
/// though the leader rounds a session up by a tick at most.
#[tokio::test]
async fn so_is_an_owner_of_the_shortest_session() {
    told_before_the_next(LEASE / 2).await;
}

async fn told_before_the_next(tick: Duration) {
    let setup = Setup { more: format!("tickTime={}\nsyncLimit=100\n", tick.as_millis()), ..Setup::default() };
    let ensemble = ZooKeeper::start_with(3, setup).unwrap();
    for round in 0..3 {
        let leader = ensemble.leader().unwrap();
        let member = (leader + 1) % 3;
        let url = format!("zookeeper://127.0.0.1:{}?timeout=1s", ensemble.port(member));
        let next = connect_calmly(&format!("zookeeper://127.0.0.1:{}", ensemble.port(leader))).await.unwrap();
        let (mut held, mut waiters) = (Vec::new(), Vec::new());
        for number in 0..OWNERS {
            let name = format!("{round}-{number}");
            let owner = connect_for(&url, LEASE).await.unwrap();
            let guard = Arc::new(owner.mutex(&*name).acquire().await.unwrap());
            held.push(Arc::clone(&guard));
            let next = next.clone();
            waiters.push(tokio::spawn(async move {
                let granted = next.mutex(&*name).acquire().await.unwrap();
                (granted, guard.is_held(), guard.remaining())
            }));
        }
        for number in 0..OWNERS {
            queue_is(&next, &format!("{round}-{number}"), 1, 1).await;
        }
        let since = Instant::now();
        eventually("the first leases are over", async || since.elapsed() > LEASE).await;
        assert!(held.iter().filter(|guard| guard.is_held()).count() > OWNERS / 2);
        ensemble.signal(member, Signal::STOP);
        for waiter in waiters {
            let (granted, is_held, remaining) = waiter.await.unwrap();
            assert!(!is_held, "{:?} of {} are left", remaining, granted.name());
        }
        ensemble.signal(member, Signal::CONT);
        ensemble.wait_serving().unwrap();
    }
}
