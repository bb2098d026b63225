//! What is stored, and how it works with programs that know nothing of globallock.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use globallock::Guard;
use globallock::backend::{Claim, ClaimStatus};
use globallock::queue::Permits;
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{calm_manager as manager, connect_for};
use globallock_conformance::server::redis::Redis;

use crate::calls::{COUNTER, ID, LOCK, MUTEX, OTHER, QUEUE, REST, Scripts, already_waiting, piped};
use crate::costs::count;
use crate::queue_is;
use crate::scripts::{Store, queued};

#[tokio::test]
async fn a_held_mutex_is_a_plain_string_that_expires() {
    let server = Redis::start().unwrap();
    let lease = Duration::from_secs(60);
    let manager = connect_for(&server.url(), lease).await.unwrap();
    let guard = manager.mutex("a").acquire().await.unwrap();
    assert_eq!(server.cli(&["TYPE", "_glocks:a"]), "string");
    let left: u128 = server.cli(&["PTTL", "_glocks:a"]).parse().unwrap();
    assert!(left > 0 && left <= lease.as_millis());
    assert_eq!(server.cli(&["SET", "_glocks:a", "other", "NX", "PX", "1000"]), "");
    guard.release().await.unwrap();
    assert_eq!(server.cli(&["KEYS", "*"]), "{_glocks:a}:fence");
    assert!(server.cli(&["TTL", "{_glocks:a}:fence"]).parse::<u64>().unwrap() > 600_000);
}

#[tokio::test]
async fn the_value_of_a_held_lock_never_changes() {
    let server = Redis::start().unwrap();
    let manager = connect_for(&server.url(), Duration::from_secs(6)).await.unwrap();
    let guards =
        [manager.mutex("a").acquire().await.unwrap(), manager.rwlock("b").read().acquire().await.unwrap()];
    let read = |guard: &Guard| {
        let key = format!("_glocks:{}", guard.name().as_str());
        (server.cli(&["GET", &key]), server.cli(&["PTTL", &key]).parse::<i64>().unwrap())
    };
    let mut before = guards.each_ref().map(|guard| (read(guard), 0));
    eventually("both are renewed twice", async || {
        for (guard, ((value, left), renewals)) in guards.iter().zip(&mut before) {
            let (now, left_now) = read(guard);
            assert_eq!(now, *value);
            *renewals += u32::from(left_now > *left);
            *left = left_now;
        }
        before.iter().all(|(_, renewals)| *renewals >= 2)
    })
    .await;
    assert!(guards.iter().all(Guard::is_held));
}

#[tokio::test]
async fn everything_in_the_store_expires_by_itself() {
    let server = Redis::start().unwrap();
    // Nothing expires while it is looked at.
    let manager = connect_for(&server.url(), Duration::from_secs(60)).await.unwrap();
    let lock = manager.rwlock("a");
    let _readers = (lock.read().acquire().await.unwrap(), lock.read().acquire().await.unwrap());
    let writer = lock.write();
    let waits = tokio::spawn(async move { writer.acquire().await });
    let mutex = manager.mutex("b");
    let _guard = mutex.acquire().await.unwrap();
    let waits_too = tokio::spawn(async move { mutex.acquire().await });
    queue_is(&manager, "a", 2, 1).await;
    queue_is(&manager, "b", 1, 1).await;
    let keys = server.cli(&["KEYS", "*"]);
    assert!(keys.lines().count() >= 7, "{keys}");
    for key in keys.lines() {
        assert!(server.cli(&["PTTL", key]).parse::<i64>().unwrap() > 0, "{key} stays for ever");
    }
    waits.abort();
    waits_too.abort();
}

#[tokio::test]
async fn a_foreign_holder_excludes_us_and_is_listed() {
    let server = Redis::start().unwrap();
    let manager = manager(&server.url()).await;
    assert_eq!(server.cli(&["SET", "_glocks:a", "\u{1b}[2Jsomebody", "NX", "PX", "60000"]), "OK");
    assert!(manager.mutex("a").try_acquire().await.unwrap().is_none());
    assert!(manager.rwlock("a").read().try_acquire().await.unwrap().is_none());
    let queue = manager.inspect("a").await.unwrap();
    assert_eq!((queue.len(), queue[0].id, queue[0].held, queue[0].fencing_token), (1, None, true, 0));
    assert!(queue[0].expires_in.is_some_and(|left| left <= Duration::from_secs(60)));
    let shown = queue[0].owner.to_string();
    assert!(shown.contains("somebody") && !shown.contains('\u{1b}'), "{shown:?}");
}

