//! An examination that ends in the middle: by a signal, or by its limit.

use std::time::{Duration, Instant};

use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::redis::Redis;
use tokio::runtime::Runtime;

use super::{PREFIX, doctor, examined, names};
use crate::support::{Running, eventually};

/// A server, and a proxy in front of it that takes its time, so that there is a middle.
fn slow() -> (Redis, Runtime, Proxy) {
    let server = Redis::start().unwrap();
    let runtime = Runtime::new().unwrap();
    let proxy = runtime.block_on(Proxy::start(server.port())).unwrap();
    proxy.answers(Flow::Delay(Duration::from_millis(150)));
    (server, runtime, proxy)
}

#[test]
fn a_signal_ends_it_and_nothing_is_left_whatever_was_under_way() {
    let (server, _runtime, proxy) = slow();
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let key = |pattern: &str| {
        let found = server.cli(&["KEYS", pattern]);
        (!found.is_empty()).then_some(found)
    };
    let in_middle = [
        ("TERM", 143, format!("_glocks:{PREFIX}*")),
        ("INT", 130, format!("{{_glocks:{PREFIX}*:queue")),
        ("HUP", 129, format!("{{_glocks:{PREFIX}*:evicted")),
    ];
    for (signal, status, reached) in in_middle {
        let run = Running::start(&mut doctor(&url));
        eventually(|| key(&reached)).unwrap_or_else(|| panic!("{reached} is not reached"));
        run.signal(signal);
        assert_eq!(run.end(), Some(status), "{signal}");
        assert_eq!(names(&server.url()), [""; 0], "{signal}");
        assert_eq!(key("*"), None, "{signal}");
    }
}

#[test]
fn a_limit_ends_it_and_nothing_is_left() {
    let (server, _runtime, proxy) = slow();
    let found = examined(&format!("redis://127.0.0.1:{}", proxy.port()), &["--timeout", "4s"]);
    found.ends_with(69);
    found.has("bad", "time", "not all was examined within 4 s");
    found.has("ok", "left behind", "");
    assert_eq!(server.cli(&["KEYS", "*"]), "");
    // A store that says nothing.
    proxy.answers(Flow::Hold);
    let begun = Instant::now();
    let found = examined(&format!("redis://127.0.0.1:{}", proxy.port()), &["--timeout", "300ms"]);
    found.ends_with(69);
    found.has("bad", "time", "not all was examined within 0.3 s");
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}
