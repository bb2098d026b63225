//! TLS, users, access control lists and addresses: what is accepted, and what is refused.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use globallock::{Error, StoreNoticeKind};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{calm_manager, connect, connect_calmly, manager, observed, patient};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::zookeeper::{Setup, ZooKeeper, children};
use tempfile::TempDir;

#[tokio::test]
async fn tls_with_a_client_certificate() {
    let directory = TempDir::new().unwrap();
    let files = Certificates::write(directory.path()).unwrap();
    let setup = Setup { certificates: Some(files.clone()), ..Setup::default() };
    let ensemble = ZooKeeper::start_with(1, setup).unwrap();
    let (ca, cert, key) = (files.ca.display(), files.client.display(), files.client_key.display());
    let url = ensemble.url();
    let manager = calm_manager(&format!("{url}?ca={ca}&cert={cert}&key={key}")).await;
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
    let foreign_ca = files.other_ca.display();
    let refused = connect_calmly(&format!("{url}?ca={foreign_ca}&cert={cert}&key={key}")).await.unwrap_err();
    assert!(refused.to_string().contains("certificate"), "{refused}");
    let refused = connect_calmly(&format!("{url}?ca={ca}")).await.unwrap_err();
    assert!(matches!(refused, Error::FailedPrecondition { .. }), "{refused:?}");
    let refused = connect_calmly(&format!("{url}?ca={ca}&cert={cert}")).await.unwrap_err();
    assert!(refused.to_string().contains("cert and key go together"), "{refused}");
    let refused = connect_calmly(&format!("{url}?ca={key}")).await.unwrap_err();
    assert!(refused.to_string().contains("BEGIN CERTIFICATE"), "{refused}");
}

#[tokio::test]
async fn a_user_logs_in_by_sasl() {
    let user = Some(("app".to_owned(), "s3cretCANARY".to_owned()));
    let ensemble = ZooKeeper::start_with(1, Setup { user, ..Setup::default() }).unwrap();
    let host = ensemble.hosts();
    let owner = calm_manager(&format!("zookeeper://app:s3cretCANARY@{host}?auth=sasl&acl=sasl:app")).await;
    let guard = owner.mutex("a").acquire().await.unwrap();
    assert!(!format!("{owner:?}").contains("CANARY"));
    let wrong = connect_calmly(&format!("zookeeper://app:wrongCANARY@{host}?auth=sasl")).await.unwrap_err();
    assert!(matches!(wrong, Error::PermissionDenied { .. }), "{wrong:?}");
    assert!(!format!("{wrong} {wrong:?}").contains("CANARY"), "{wrong:?}");
    let anonymous = calm_manager(&ensemble.url()).await;
    let refused = anonymous.mutex("a").try_acquire().await.unwrap_err();
    assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
    guard.release().await.unwrap();
}