#[tokio::test]
async fn a_lock_that_a_foreign_holder_releases_is_granted() {
    let server = Redis::start().unwrap();
    let manager = manager(&server.url()).await;
    server.cli(&["SET", "_glocks:a", "somebody", "PX", "60000"]);
    let lock = manager.mutex("a");
    let waiter = tokio::spawn(async move { lock.acquire().await });
    queue_is(&manager, "a", 1, 1).await;
    assert_eq!(server.cli(&["DEL", "_glocks:a"]), "1");
    assert!(waiter.await.unwrap().unwrap().is_held());
}

#[tokio::test]
async fn a_lock_that_a_foreign_holder_lets_expire_is_granted() {
    let server = Redis::start().unwrap();
    let manager = manager(&server.url()).await;
    server.cli(&["SET", "_glocks:a", "somebody", "PX", "300"]);
    let guard = manager.mutex("a").acquire().await.unwrap();
    assert!(guard.is_held());
}

#[tokio::test]
async fn a_foreign_holder_whose_key_is_no_string_excludes_us_too() {
    let server = Redis::start().unwrap();
    let manager = manager(&server.url()).await;
    server.cli(&["HSET", "_glocks:a", "field", "redisson"]);
    assert!(manager.mutex("a").try_acquire().await.unwrap().is_none());
    assert_eq!(manager.inspect("a").await.unwrap()[0].id, None);
    server.cli(&["DEL", "_glocks:a"]);
    assert!(manager.mutex("a").try_acquire().await.unwrap().is_some());
}

#[tokio::test]
async fn a_prefix_and_a_database_keep_locks_apart() {
    let server = Redis::start().unwrap();
    let plain = manager(&server.url()).await;
    let prefixed = manager(&format!("{}?prefix=app%3A", server.url())).await;
    let database = manager(&format!("{}/3", server.url())).await;
    let guards = [
        plain.mutex("a").try_acquire().await.unwrap(),
        prefixed.mutex("a").try_acquire().await.unwrap(),
        database.mutex("a").try_acquire().await.unwrap(),
    ];
    assert!(guards.iter().all(Option::is_some));
    assert_eq!(server.cli(&["EXISTS", "_glocks:a", "app:a"]), "2");
    assert_eq!(server.cli(&["-n", "3", "EXISTS", "_glocks:a"]), "1");
}

#[tokio::test]
async fn only_locks_are_listed() {
    let server = Redis::start().unwrap();
    let manager = manager(&server.url()).await;
    server.cli(&["SET", "unrelated", "x"]);
    server.cli(&["SET", "_glocks:foreign", "x"]);
    let _guard = manager.rwlock("a").read().acquire().await.unwrap();
    let mut names: Vec<String> =
        manager.list("").map(|listed| listed.unwrap().name.as_str().to_owned()).collect().await;
    names.sort();
    assert_eq!(names, ["a", "foreign"]);
}

#[tokio::test]
async fn an_acquire_and_a_release_are_one_request_each() {
    let server = Redis::start().unwrap();
    let manager = manager(&server.url()).await;
    let lock = manager.mutex("a");
    lock.acquire().await.unwrap().release().await.unwrap();
    let calls = || count(&server, "evalsha");
    let before = calls();
    for _ in 0..10 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    assert_eq!(calls() - before, 20);
}

#[tokio::test]
async fn a_dropped_manager_closes_its_connection() {
    let server = Redis::start().unwrap();
    let all = || server.cli(&["CLIENT", "LIST"]).lines().count();
    let before = all();
    let manager = manager(&server.url()).await;
    let guard = manager.mutex("a").acquire().await.unwrap();
    assert_eq!(all(), before + 1);
    drop(manager);
    guard.release().await.unwrap();
    eventually("the connection is closed", async || all() == before).await;
}

