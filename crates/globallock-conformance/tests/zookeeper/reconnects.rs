//! Many claims over connections that break: each new connection logs in and watches again.

use std::time::Duration;

use globallock::Result;
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::connect_for;
use globallock_conformance::proxy::Proxy;
use globallock_conformance::server::zookeeper::ZooKeeper;
use tokio::task::JoinSet;

/// A lease so long that its end grants nothing here.
const LONG: Duration = Duration::from_secs(60);
const NAMES: usize = 10;
const WAITERS: usize = 12;

#[tokio::test]
async fn a_crowd_is_served_over_connections_that_break() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let proxy = Proxy::start(ensemble.port(0)).await.unwrap();
    // Only the user that has created a node may delete it, so that a connection without its login is noticed.
    let url = format!("zookeeper://me:secret@127.0.0.1:{}?acl=creator&timeout=20s", proxy.port());
    let owner = connect_for(&url, LONG).await.unwrap();
    let mut first = Vec::new();
    for name in 0..NAMES {
        first.push(owner.mutex(name.to_string()).acquire().await.unwrap());
    }
    let mut waiters = JoinSet::<Result<()>>::new();
    for number in 0..NAMES * WAITERS {
        let owner = owner.clone();
        waiters.spawn(async move {
            let guard = owner.mutex((number % NAMES).to_string()).acquire().await?;
            tokio::task::yield_now().await;
            // Without an answer, it goes on in the background.
            let _ = guard.release().await;
            Ok(())
        });
    }
    eventually("all wait", async || {
        let mut waiting = 0;
        for name in 0..NAMES {
            waiting +=
                owner.inspect(name.to_string()).await.unwrap().iter().filter(|entry| !entry.held).count();
        }
        waiting == NAMES * WAITERS
    })
    .await;
    // One break while nobody moves, so that each watch must have been set again, and more on the way.
    proxy.cut();
    eventually("the connection is cut", async || proxy.cuts() >= 1).await;
    for guard in first {
        guard.release().await.unwrap();
    }
    let mut served = 0;
    let all = async {
        while let Some(waiter) = waiters.join_next().await {
            waiter.unwrap().unwrap();
            served += 1;
            if served % 20 == 0 {
                proxy.cut();
            }
        }
    };
    tokio::time::timeout(LONG / 2, all).await.expect("they are served long before a lease expires");
    assert_eq!(served, NAMES * WAITERS);
    assert!(proxy.cuts() >= 5, "{} connections were cut", proxy.cuts());
}
