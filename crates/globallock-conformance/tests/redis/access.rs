//! The ways to connect to a server: TLS, sockets, users, sentinels.

use globallock::{Error, LockManager};
use globallock_conformance::fixtures::calm_manager as manager;
use globallock_conformance::server::certificates::Certificates;
use globallock_conformance::server::redis::{Redis, Sentinels};
use tempfile::TempDir;

use crate::connect;

/// Acquires and releases a lock, waits for one, and lists it.
pub(crate) async fn works(manager: &LockManager) {
    let lock = manager.mutex("a");
    let guard = lock.acquire().await.unwrap();
    let waiter = tokio::spawn({
        let lock = lock.clone();
        async move { lock.acquire().await }
    });
    crate::queue_is(manager, "a", 1, 1).await;
    guard.release().await.unwrap();
    waiter.await.unwrap().unwrap().release().await.unwrap();
    let shared = manager.rwlock("b").read().acquire().await.unwrap();
    let names: Vec<_> = futures_util::StreamExt::collect(manager.list("")).await;
    assert_eq!(names.len(), 1);
    shared.release().await.unwrap();
}

fn message(refused: globallock::Result<LockManager>) -> String {
    refused.expect_err("it is refused").to_string()
}

#[tokio::test]
async fn tls_works_with_a_client_certificate() {
    let directory = TempDir::new().unwrap();
    let files = Certificates::write(directory.path()).unwrap();
    let server = Redis::start_with_tls(&files, &[]).unwrap();
    let url = |options: &str| format!("rediss://localhost:{}?{options}", server.port());
    let (ca, cert, key) = (files.ca.display(), files.client.display(), files.client_key.display());
    works(&manager(&url(&format!("ca={ca}&cert={cert}&key={key}"))).await).await;

    let other_ca = files.other_ca.display();
    let refused = message(connect(&url(&format!("ca={other_ca}&cert={cert}&key={key}"))).await);
    assert!(refused.contains("certificate"), "{refused}");
    let refused = message(connect(&url(&format!("ca={ca}"))).await);
    assert!(refused.contains("asks for a certificate of the client"), "{refused}");
    for (options, text) in [
        (format!("ca={ca}&cert={cert}"), "cert and key go together"),
        ("ca=/does/not/exist".to_owned(), "cannot read \"/does/not/exist\""),
        (format!("ca={key}"), "ca"),
    ] {
        let refused = connect(&url(&options)).await.expect_err("it is refused");
        assert!(matches!(refused, Error::InvalidAddress { .. }), "{refused:?}");
        assert!(refused.to_string().contains(text), "{refused}");
    }
    let plain = message(connect(&format!("redis://localhost:{}", server.port())).await);
    assert!(plain.contains("write rediss://"), "{plain}");
}

