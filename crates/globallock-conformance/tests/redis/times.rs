//! How long the store says that a claim lasts: at the end of a lease or a hold, with late answers and wrong
//! clocks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use globallock::backend::{Backend, Claim, ClaimId, ClaimStatus, WaitMode};
use globallock::queue::Permits;
use globallock::{Guard, LockManager, Name, Options, Result};
use globallock_conformance::context::eventually;
use globallock_conformance::fixtures::{connect_for, queue_is, waits};
use globallock_conformance::proxy::{Flow, Proxy};
use globallock_conformance::server::redis::Redis;

/// A lease that is longer than any test, so that nothing here happens because it ends.
const LONG: Duration = Duration::from_secs(60);

/// How many locks are held at the same time, and how many times each.
const HOLDS: (u64, u64) = (4, 50);

pub(crate) fn claim(name: &str, number: u64, permits: Permits, wait_mode: WaitMode) -> Claim {
    Claim::new(ClaimId::new(7, number), Name::new(name).unwrap(), permits)
        .with_wait_mode(wait_mode)
        .with_lease(LONG)
}

/// Holds locks repeatedly with a max hold time of 20 ms, calls `ask` for each until that has ended, and
/// returns the errors.
async fn hold_to_the_end<A>(permits: Permits, ask: A) -> Vec<String>
where
    A: AsyncFn(&dyn Backend, &Arc<Claim>) -> Result<ClaimStatus> + Copy + Send + Sync,
{
    let server = Redis::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    let holds = (0..HOLDS.0).map(|lock| {
        let backend = &backend;
        async move {
            let mut errors = Vec::new();
            for hold in 0..HOLDS.1 {
                let wait_mode = if hold % 2 == 0 { WaitMode::Wait } else { WaitMode::Try };
                let claim = claim(&format!("a{lock}"), lock * 1000 + hold, permits, wait_mode);
                let claim = Arc::new(claim.with_max_hold(Some(Duration::from_millis(20))));
                let ClaimStatus::Held(first) = backend.enqueue(&claim).await.unwrap() else {
                    panic!("it is free")
                };
                loop {
                    match ask(&**backend, &claim).await {
                        Ok(ClaimStatus::Held(grant)) if grant.fencing_token == first.fencing_token => {}
                        Ok(_) => break,
                        Err(error) => errors.push(error.to_string()),
                    }
                }
                backend.release(&claim).await.unwrap();
            }
            errors
        }
    });
    futures_util::future::join_all(holds).await.concat()
}

async fn renewed(backend: &dyn Backend, claim: &Arc<Claim>) -> Result<ClaimStatus> {
    backend.renew(&[Arc::clone(claim)]).await.remove(0)
}

async fn joined(backend: &dyn Backend, claim: &Arc<Claim>) -> Result<ClaimStatus> {
    backend.enqueue(claim).await
}

#[tokio::test]
async fn a_renewal_at_the_very_end_of_a_max_hold_time_is_answered() {
    for permits in [Permits::MUTEX, Permits::new(1, 2)] {
        let errors = hold_to_the_end(permits, renewed).await;
        assert!(errors.is_empty(), "{} errors with {permits:?}, such as {}", errors.len(), errors[0]);
    }
}

#[tokio::test]
async fn an_enqueue_at_the_very_end_of_a_max_hold_time_is_answered() {
    for permits in [Permits::MUTEX, Permits::new(1, 2)] {
        let errors = hold_to_the_end(permits, joined).await;
        assert!(errors.is_empty(), "{} errors with {permits:?}, such as {}", errors.len(), errors[0]);
    }
}

#[tokio::test]
async fn waiters_do_not_poll_a_lock_that_an_operator_has_made_persistent() {
    let server = Redis::start().unwrap();
    let backend = globallock::connect_backend(&server.url()).await.unwrap();
    let mutex = Permits::MUTEX;
    let holder = claim("a", 0, mutex, WaitMode::Wait);
    assert!(matches!(backend.enqueue(&holder).await, Ok(ClaimStatus::Held(_))));
    assert_eq!(server.cli(&["PERSIST", "_glocks:a"]), "1");
    for number in 1..4 {
        let waiter = claim("a", number, mutex, WaitMode::Wait);
        assert_eq!(backend.enqueue(&waiter).await.unwrap(), ClaimStatus::Waiting);
        let asks = tokio::time::timeout(Duration::from_millis(200), backend.wait_for_change(&waiter)).await;
        assert!(asks.is_err(), "waiter {number} asks again though nothing has changed");
    }
}

/// How late answers come: far more than the margin that owners subtract.
const LATE: Duration = Duration::from_secs(1);
/// A lease that is renewed after two seconds; the answer comes one second later.
const SHORT: Duration = Duration::from_secs(6);

