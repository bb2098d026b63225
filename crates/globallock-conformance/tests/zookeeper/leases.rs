//! How many sessions a manager has, whatever leases its locks ask for.

use std::time::Duration;

use globallock::Options;
use globallock_conformance::context::{LIMIT, eventually};
use globallock_conformance::fixtures::{connect, manager};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::{Setup, ZooKeeper, ask};

/// The sessions that the server has, with and without claims.
fn sessions(ensemble: &ZooKeeper) -> usize {
    let connections = ask(ensemble.port(0), "cons").unwrap();
    connections.lines().filter(|line| line.contains("sid=0x")).count()
}

#[tokio::test]
async fn any_leases_need_few_sessions_and_idle_ones_are_closed() {
    // These servers allow two ticks to twenty: 500 ms to 5 s.
    let more = "tickTime=250\nmaxSessionTimeout=5000\n".to_owned();
    let ensemble = ZooKeeper::start_with(1, Setup { more, ..Setup::default() }).unwrap();
    let owner = manager(&ensemble.url()).await;
    let lock = |name: &str, lease| {
        // How long a busy ensemble takes is not tested here.
        let options = Options::new().lease(Duration::from_millis(lease)).store_timeout(Some(LIMIT));
        owner.mutex(name).with_options(options)
    };
    let mut held = Vec::new();
    for lease in (100..7_000).step_by(97) {
        held.push(lock(&lease.to_string(), lease).acquire().await.unwrap());
    }
    assert!((2..=14).contains(&sessions(&ensemble)), "{} sessions", sessions(&ensemble));
    assert!(held.iter().filter(|guard| guard.is_held()).count() > 1, "they are not lost with each other");
    for guard in held {
        guard.release().await.unwrap();
    }
    lock("a", 700).acquire().await.unwrap().release().await.unwrap();
    eventually("all are closed but the one that was used last", async || sessions(&ensemble) == 1).await;
    // A lease whose session was closed gets another.
    assert!(lock("a", 3_000).acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn a_session_whose_user_may_not_log_in_is_closed() {
    let user = Some(("app".to_owned(), "right".to_owned()));
    // So long that no session expires here by itself.
    let more = "minSessionTimeout=600000\nmaxSessionTimeout=600000\n".to_owned();
    let ensemble = ZooKeeper::start_with(1, Setup { user, more, ..Setup::default() }).unwrap();
    let alive = || {
        // Also those that have no connection any more.
        let dump = ask(ensemble.port(0), "dump").unwrap();
        let without_nodes = dump.split("with Ephemerals").next().unwrap();
        without_nodes.lines().filter(|line| line.trim_start().starts_with("0x")).count()
    };
    let url = format!("zookeeper://app:wrong@{}?auth=sasl", ensemble.hosts());
    for _ in 0..3 {
        connect(&url).await.unwrap_err();
    }
    eventually("none is left", async || alive() == 0).await;
}
