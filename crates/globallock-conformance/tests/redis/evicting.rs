//! Evictions of foreign holders, in crowds, past faults, and with fewer rights.

use std::sync::Arc;
use std::time::Duration;

use globallock::backend::{Claim, ClaimStatus, WaitMode};
use globallock::{EntryKey, Error, Eviction, LockManager, Loss, Owner, Release};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{calm_manager, connect_for, patient, queue_is, waits};
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::redis::Redis;

use crate::calls::{LOCK, MUTEX, ONE_OF_TWO};
use crate::costs::count;
use crate::scripts::{Store, queued};
use crate::times::claim;

/// Claims are renewed after 20 s.
const LEASE: Duration = Duration::from_secs(60);
/// Before any renewal.
const SOON: Duration = Duration::from_secs(15);

/// The key of the claim that is `nth` in the queue of the lock `a`.
async fn key(manager: &LockManager, nth: usize) -> EntryKey {
    manager.inspect("a").await.unwrap().swap_remove(nth).key
}

async fn evicts(manager: &LockManager, key: &EntryKey) -> bool {
    manager.evict("a", key, "because").await.unwrap() == Release::Released
}

fn because(loss: &Loss) -> bool {
    matches!(loss, Loss::Evicted(eviction) if eviction.reason == "because")
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, future).await.expect("it needs no renewal")
}

async fn behind_proxy(server: &Redis, timeout: &str) -> (Proxy, LockManager) {
    let (proxy, url) = crate::behind_proxy(server, &format!("?timeout={timeout}")).await;
    (proxy, connect_for(&url, LEASE).await.unwrap())
}

/// Cuts the owner behind the proxy off, until its flow passes again.
async fn cut_off(server: &Redis, proxy: &Proxy) {
    let listening = || server.cli(&["PUBSUB", "CHANNELS", "globallock:wake:*"]).lines().count();
    let before = listening();
    proxy.requests(Flow::Hold);
    proxy.cut();
    eventually("nobody listens for it", async || listening() < before).await;
}

#[tokio::test]
async fn a_foreign_holder_is_evicted_and_a_waiter_gets_the_lock() {
    let server = Redis::start().unwrap();
    let [manager, other] = [calm_manager(&server.url()).await, calm_manager(&server.url()).await];
    let sets: [&[&str]; 4] =
        [&["1", "PX", "60000"], &["a-value-of-its-own"], &["", "PX", "60000"], &["glk1+:x:7", "PX", "60000"]];
    for set in sets {
        server.cli(&[&["SET", LOCK], set].concat());
        let waiter = waits(&manager, "a");
        queue_is(&manager, "a", 1, 1).await;
        let seen = key(&other, 0).await;
        assert!(seen.as_str().starts_with("foreign:") && seen.claim_id().is_none(), "{seen}");
        assert!(evicts(&other, &seen).await, "{set:?}");
        let guard = soon(waiter).await.unwrap().unwrap();
        assert!(!evicts(&other, &seen).await, "{set:?}");
        assert!(guard.renew().await.unwrap());
        guard.release().await.unwrap();
    }
    // A value that is not UTF-8.
    let binary = "return redis.call('SET', KEYS[1], '\\200\\255', 'PX', 60000)";
    server.cli(&["EVAL", binary, "1", LOCK]);
    assert!(evicts(&other, &key(&manager, 0).await).await);
    assert_eq!(server.cli(&["EXISTS", LOCK]), "0");
}

#[tokio::test]
async fn a_waiter_that_the_eviction_itself_lets_in_is_evicted() {
    let server = Redis::start().unwrap();
    let [manager, other] = [calm_manager(&server.url()).await, calm_manager(&server.url()).await];
    server.cli(&["SET", LOCK, "a-value-of-its-own"]);
    let waiter = waits(&manager, "a");
    queue_is(&manager, "a", 1, 1).await;
    let seen = key(&other, 1).await;
    // The lock is free, and nobody has noticed: the first request lets the waiter in, and then the queue is
    // empty.
    server.cli(&["DEL", LOCK]);
    assert!(evicts(&other, &seen).await);
    match soon(waiter).await.unwrap() {
        Ok(guard) => assert!(because(&soon(guard.lost()).await)),
        Err(error) => assert!(matches!(error, Error::Evicted { .. }), "{error}"),
    }
    queue_is(&manager, "a", 0, 0).await;
}

