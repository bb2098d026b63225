//! Servers that refuse, and servers that are no Redis: each error says what to change.

use std::process::{Command, Stdio};
use std::time::Duration;

use globallock::{Error, LockManager};
use globallock_conformance::fixtures::connect_for;
use globallock_conformance::server::redis::{Redis, Sentinels};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::connect;

/// How long a request to a server that refuses for now is repeated: long enough for a busy machine, short
/// enough to wait for.
const ASKED: Duration = Duration::from_secs(5);

async fn manager(url: &str) -> LockManager {
    connect_for(url, ASKED).await.expect("the server answers")
}

async fn refusal(manager: &LockManager) -> Error {
    manager.mutex("a").acquire().await.expect_err("it is refused")
}

#[tokio::test]
async fn a_replica_is_reported_as_such() {
    let primary = Redis::start().unwrap();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]).unwrap();
    let manager = manager(&replica.url()).await;
    let error = refusal(&manager).await;
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("read-only replica"), "{error}");
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn a_server_busy_with_a_script_is_waited_for() {
    let server = Redis::start_with(&["--busy-reply-threshold", "20"]).unwrap();
    let manager = manager(&format!("{}?timeout=10s", server.url())).await;
    let mut busy = Command::new("redis-cli")
        .args(["-p", &server.port().to_string(), "EVAL", "while true do end", "0"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    globallock_conformance::context::eventually("it is busy", async || {
        server.cli(&["PING"]).contains("BUSY")
    })
    .await;
    let error = refusal(&manager).await;
    assert!(error.is_unavailable(), "{error:?}");
    assert!(error.to_string().contains("SCRIPT KILL"), "{error}");
    server.cli(&["SCRIPT", "KILL"]);
    busy.wait().unwrap();
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
}

#[tokio::test]
async fn a_server_that_is_still_loading_is_waited_for() {
    let slow = ["--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024"];
    let mut server = Redis::start_with(&slow).unwrap();
    server.cli(&[
        "EVAL",
        "for i = 1, 60 do redis.call('SET', i, redis.sha1hex(i) .. string.rep(i, 900)) end",
        "0",
    ]);
    server.cli(&["CONFIG", "SET", "rdbcompression", "no"]);
    assert_eq!(server.cli(&["SAVE"]), "OK");
    server.kill();
    server.resume_after_kill().unwrap();
    let options = globallock::Options::default().store_timeout(Some(Duration::from_secs(30)));
    let loading = server.cli(&["PING"]);
    assert!(loading.contains("LOADING"), "the server is still loading: {loading}");
    let manager = LockManager::connect_with(&server.url(), options).await.unwrap();
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
}

/// Starts a server that answers each command with what `answer` makes of its first word. Where that is empty,
/// it closes the connection.
pub(crate) async fn fake_server(answer: impl Fn(&str) -> String + Send + Sync + Clone + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = client.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..count]).into_owned();
                    for command in text.split("\r\n*").map(|command| format!("\r\n*{command}")) {
                        let word = command.split("\r\n").nth(3).unwrap_or_default().to_ascii_uppercase();
                        let answer = answer(&word);
                        if answer.is_empty() || client.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    format!("redis://127.0.0.1:{port}?timeout=500ms")
}

pub(crate) const HELLO: &str = "%1\r\n+proto\r\n:3\r\n";

/// What INFO answers.
pub(crate) fn version(number: &str) -> String {
    let text = format!("redis_version:{number}\r\n");
    format!("${}\r\n{text}\r\n", text.len())
}

/// A sentinel that names the server at this port, if any.
async fn fake_sentinel(names: Option<u16>) -> String {
    let url = fake_server(move |word| match (word, names) {
        ("HELLO", _) => HELLO.to_owned(),
        ("SENTINEL", Some(port)) => format!("%2\r\n+ip\r\n+127.0.0.1\r\n+port\r\n+{port}\r\n"),
        ("SENTINEL", None) => String::new(),
        _ => "+OK\r\n".to_owned(),
    })
    .await;
    url.replace("redis://", "").replace("?timeout=500ms", "")
}

#[tokio::test]
async fn a_primary_that_is_dead_delays_no_sentinel_that_knows_the_new_one() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Redis::start().unwrap();
    let dead = fake_sentinel(Some(silent.local_addr().unwrap().port())).await;
    let right = fake_sentinel(Some(server.port())).await;
    let none = fake_sentinel(None).await;
    // The right one answers only when the dead primary is being tried.
    let late = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let late_port = late.local_addr().unwrap().port();
    let (tried, is_tried) = tokio::sync::oneshot::channel();
    let relay = tokio::spawn(async move {
        let (mut client, _) = late.accept().await.unwrap();
        is_tried.await.unwrap();
        let mut sentinel = tokio::net::TcpStream::connect(right).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut client, &mut sentinel).await;
    });
    let held = tokio::spawn(async move {
        let (connection, _) = silent.accept().await.unwrap();
        tried.send(()).unwrap();
        std::future::pending::<()>().await;
        drop(connection);
    });
    let url = format!("redis+sentinel://{dead},{none},127.0.0.1:{late_port}/main?timeout=20s");
    let options = globallock::Options::default().store_timeout(Duration::from_secs(15));
    let manager = LockManager::connect_with(&url, options).await.unwrap();
    assert!(manager.mutex("a").acquire().await.unwrap().is_held());
    held.abort();
    relay.abort();
}

