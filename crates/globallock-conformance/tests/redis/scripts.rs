//! What the scripts do in rare cases: keys expire or are changed, flags are left over, requests are repeated.

use std::sync::Arc;
use std::time::Duration;

use globallock::backend::{Backend, Claim, ClaimStatus, Grant, Instant, WaitMode};
use globallock::queue::Permits;
use globallock::{Release, Result};
use globallock_conformance::context::eventually;
use globallock_conformance::server::redis::Redis;

use crate::calls::{CLAIMS, COUNTER, LOCK, MUTEX, ONE_OF_TWO, QUEUE, SHARED};
use crate::times::claim;

const TWO_OF_TWO: Permits = Permits::new(2, 2);

pub(crate) struct Store {
    pub(crate) server: Redis,
    pub(crate) backend: Arc<dyn Backend>,
}

impl Store {
    pub(crate) async fn new() -> Self {
        let server = Redis::start().unwrap();
        let backend = globallock::connect_backend(&crate::patient(&server.url())).await.unwrap();
        Store { server, backend }
    }

    async fn enqueue(&self, claim: &Claim) -> ClaimStatus {
        self.backend.enqueue(claim).await.unwrap()
    }

    pub(crate) async fn holds(&self, claim: &Claim) -> Grant {
        match self.enqueue(claim).await {
            ClaimStatus::Held(grant) => grant,
            other => panic!("it does not hold: {other:?}"),
        }
    }

    pub(crate) async fn waits(&self, claim: &Claim) {
        assert_eq!(self.enqueue(claim).await, ClaimStatus::Waiting);
    }

    pub(crate) async fn renew(&self, claim: &Claim) -> ClaimStatus {
        let renewed: Result<ClaimStatus> = self.backend.renew(&[Arc::new(claim.clone())]).await.remove(0);
        renewed.unwrap()
    }

    pub(crate) async fn release(&self, claim: &Claim) -> Release {
        self.backend.release(claim).await.unwrap()
    }

    /// Waits until a waiter is notified of its grant.
    pub(crate) async fn granted(&self, claim: &Claim) -> Grant {
        let changed =
            tokio::time::timeout(Duration::from_secs(15), self.backend.wait_for_change(claim)).await;
        match changed.expect("it is notified").unwrap() {
            Some(ClaimStatus::Held(grant)) => grant,
            other => panic!("it is notified of something else: {other:?}"),
        }
    }

    fn left(&self, key: &str) -> Duration {
        Duration::from_millis(self.server.cli(&["PTTL", key]).parse().unwrap_or(0))
    }

    fn get(&self, key: &str) -> String {
        self.server.cli(&["GET", key])
    }

    fn has(&self, key: &str) -> bool {
        self.server.cli(&["EXISTS", key]) == "1"
    }
}

pub(crate) fn queued(number: u64, permits: Permits) -> Claim {
    claim("a", number, permits, WaitMode::Wait)
}

fn with_lease(seconds: u64, claim: Claim) -> Claim {
    claim.with_lease(Duration::from_secs(seconds))
}

async fn past(end: Instant) {
    eventually("it goes by", async || Instant::now() > end + Duration::from_millis(5)).await;
}

#[tokio::test]
async fn a_shared_holder_that_enqueues_again_is_found() {
    let store = Store::new().await;
    let first = store.holds(&queued(1, ONE_OF_TWO)).await;
    let again = store.holds(&queued(1, ONE_OF_TWO)).await;
    assert_eq!(first.fencing_token, again.fencing_token);
    assert_eq!(store.backend.inspect(&queued(1, MUTEX).name).await.unwrap().len(), 1);
    // One permit is free, and not two.
    store.holds(&queued(2, ONE_OF_TWO)).await;
    store.waits(&queued(3, ONE_OF_TWO)).await;
}

