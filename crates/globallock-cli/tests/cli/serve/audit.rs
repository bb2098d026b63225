//! Whatever becomes of whoever asked, what was done to a claim is written down.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::redis::Redis;
use serde_json::json;

use super::{Server, holder, order, served};
use crate::support::{LIMIT, Running, TestStore, eventually};

/// How long an answer of the store takes: long enough to be disturbed on its way.
const SLOW: Duration = Duration::from_millis(1500);

/// What a server has been asked to break, and has broken, while the store's answer to that is on its way.
struct Asked {
    proxy: Proxy,
    server: Server,
    client: Option<super::Connection>,
    syslog: UnixDatagram,
    _store: (Redis, TestStore),
    _held: Running,
}

impl Asked {
    async fn begin() -> Self {
        let (redis, files) = (Redis::start().unwrap(), TestStore::new());
        let proxy = Proxy::start(redis.port()).await.unwrap();
        let socket = files.path("log");
        let syslog = UnixDatagram::bind(&socket).unwrap();
        syslog.set_read_timeout(Some(LIMIT)).unwrap();
        let url = format!("redis://127.0.0.1:{}", proxy.port());
        let server =
            Server::of(&url, &["--allow-break", "--as", "alice", "--syslog", socket.to_str().unwrap()]);
        let mut command = files.command();
        command.args(["run", "--url", &redis.url(), "a", "--", "sh", "-c", "echo ready; read _; true"]);
        let held = Running::start(&mut command);
        held.says("ready");
        let claim = server.queue("a")[0]["claim"].as_str().unwrap().to_owned();
        proxy.answers(Flow::Delay(SLOW));
        let mut client = server.connect();
        server.order(&mut client, &order("a", &claim, true, "it hangs"));
        held.warns("it was broken by alice");
        Asked { proxy, server, client: Some(client), syslog, _store: (redis, files), _held: held }
    }

    /// Fails if not both logs have a line with this text.
    fn is_written(&self, text: &str) {
        let line = self.server.running.warns(text);
        let mut bytes = [0; 2000];
        let length = self.syslog.recv(&mut bytes).unwrap();
        let told = String::from_utf8_lossy(&bytes[..length]);
        assert!(told.ends_with(line.strip_prefix("globallock: ").unwrap()), "{told}: {line}");
        assert!(line.contains("by alice: it hangs"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_is_written_down_though_whoever_asked_for_it_has_gone() {
    let mut asked = Asked::begin().await;
    drop(asked.client.take());
    asked.is_written(" is broken by alice: it hangs; ");
    asked.proxy.answers(Flow::Pass);
    let counted = "globallock_serve_breaks_total{outcome=\"broken\"} 1\n";
    let metrics = || asked.server.get("/metrics").body.contains(counted).then_some(());
    eventually(metrics).expect("it is counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_is_written_down_though_the_server_is_to_end() {
    let mut asked = Asked::begin().await;
    // Then no connection keeps the server from its end either.
    drop(asked.client.take());
    asked.server.running.signal("TERM");
    asked.is_written(" is broken by alice: it hangs; ");
    assert_eq!(asked.server.running.end(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_break_without_an_answer_is_written_down_when_the_server_is_to_end_and_counts_as_unknown() {
    let mut asked = Asked::begin().await;
    // What is on its way does not arrive.
    asked.proxy.answers(Flow::Swallow);
    asked.server.running.signal("TERM");
    asked.is_written(" may be broken, which the store did not answer, by alice: it hangs; ");
    let answer = asked.client.take().unwrap().reply().unwrap();
    assert_eq!((answer.status, &answer.json()["outcome"]), (503, &json!("unknown")), "{answer:?}");
    assert!(answer.body.contains("the claim may be gone or not: look again"), "{answer:?}");
    assert_eq!(asked.server.running.end(), Some(0));
}

#[test]
fn a_waiter_that_has_become_the_holder_is_broken_only_by_an_order_that_says_so() {
    let (store, server) = served(&["--allow-break"]);
    let first = holder(&store, "a");
    let next = store.start(&["a", "--", "sh", "-c", "echo ready; read _; true"]);
    let claim = eventually(|| server.queue("a").get(1).map(|row| row["claim"].as_str().unwrap().to_owned()));
    let claim = claim.expect("it waits");
    assert_eq!(first.end(), Some(0));
    next.says("ready");
    let send = |held| {
        let mut client = server.connect();
        server.order(&mut client, &order("a", &claim, held, ""));
        client.reply().unwrap()
    };
    let granted = send(false);
    assert_eq!((granted.status, &granted.json()["outcome"]), (409, &json!("granted")), "{granted:?}");
    assert!(granted.body.contains("holds the lock by now; nothing was changed"), "{granted:?}");
    assert_eq!(server.queue("a")[0]["claim"], json!(claim), "it holds on");
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("globallock_serve_breaks_total{outcome=\"granted\"} 1\n"), "{metrics}");
    assert_eq!(send(true).status, 200);
    let audit = server.running.warns(" is broken by ");
    assert!(audit.contains(", held for ") && !audit.contains("waiting"), "{audit}");
}
