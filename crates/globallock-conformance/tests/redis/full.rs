//! A server whose memory is full: what is held and waited for goes on, what is new waits for room.

use std::time::Duration;

use futures_util::future::join_all;
use globallock::{Error, Guard, LockManager, Options, Release};
use globallock_conformance::context::{eventually, lock_of};
use globallock_conformance::fixtures::{calm_manager, connect_for, patient, queue_is, waits};
use globallock_conformance::server::redis::Redis;

use crate::LEASE;

/// The addresses' options: for each form of the scripts.
pub(crate) const FORMS: [&str; 2] = ["", "?commands=6"];
/// The same, and with gaps for strangers.
const ADDRESSES: [&str; 3] = ["", "?commands=6", "?gap=2ms"];
/// What is held, how often, and what waits for it.
const KINDS: [(&str, usize, &str); 4] =
    [("mutex", 1, "mutex"), ("read", 2, "write"), ("1/2", 2, "1/2"), ("2/3", 1, "2/3")];

fn fill(server: &Redis) {
    assert_eq!(server.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    assert!(server.cli(&["SET", "a", "b"]).starts_with("OOM"));
}

fn make_room(server: &Redis) {
    assert_eq!(server.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
}

/// How often scripts were called.
fn calls(server: &Redis) -> u64 {
    let stats = server.cli(&["INFO", "commandstats"]);
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls=")?.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

/// Holds a lock, fills the server, and checks that everything goes on for several leases, that a release
/// hands the lock over, and that nothing is left.
async fn outlives_a_full_server(server: &Redis, options: &str, held: &str, count: usize, waiting: &str) {
    let lease = LEASE * globallock_conformance::pauses::busy();
    let manager = async || connect_for(&format!("{}{options}", server.url()), lease).await.unwrap();
    let [first, second] = [manager().await, manager().await];
    let lock = |kind| lock_of(&first, "a", kind).unwrap();
    let mut guards = Vec::new();
    for _ in 0..count {
        guards.push(lock(held).acquire().await.unwrap());
    }
    let waiters: Vec<_> = [&first, &second]
        .map(|manager| {
            let lock = lock_of(manager, "a", waiting).unwrap();
            tokio::spawn(async move { lock.acquire().await })
        })
        .into_iter()
        .collect();
    queue_is(&first, "a", count, 2).await;
    fill(server);

    tokio::time::sleep(lease * 4).await;
    assert!(guards.iter().all(Guard::is_held), "{held}: held for four leases");
    for guard in &guards {
        assert!(guard.renew().await.unwrap(), "{held}: renewed on request");
    }
    queue_is(&first, "a", count, 2).await;
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()), "{held}: the waiters wait on");

    for guard in guards {
        assert_eq!(guard.release().await.unwrap(), Release::Released, "{held}");
    }
    let granted = waiters.into_iter().map(|waiter| async move {
        let granted = tokio::time::timeout(lease * 20, waiter).await;
        let guard = granted.unwrap_or_else(|_| panic!("{held}: it is granted while the server is full"));
        assert_eq!(guard.unwrap().unwrap().release().await.unwrap(), Release::Released, "{held}");
    });
    join_all(granted).await;
    // The state of the gaps expires.
    let keys = server.cli(&["KEYS", "*"]);
    let left: Vec<&str> = keys.lines().filter(|key| !key.ends_with(":gap")).collect();
    assert_eq!(left, ["{_glocks:a}:fence"], "{held}");
    make_room(server);
    server.cli(&["FLUSHALL"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_held_and_waited_for_outlives_a_full_server() {
    let cases = ADDRESSES.into_iter().flat_map(|options| KINDS.map(|kind| (options, kind)));
    let cases = cases.map(|(options, (held, count, waiting))| async move {
        let server = Redis::start().unwrap();
        outlives_a_full_server(&server, options, held, count, waiting).await;
    });
    join_all(cases).await;
}

/// A manager whose requests are repeated for a second.
async fn impatient(url: &str) -> LockManager {
    let options = Options::new().lease(Duration::from_secs(60)).store_timeout(Duration::from_secs(1));
    LockManager::connect_with(&patient(url), options).await.unwrap()
}

#[tokio::test]
async fn what_is_new_waits_for_room_and_says_so_in_the_end() {
    for options in ADDRESSES {
        let server = Redis::start().unwrap();
        let url = format!("{}{options}", server.url());
        let (patient, impatient) = (calm_manager(&url).await, impatient(&url).await);
        fill(&server);
        for kind in ["mutex", "read", "write", "1/2"] {
            let lock = lock_of(&impatient, "a", kind).unwrap();
            for refused in [lock.acquire().await.map(Some), lock.try_acquire().await] {
                let error = refused.expect_err("it is refused");
                assert!(matches!(error, Error::Unavailable { .. }), "{kind}: {error:?}");
                assert!(error.to_string().contains("out of memory: raise maxmemory"), "{kind}: {error}");
            }
        }
        assert_eq!(server.cli(&["KEYS", "*"]), "", "nothing is left");
        let waiter = waits(&patient, "a");
        let asked = calls(&server);
        eventually("it asks again and again", async || calls(&server) >= asked + 3).await;
        assert!(!waiter.is_finished());
        make_room(&server);
        assert!(waiter.await.unwrap().unwrap().is_held());
    }
}

/// A disk that is full, as Redis sees it: a snapshot could not be written, so every write is refused.
#[tokio::test]
async fn what_is_new_waits_for_a_server_that_cannot_save_to_its_disk() {
    for options in FORMS {
        let server = Redis::start().unwrap();
        let url = format!("{}{options}", server.url());
        let (patient, impatient) = (calm_manager(&url).await, impatient(&url).await);
        assert_eq!(server.cli(&["CONFIG", "SET", "save", "900 1"]), "OK");
        std::fs::remove_dir_all(server.directory()).unwrap();
        eventually("the server refuses writes", async || {
            server.cli(&["BGSAVE"]);
            server.cli(&["SET", "a", "b"]).starts_with("MISCONF")
        })
        .await;
        let refused = impatient.mutex("a").acquire().await.unwrap_err();
        assert!(matches!(refused, Error::Unavailable { .. }), "{refused:?}");
        assert!(refused.to_string().contains("cannot save to its disk: free the disk"), "{refused}");
        let waiter = waits(&patient, "a");
        let asked = calls(&server);
        eventually("it asks again and again", async || calls(&server) >= asked + 3).await;
        assert!(!waiter.is_finished());
        assert_eq!(server.cli(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]), "OK");
        assert!(waiter.await.unwrap().unwrap().is_held());
    }
}

#[tokio::test]
async fn a_full_server_says_that_a_lock_is_taken_and_evicts_its_holder_and_a_waiter() {
    for options in ADDRESSES {
        let server = Redis::start().unwrap();
        let url = format!("{}{options}", server.url());
        let [manager, other] = [calm_manager(&url).await, calm_manager(&url).await];
        for (held, waiting) in [("mutex", "mutex"), ("read", "write"), ("1/2", "2/2")] {
            let guard = lock_of(&manager, "a", held).unwrap().acquire().await.unwrap();
            let waiters = [(); 2].map(|()| {
                let lock = lock_of(&manager, "a", waiting).unwrap();
                tokio::spawn(async move { lock.acquire().await })
            });
            queue_is(&manager, "a", 1, 2).await;
            fill(&server);
            assert!(lock_of(&other, "a", waiting).unwrap().try_acquire().await.unwrap().is_none());
            let queue = other.inspect("a").await.unwrap();
            for entry in [&queue[1], &queue[0]] {
                let evicted = other.evict("a", &entry.key, "because").await.unwrap();
                assert_eq!(evicted, Release::Released, "{held}");
            }
            eventually("the holder is told", async || !guard.is_held()).await;
            let [evicted, granted] = waiters;
            let (mut told, mut holds) = (0, 0);
            for waiter in [evicted, granted] {
                match waiter.await.unwrap() {
                    Err(Error::Evicted { .. }) => told += 1,
                    other => {
                        other.unwrap().release().await.unwrap();
                        holds += 1;
                    }
                }
            }
            assert_eq!((told, holds), (1, 1), "{held}");
            make_room(&server);
        }
    }
}
