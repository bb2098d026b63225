//! Very many waiters on one name: the dead neither block the living nor cost them their position.
//!
//! All leases are a minute long, and all limits shorter than the time between two renewals. So neither an
//! expiry nor a renewal can hide that somebody was forgotten.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use globallock::backend::{Backend, Claim, ClaimId, ClaimStatus, WaitMode};
use globallock::queue::Permits;
use globallock::{Guard, LockManager, Release, Result};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, waits};
use globallock_conformance::server::redis::Redis;
use tokio::task::JoinHandle;

use crate::costs::count;
use crate::queue_is;
use crate::times::claim;

const LEASE: Duration = Duration::from_secs(60);
/// Waiters renew after 20 s.
const SOON: Duration = Duration::from_secs(15);
const MUTEX: Permits = Permits::MUTEX;
const CROWD: u64 = 10_000;

/// Puts copies of the last waiter of the lock `a` behind it until there are ARGV[1] waiters. With 'Apart' as
/// ARGV[2], each has a channel of its own.
const COPIES: &str = "
    local queue = '{_glocks:a}:queue'
    local last = redis.call('ZRANGE', queue, -1, -1, 'WITHSCORES')
    for number = 1, ARGV[1] - redis.call('ZCARD', queue) do
        local copy = string.format('%032x', 100000 + number) .. string.sub(last[1], 33)
        if ARGV[2] == 'Apart' then copy = string.gsub(copy, 'wake:', 'wake:' .. number .. '-', 1) end
        redis.call('ZADD', queue, string.format('%.0f', last[2] + number), copy)
    end
    redis.call('SET', '{_glocks:a}:fence', string.format('%.0fw', last[2] + ARGV[1]), 'PX', 600000)
    return redis.call('ZCARD', queue)";

/// Whether the dead waiters belong to one process, or each to a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dead {
    Together,
    Apart,
}

/// A server on which somebody holds the lock `a` in front of very many waiters that have all died.
struct Fixture {
    server: Redis,
    holder: Arc<dyn Backend>,
    holds: Claim,
}

impl Fixture {
    async fn new(dead: Dead) -> Self {
        let server = Redis::start().unwrap();
        let holder = globallock::connect_backend(&server.url()).await.unwrap();
        let holds = claim("a", 0, MUTEX, WaitMode::Wait);
        assert!(matches!(holder.enqueue(&holds).await, Ok(ClaimStatus::Held(_))));
        let backend = globallock::connect_backend(&server.url()).await.unwrap();
        crowd(&backend, 20).await;
        drop(backend);
        let copied = server.cli(&["EVAL", COPIES, "0", &CROWD.to_string(), &format!("{dead:?}")]);
        assert_eq!(copied, CROWD.to_string());
        eventually("nobody listens for the dead", async || {
            server.cli(&["PUBSUB", "CHANNELS", "globallock:wake:*"]).lines().count() == 1
        })
        .await;
        server.cli(&["CONFIG", "SET", "slowlog-log-slower-than", "1000"]);
        server.cli(&["CONFIG", "SET", "slowlog-max-len", "10000"]);
        Fixture { server, holder, holds }
    }

    async fn living(&self) -> LockManager {
        connect_for(&self.server.url(), LEASE).await.unwrap()
    }

    /// A living waiter behind all the dead.
    async fn waiter(&self, living: &LockManager) -> JoinHandle<Result<Guard>> {
        let waiter = waits(living, "a");
        eventually("it stands behind the dead", async || waiting(&self.server) == CROWD + 1).await;
        waiter
    }

    /// Frees the lock as the end of the lease does when the holder has died.
    fn holder_is_gone(&self) {
        assert_eq!(self.server.cli(&["DEL", "_glocks:a"]), "1");
    }
}

fn waiting(server: &Redis) -> u64 {
    server.cli(&["ZCARD", "{_glocks:a}:queue"]).parse().unwrap()
}

/// Makes so many waiters join the queue of the lock `a` over one connection.
async fn crowd(backend: &Arc<dyn Backend>, count: u64) {
    let joins = (1..=count).map(|number| {
        let waiter = of_the_crowd(claim("a", number, MUTEX, WaitMode::Wait).id);
        async move { backend.enqueue(&waiter).await.unwrap() }
    });
    let statuses: Vec<ClaimStatus> = futures_util::stream::iter(joins).buffered(200).collect().await;
    assert!(statuses.iter().all(|status| *status == ClaimStatus::Waiting));
}

