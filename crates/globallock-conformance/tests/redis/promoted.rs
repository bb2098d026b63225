//! A replica that has missed a grant takes over. Redis grants the lock a second time, but the tokens and a
//! reported loss protect the guarded resource.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use globallock::{Guard, LockManager, Loss, Options, Release};
use globallock_conformance::context::{eventually, lock_of};
use globallock_conformance::fixtures::queue_is;
use globallock_conformance::pauses::Pauses;
use globallock_conformance::register::Register;
use globallock_conformance::server::redis::Redis;

const LEASE: Duration = Duration::from_secs(3);
/// How much later than promised something may happen, because the machine is busy.
const BUSY: Duration = Duration::from_secs(3);
/// A kind of lock, and a kind that excludes it.
const KINDS: [(&str, &str); 3] = [("mutex", "mutex"), ("read", "write"), ("1/2", "2/2")];

/// Connects with a store timeout of one second.
async fn connect(url: &str) -> LockManager {
    let options = Options::new().lease(LEASE).store_timeout(Some(Duration::from_secs(1)));
    LockManager::connect_with(url, options).await.unwrap()
}

/// A field of what a server says about its replication.
fn field(server: &Redis, name: &str) -> String {
    let info = server.cli(&["INFO", "replication"]);
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.unwrap_or("").trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_missed_a_grant_takes_over() {
    let mut primary = Redis::start().unwrap();
    let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &primary.port().to_string()]).unwrap();
    eventually("the replica follows", async || field(&replica, "master_link_status") == "up").await;
    let (proxy, url) = crate::behind_proxy(&primary, "?timeout=300ms").await;
    let [before, after] = [connect(&url).await, connect(&url).await];

    // First a token that reaches the replica, and then grants that do not.
    let mut known = Vec::new();
    for (kind, _) in KINDS {
        let guard = lock_of(&before, kind, kind).unwrap().acquire().await.unwrap();
        known.push(guard.fencing_token());
        guard.release().await.unwrap();
    }
    eventually("the replica has all", async || {
        field(&replica, "master_repl_offset") == field(&primary, "master_repl_offset")
    })
    .await;
    assert_eq!(replica.cli(&["REPLICAOF", "127.0.0.1", "1"]), "OK");
    let mut held = Vec::new();
    for (kind, _) in KINDS {
        held.push(lock_of(&before, kind, kind).unwrap().acquire().await.unwrap());
    }
    let offset = |server: &Redis| field(server, "master_repl_offset").parse::<u64>().unwrap();
    assert!(offset(&primary) > offset(&replica), "the replica has missed the grants");
    primary.kill();
    assert_eq!(replica.cli(&["REPLICAOF", "NO", "ONE"]), "OK");
    proxy.redirect_to(replica.port());
    proxy.cut();
    let (promoted, pauses) = (Instant::now(), Pauses::watch());

    let losses = join_all(held.iter().map(Guard::lost));
    let grants = join_all(KINDS.map(|(kind, against)| {
        let lock = lock_of(&after, kind, against).unwrap();
        async move { lock.acquire().await.unwrap() }
    }));
    let (losses, grants) = tokio::join!(losses, grants);
    println!("lost and granted after {:.1?}", promoted.elapsed());
    let took = promoted.elapsed();
    assert!(took < LEASE + BUSY + pauses.spent(), "lost and granted after {took:?}");
    assert!(losses.iter().all(|loss| matches!(loss, Loss::Revoked | Loss::Expired)), "{losses:?}");
    for ((old, new), known) in held.iter().zip(&grants).zip(known) {
        assert!(!old.is_held() && new.is_held());
        assert!(known < old.fencing_token() && old.fencing_token() < new.fencing_token());
        let register = Register::default();
        assert!(register.write(new.fencing_token(), "after"));
        assert!(
            !register.write(old.fencing_token(), "before"),
            "the write of the earlier holder comes too late"
        );
        assert_eq!(register.read(), "after");
    }
    for old in held {
        assert_eq!(old.release().await.unwrap(), Release::NotHeld);
    }
    for (new, (kind, _)) in grants.into_iter().zip(KINDS) {
        assert!(new.is_held());
        assert_eq!(new.release().await.unwrap(), Release::Released);
        queue_is(&after, kind, 0, 0).await;
    }
}