#[tokio::test]
async fn a_password_in_a_file_is_read_again_for_each_connection() {
    let user = Some(("app".to_owned(), "right".to_owned()));
    let mut ensemble = ZooKeeper::start_with(1, Setup { user, ..Setup::default() }).unwrap();
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "right\n").unwrap();
    let options = format!("auth=sasl&acl=sasl:app&password_file={}", file.display());
    let url = format!("zookeeper://app@{}?{options}", ensemble.hosts());
    let (manager, notices) = observed(&patient(&url), Duration::from_secs(40)).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    // As if the password were changed in the file before it is in the server.
    std::fs::write(&file, "later").unwrap();
    ensemble.kill(0);
    ensemble.resume_after_kill(0).unwrap();
    eventually("a login is refused", async || {
        let failures = notices.of(StoreNoticeKind::NotConnected);
        failures
            .iter()
            .any(|notice| notice.reason.contains("in the file of the option password_file is wrong"))
    })
    .await;
    std::fs::write(&file, "right").unwrap();
    assert!(manager.mutex("b").acquire().await.unwrap().is_held());
    assert!(guard.is_held());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn only_their_creator_may_touch_the_nodes() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let host = ensemble.hosts();
    let [one, two] =
        [(); 2].map(|()| format!("zookeeper://app:s3cretCANARY@{host}?acl=creator&prefix=/private"));
    let (one, two) = (calm_manager(&one).await, calm_manager(&two).await);
    let guard = one.mutex("a").acquire().await.unwrap();
    assert!(two.mutex("a").try_acquire().await.unwrap().is_none());
    let foreign = calm_manager(&format!("zookeeper://other:password@{host}?prefix=/private")).await;
    let refused = foreign.mutex("a").acquire().await.unwrap_err();
    assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
    assert!(refused.to_string().contains("ACL"), "{refused}");
    guard.release().await.unwrap();
    // The user, and the SHA-1 hash of user and password in base64.
    let hash = "digest:app:SjH0PFwYtOQiPQU8RliB/dRIYNU=";
    let refused = calm_manager(&format!("zookeeper://{host}?acl={hash}&prefix=/other")).await;
    let refused = refused.mutex("a").acquire().await.unwrap_err();
    assert!(
        matches!(refused, Error::PermissionDenied { .. }),
        "an anonymous user that gives all rights to another has none: {refused:?}"
    );
    let owner = calm_manager(&format!("zookeeper://app:s3cretCANARY@{host}?acl={hash}&prefix=/third")).await;
    assert!(owner.mutex("a").acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn locks_are_below_the_root_that_the_address_names() {
    let ensemble = ZooKeeper::start(1).unwrap();
    let url = ensemble.url();
    let owner = calm_manager(&format!("{url}/apps/one?prefix=locks")).await;
    let guard = owner.mutex("a").acquire().await.unwrap();
    assert_eq!(children(&ensemble.hosts(), "/apps/one/locks"), ["a"]);
    assert!(calm_manager(&url).await.mutex("a").try_acquire().await.unwrap().is_some(), "another root");
    let same = calm_manager(&format!("{url}/apps?prefix=one/locks/")).await;
    assert!(same.mutex("a").try_acquire().await.unwrap().is_none(), "the same root");
    drop(guard);
}

#[tokio::test]
async fn bad_addresses_and_unreachable_servers_are_reported() {
    for (url, text) in [
        ("zookeeper://", "needs hosts"),
        ("zookeeper://user@h", "go together"),
        ("zookeeper://h?timeout=0", "zero"),
        ("zookeeper://h?colour=red", "known are: prefix"),
        ("zookeeper://h?naming=zork", "kazoo or curator"),
        ("zookeeper://h?auth=kerberos", "digest or sasl"),
        ("zookeeper://h?acl=creator", "needs a user"),
        ("zookeeper://h?acl=nobody", "is a list of"),
        ("zookeeper://h/../x", "no nodes named"),
        ("zookeeper://h?prefix=a%0Ab", "no nodes named"),
        ("zookeepers://h?ca=/nowhere.pem", "cannot read"),
    ] {
        let refused = connect(url).await.expect_err(url);
        assert!(matches!(refused, Error::InvalidAddress { .. }), "{url}: {refused:?}");
        assert!(refused.to_string().contains(text), "{url}: {refused}");
    }
    let asked = Instant::now();
    let refused = connect("zookeeper://127.0.0.1:1?timeout=500ms").await.unwrap_err();
    assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
    assert!(refused.to_string().contains("refused"), "{refused}");
    assert!(asked.elapsed() < Duration::from_secs(5));
}

/// Answers requests with these bytes, whatever they are, and returns the port.
fn answering(answers: &'static [&'static [u8]]) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            for answer in answers {
                let mut asked = [0; 4096];
                if stream.read(&mut asked).unwrap_or(0) == 0 || stream.write_all(answer).is_err() {
                    break;
                }
            }
        }
    });
    port
}

/// A session with a timeout of 10 s, the id 7 and an empty password.
const GREETING: &[u8] = &[0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0x27, 0x10, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0];
/// The answer to the first request: unimplemented.
const TOO_OLD: &[u8] = &[0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xfa];

#[tokio::test]
async fn a_server_that_is_too_old_is_reported() {
    let port = answering(&[GREETING, TOO_OLD]);
    let manager = manager(&format!("zookeeper://127.0.0.1:{port}?timeout=1s")).await;
    // The lease of the first session, because the server answers for that session only.
    let options = globallock::Options::default();
    let refused = manager.mutex("a").with_options(options).acquire().await.unwrap_err();
    assert!(matches!(refused, Error::FailedPrecondition { .. }), "{refused:?}");
    assert!(refused.to_string().contains("3.5 or newer"), "{refused}");
}

#[tokio::test]
async fn a_server_that_is_not_zookeeper_is_reported() {
    const TOO_LONG: &[u8] =
        &[0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0x27, 0x10, 0, 0, 0, 0, 0, 0, 0, 7, 0x7f, 0, 0, 0];
    const TEXTS: [(&[&[u8]], &str); 5] = [
        (&[b"HTTP/1.1 400 Bad Request\r\n\r\n"], "it is an HTTP server"),
        (&[&[0xff; 64]], "it does not answer as ZooKeeper does"),
        (&[&[0, 0, 0, 3, 1, 2, 3]], "it does not answer as ZooKeeper does"),
        (&[b""], "it closed the connection"),
        (&[TOO_LONG], "it does not answer as ZooKeeper does"),
    ];
    for (answers, reason) in TEXTS {
        let port = answering(answers);
        let url = format!("zookeeper://127.0.0.1:{port}?timeout=500ms");
        let refused = connect(&url).await.expect_err(&url);
        let may_heal = reason == "it closed the connection";
        assert_eq!(matches!(refused, Error::Unavailable { .. }), may_heal, "{refused:?}");
        assert_eq!(matches!(refused, Error::FailedPrecondition { .. }), !may_heal, "{refused:?}");
        assert!(refused.to_string().contains(reason), "{refused}");
    }
}
