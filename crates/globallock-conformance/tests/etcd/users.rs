//! Clusters that ask for a login: rights, and tokens that expire.

use std::time::Duration;

use globallock::Error;
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect, connect_for, manager, queue_is, waits};
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::Cluster;
use globallock_conformance::server::etcd::Etcd;
use globallock_conformance::server::redis::Redis;
use tokio::time::timeout;

#[tokio::test]
async fn a_login_moves_on_from_members_that_have_never_answered() {
    let mut cluster = Etcd::start(1).unwrap();
    cluster.enable_auth("app:pw").unwrap();
    let host = cluster.url().replace("etcd://", "");
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let other = Redis::start().unwrap();
    for first in [1, silent_port, other.port()] {
        let manager = manager(&format!("etcd://app:pw@127.0.0.1:{first},{host}?timeout=4s")).await;
        assert!(manager.mutex("a").acquire().await.unwrap().is_held(), "{first}");
    }
}

#[tokio::test]
async fn a_user_needs_no_more_than_rights_on_the_prefix() {
    let mut cluster = Etcd::start(1).unwrap();
    cluster.enable_auth("app:s3cretCANARY").unwrap();
    let host = cluster.url().replace("etcd://", "");
    let manager = manager(&format!("etcd://app:s3cretCANARY@{host}")).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    let waiter = waits(&manager, "a");
    queue_is(&manager, "a", 1, 1).await;
    guard.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
    assert!(!format!("{manager:?}").contains("CANARY"));
    // A restarted server knows none of its earlier tokens.
    cluster.kill(0);
    cluster.resume_after_kill(0).unwrap();
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());

    let wrong = connect(&format!("etcd://app:wrongCANARY@{host}")).await.unwrap_err();
    assert!(matches!(wrong, Error::PermissionDenied { .. }), "{wrong:?}");
    assert!(!format!("{wrong} {wrong:?}").contains("CANARY"), "{wrong:?}");
    let nobody = match connect(&format!("etcd://{host}")).await {
        Ok(manager) => manager.mutex("a").acquire().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(nobody, Error::PermissionDenied { .. }), "{nobody:?}");
    let elsewhere = connect(&format!("etcd://app:s3cretCANARY@{host}?prefix=/other/")).await.unwrap();
    let refused = elsewhere.mutex("a").acquire().await.unwrap_err();
    assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
}

#[tokio::test]
async fn an_expired_token_is_replaced() {
    let mut cluster = Etcd::start(1).unwrap();
    cluster.enable_auth("app:pw").unwrap();
    let url = cluster.url().replace("etcd://", "etcd://app:pw@");
    // A waiter renews every third of this lease. One that is granted sooner was notified by the watch.
    let lease = Duration::from_secs(60);
    let [holder, other] = [connect_for(&url, lease).await.unwrap(), connect_for(&url, lease).await.unwrap()];
    for round in 0..3 {
        let guard = holder.mutex("a").acquire().await.unwrap();
        let waiter = waits(&other, "a");
        queue_is(&holder, "a", 1, 1).await;
        guard.release().await.unwrap();
        let granted = timeout(Duration::from_secs(15), waiter).await;
        let granted = granted.unwrap_or_else(|_| panic!("the waiter was not notified in round {round}"));
        assert!(granted.unwrap().unwrap().is_held());
        let given = cluster.tokens(0).unwrap();
        // From now on the token of the watch stream, which is still open, has expired.
        cluster.invalidate_tokens().unwrap();
        other.inspect("a").await.unwrap();
        assert!(cluster.tokens(0).unwrap() > given, "its token had expired");
    }
    // Ten requests at once, each with the expired token.
    cluster.invalidate_tokens().unwrap();
    let at_once = (0..10).map(|number| waits(&other, &format!("b{number}")));
    for acquired in futures_util::future::join_all(at_once.collect::<Vec<_>>()).await {
        assert!(acquired.unwrap().unwrap().is_held());
    }
}

#[tokio::test]
async fn users_may_be_switched_on_and_off() {
    let mut cluster = Etcd::start(1).unwrap();
    let url = cluster.url().replace("etcd://", "etcd://app:pw@");
    // The cluster has no users yet.
    let early = manager(&url).await;
    let held = early.mutex("held").acquire().await.unwrap();
    cluster.enable_auth("app:pw").unwrap();
    assert!(early.mutex("a").acquire().await.unwrap().is_held());
    cluster.ctl(&["auth", "disable"]);
    assert!(early.mutex("a").acquire().await.unwrap().is_held());
    assert!(manager(&url).await.mutex("b").acquire().await.unwrap().is_held());
    cluster.ctl(&["auth", "enable"]);
    assert!(early.mutex("a").acquire().await.unwrap().is_held());
    assert!(held.is_held());
}

#[tokio::test]
async fn a_login_without_an_answer_is_tried_again() {
    let mut cluster = Etcd::start(1).unwrap();
    cluster.enable_auth("app:pw").unwrap();
    let proxy = Proxy::start(cluster.ports()[0]).await.unwrap();
    let url = format!("etcd://app:pw@127.0.0.1:{}?timeout=500ms", proxy.port());
    let manager = manager(&url).await;
    cluster.invalidate_tokens().unwrap();
    // The answer that the token has expired arrives; the answer with a new token does not.
    proxy.answers(Flow::Delay(Duration::from_millis(200)));
    let lock = manager.mutex("a");
    let asked = tokio::spawn(async move { lock.try_acquire().await });
    eventually("an answer is on its way", async || proxy.held() > 0).await;
    proxy.answers(Flow::Hold);
    let failed = asked.await.unwrap().unwrap_err();
    assert!(matches!(failed, Error::Unavailable { .. }), "{failed:?}");
    assert!(proxy.held() > 1);
    proxy.cut();
    proxy.answers(Flow::Pass);
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn a_password_in_a_file_is_read_again_at_each_login() {
    let mut cluster = Etcd::start(1).unwrap();
    cluster.enable_auth("app:one").unwrap();
    let directory = tempfile::TempDir::new().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, "one").unwrap();
    let url = cluster.url().replace("etcd://", "etcd://app@") + &format!("?password_file={}", file.display());
    let (holder, other) = (manager(&url).await, manager(&url).await);
    let guard = holder.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&holder, "a", 1, 1).await;
    for password in ["two", "three"] {
        cluster.change_password("app", password).unwrap();
        // Every token is invalid from now on, and the file has the earlier password.
        let meanwhile = waits(&other, "b");
        let failed = cluster.refused_logins(0).unwrap();
        eventually("logins are refused", async || cluster.refused_logins(0).unwrap() > failed + 2).await;
        std::fs::write(&file, password).unwrap();
        meanwhile.await.unwrap().unwrap().release().await.unwrap();
        assert!(guard.is_held() && !waiter.is_finished());
    }
    guard.release().await.unwrap();
    assert!(waiter.await.unwrap().unwrap().is_held());
}