#[tokio::test]
async fn the_successor_of_a_foreign_holder_is_not_evicted_though_its_value_is_the_same() {
    let server = Redis::start().unwrap();
    let manager = calm_manager(&server.url()).await;
    server.cli(&["SET", LOCK, "1", "PX", "60000"]);
    let seen = key(&manager, 0).await;
    assert_eq!(key(&manager, 0).await, seen);
    server.cli(&["DEL", LOCK]);
    server.cli(&["SET", LOCK, "1", "PX", "50000"]);
    assert!(!evicts(&manager, &seen).await);
    assert_eq!(server.cli(&["GET", LOCK]), "1");
}

#[tokio::test]
async fn a_foreign_holder_that_nothing_tells_from_the_next_one_is_left_alone_and_the_error_says_so() {
    let server = Redis::start().unwrap();
    let manager = calm_manager(&server.url()).await;
    // A short value that never expires; a key of another type.
    for set in [&["SET", LOCK, "1"][..], &["HSET", LOCK, "redisson", "1"]] {
        server.cli(&["DEL", LOCK]);
        server.cli(set);
        let refused = manager.evict("a", &key(&manager, 0).await, "").await.unwrap_err();
        assert!(matches!(refused, Error::FailedPrecondition { .. }), "{refused:?}");
        assert!(refused.to_string().contains("delete the key by hand"), "{refused}");
        assert_eq!(server.cli(&["EXISTS", LOCK]), "1");
    }
}

#[tokio::test]
async fn a_waiter_in_a_crowd_is_found_in_few_requests_that_take_little_time() {
    const CROWD: u64 = 10_000;
    let store = Store::new().await;
    let other = globallock::connect_backend(&store.server.url()).await.unwrap();
    store.holds(&queued(0, MUTEX)).await;
    let waiter = queued(1, MUTEX);
    store.waits(&waiter).await;
    let copies = "
        local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
        for number = 1, ARGV[1] do
            local copy = string.format('%032x', 100000 + number) .. string.sub(first[1], 33)
            redis.call('ZADD', KEYS[1], string.format('%.0f', first[2] + number), copy)
        end";
    store.server.cli(&["EVAL", copies, "1", "{_glocks:a}:queue", &CROWD.to_string()]);
    store.server.cli(&["CONFIG", "RESETSTAT"]);
    let eviction = Eviction::new(Owner::default(), "");
    assert_eq!(other.evict(&waiter.name, &waiter.id.into(), &eviction).await.unwrap(), Release::Released);
    let (calls, scans) = (count(&store.server, "evalsha"), count(&store.server, "zscan"));
    assert!(calls <= 3 && (1..=12).contains(&scans), "{calls} calls, {scans} pages");
    assert_eq!(store.server.cli(&["ZCARD", "{_glocks:a}:queue"]), CROWD.to_string());
    let told = soon(store.backend.wait_for_change(&waiter)).await.unwrap();
    assert!(matches!(told, Some(ClaimStatus::Evicted(_))), "{told:?}");
    // A claim that is nowhere.
    let nowhere = queued(2, MUTEX);
    assert_eq!(other.evict(&nowhere.name, &nowhere.id.into(), &eviction).await.unwrap(), Release::NotHeld);
}

#[tokio::test]
async fn an_owner_that_was_cut_off_is_told_as_soon_as_it_is_back() {
    let server = Redis::start().unwrap();
    let other = calm_manager(&server.url()).await;
    let (proxy, owner) = behind_proxy(&server, "10s").await;
    let guard = owner.mutex("a").acquire().await.unwrap();
    let seen = key(&other, 0).await;
    cut_off(&server, &proxy).await;
    assert!(evicts(&other, &seen).await);
    let next = other.mutex("a").acquire().await.unwrap();
    assert!(guard.is_held(), "it cannot know");
    proxy.requests(Flow::Pass);
    assert!(because(&soon(guard.lost()).await));
    assert!(next.renew().await.unwrap());
}