#[tokio::test]
async fn keys_live_as_long_as_the_longest_lease_in_them() {
    let store = Store::new().await;
    let long = Duration::from_secs(500);
    let holder = with_lease(600, queued(0, MUTEX));
    store.holds(&holder).await;
    let late = with_lease(600, queued(2, MUTEX));
    store.waits(&queued(1, MUTEX)).await;
    assert!(store.left(QUEUE) < long, "{:?}", store.left(QUEUE));
    store.waits(&late).await;
    assert!(store.left(QUEUE) > long);
    store.waits(&queued(3, MUTEX)).await;
    assert!(store.left(QUEUE) > long, "a shorter lease does not shorten it");
    // As if most of the lease had passed.
    store.server.cli(&["PEXPIRE", QUEUE, "5000"]);
    assert_eq!(store.renew(&late).await, ClaimStatus::Waiting);
    assert!(store.left(QUEUE) > long && store.left(CLAIMS) > long);
    assert_eq!(store.renew(&queued(1, MUTEX)).await, ClaimStatus::Waiting);
    assert!(store.left(QUEUE) > long && store.left(CLAIMS) > long);
    store.server.cli(&["PEXPIRE", QUEUE, "5000"]);
    store.waits(&with_lease(600, queued(4, ONE_OF_TWO))).await;
    assert!(store.left(QUEUE) > long, "an enqueue without the fast path does so too");
    store.server.cli(&["PEXPIRE", LOCK, "5000"]);
    assert!(matches!(store.renew(&holder).await, ClaimStatus::Held(_)));
    assert!(store.left(LOCK) > long);
    assert!(store.left(COUNTER) > Duration::from_secs(600_000));
}

#[tokio::test]
async fn keys_of_shared_holders_live_as_long_as_the_longest_lease_in_them() {
    let store = Store::new().await;
    let long = Duration::from_secs(500);
    let keys = [LOCK, CLAIMS, SHARED];
    let permits = Permits::new(1, 3);
    store.holds(&queued(1, permits)).await;
    assert!(keys.iter().all(|key| (1..500).contains(&store.left(key).as_secs())));
    let late = with_lease(600, queued(2, permits));
    store.holds(&late).await;
    assert!(keys.iter().all(|key| store.left(key) > long));
    store.holds(&queued(3, permits)).await;
    assert!(keys.iter().all(|key| store.left(key) > long));
    for key in keys {
        store.server.cli(&["PEXPIRE", key, "5000"]);
    }
    assert!(matches!(store.renew(&late).await, ClaimStatus::Held(_)));
    assert!(keys.iter().all(|key| store.left(key) > long));
    assert!(matches!(store.renew(&queued(1, permits)).await, ClaimStatus::Held(_)));
    assert!(keys.iter().all(|key| store.left(key) > long));
}

#[tokio::test]
async fn the_contended_flag_is_cleared_with_the_last_waiter() {
    let store = Store::new().await;
    let contended = || store.get(COUNTER).ends_with('w');
    let (holder, waiter) = (queued(1, MUTEX), queued(2, MUTEX));
    store.holds(&holder).await;
    assert!(!contended(), "nobody waits");
    store.waits(&waiter).await;
    assert!(contended());
    assert_eq!(store.release(&waiter).await, Release::Released);
    assert!(!contended(), "it is released");
    store.waits(&waiter).await;
    assert_eq!(store.release(&holder).await, Release::Released);
    let last = store.granted(&waiter).await.fencing_token;
    assert_eq!(store.get(COUNTER), format!("{last}w"));
    assert_eq!(store.release(&waiter).await, Release::Released);
    assert_eq!(store.get(COUNTER), last.to_string(), "the last one is released, and its number stays");
    // A shared holder, and claims that find a flag that is left over.
    store.holds(&queued(3, ONE_OF_TWO)).await;
    assert!(contended());
    store.release(&queued(3, ONE_OF_TWO)).await;
    assert!(!contended(), "nobody shares");
    store.server.cli(&["SET", COUNTER, "7w"]);
    store.holds(&queued(4, MUTEX)).await;
    assert!(!contended() && store.left(COUNTER) > Duration::from_secs(600_000));
    store.server.cli(&["SET", COUNTER, "7w"]);
    let tries = claim("a", 5, MUTEX, WaitMode::Try);
    assert_eq!(store.enqueue(&tries).await, ClaimStatus::Gone);
    assert!(!contended(), "a claim that does not wait has found no waiter");
}