#[tokio::test]
async fn dead_waiters_in_front_of_one_that_must_wait_are_removed_from_the_queue() {
    let store = Store::new().await;
    let reader = queued(1, MUTEX).with_permits(Permits::new(1, 9));
    store.holds(&reader).await;
    // None fits beside the reader. The first ones are renewed only once.
    let dead = [2, 3, 4].map(|number| queued(number, MUTEX).with_lease(Duration::from_secs(2)));
    let has_record =
        |claim: &Claim| store.server.cli(&["HEXISTS", "{_glocks:a}:claims", &claim.id.to_string()]) == "1";
    for claim in &dead {
        store.waits(claim).await;
        assert_eq!(store.renew(claim).await, ClaimStatus::Waiting);
    }
    assert!(dead.iter().all(has_record), "the end of a renewed lease is written down");
    let living = queued(5, MUTEX);
    store.waits(&living).await;
    eventually("their leases end, and the next renewal removes them", async || {
        assert_eq!(store.renew(&living).await, ClaimStatus::Waiting);
        store.server.cli(&["ZCARD", "{_glocks:a}:queue"]) == "1"
    })
    .await;
    assert!(!dead.iter().any(has_record), "nothing of them stays");
}

#[tokio::test]
async fn the_age_of_a_hold_counts_from_the_grant_after_a_wait_too() {
    let store = Store::new().await;
    let holder = queued(1, MUTEX);
    let shares = Permits::new(1, 9);
    store.holds(&holder).await;
    let waiters = [2, 3].map(|number| queued(number, MUTEX).with_permits(shares));
    for waiter in &waiters {
        store.waits(waiter).await;
    }
    let joined = Instant::now();
    eventually("they wait for a while", async || joined.elapsed() > Duration::from_millis(200)).await;
    let released = Instant::now();
    store.release(&holder).await;
    let queue = store.backend.inspect(&holder.name).await.unwrap();
    // The server counts whole milliseconds.
    let most = released.elapsed() + Duration::from_millis(2);
    assert_eq!(queue.iter().filter(|entry| entry.held).count(), 2);
    for entry in queue {
        assert!(entry.age.is_some_and(|age| age <= most), "{entry:?}, though it holds for {most:?} at most");
    }
}

#[tokio::test]
async fn the_counter_is_kept_for_seven_days_whatever_sets_it() {
    const DAYS: i64 = 7 * 24 * 3600 * 1000;
    let scripts = Scripts::new().await;
    let waiter = format!("ZADD {QUEUE} 5000 \"{OTHER} {REST}\"");
    let behind = format!("ZADD {QUEUE} 9000000000000 \"{OTHER} {REST}\"");
    let contended = format!("SET {COUNTER} 5000w");
    let ahead = format!("SET {COUNTER} 9000000000000000w");
    let held_by = |id: &str| format!("SET {LOCK} \"glk1:{id}:1000::0:1/1:x\" PX 600000");
    for (case, before, request) in [
        ("nobody has the lock", vec![], scripts.enqueue_for(0, 0)),
        ("the lock is free, but contended", vec![waiter, contended.clone()], scripts.enqueue_for(0, 0)),
        ("the counter is ahead of the clock", vec![held_by(OTHER), ahead.clone()], scripts.enqueue()),
        ("the lock is contended no longer", vec![held_by(ID), contended], scripts.release(ID, "")),
        // A waiter that asks again gets no new number, which would set the counter once more.
        (
            "a waiter asks again, and the lock is free",
            [already_waiting(), vec![behind]].concat(),
            scripts.enqueue(),
        ),
        (
            "a waiter asks again, and the counter is ahead of the clock",
            [already_waiting(), vec![held_by(OTHER), ahead]].concat(),
            scripts.enqueue(),
        ),
        ("the first shared holder", vec![], scripts.enqueue_shared()),
    ] {
        let commands =
            [vec!["FLUSHALL".to_owned()], before, vec![request, format!("PTTL {COUNTER}")]].concat();
        let answers = piped(&scripts.server, &commands);
        let left: i64 = answers.lines().last().unwrap().parse().unwrap();
        assert!((DAYS - 60_000..=DAYS).contains(&left), "{case}: {answers}");
    }
}