#[tokio::test]
async fn an_owner_that_stays_cut_off_has_lost_the_lock_at_its_own_deadline() {
    let server = Redis::start().unwrap();
    let other = calm_manager(&server.url()).await;
    let (proxy, url) = crate::behind_proxy(&server, "?timeout=500ms").await;
    let owner = connect_for(&url, Duration::from_secs(1)).await.unwrap();
    let guard = owner.mutex("a").acquire().await.unwrap();
    let seen = key(&other, 0).await;
    proxy.answers(Flow::Swallow);
    assert!(evicts(&other, &seen).await);
    assert!(matches!(guard.lost().await, Loss::Expired));
}

#[tokio::test]
async fn a_message_that_is_lost_is_made_up_for_by_the_next_renewal() {
    let server = Redis::start().unwrap();
    let other = calm_manager(&server.url()).await;
    let (proxy, url) = crate::behind_proxy(&server, "?timeout=500ms").await;
    let owner = connect_for(&url, Duration::from_secs(6)).await.unwrap();
    let guard = owner.mutex("a").acquire().await.unwrap();
    let seen = key(&other, 0).await;
    proxy.answers(Flow::Swallow);
    assert!(evicts(&other, &seen).await);
    eventually("the message is lost", async || proxy.swallowed() > 0).await;
    proxy.answers(Flow::Pass);
    assert!(because(&guard.lost().await));
}

#[tokio::test]
async fn a_waiter_that_was_cut_off_is_told_when_it_is_back_and_joins_no_more() {
    let server = Redis::start().unwrap();
    let other = calm_manager(&server.url()).await;
    let (proxy, owner) = behind_proxy(&server, "10s").await;
    let guard = other.mutex("a").acquire().await.unwrap();
    let waiter = waits(&owner, "a");
    queue_is(&other, "a", 1, 1).await;
    let seen = key(&other, 1).await;
    cut_off(&server, &proxy).await;
    assert!(evicts(&other, &seen).await);
    guard.release().await.unwrap();
    proxy.requests(Flow::Pass);
    let refused = soon(waiter).await.unwrap().expect_err("it was evicted");
    assert!(
        matches!(&refused, Error::Evicted { eviction, .. } if eviction.reason == "because"),
        "{refused:?}"
    );
    queue_is(&other, "a", 0, 0).await;
}

/// The server answers the first request of this claim too late: it is evicted before the request is repeated.
async fn is_told_by_the_repeated_request(claim: &Claim) {
    let server = Redis::start().unwrap();
    let other = calm_manager(&server.url()).await;
    let (proxy, url) = crate::behind_proxy(&server, "?timeout=3s").await;
    let owner = globallock::connect_backend(&url).await.unwrap();
    // Loads the scripts.
    for permits in [MUTEX, ONE_OF_TWO] {
        let first = queued(9, permits);
        owner.enqueue(&first).await.unwrap();
        owner.release(&first).await.unwrap();
    }
    proxy.answers_on_open_connections(Flow::Swallow);
    let asks = tokio::spawn({
        let (owner, claim) = (Arc::clone(&owner), claim.clone());
        async move { owner.enqueue(&claim).await }
    });
    queue_is(&other, "a", 1, 0).await;
    assert!(evicts(&other, &key(&other, 0).await).await);
    let answer = asks.await.unwrap().unwrap();
    assert!(matches!(answer, ClaimStatus::Evicted(_)), "{answer:?}");
    assert_eq!(proxy.connections(), 2, "the request was repeated");
    queue_is(&other, "a", 0, 0).await;
}