#[tokio::test]
async fn a_foreign_value_of_the_counter_is_replaced() {
    let store = Store::new().await;
    for (number, foreign) in
        (1..).zip(["junk", "", "9007199254740992", "99999999999999999999w", "-5", "1e300"])
    {
        for permits in [MUTEX, ONE_OF_TWO] {
            store.server.cli(&["SET", COUNTER, foreign]);
            let holder = queued(number, permits);
            let granted = store.holds(&holder).await.fencing_token;
            assert!((1 << 50..1 << 52).contains(&granted), "{granted} after {foreign:?}");
            store.release(&holder).await;
            let counter = store.get(COUNTER);
            assert!(counter.trim_end_matches('w').parse::<u64>().is_ok_and(|last| last >= granted));
        }
    }
    // The largest counter that counts.
    store.server.cli(&["SET", COUNTER, "9007199254740990"]);
    assert_eq!(store.holds(&queued(9, MUTEX)).await.fencing_token, 9_007_199_254_740_991);
}

#[tokio::test]
async fn tokens_rise_above_a_counter_that_is_ahead_of_the_clock() {
    let store = Store::new().await;
    let ahead = 4_000_000_000_000_000_u64;
    store.server.cli(&["SET", COUNTER, &ahead.to_string()]);
    let holder = queued(1, MUTEX);
    let waiters = [queued(2, MUTEX), queued(3, ONE_OF_TWO), queued(4, ONE_OF_TWO)];
    assert_eq!(store.holds(&holder).await.fencing_token, ahead + 1);
    for waiter in &waiters {
        store.waits(waiter).await;
    }
    store.release(&holder).await;
    assert_eq!(store.granted(&waiters[0]).await.fencing_token, ahead + 2);
    assert!(store.left(LOCK) <= waiters[0].lease, "it is kept for {:?}", store.left(LOCK));
    // Their leases count from the join, though their join numbers are no times.
    assert!(
        waiters[1..]
            .iter()
            .all(|waiter| !store.server.cli(&["HGET", CLAIMS, &waiter.id.to_string()]).is_empty())
    );
    store.release(&waiters[0]).await;
    assert_eq!(store.granted(&waiters[1]).await.fencing_token, ahead + 3);
    assert_eq!(store.granted(&waiters[2]).await.fencing_token, ahead + 4);
}

#[tokio::test]
async fn a_shared_holder_of_a_broken_lock_has_lost_it() {
    for broken in [LOCK, SHARED, CLAIMS] {
        let store = Store::new().await;
        let (one, other) = (queued(1, ONE_OF_TWO), queued(2, ONE_OF_TWO));
        store.holds(&one).await;
        store.holds(&other).await;
        store.server.cli(&["DEL", broken]);
        assert_eq!(store.renew(&one).await, ClaimStatus::Gone, "{broken}");
        assert_eq!(store.server.cli(&["HEXISTS", CLAIMS, &one.id.to_string()]), "0", "{broken}");
        assert_eq!(store.release(&other).await, Release::NotHeld, "{broken}");
        store.server.cli(&["DEL", LOCK]);
        let next = queued(3, TWO_OF_TWO);
        store.holds(&next).await;
        store.release(&next).await;
        // A shared holder that has lost its record is dropped when its lease ends.
        let stay = if broken == CLAIMS { vec![SHARED] } else { Vec::new() };
        let keys = [LOCK, SHARED, CLAIMS, QUEUE].into_iter().filter(|key| store.has(key));
        assert_eq!(keys.collect::<Vec<_>>(), stay, "{broken}");
    }
}

