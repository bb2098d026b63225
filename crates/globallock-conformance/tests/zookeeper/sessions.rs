//! Sessions, and what happens to their claims.

use std::time::{Duration, Instant};

use globallock::{Guard, LockManager, Loss, ManagerOptions, Options};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{LEASE, calm_manager, connect_for, manager, patient, queue_is, waits};
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::{
    ZooKeeper, ask, children, delete_children, end_session, last_transaction, sessions,
};

async fn behind_proxy(ensemble: &ZooKeeper) -> (Proxy, String) {
    let proxy = Proxy::start(ensemble.port(0)).await.unwrap();
    let url = format!("zookeeper://127.0.0.1:{}?timeout=1s", proxy.port());
    (proxy, url)
}

#[tokio::test]
async fn a_loss_is_reported_before_the_servers_end_the_session() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let (proxy, url) = behind_proxy(&ensemble).await;
    let [owner, next] = [manager(&url).await, calm_manager(&ensemble.url()).await];
    let guard = owner.mutex("a").acquire().await.unwrap();
    let waiter = waits(&next, "a");
    queue_is(&next, "a", 1, 1).await;
    proxy.requests(Flow::Hold);
    assert_eq!(guard.lost().await, Loss::Expired);
    assert!(!waiter.is_finished(), "the servers have not granted it to another yet");
    let next = waiter.await.unwrap().unwrap();
    assert!(next.fencing_token() > guard.fencing_token());
    assert!(proxy.held() > 0);
    // The network is back, and a new session is created.
    proxy.requests(Flow::Pass);
    next.release().await.unwrap();
    assert!(owner.mutex("a").acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn a_broken_connection_loses_nothing() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let (proxy, url) = behind_proxy(&ensemble).await;
    let owner = connect_for(&url, Duration::from_secs(60)).await.unwrap();
    let holder = calm_manager(&ensemble.url()).await;
    let held = owner.mutex("a").acquire().await.unwrap();
    let other = holder.mutex("b").acquire().await.unwrap();
    let waiter = waits(&owner, "b");
    queue_is(&holder, "b", 1, 1).await;
    for cut in 1..=10 {
        proxy.cut();
        eventually("the connection is cut", async || proxy.cuts() >= cut).await;
        // A new connection serves.
        owner.inspect("a").await.unwrap();
    }
    other.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
    assert!(held.is_held());
}

#[tokio::test]
async fn an_answer_that_is_lost_makes_no_second_claim() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let (proxy, url) = behind_proxy(&ensemble).await;
    let owner = connect_for(&url, Duration::from_secs(60)).await.unwrap();
    let observer = calm_manager(&ensemble.url()).await;
    // This creates the lock's node, so that the lost answer is the one to the claim's creation.
    owner.mutex("a").acquire().await.unwrap().release().await.unwrap();
    proxy.answers(Flow::Swallow);
    let asked = waits(&owner, "a");
    eventually("the claim is created", async || !children(&ensemble.hosts(), "/_glocks/a").is_empty()).await;
    eventually("its answer is lost", async || proxy.swallowed() > 0).await;
    proxy.answers(Flow::Pass);
    proxy.cut();
    let guard = asked.await.unwrap().unwrap();
    assert_eq!(observer.inspect("a").await.unwrap().len(), 1);
    guard.release().await.unwrap();
    queue_is(&observer, "a", 0, 0).await;
}

#[tokio::test]
async fn a_request_that_arrives_late_leaves_no_claim() {
    let ensemble = ZooKeeper::start(3).unwrap();
    let (proxy, _) = behind_proxy(&ensemble).await;
    let url = format!("zookeeper://127.0.0.1:{},127.0.0.1:{}?timeout=500ms", proxy.port(), ensemble.port(1));
    let last = || last_transaction(ensemble.port(0)).unwrap();
    // Repeated until a request goes through the proxy and is carried out late: a session chooses its server
    // at random, and a server may drop what it finds on a connection that has ended. The sessions of all
    // tries live on, because the end of one would count as a transaction.
    let mut sessions = Vec::new();
    loop {
        let owner = connect_for(&url, Duration::from_secs(60)).await.unwrap();
        let (busy, lock) = (owner.mutex(format!("b{}", sessions.len())), owner.mutex("a"));
        sessions.push(busy.acquire().await.unwrap());
        lock.acquire().await.unwrap().release().await.unwrap();
        let held = proxy.held();
        proxy.requests(Flow::Hold);
        lock.acquire().await.unwrap().release().await.unwrap();
        let (is_held, before) = (proxy.held() > held, last());
        proxy.requests(Flow::Pass);
        // The server that has lost the session passes the request on, and it is refused. That counts as a
        // transaction too.
        let carried_out = eventually("the held request is carried out", async || last() > before);
        if is_held && tokio::time::timeout(Duration::from_secs(2), carried_out).await.is_ok() {
            break;
        }
    }
    eventually("no claim is left", async || children(&ensemble.hosts(), "/_glocks/a").is_empty()).await;
    assert!(sessions.iter().all(Guard::is_held), "the sessions live on");
}