/// The longest time that one call took on the server, of those that took more than a millisecond.
fn longest(server: &Redis) -> Duration {
    let log = server.cli(&[
        "EVAL",
        "
        local longest = 0
        for _, entry in ipairs(redis.call('SLOWLOG', 'GET', 10000)) do
            if entry[4][1] == 'EVALSHA' then longest = math.max(longest, entry[3]) end
        end
        return longest",
        "0",
    ]);
    Duration::from_micros(log.parse().unwrap())
}

/// Waits for a grant that must not need a renewal, and prints how long it took in all and on the server.
async fn granted(
    what: &str,
    since: Instant,
    fixture: &Fixture,
    living: &LockManager,
    waiter: JoinHandle<Result<Guard>>,
) {
    let guard = tokio::time::timeout(SOON, waiter).await.expect("it is granted").unwrap().unwrap();
    println!("{what}: {:.1?}, longest call {:?}", since.elapsed(), longest(&fixture.server));
    assert!(guard.is_held());
    queue_is(living, "a", 1, 0).await;
}

#[tokio::test]
async fn a_release_grants_the_lock_past_ten_thousand_dead_waiters() {
    for dead in [Dead::Together, Dead::Apart] {
        let fixture = Fixture::new(dead).await;
        let living = fixture.living().await;
        let waiter = fixture.waiter(&living).await;
        let since = Instant::now();
        assert_eq!(fixture.holder.release(&fixture.holds).await.unwrap(), Release::Released);
        granted(&format!("released before the dead, {dead:?}"), since, &fixture, &living, waiter).await;
    }
}

#[tokio::test]
async fn one_call_drops_a_limited_number_of_dead_waiters() {
    // Each waiter is read, and the first one of each connection is sent a message that nobody receives.
    for (dead, most) in [(Dead::Together, 2000), (Dead::Apart, 500)] {
        let fixture = Fixture::new(dead).await;
        let living = fixture.living().await;
        let waiter = fixture.waiter(&living).await;
        fixture.server.cli(&["CONFIG", "RESETSTAT"]);
        assert_eq!(fixture.holder.release(&fixture.holds).await.unwrap(), Release::Released);
        let guard = tokio::time::timeout(SOON, waiter).await.expect("it is granted").unwrap().unwrap();
        let (calls, messages) = (count(&fixture.server, "evalsha"), count(&fixture.server, "publish"));
        println!("{dead:?}: {calls} calls, {messages} messages");
        assert!(calls >= CROWD / most, "{dead:?}: {calls} calls pass {CROWD}");
        assert!(
            dead == Dead::Apart || messages <= 2 * calls,
            "{messages} messages to a connection that has gone"
        );
        assert!(guard.is_held());
    }
}

#[tokio::test]
async fn one_call_grants_to_a_limited_number_of_waiters() {
    const READERS: u64 = 3000;
    const READ: Permits = Permits::new(1, u32::MAX >> 3);
    let server = Redis::start().unwrap();
    let [backend, readers] = [
        globallock::connect_backend(&server.url()).await.unwrap(),
        globallock::connect_backend(&server.url()).await.unwrap(),
    ];
    let holds = claim("a", 0, MUTEX, WaitMode::Wait);
    assert!(matches!(backend.enqueue(&holds).await, Ok(ClaimStatus::Held(_))));
    let readers = &readers;
    let joins = (1..=READERS).map(|number| async move {
        let reader = of_the_crowd(claim("a", number, READ, WaitMode::Wait).id);
        readers.enqueue(&reader.with_permits(READ)).await.unwrap()
    });
    let statuses: Vec<ClaimStatus> = futures_util::stream::iter(joins).buffered(200).collect().await;
    assert!(statuses.iter().all(|status| *status == ClaimStatus::Waiting));
    server.cli(&["CONFIG", "RESETSTAT"]);
    backend.release(&holds).await.unwrap();
    eventually("all share it", async || server.cli(&["ZCARD", "{_glocks:a}:shared"]) == READERS.to_string())
        .await;
    let calls = count(&server, "evalsha");
    println!("{calls} calls granted {READERS}");
    assert!(calls >= READERS / 200, "{calls} calls granted {READERS}");
}

#[tokio::test]
async fn a_waiter_behind_dead_waiters_is_granted_when_the_lease_of_a_dead_holder_ends() {
    for dead in [Dead::Together, Dead::Apart] {
        let fixture = Fixture::new(dead).await;
        // The owner has been dead for long, and 2 s of its lease are left: the waiter learns this as it
        // joins.
        fixture.server.cli(&["PEXPIRE", "_glocks:a", "2000"]);
        let since = Instant::now();
        let living = fixture.living().await;
        let waiter = fixture.waiter(&living).await;
        granted(
            &format!("2 s are left of a dead holder's lease, {dead:?}"),
            since,
            &fixture,
            &living,
            waiter,
        )
        .await;
    }
}