#[tokio::test]
async fn a_release_of_a_broken_shared_lock_answers_not_held() {
    let store = Store::new().await;
    store.holds(&queued(1, ONE_OF_TWO)).await;
    store.server.cli(&["DEL", LOCK]);
    assert_eq!(store.release(&queued(1, ONE_OF_TWO)).await, Release::NotHeld);
}

#[tokio::test]
async fn a_broken_shared_lock_starts_with_all_permits_free() {
    let store = Store::new().await;
    store.holds(&queued(1, ONE_OF_TWO)).await;
    store.holds(&queued(2, ONE_OF_TWO)).await;
    store.server.cli(&["DEL", LOCK]);
    // Neither of the two takes permits from it.
    store.holds(&queued(3, ONE_OF_TWO)).await;
    store.holds(&queued(4, ONE_OF_TWO)).await;
    store.waits(&queued(5, ONE_OF_TWO)).await;
    assert_eq!(store.renew(&queued(1, ONE_OF_TWO)).await, ClaimStatus::Gone);
    assert!(matches!(store.renew(&queued(3, ONE_OF_TWO)).await, ClaimStatus::Held(_)));
}

#[tokio::test]
async fn shared_holders_whose_count_cannot_be_read_let_nobody_in() {
    for field in ["#weight", "#capacity"] {
        for value in ["junk", "-1"] {
            if (field, value) == ("#capacity", "-1") {
                continue;
            }
            let store = Store::new().await;
            let permits = Permits::new(1, 3);
            store.holds(&queued(1, permits)).await;
            store.holds(&queued(2, permits)).await;
            store.server.cli(&["HSET", CLAIMS, field, value]);
            store.waits(&queued(3, permits)).await;
            assert!(matches!(store.renew(&queued(1, permits)).await, ClaimStatus::Held(_)));
            // A release recounts the shared holders.
            assert_eq!(store.release(&queued(1, permits)).await, Release::Released);
            store.granted(&queued(3, permits)).await;
            store.holds(&queued(4, permits)).await;
            store.waits(&queued(5, permits)).await;
        }
    }
}

#[tokio::test]
async fn the_smallest_capacity_counts_until_its_holder_releases() {
    let store = Store::new().await;
    let of = |number, capacity| queued(number, Permits::new(1, capacity));
    store.holds(&of(1, 2)).await;
    store.holds(&of(2, 5)).await;
    assert_eq!(store.release(&of(1, 2)).await, Release::Released);
    let five_of_nine = queued(11, Permits::new(5, 9));
    store.waits(&five_of_nine).await;
    assert_eq!(store.release(&five_of_nine).await, Release::Released);
    store.holds(&of(1, 2)).await;
    store.waits(&of(3, 5)).await;
    store.waits(&of(4, 5)).await;
    store.waits(&of(5, 5)).await;
    store.waits(&of(6, 5)).await;
    assert_eq!(store.release(&of(1, 2)).await, Release::Released);
    for number in 3..=6 {
        store.granted(&of(number, 5)).await;
    }
    store.waits(&of(7, 5)).await;
    assert_eq!(store.release(&of(7, 5)).await, Release::Released);
    // A claim with a larger capacity is not granted beside them, and neither is one with a smaller capacity.
    store.waits(&of(10, 9)).await;
    assert_eq!(store.release(&of(10, 9)).await, Release::Released);
    store.waits(&of(8, 3)).await;
    for number in 2..=4 {
        assert_eq!(store.release(&of(number, 5)).await, Release::Released);
    }
    store.granted(&of(8, 3)).await;
    store.waits(&of(9, 5)).await;
}

