//! What the store notices by itself is told to observers.

use globallock::StoreNoticeKind;
use globallock_conformance::fixtures::{LEASE, observed};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;

#[tokio::test]
async fn a_release_with_known_faults_is_told_once() {
    let cluster = Etcd::start(1).unwrap();
    let version = cluster.version();
    let mended = match &version[..3] {
        "3.4" => "3.4.42",
        "3.5" => "3.5.28",
        _ => "3.6.9",
    };
    let has_faults = |patch: &str| patch.parse::<u32>().unwrap() < mended[4..].parse().unwrap();
    let expected = format!("it is etcd {version}: {mended} mends faults that can break locks");
    let (manager, notices) = observed(&cluster.url(), LEASE).await;
    manager.mutex("a").acquire().await.unwrap().release().await.unwrap();
    manager.close().await;
    let told = notices.of(StoreNoticeKind::KnownFaults);
    let told: Vec<&str> = told.iter().map(|notice| notice.reason.as_str()).collect();
    assert_eq!(told, if has_faults(&version[4..]) { vec![expected.as_str()] } else { Vec::new() });
}
