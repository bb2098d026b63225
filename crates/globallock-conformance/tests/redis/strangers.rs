//! Strangers, which are other programs' locks that poll the same key with SET NX, beside claims of ours.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use globallock::backend::ClaimStatus;
use globallock::{LockManager, Options};
use globallock_conformance::context::eventually;
use globallock_conformance::pauses;
use globallock_conformance::server::redis::Redis;

use crate::calls::MUTEX;
use crate::costs::count;
use crate::gaps::{LONG, polls, store, takes};
use crate::scripts::queued;

/// A lock of another program on the lock `a`, over a connection of its own.
pub(crate) struct Stranger(TcpStream, &'static str);

impl Stranger {
    pub(crate) fn new(port: u16, token: &'static str) -> Self {
        Stranger(TcpStream::connect(("127.0.0.1", port)).unwrap(), token)
    }

    fn asked(&mut self, command: &str) -> String {
        self.0.write_all(format!("{command}\r\n").as_bytes()).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while !answer.ends_with(b"\r\n") {
            self.0.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        String::from_utf8(answer).unwrap().trim_end().to_owned()
    }

    /// One poll. Returns whether it holds the lock now.
    pub(crate) fn tries(&mut self) -> bool {
        let command = format!("SET _glocks:a {} NX PX 60000", self.1);
        self.asked(&command) == "+OK"
    }

    pub(crate) fn releases(&mut self) {
        let compare = "\"return redis.call('GET',KEYS[1])==ARGV[1] and redis.call('DEL',KEYS[1])\"";
        let command = format!("EVAL {compare} 1 _glocks:a {}", self.1);
        assert_eq!(self.asked(&command), ":1");
    }
}

/// How often scripts were called.
fn calls(server: &Redis) -> u64 {
    count(server, "evalsha")
}

#[tokio::test]
async fn the_server_says_when_a_stranger_comes_and_goes() {
    let store = store(LONG).await;
    let first = queued(1, MUTEX);
    let mut stranger = Stranger::new(store.server.port(), "stranger");
    store.in_gap(&[&first]).await;
    assert_eq!(store.polls(&first).await, ClaimStatus::Waiting);
    let before = calls(&store.server);
    for comes in [true, false] {
        // Polls at a pace of its own would be many in this time.
        let quiet = store.backend.wait_for_change(&first);
        assert!(tokio::time::timeout(Duration::from_millis(200), quiet).await.is_err(), "it polls");
        let asked = Instant::now();
        if comes {
            assert!(stranger.tries());
            assert_eq!(store.polls(&first).await, ClaimStatus::Waiting);
        } else {
            stranger.releases();
            store.takes(&first).await;
        }
        assert!(asked.elapsed() < Duration::from_millis(600) * pauses::busy(), "the server says it");
    }
    assert!(calls(&store.server) <= before + 4);
}

#[tokio::test]
async fn a_server_that_may_not_be_asked_to_watch_is_polled() {
    let store = store("").await;
    let rights = ["reset", "on", ">pw", "~*", "&*", "+@all", "-client|tracking"];
    assert_eq!(store.server.cli(&[&["ACL", "SETUSER", "app"], &rights[..]].concat()), "OK");
    let url = store.server.url().replace("redis://", "redis://app:pw@");
    let backend = globallock::connect_backend(&format!("{url}{LONG}")).await.unwrap();
    let mut stranger = Stranger::new(store.server.port(), "stranger");
    assert!(stranger.tries());
    let first = queued(1, MUTEX);
    assert_eq!(backend.enqueue(&first).await.unwrap(), ClaimStatus::Waiting);
    for _ in 0..6 {
        assert_eq!(polls(&backend, &first).await, ClaimStatus::Waiting);
    }
    stranger.releases();
    takes(&backend, &first).await;
}

/// Three of ours that hand the lock over all the time, with these gaps, until they are aborted. Each counts
/// its grants.
async fn busy(server: &Redis, gaps: &str, grants: &Arc<[AtomicU64; 3]>) -> Vec<tokio::task::JoinHandle<()>> {
    let mut loops = Vec::new();
    for number in 0..3 {
        let grants = Arc::clone(grants);
        let options = Options::new().lease(Duration::from_secs(60));
        let url = format!("{}{gaps}", server.url());
        let manager = LockManager::connect_with(&url, options).await.unwrap();
        loops.push(tokio::spawn(async move {
            let lock = manager.mutex("a");
            loop {
                let guard = lock.acquire().await.unwrap();
                grants[number].fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(2)).await;
                guard.release().await.unwrap();
            }
        }));
    }
    eventually("they contend", async || grants.iter().all(|grants| grants.load(Ordering::SeqCst) > 2)).await;
    loops
}

/// Polls so often until it holds the lock, as other programs' locks do, and releases it.
fn takes_a_turn(stranger: &mut Stranger, every: Duration) {
    let since = Instant::now();
    while !stranger.tries() {
        assert!(since.elapsed() < Duration::from_secs(60), "it starves");
        std::thread::sleep(every);
    }
    std::thread::sleep(Duration::from_millis(2));
    stranger.releases();
    std::thread::sleep(every);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_that_poll_do_not_starve_beside_claims_that_hand_the_lock_over_all_the_time() {
    let server = Redis::start().unwrap();
    let grants: Arc<[AtomicU64; 3]> = Arc::default();
    let loops = busy(&server, "?gap=50ms", &grants).await;
    let strangers = ["one", "other"].map(|token| {
        let mut stranger = Stranger::new(server.port(), token);
        tokio::task::spawn_blocking(move || {
            for _ in 0..8 {
                takes_a_turn(&mut stranger, Duration::from_millis(10));
            }
        })
    });
    // They would never get the lock.
    for stranger in strangers {
        stranger.await.unwrap();
    }
    assert!(loops.iter().all(|one| !one.is_finished()));
    // Nor do ours starve: strangers have the lock in turns with them.
    assert!(grants.iter().all(|grants| grants.load(Ordering::SeqCst) >= 5), "{grants:?}");
    loops.iter().for_each(tokio::task::JoinHandle::abort);
}

/// How many turns of the stranger are counted. A busy machine may make it miss gaps, after which ours have
/// more of the grants for a while: many turns even that out.
const TURNS: u64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_has_at_least_half_of_its_even_share_of_the_grants() {
    let server = Redis::start().unwrap();
    let grants: Arc<[AtomicU64; 3]> = Arc::default();
    let loops = busy(&server, "?gap=150ms", &grants).await;
    let mut stranger = Stranger::new(server.port(), "stranger");
    let counted = Arc::clone(&grants);
    let ours = move || counted.iter().map(|grants| grants.load(Ordering::SeqCst)).sum::<u64>();
    let ours = tokio::task::spawn_blocking(move || {
        // Nobody knows of it before the first gap, which comes late.
        takes_a_turn(&mut stranger, Duration::from_millis(20));
        let before = ours();
        (0..TURNS).for_each(|_| takes_a_turn(&mut stranger, Duration::from_millis(20)));
        ours() - before
    });
    let ours = ours.await.unwrap();
    loops.iter().for_each(tokio::task::JoinHandle::abort);
    // Four share the lock.
    assert!(TURNS * 4 * 2 >= TURNS + ours, "{TURNS} grants, and {ours} of the others");
    assert!(ours >= TURNS / 2, "ours do not starve: {TURNS} grants, and {ours} of the others");
}