#[tokio::test]
async fn an_expired_waiter_is_gone_and_joins_again_at_the_end() {
    let store = Store::new().await;
    let holder = queued(0, MUTEX);
    store.holds(&holder).await;
    let brief = |number| queued(number, MUTEX).with_lease(Duration::from_millis(200));
    let ends = Instant::now() + Duration::from_millis(200);
    for number in 1..=3 {
        store.waits(&brief(number)).await;
    }
    store.waits(&queued(4, MUTEX)).await;
    let ends = ends.max(Instant::now() + Duration::from_millis(200));
    past(ends).await;
    assert_eq!(store.release(&brief(1)).await, Release::NotHeld);
    assert_eq!(store.renew(&brief(2)).await, ClaimStatus::Gone);
    store.waits(&brief(3)).await;
    store.release(&holder).await;
    store.granted(&queued(4, MUTEX)).await;
}

#[tokio::test]
async fn an_expired_waiter_is_passed_over_though_it_could_be_notified() {
    for permits in [MUTEX, ONE_OF_TWO] {
        let store = Store::new().await;
        let holder = queued(0, permits);
        store.holds(&holder).await;
        let dead = queued(1, TWO_OF_TWO).with_lease(Duration::from_millis(100));
        let next = queued(2, TWO_OF_TWO);
        store.waits(&dead).await;
        let ends = Instant::now() + dead.lease;
        store.waits(&next).await;
        past(ends).await;
        store.release(&holder).await;
        let granted = store.granted(&next).await;
        assert!(
            store.get(LOCK).starts_with(&format!("glk1:{}:{}:", next.id, granted.fencing_token)),
            "{permits:?}"
        );
    }
}