#[tokio::test]
async fn a_renewal_of_a_waiter_behind_dead_waiters_answers_when_to_poll() {
    let fixture = Fixture::new(Dead::Together).await;
    let backend = globallock::connect_backend(&fixture.server.url()).await.unwrap();
    let waiter = Arc::new(claim("a", CROWD + 1, MUTEX, WaitMode::Wait));
    assert_eq!(backend.enqueue(&waiter).await.unwrap(), ClaimStatus::Waiting);
    fixture.server.cli(&["PEXPIRE", "_glocks:a", "1000"]);
    assert_eq!(backend.renew(&[Arc::clone(&waiter)]).await.remove(0).unwrap(), ClaimStatus::Waiting);
    let granted = async {
        while backend.wait_for_change(&waiter).await.unwrap().is_none() {
            if let ClaimStatus::Held(_) = backend.enqueue(&waiter).await.unwrap() {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, granted).await.expect("it is granted");
}

#[tokio::test]
async fn a_new_claim_is_granted_a_free_lock_behind_dead_waiters() {
    for dead in [Dead::Together, Dead::Apart] {
        let fixture = Fixture::new(dead).await;
        fixture.holder_is_gone();
        let living = fixture.living().await;
        let since = Instant::now();
        let waiter = waits(&living, "a");
        granted(&format!("a newcomer behind the dead, {dead:?}"), since, &fixture, &living, waiter).await;
    }
}

#[tokio::test]
async fn a_try_finds_a_lock_free_that_only_dead_waiters_want() {
    for dead in [Dead::Together, Dead::Apart] {
        let fixture = Fixture::new(dead).await;
        fixture.holder_is_gone();
        let living = fixture.living().await;
        let lock = living.mutex("a");
        let since = Instant::now();
        let tries =
            tokio::spawn(async move { lock.try_acquire().await.map(|tried| tried.expect("it is free")) });
        granted(&format!("a try behind the dead, {dead:?}"), since, &fixture, &living, tries).await;
    }
}

#[tokio::test]
async fn none_of_ten_thousand_living_waiters_is_passed_over() {
    let server = Redis::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    let holds = claim("a", 0, MUTEX, WaitMode::Wait);
    assert!(matches!(backend.enqueue(&holds).await, Ok(ClaimStatus::Held(_))));
    crowd(&backend, CROWD).await;
    let queue = backend.inspect(&holds.name).await.unwrap();
    let mut ids = queue.iter().map(|entry| entry.id.unwrap());
    assert_eq!(ids.next(), Some(holds.id));
    backend.release(&holds).await.unwrap();
    for (turn, id) in (1..).zip(ids.take(200)) {
        let changed = tokio::time::timeout(SOON, backend.wait_for_change(&of_the_crowd(id))).await;
        let granted = changed.expect("it is granted").unwrap();
        assert!(matches!(granted, Some(ClaimStatus::Held(_))), "turn {turn}: {granted:?}");
        assert_eq!(waiting(&server), CROWD - turn);
        backend.release(&of_the_crowd(id)).await.unwrap();
    }
}

/// A waiter that nobody renews: its lease outlasts the test on any machine.
fn of_the_crowd(id: ClaimId) -> Claim {
    claim("a", 0, MUTEX, WaitMode::Wait).with_id(id).with_lease(LEASE * 20)
}

#[tokio::test]
async fn a_lock_that_thousands_of_dead_owners_share_is_free_at_once() {
    let server = Redis::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    // The capacities differ, so that the shared holders are recounted when some are dropped.
    let joins = (0..CROWD / 2).map(|number| {
        let permits = Permits::new(1, u32::MAX - u32::try_from(number % 2).unwrap());
        let reader = claim("a", number, permits, WaitMode::Wait);
        let backend = &backend;
        async move { backend.enqueue(&reader).await.unwrap() }
    });
    let statuses: Vec<ClaimStatus> = futures_util::stream::iter(joins).buffered(200).collect().await;
    assert!(statuses.iter().all(|status| matches!(status, ClaimStatus::Held(_))));
    assert_eq!(server.cli(&["DEL", "_glocks:a"]), "1");
    let since = Instant::now();
    let writer = claim("a", CROWD, MUTEX, WaitMode::Try);
    let tried = tokio::time::timeout(SOON, backend.enqueue(&writer)).await.expect("it is answered").unwrap();
    println!(
        "a try behind the dead who shared: {:.1?}, longest call {:?}",
        since.elapsed(),
        longest(&server)
    );
    assert!(matches!(tried, ClaimStatus::Held(_)));
    assert_eq!(server.cli(&["EXISTS", "{_glocks:a}:shared", "{_glocks:a}:claims"]), "0");
}
