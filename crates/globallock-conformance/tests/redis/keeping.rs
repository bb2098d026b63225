//! Claims that are kept beyond their owners: what stands at the keys, and what other programs see of it.

use std::time::Duration;

use globallock::Release;
use globallock::backend::{Claim, ClaimStatus};
use globallock_conformance::context::eventually;

use crate::calls::{LOCK, MUTEX, ONE_OF_TWO};
use crate::costs::spent;
use crate::scripts::{Store, queued};
use crate::strangers::Stranger;

const TIME: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(300);

impl Store {
    fn left_of_lock(&self) -> Duration {
        Duration::from_millis(self.server.cli(&["PTTL", LOCK]).parse().unwrap_or(0))
    }

    async fn keep(&self, claim: &Claim, rest: Duration) -> Option<Duration> {
        match self.backend.keep_for(claim, rest).await.unwrap() {
            ClaimStatus::Held(grant) => grant.lease,
            other => panic!("it does not hold: {other:?}"),
        }
    }
}

#[tokio::test]
async fn the_key_of_a_kept_lock_lives_as_long_and_keeps_other_programs_out() {
    for permits in [MUTEX, ONE_OF_TWO] {
        let store = Store::new().await;
        let mut stranger = Stranger::new(store.server.port(), "stranger");
        let claim = queued(1, permits);
        let lease = store.holds(&claim).await.lease;
        assert_eq!(lease, None, "it has its own");
        assert!(store.left_of_lock() <= claim.lease);
        let lease = store.keep(&claim, TIME).await.expect("it lasts longer than its own");
        assert!(lease > claim.lease && lease <= TIME + Duration::from_millis(2), "{lease:?}");
        assert!(store.left_of_lock() > TIME - Duration::from_secs(60));
        // Neither a renewal nor a shorter time shortens it.
        assert!(matches!(store.renew(&claim).await, ClaimStatus::Held(_)));
        assert!(store.keep(&claim, SHORT).await > Some(claim.lease));
        assert!(store.left_of_lock() > TIME - Duration::from_secs(60));
        assert!(!stranger.tries());
        assert_eq!(store.backend.release_after(&claim, TIME / 2).await.unwrap(), Release::Released);
        let left = store.left_of_lock();
        // The key of shared holders may outlive one of them.
        assert!(left > TIME / 2 - Duration::from_secs(60), "{left:?}");
        assert!(permits == ONE_OF_TWO || left < TIME / 2 + Duration::from_secs(1), "{left:?}");
        assert!(!stranger.tries());
    }
}

#[tokio::test]
async fn the_key_of_a_mutex_that_was_left_goes_at_its_time_and_a_stranger_may_take_it_then() {
    let store = Store::new().await;
    let mut stranger = Stranger::new(store.server.port(), "stranger");
    let claim = queued(1, MUTEX);
    store.holds(&claim).await;
    store.keep(&claim, SHORT).await;
    let left = std::time::Instant::now();
    assert_eq!(store.backend.release_after(&claim, SHORT).await.unwrap(), Release::Released);
    eventually("a stranger takes it", async || stranger.tries()).await;
    assert!(left.elapsed() >= SHORT, "after {:?}", left.elapsed());
    stranger.releases();
}

#[tokio::test]
async fn a_kept_lock_costs_the_server_what_the_page_says() {
    let store = Store::new().await;
    let holder = queued(1, MUTEX);
    store.holds(&holder).await;
    spent(&store);
    store.keep(&holder, TIME).await;
    assert_eq!(spent(&store), "get:1 pexpireat:1 pttl:1 set:1 time:1", "the keeping");
    store.renew(&holder).await;
    assert_eq!(spent(&store), "get:2 pexpireat:1 pttl:1 time:1", "a renewal");
    store.backend.release_after(&holder, TIME).await.unwrap();
    assert_eq!(spent(&store), "get:1 pexpireat:1 time:1 zrange:1", "a release before its time");
}

/// The value of a kept lock is read as before, by onlookers and by what renews, evicts and releases it.
#[tokio::test]
async fn the_mark_of_a_kept_lock_changes_nothing_but_its_renewals() {
    let store = Store::new().await;
    let holder = queued(1, MUTEX);
    let seen = async || store.backend.inspect(&holder.name).await.unwrap();
    let token = store.holds(&holder).await.fencing_token;
    let before = (seen().await, store.server.cli(&["GET", LOCK]));
    store.keep(&holder, TIME).await;
    let after = (seen().await, store.server.cli(&["GET", LOCK]));
    assert_eq!(after.1, before.1.replacen(":0:", ":00:", 1));
    assert_eq!((after.0[0].key.clone(), &after.0[0].owner), (before.0[0].key.clone(), &before.0[0].owner));
    assert_eq!((after.0[0].held, after.0[0].fencing_token), (true, token));
    store.keep(&holder, TIME * 2).await;
    assert_eq!(store.server.cli(&["GET", LOCK]), after.1, "it is marked once");
    assert_eq!(store.release(&holder).await, Release::Released);
    assert_eq!(store.server.cli(&["EXISTS", LOCK]), "0");
    // A claim with a max hold time needs no mark, and is not kept beyond it.
    let holder = holder.with_max_hold(TIME / 10);
    store.holds(&holder).await;
    let value = store.server.cli(&["GET", LOCK]);
    store.keep(&holder, TIME).await;
    assert_eq!(store.server.cli(&["GET", LOCK]), value);
    assert!(store.left_of_lock() <= TIME / 10);
}