#[tokio::test]
async fn a_waiter_that_renews_is_let_in_after_the_lease_that_it_joined_with() {
    let store = Store::new().await;
    let holder = queued(0, MUTEX);
    store.holds(&holder).await;
    let waiter = with_lease(4, queued(1, MUTEX));
    let mut joined = Instant::now();
    store.waits(&waiter).await;
    while joined.elapsed() < waiter.lease {
        // If the machine pauses for a whole lease, the waiter joins again.
        if store.renew(&waiter).await == ClaimStatus::Gone {
            joined = Instant::now();
            store.waits(&waiter).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(store.renew(&waiter).await, ClaimStatus::Waiting);
    let renewed = Instant::now();
    store.release(&holder).await;
    let expires = store.granted(&waiter).await.expires.unwrap();
    assert!(joined + waiter.lease < expires && expires < renewed + waiter.lease);
}

#[tokio::test]
async fn a_waiter_is_notified_when_its_max_hold_time_ends_and_the_store_keeps_to_it() {
    let store = Store::new().await;
    let holder = queued(0, MUTEX);
    let span = Duration::from_secs;
    for (number, permits) in (1..).zip([MUTEX, ONE_OF_TWO]) {
        for (lease, hold) in [(600, 300), (300, 600)] {
            store.holds(&holder).await;
            let waiter = with_lease(lease, queued(number, permits)).with_max_hold(Some(span(hold)));
            let joins = Instant::now();
            store.waits(&waiter).await;
            let joined = Instant::now();
            assert_eq!(store.release(&holder).await, Release::Released);
            let grant = store.granted(&waiter).await;
            let notified = Instant::now();
            let (expires, ends) = (grant.expires.unwrap(), grant.hold_ends.unwrap());
            // The server counts whole milliseconds, and the owner counts from its request.
            assert!(joins + span(hold) <= ends + Duration::from_millis(5), "{permits:?}, {hold} s");
            assert!(ends <= notified + span(hold), "{permits:?}, {hold} s");
            if hold < lease {
                assert_eq!(expires, ends, "{permits:?}");
            } else {
                assert!(
                    joins + span(lease) <= expires + Duration::from_millis(5) && expires < ends,
                    "{permits:?}"
                );
                assert!(expires <= joined + span(lease), "{permits:?}");
            }
            let left = store.left(LOCK);
            assert!(
                left <= span(300) && left + notified.elapsed() + (notified - joins) >= span(299),
                "{left:?}"
            );
            store.release(&waiter).await;
        }
        store.holds(&holder).await;
        let waiter = with_lease(300, queued(number, permits));
        let joins = Instant::now();
        store.waits(&waiter).await;
        store.release(&holder).await;
        let grant = store.granted(&waiter).await;
        assert_eq!(grant.hold_ends, None, "{permits:?}");
        assert!(joins + span(300) <= grant.expires.unwrap() + Duration::from_millis(5), "{permits:?}");
        store.release(&waiter).await;
    }
}

#[tokio::test]
async fn a_shared_holder_that_expired_joins_again() {
    let store = Store::new().await;
    let brief = queued(1, ONE_OF_TWO).with_lease(Duration::from_millis(100));
    store.holds(&queued(2, ONE_OF_TWO)).await;
    let first = store.holds(&brief).await;
    past(Instant::now() + brief.lease).await;
    assert!(store.holds(&brief).await.fencing_token > first.fencing_token);
}

#[tokio::test]
async fn released_permits_are_free_for_the_next_claim() {
    let store = Store::new().await;
    let of_three = |number, count| queued(number, Permits::new(count, 3));
    store.holds(&of_three(1, 2)).await;
    store.holds(&of_three(2, 1)).await;
    assert_eq!(store.release(&of_three(1, 2)).await, Release::Released);
    store.holds(&of_three(3, 1)).await;
    store.holds(&of_three(4, 1)).await;
    store.waits(&of_three(5, 1)).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_claim_that_is_released_beside_others() {
    let store = Store::new().await;
    store.holds(&queued(0, MUTEX)).await;
    let [released, stays] = [queued(1, MUTEX), queued(2, MUTEX)];
    for waiter in [&released, &stays] {
        store.waits(waiter).await;
        assert_eq!(store.renew(waiter).await, ClaimStatus::Waiting);
    }
    assert_eq!(store.release(&released).await, Release::Released);
    assert_eq!(store.server.cli(&["HKEYS", CLAIMS]), stays.id.to_string());
    assert_eq!(store.server.cli(&["ZCARD", QUEUE]), "1");
    // Nor of a shared holder.
    let store = Store::new().await;
    store.holds(&queued(1, ONE_OF_TWO)).await;
    store.holds(&queued(2, ONE_OF_TWO)).await;
    assert_eq!(store.release(&queued(1, ONE_OF_TWO)).await, Release::Released);
    assert_eq!(store.server.cli(&["HEXISTS", CLAIMS, &released.id.to_string()]), "0");
    assert_eq!(store.server.cli(&["ZRANGE", SHARED, "0", "-1"]), stays.id.to_string());
}

#[tokio::test]
async fn a_lost_counter_lets_nobody_overtake() {
    let store = Store::new().await;
    for (permits, tries) in [(MUTEX, MUTEX), (ONE_OF_TWO, TWO_OF_TWO), (MUTEX, ONE_OF_TWO)] {
        store.holds(&queued(1, MUTEX)).await;
        store.waits(&queued(2, permits)).await;
        store.server.cli(&["DEL", COUNTER, LOCK]);
        assert_eq!(
            store.enqueue(&claim("a", 3, tries, WaitMode::Try)).await,
            ClaimStatus::Gone,
            "{permits:?}"
        );
        store.granted(&queued(2, permits)).await;
        store.release(&queued(2, permits)).await;
    }
    // Nor does a lost counter beside a shared holder.
    store.holds(&queued(1, ONE_OF_TWO)).await;
    store.server.cli(&["DEL", COUNTER]);
    assert_eq!(store.enqueue(&claim("a", 3, TWO_OF_TWO, WaitMode::Try)).await, ClaimStatus::Gone);
    assert_eq!(store.enqueue(&claim("a", 3, MUTEX, WaitMode::Try)).await, ClaimStatus::Gone);
}