#[tokio::test]
async fn a_primary_that_refuses_for_good_does_so_though_a_sentinel_is_dead() {
    let web = fake_server(|_| "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned()).await;
    let port = web.replace("?timeout=500ms", "").rsplit(':').next().unwrap().parse().unwrap();
    let sentinel = fake_sentinel(Some(port)).await;
    let url = format!("redis+sentinel://127.0.0.1:1,{sentinel}/main");
    let error = connect(&url).await.expect_err("it is refused");
    assert!(matches!(error, Error::FailedPrecondition { .. }), "{error:?}");
    assert!(error.to_string().contains("it is an HTTP server"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_told_though_its_command_is_slow() {
    let server = Redis::start_with(&["--requirepass", "pw"]).unwrap();
    let command = "password_command=sh%20-c%20%27sleep%20.4;echo%20bad%27";
    let error = connect(&format!("{}?timeout=500ms&{command}", server.url())).await.unwrap_err();
    assert!(matches!(error, Error::PermissionDenied { .. }), "{error:?}");
    let wrong = "the password that the option password_command writes is wrong";
    assert!(error.to_string().contains(wrong), "{error}");
}

#[tokio::test]
async fn an_old_server_is_reported_as_such() {
    let url = fake_server(|word| match word {
        "HELLO" => HELLO.to_owned(),
        "INFO" => version("5.0.14"),
        _ => "+OK\r\n".to_owned(),
    })
    .await;
    let error = connect(&url).await.expect_err("it is refused");
    assert!(matches!(error, Error::FailedPrecondition { .. }), "{error:?}");
    assert!(error.to_string().contains("Redis 5.0.14: globallock needs 6.0 or newer"), "{error}");
    let url = fake_server(|_| "-ERR unknown command `HELLO`\r\n".to_owned()).await;
    let error = connect(&url).await.expect_err("it is refused");
    assert!(error.to_string().contains("too old"), "{error}");
}

#[tokio::test]
async fn a_cluster_node_is_reported_as_such() {
    let url = fake_server(|word| match word {
        "HELLO" => HELLO.to_owned(),
        "INFO" => version("7.4.99"),
        "EVALSHA" => "-MOVED 3999 127.0.0.1:6381\r\n".to_owned(),
        "SUBSCRIBE" => ">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n".to_owned(),
        _ => "+OK\r\n".to_owned(),
    })
    .await;
    let error = refusal(&manager(&url).await).await;
    assert!(error.to_string().contains("Redis Cluster, which is not supported"), "{error}");
}

#[tokio::test]
async fn a_cluster_node_and_a_sentinel_are_refused_at_the_connection_with_what_to_use() {
    let node = Redis::start_node().unwrap();
    let sentinels = Sentinels::start().unwrap();
    let sentinel = sentinels.url().replace("redis+sentinel://", "");
    let sentinel = format!("redis://{}", sentinel.split([',', '/']).next().unwrap());
    let name = if node.cli(&["INFO", "server"]).contains("valkey_version") { "Valkey" } else { "Redis" };
    let cluster = format!(
        "it is a node of a {name} Cluster, which is not supported: give the address of a server that runs \
         alone (cluster-enabled no), or of sentinels"
    );
    let asked = "it is a sentinel: write redis+sentinel:// and the service that it watches, such as \
                 redis+sentinel://host:26379/main";
    for (url, reason) in [(node.url(), &*cluster), (sentinel, asked)] {
        let error = connect(&url).await.expect_err("it is refused");
        assert!(matches!(error, Error::FailedPrecondition { .. }), "{error:?}");
        assert_eq!(error.to_string(), format!("{url} cannot do this: {reason}"));
    }
}

#[tokio::test]
async fn a_server_that_is_no_redis_is_refused() {
    for answer in [
        "HTTP/1.1 400 Bad Request\r\n\r\n",
        "SSH-2.0-OpenSSH_9.2\r\n",
        "\0\u{1}\u{2}garbage",
        "*100000000\r\n",
        "$-7\r\n",
        "%1\r\n",
        "+OK\r\n",
        ":7\r\n",
        "*2\r\n:1\r\n:2\r\n",
    ] {
        let url = fake_server(move |_| answer.to_owned()).await;
        match connect(&url).await {
            Err(
                Error::Unavailable { .. } | Error::FailedPrecondition { .. } | Error::PermissionDenied { .. },
            ) => {}
            Err(error) => panic!("{answer:?}: {error:?}"),
            Ok(manager) => drop(refusal(&manager).await),
        }
    }
}

#[tokio::test]
async fn answers_of_the_wrong_kind_are_refused() {
    for answer in [
        "+OK\r\n",
        "$5\r\nhello\r\n",
        "*0\r\n",
        "*2\r\n:1\r\n:2\r\n",
        "*4\r\n:1\r\n:-5\r\n:1\r\n:1\r\n",
        "_\r\n",
    ] {
        let url = fake_server(move |word| match word {
            "HELLO" => HELLO.to_owned(),
            "INFO" => version("7.4.99"),
            "EVALSHA" => answer.to_owned(),
            "SUBSCRIBE" => ">3\r\n$9\r\nsubscribe\r\n$1\r\nx\r\n:1\r\n".to_owned(),
            _ => "+OK\r\n".to_owned(),
        })
        .await;
        let error = refusal(&manager(&url).await).await;
        assert!(error.to_string().contains("check the address"), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_has_gone_is_reported_within_the_wait() {
    let mut server = Redis::start().unwrap();
    let manager = manager(&server.url()).await;
    server.kill();
    let short = globallock::Options::default().wait(Some(Duration::from_millis(400)));
    let asked = std::time::Instant::now();
    let error = manager.mutex("a").with_options(short).acquire().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    assert!(
        error.to_string().contains("Connection refused") || error.to_string().contains("closed"),
        "{error}"
    );
    assert!(asked.elapsed() < Duration::from_secs(5));
}
