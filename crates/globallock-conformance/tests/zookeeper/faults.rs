//! Servers that fail.

use std::time::Duration;

use globallock::{Error, Options, StoreNoticeKind};
use globallock_conformance::fixtures::{
    LEASE, deaths_of_leaders, manager, observed, release_without_majority,
};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::zookeeper::ZooKeeper;

#[tokio::test(flavor = "multi_thread")]
async fn the_deaths_of_leaders_break_no_lock() {
    let mut cluster = ZooKeeper::start(3).unwrap();
    let (turns, deaths) = deaths_of_leaders(&mut cluster).await;
    println!("{turns} turns, {deaths} deaths");
    assert!(deaths >= 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_without_an_answer_is_repeated() {
    release_without_majority(&mut ZooKeeper::start(3).unwrap()).await;
}

#[tokio::test]
async fn a_lost_connection_is_told_and_so_is_each_failure_to_connect_again() {
    let mut ensemble = ZooKeeper::start(1).unwrap();
    let (_manager, notices) = observed(&ensemble.url(), LEASE).await;
    ensemble.kill(0);
    let lost = notices.first(StoreNoticeKind::ConnectionLost).await;
    assert_eq!(lost.host.as_deref(), Some(&*ensemble.hosts()), "{lost:?}");
    let refused = notices.first(StoreNoticeKind::NotConnected).await;
    assert!(refused.reason.contains("refused"), "{refused:?}");
}

#[tokio::test]
async fn a_majority_grants_locks_and_a_minority_does_not() {
    let mut ensemble = ZooKeeper::start(3).unwrap();
    let url = ensemble.url();
    ensemble.kill(0);
    let manager = manager(&url).await;
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
    // Without a majority nothing is granted.
    ensemble.kill(1);
    let short = Options::new().wait(Some(Duration::from_secs(1)));
    let refused = manager.mutex("b").with_options(short).acquire().await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
}
