//! An examination that ends in the middle: by a signal, or by its limit.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::redis::Redis;
use tokio::runtime::Runtime;

use super::{PREFIX, doctor, examined, names};
use crate::support::{LIMIT, Running};

/// How often an examination is begun until it was not over too soon.
const TRIES: usize = 50;

/// A server, and a proxy in front of it that can keep its answers back, so that there is a middle.
struct Slow {
    server: Redis,
    _runtime: Runtime,
    proxy: Proxy,
    /// Asks the server often, so not by `redis-cli`.
    asks: TcpStream,
}

impl Slow {
    fn start() -> Self {
        let server = Redis::start().unwrap();
        let runtime = Runtime::new().unwrap();
        let proxy = runtime.block_on(Proxy::start(server.port())).unwrap();
        let asks = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        asks.set_nodelay(true).unwrap();
        Slow { server, _runtime: runtime, proxy, asks }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.proxy.port())
    }

    /// Whether there are such keys.
    fn has(&mut self, pattern: &str) -> bool {
        self.asks.write_all(format!("KEYS {pattern}\r\n").as_bytes()).unwrap();
        let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
        // An array, with its length on the first line and two lines for each key.
        loop {
            let count = self.asks.read(&mut buffer).unwrap();
            said.extend_from_slice(&buffer[..count]);
            let said = String::from_utf8_lossy(&said);
            let lines: Vec<&str> = said.split("\r\n").collect();
            let keys: Option<usize> = lines[0].strip_prefix('*').and_then(|keys| keys.parse().ok());
            if let Some(keys) = keys.filter(|keys| lines.len() > 2 * keys + 1) {
                return keys > 0;
            }
        }
    }

    /// Starts an examination, and keeps answers back from when there are such keys on. None if it was over by
    /// then.
    fn stuck(&mut self, pattern: &str, more: &[&str]) -> Option<Running> {
        self.proxy.answers(Flow::Pass);
        let run = Running::start(doctor(&self.url()).args(more));
        let until = Instant::now() + LIMIT;
        while !self.has(pattern) {
            if Instant::now() >= until || !std::path::Path::new(&format!("/proc/{}/fd/0", run.id())).exists()
            {
                return None;
            }
        }
        self.proxy.answers(Flow::Hold);
        Some(run)
    }

    fn is_empty(&mut self) -> bool {
        names(&self.server.url()).is_empty() && !self.has("*")
    }
}

#[test]
fn a_signal_ends_it_and_nothing_is_left_whatever_was_under_way() {
    let mut slow = Slow::start();
    for (signal, status, reached) in [
        ("TERM", 143, format!("_glocks:{PREFIX}*")),
        ("INT", 130, format!("{{_glocks:{PREFIX}*:queue")),
        ("HUP", 129, format!("{{_glocks:{PREFIX}*:evicted")),
    ] {
        let ends = (0..TRIES).find(|_| {
            let Some(run) = slow.stuck(&reached, &[]) else { return false };
            run.signal(signal);
            slow.proxy.answers(Flow::Pass);
            let ended = run.end();
            assert!(slow.is_empty(), "{signal} at {reached}");
            ended == Some(status)
        });
        assert!(ends.is_some(), "it was always over before {signal} at {reached}");
    }
}

#[test]
fn a_limit_ends_it_and_nothing_is_left() {
    let mut slow = Slow::start();
    let ends = (0..TRIES).find(|_| {
        let Some(run) = slow.stuck(&format!("{{_glocks:{PREFIX}*:queue"), &["--timeout", "1s"]) else {
            return false;
        };
        let first = std::iter::from_fn(|| run.first()).find(|line| line.starts_with("bad"));
        let is_over = first.is_some_and(|line| line == "bad     time: not all was examined within 1 s");
        slow.proxy.answers(Flow::Pass);
        let rest = run.rest();
        assert!(slow.is_empty(), "{rest:?}");
        assert!(rest.iter().any(|line| line == "ok      left behind: nothing that stays"), "{rest:?}");
        is_over && run.end() == Some(69)
    });
    assert!(ends.is_some(), "it was always over before its limit");
}

#[test]
fn a_store_that_says_nothing_is_waited_for_until_the_limit() {
    let slow = Slow::start();
    slow.proxy.answers(Flow::Hold);
    let begun = Instant::now();
    let found = examined(&slow.url(), &["--timeout", "300ms"]);
    found.ends_with(69);
    found.has("bad", "time", "not all was examined within 0.3 s");
    assert_eq!(found.found.len(), 1, "{found}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