async fn answered_late(server: &Redis, lease: Duration) -> (Proxy, LockManager) {
    let (proxy, url) = crate::behind_proxy(server, "?timeout=10s").await;
    let manager = connect_for(&url, lease).await.unwrap();
    // Loads the scripts.
    manager.mutex("b").acquire().await.unwrap().release().await.unwrap();
    proxy.answers(Flow::Delay(LATE));
    (proxy, manager)
}

fn held_at_most(hold: Duration) -> Options {
    Options::new().lease(SHORT).max_hold(Some(hold))
}

/// Checks that the guard of the lock `a` does not count on the lock for longer than the server keeps it. A
/// pause during the check makes it more lenient, and never wrong.
fn does_not_outlast_the_key(guard: &Guard, server: &Redis) {
    let before = Instant::now();
    let believed = before + guard.remaining().expect("a lease ends");
    let left: u64 = server.cli(&["PTTL", "_glocks:a"]).parse().unwrap_or(0);
    let ends = Instant::now() + Duration::from_millis(left);
    assert!(believed <= ends, "it believes to hold it {:?} longer", believed - ends);
}

#[tokio::test]
async fn a_lease_counts_from_the_request_when_the_answer_to_an_enqueue_is_late() {
    let server = Redis::start().unwrap();
    let (proxy, manager) = answered_late(&server, SHORT).await;
    let limited = manager.mutex("a").with_options(held_at_most(SHORT - LATE / 2));
    let shared = manager.semaphore("a", 2).permits(1);
    for lock in [manager.mutex("a"), limited, shared] {
        let held = proxy.held();
        let guard = lock.acquire().await.unwrap();
        assert!(proxy.held() > held, "the answer was late");
        does_not_outlast_the_key(&guard, &server);
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_counts_from_the_request_when_the_answer_to_a_renewal_is_late() {
    let server = Redis::start().unwrap();
    let (proxy, manager) = answered_late(&server, SHORT).await;
    let lock = manager.mutex("a");
    // A max hold time rules out the fast path of renewals.
    for lock in [lock.clone().with_options(held_at_most(LONG)), lock] {
        let guard = lock.acquire().await.unwrap();
        let held = proxy.held();
        eventually("a renewal is answered, and followed by another one", async || {
            does_not_outlast_the_key(&guard, &server);
            // An answer is counted when it comes, but the next renewal follows only after it has been passed
            // on.
            proxy.held() >= held + 2
        })
        .await;
        guard.release().await.unwrap();
    }
}

#[tokio::test]
async fn a_lease_counts_from_the_last_request_when_the_grant_comes_late() {
    let server = Redis::start().unwrap();
    let holder = connect_for(&server.url(), LONG).await.unwrap();
    let holds = holder.mutex("a").acquire().await.unwrap();
    // The lease is long, so that no renewal extends it before the check.
    let (proxy, manager) = answered_late(&server, LONG / 2).await;
    let waiter = waits(&manager, "a");
    queue_is(&holder, "a", 1, 1).await;
    eventually("it is answered late that it waits", async || proxy.held() > 0).await;
    holds.release().await.unwrap();
    let guard = waiter.await.unwrap().unwrap();
    does_not_outlast_the_key(&guard, &server);
}

#[tokio::test]
async fn tokens_rise_and_the_order_stays_when_the_clock_of_the_server_is_set_back() {
    let server = Redis::start_with_clock().unwrap();
    let manager = connect_for(&server.url(), LONG).await.unwrap();
    let shared = || manager.semaphore("a", 2).permits(1);
    let mut last = 0;
    for hours in 0..4 {
        server.clock().unwrap().set(-3600 * hours).unwrap();
        let guard = manager.mutex("a").acquire().await.unwrap();
        let waiters = [waits(&manager, "a"), {
            queue_is(&manager, "a", 1, 1).await;
            waits(&manager, "a")
        }];
        queue_is(&manager, "a", 1, 2).await;
        let third = tokio::spawn({
            let lock = shared();
            async move { lock.acquire().await }
        });
        queue_is(&manager, "a", 1, 3).await;
        // The clock is set back while they wait, too.
        server.clock().unwrap().set(-3600 * hours - 600).unwrap();
        let tried = [shared().try_acquire().await.unwrap(), manager.mutex("a").try_acquire().await.unwrap()];
        assert!(tried.iter().all(Option::is_none));
        let mut guards = vec![guard];
        for waiter in waiters.into_iter().chain([third]) {
            let before = guards.pop().unwrap();
            assert!(before.fencing_token() > last, "{} after {last}", before.fencing_token());
            last = before.fencing_token();
            before.release().await.unwrap();
            guards.push(
                tokio::time::timeout(LONG / 4, waiter).await.expect("it is its turn").unwrap().unwrap(),
            );
        }
        let tried = shared().try_acquire().await.unwrap().expect("half of it is free");
        for guard in guards.into_iter().chain([tried]) {
            assert!(guard.fencing_token() > last, "{} after {last}", guard.fencing_token());
            last = guard.fencing_token();
            guard.release().await.unwrap();
        }
    }
}