#[tokio::test]
async fn a_waiter_whose_node_was_deleted_is_not_granted_by_the_next_deletion() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let [holder, other] = [calm_manager(&ensemble.url()).await, calm_manager(&ensemble.url()).await];
    for _ in 0..3 {
        let guard = holder.mutex("a").acquire().await.unwrap();
        let waiter = waits(&other, "a");
        queue_is(&holder, "a", 1, 1).await;
        // The waiter first, then the holder.
        delete_children(&ensemble.hosts(), "/_glocks/a");
        let next = waiter.await.unwrap().unwrap();
        let queue = holder.inspect("a").await.unwrap();
        assert_eq!(
            (queue.len(), queue[0].fencing_token),
            (1, next.fencing_token()),
            "its claim is in the store"
        );
        assert_eq!(guard.lost().await, Loss::Revoked);
        next.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_claim_on_a_dead_session_is_not_granted() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let (proxy, url) = behind_proxy(&ensemble).await;
    // A store timeout that is longer than the session's.
    let locks = Options::new().lease(LEASE).store_timeout(Some(Duration::from_secs(60)));
    let both = LockManager::connect_with(&url, ManagerOptions::new().locks(locks));
    let [both, observer] = [both.await.unwrap(), calm_manager(&ensemble.url()).await];
    let guard = both.mutex("a").acquire().await.unwrap();
    let waiter = waits(&both, "a");
    queue_is(&observer, "a", 1, 1).await;
    // The session of both claims expires, and their owner learns of that afterwards.
    proxy.requests(Flow::Hold);
    proxy.answers(Flow::Hold);
    queue_is(&observer, "a", 0, 0).await;
    proxy.answers(Flow::Pass);
    proxy.requests(Flow::Pass);
    let next = waiter.await.unwrap().unwrap();
    let queue = observer.inspect("a").await.unwrap();
    assert_eq!((queue.len(), queue[0].fencing_token), (1, next.fencing_token()), "its claim is in the store");
    assert!(!guard.is_held());
}

#[tokio::test]
async fn a_session_without_claims_stays_open_and_is_closed_with_its_manager() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let sessions = || {
        let connections = ask(ensemble.port(0), "cons").unwrap();
        connections.lines().filter(|line| line.contains("sid=0x")).count()
    };
    let owner = connect_for(&ensemble.url(), Duration::from_secs(1)).await.unwrap();
    owner.mutex("a").acquire().await.unwrap().release().await.unwrap();
    let token = owner.mutex("a").acquire().await.unwrap().fencing_token();
    let since = Instant::now();
    eventually("three leases go by", async || since.elapsed() > Duration::from_secs(3)).await;
    let requests = || ask(ensemble.port(0), "srvr").unwrap();
    assert!(requests().contains("Mode"), "it serves");
    let before = sessions();
    assert!(owner.mutex("a").acquire().await.unwrap().fencing_token() > token);
    assert_eq!(sessions(), before, "no session had to be created");
    drop(owner);
    eventually("its sessions are closed", async || sessions() == 0).await;
}

#[tokio::test]
async fn a_session_that_somebody_else_closes_is_reported() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let [owner, other] = [calm_manager(&ensemble.url()).await, calm_manager(&ensemble.url()).await];
    let held = owner.mutex("a").acquire().await.unwrap();
    let [session] = sessions(ensemble.port(0)).unwrap().try_into().unwrap();
    let busy = other.mutex("b").acquire().await.unwrap();
    let waiter = waits(&owner, "b");
    let next = waits(&other, "a");
    queue_is(&other, "a", 1, 1).await;
    queue_is(&other, "b", 1, 1).await;
    end_session(ensemble.port(0), session).unwrap();
    assert!(!sessions(ensemble.port(0)).unwrap().contains(&session));
    // The servers say so long before the owner's own deadline.
    assert_eq!(held.lost().await, Loss::Revoked);
    assert!(next.await.unwrap().unwrap().fencing_token() > held.fencing_token());
    // The waiter is enqueued again, in a new session.
    queue_is(&other, "b", 1, 1).await;
    busy.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn used_up_sequence_numbers_restart() {
    let mut ensemble = ZooKeeper::start(1).unwrap();
    let early = calm_manager(&ensemble.url()).await;
    let before = early.mutex("a").acquire().await.unwrap();
    let last = before.fencing_token();
    before.release().await.unwrap();
    early.close().await;
    ensemble.set_sequence("/_glocks/a", i32::MAX - 2).unwrap();
    // A waiter that is refused a number is enqueued again at its renewals.
    let owner = connect_for(&patient(&ensemble.url()), Duration::from_secs(12)).await.unwrap();
    let first = owner.mutex("a").acquire().await.unwrap();
    let second = waits(&owner, "a");
    queue_is(&owner, "a", 1, 1).await;
    // The server has one number left, and would give it to every further claim.
    for _ in 0..3 {
        let refused = owner.mutex("a").try_acquire().await.unwrap_err();
        assert!(refused.to_string().contains("used up"), "{refused}");
    }
    let third = waits(&owner, "a");
    assert!(first.fencing_token() > last);
    first.release().await.unwrap();
    let second = second.await.unwrap().unwrap();
    let token = second.fencing_token();
    assert!(token > last);
    second.release().await.unwrap();
    let third = third.await.unwrap().unwrap();
    assert!(third.fencing_token() > token);
    let nodes = children(&ensemble.hosts(), "/_glocks/a");
    assert!(nodes.len() == 1 && nodes[0].ends_with("__0000000000"), "{nodes:?}");
}