#[tokio::test]
async fn a_unix_socket_works() {
    let directory = TempDir::new().unwrap();
    let socket = directory.path().join("redis.sock");
    let server = Redis::start_with(&["--unixsocket", socket.to_str().unwrap()]).unwrap();
    let manager = manager(&format!("redis+unix://{}?db=2", socket.display())).await;
    works(&manager).await;
    let guard = manager.mutex("c").acquire().await.unwrap();
    assert_eq!(server.cli(&["-n", "2", "EXISTS", "_glocks:c"]), "1");
    // The same lock by the address of Valkey.
    let manager = self::manager(&format!("valkey+unix://{}?db=2", socket.display())).await;
    assert!(manager.mutex("c").try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    works(&manager).await;
    let refused = message(connect("redis+unix:///does/not/exist.sock").await);
    assert!(refused.contains("No such file"), "{refused}");
}

#[tokio::test]
async fn a_password_and_a_user_with_the_least_rights_work() {
    let server = Redis::start_with(&["--requirepass", "s p/e@c#i:al"]).unwrap();
    let port = server.port();
    let password = "s%20p%2Fe%40c%23i%3Aal";
    works(&manager(&format!("redis://:{password}@127.0.0.1:{port}")).await).await;
    let refused = message(connect(&format!("redis://127.0.0.1:{port}")).await);
    assert!(refused.contains("wants a password") && refused.contains("denied"), "{refused}");
    let refused = message(connect(&format!("redis://:wrong@127.0.0.1:{port}")).await);
    assert!(refused.contains("password in the address is wrong"), "{refused}");

    // The rights as the store's page lists them.
    let manual = include_str!("../../../../docs/redis.md");
    let rights = manual.lines().find_map(|line| line.trim().strip_prefix("ACL SETUSER locks on >PASSWORD "));
    let rights = rights.expect("the manual lists the rights");
    let mut arguments =
        vec!["-a", "s p/e@c#i:al", "--no-auth-warning", "ACL", "SETUSER", "locks", "on", ">pw"];
    arguments.extend(rights.split(' '));
    assert_eq!(server.cli(&arguments), "OK");
    works(&manager(&format!("redis://locks:pw@127.0.0.1:{port}")).await).await;

    let refused = connect(&format!("redis://locks:pw@127.0.0.1:{port}?prefix=other%3A")).await;
    let refused = refused.unwrap().mutex("a").acquire().await.unwrap_err();
    assert!(matches!(refused, Error::PermissionDenied { .. }), "{refused:?}");
    assert!(refused.to_string().contains("+@sortedset"), "{refused}");
}

#[tokio::test]
async fn sentinels_name_the_primary() {
    let set = Sentinels::start().unwrap();
    let manager = manager(&set.url()).await;
    works(&manager).await;
    assert_eq!(set.primary.cli(&["EXISTS", "{_glocks:a}:fence"]), "1");
    let unknown = message(connect(&set.url().replace("/main", "/other")).await);
    assert!(unknown.contains("no primary of that name"), "{unknown}");
}

#[tokio::test]
async fn sentinels_of_which_one_is_away() {
    let set = Sentinels::start().unwrap();
    let url = set.url().replace("redis+sentinel://", "redis+sentinel://127.0.0.1:1,");
    works(&manager(&url).await).await;
}

#[tokio::test]
async fn bad_addresses_are_refused_with_the_remedy() {
    for (url, text) in [
        ("redis://", "needs one host"),
        ("redis://a,b", "needs one host"),
        ("redis://h/x", "not a number"),
        ("redis://h/-1", "not a number"),
        ("redis://h?timeout=soon", "250ms"),
        ("redis://h?timeout=0", "zero"),
        ("redis://h?prefix=%7Ba%7D", "braces"),
        ("redis://h?colour=red", "known are: prefix, timeout"),
        ("redis://user@h", "a user but no password"),
        ("redis+unix://h/x", "path of a socket"),
        ("redis+sentinel://h1", "the service"),
        ("redis+sentinel:///main", "hosts"),
    ] {
        let refused = connect(url).await.expect_err(url);
        assert!(matches!(refused, Error::InvalidAddress { .. }), "{url}: {refused:?}");
        assert!(refused.to_string().contains(text), "{url}: {refused}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_reported_within_the_timeout() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    for (url, text) in [
        (format!("redis://127.0.0.1:{port}?timeout=300ms"), "in time"),
        ("redis://127.0.0.1:1".to_owned(), "Connection refused"),
        ("redis://no-such-host.invalid".to_owned(), "no-such-host.invalid"),
        ("redis+sentinel://127.0.0.1:1/main".to_owned(), "sentinel"),
    ] {
        let asked = std::time::Instant::now();
        let refused = connect(&url).await.expect_err(&url);
        assert!(matches!(refused, Error::Unavailable { .. }), "{url}: {refused:?}");
        assert!(refused.to_string().contains(text), "{url}: {refused}");
        assert!(asked.elapsed() < std::time::Duration::from_secs(10), "{url}");
    }
}

/// What the commands have written before it stays, as there is no way back in a script.
#[tokio::test]
async fn a_right_that_is_missing_in_the_middle_of_a_script_keeps_nobody_out() {
    let store = Redis::start().unwrap();
    let rights =
        ["on", ">pw", "resetchannels", "&globallock:*", "~_glocks:*", "~{_glocks:*", "+@all", "-zadd"];
    assert_eq!(store.cli(&[&["ACL", "SETUSER", "locks"], &rights[..]].concat()), "OK");
    let refused = manager(&store.url().replace("redis://", "redis://locks:pw@")).await;
    let others = manager(&store.url()).await;
    for kind in [refused.rwlock("b").read(), refused.semaphore("b", 3).permits(1)] {
        let error = kind.acquire().await.unwrap_err();
        assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
        let guard = others.mutex("b").try_acquire().await.unwrap().expect("nobody has it");
        guard.release().await.unwrap();
    }
    refused.close().await;
}