#[tokio::test]
async fn a_request_whose_answer_was_lost_does_not_let_an_evicted_claim_join_again() {
    let claims = [
        queued(1, MUTEX),
        queued(1, ONE_OF_TWO),
        claim("a", 1, MUTEX, WaitMode::Try),
        claim("a", 1, ONE_OF_TWO, WaitMode::Try),
    ];
    futures_util::future::join_all(claims.iter().map(is_told_by_the_repeated_request)).await;
}

#[tokio::test]
async fn a_notice_stays_for_an_hour_or_for_a_lease_after_its_owner_has_given_up() {
    let store = Store::new().await;
    let other = globallock::connect_backend(&store.server.url()).await.unwrap();
    let holder = queued(1, MUTEX);
    store.holds(&holder).await;
    let eviction = Eviction::new(Owner::default().with_label("me"), "");
    let found = other.evict(&holder.name, &holder.id.into(), &eviction).await.unwrap();
    assert_eq!(found, Release::Released);
    let notice = format!("{{_glocks:a}}:{}:evicted", holder.id);
    assert_eq!(Eviction::from_text(&store.server.cli(&["GET", &notice])), eviction);
    let left = || Duration::from_millis(store.server.cli(&["PTTL", &notice]).parse().unwrap());
    assert!(left() > Duration::from_secs(3600));
    // Another owner's release changes nothing, and neither does asking.
    other.release(&holder).await.unwrap();
    assert!(matches!(store.renew(&holder).await, ClaimStatus::Evicted(told) if *told == eviction));
    assert!(left() > Duration::from_secs(3600));
    assert_eq!(store.release(&holder).await, Release::NotHeld);
    assert!(left() <= holder.lease);
    // A claim that was released is none that was evicted.
    let another = queued(2, MUTEX);
    store.holds(&another).await;
    store.release(&another).await;
    assert_eq!(store.renew(&another).await, ClaimStatus::Gone);
}

#[tokio::test]
async fn a_full_server_lets_claims_be_evicted() {
    let store = Store::new().await;
    let other = globallock::connect_backend(&store.server.url()).await.unwrap();
    // A holder, a waiter, and a shared holder.
    let claims = [queued(1, MUTEX), queued(2, MUTEX), claim("b", 3, ONE_OF_TWO, WaitMode::Wait)];
    store.holds(&claims[0]).await;
    store.waits(&claims[1]).await;
    store.holds(&claims[2]).await;
    // Loads the scripts.
    let nobody = queued(9, MUTEX);
    let eviction = Eviction::new(Owner::default(), "full");
    other.evict(&nobody.name, &nobody.id.into(), &eviction).await.unwrap();
    store.server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    for claim in [&claims[1], &claims[0], &claims[2]] {
        let found = other.evict(&claim.name, &claim.id.into(), &eviction).await.unwrap();
        assert_eq!(found, Release::Released);
        let told = store.renew(claim).await;
        assert!(matches!(&told, ClaimStatus::Evicted(told) if **told == eviction), "{told:?}");
    }
}

#[tokio::test]
async fn without_the_right_to_the_common_channel_an_owner_is_told_at_its_renewal() {
    let server = Redis::start().unwrap();
    let rights = "on >pw ~* &globallock:wake:* +@all";
    let mut set = vec!["ACL", "SETUSER", "some"];
    set.extend(rights.split(' '));
    assert_eq!(server.cli(&set), "OK");
    let url = format!("redis://some:pw@127.0.0.1:{}", server.port());
    let owner = connect_for(&patient(&url), Duration::from_secs(6)).await.unwrap();
    let other = calm_manager(&url).await;
    let guard = owner.mutex("a").acquire().await.unwrap();
    let waiter = waits(&other, "a");
    queue_is(&other, "a", 1, 1).await;
    assert!(evicts(&other, &key(&other, 0).await).await);
    assert!(soon(waiter).await.unwrap().unwrap().is_held());
    assert!(because(&guard.lost().await));
    assert!(server.cli(&["PUBSUB", "CHANNELS", "globallock:evict"]).is_empty());
}
