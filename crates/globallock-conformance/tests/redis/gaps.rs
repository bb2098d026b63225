//! Gaps for strangers: when they are left, to whom, and how they end.

use std::sync::Arc;
use std::time::Duration;

use globallock::Release;
use globallock::backend::{Backend, Claim, ClaimStatus, WaitMode};
use globallock::queue::Permits;
use globallock_conformance::context::eventually;
use globallock_conformance::server::redis::Redis;

use crate::calls::{COUNTER, LOCK, MUTEX, ONE_OF_TWO, QUEUE};
use crate::costs::spent;
use crate::scripts::{Store, queued};
use crate::strangers::Stranger;
use crate::times::claim;

/// The state of the gaps.
const GAPS: &str = "{_glocks:a}:gap";
/// No gap is open, no stranger was seen, and the next gap is due.
const DUE: &str = "0 0 1 1";
/// A gap that does not end within a test.
pub(crate) const LONG: &str = "?gap=10s";

pub(crate) async fn store(options: &str) -> Store {
    let server = Redis::start().unwrap();
    let backend = backend(&server, options).await;
    Store { server, backend }
}

pub(crate) async fn backend(server: &Redis, options: &str) -> Arc<dyn Backend> {
    globallock::connect_backend(&format!("{}{options}", server.url())).await.unwrap()
}

impl Store {
    /// The parts of the state of the gaps.
    fn gaps(&self) -> [u64; 4] {
        let state = self.server.cli(&["GET", GAPS]);
        let parts: Vec<u64> = state.split(' ').map(|part| part.parse().expect(&state)).collect();
        parts.try_into().unwrap()
    }

    fn set_gaps(&self, state: &str) {
        assert_eq!(self.server.cli(&["SET", GAPS, state, "PX", "60000"]), "OK");
    }

    fn is_free(&self) -> bool {
        self.server.cli(&["EXISTS", LOCK]) == "0"
    }

    /// One holder and these waiters, of which the holder is released when a gap is due.
    pub(crate) async fn in_gap(&self, waiters: &[&Claim]) {
        let holder = queued(99, MUTEX);
        self.holds(&holder).await;
        for waiter in waiters {
            self.waits(waiter).await;
        }
        self.set_gaps(DUE);
        assert_eq!(self.release(&holder).await, Release::Released);
        assert!(self.is_free(), "there is a gap");
    }

    /// Waits until a waiter is told to poll, polls, and returns its status.
    pub(crate) async fn polls(&self, waiter: &Claim) -> ClaimStatus {
        polls(&self.backend, waiter).await
    }

    /// Polls until it holds the lock.
    pub(crate) async fn takes(&self, waiter: &Claim) {
        takes(&self.backend, waiter).await;
    }
}

pub(crate) async fn polls(backend: &Arc<dyn Backend>, waiter: &Claim) -> ClaimStatus {
    let changed = tokio::time::timeout(Duration::from_secs(15), backend.wait_for_change(waiter)).await;
    match changed.expect("it is told to poll").unwrap() {
        None => backend.enqueue(waiter).await.unwrap(),
        Some(status) => status,
    }
}

pub(crate) async fn takes(backend: &Arc<dyn Backend>, waiter: &Claim) {
    loop {
        match polls(backend, waiter).await {
            ClaimStatus::Waiting => {}
            ClaimStatus::Held(_) => return,
            other => panic!("{other:?}"),
        }
    }
}

/// For each form of the scripts.
const FORMS: [&str; 2] = ["", "&commands=6"];

#[tokio::test]
async fn a_stranger_gets_the_lock_in_a_gap_and_the_first_waiter_after_it() {
    for form in FORMS {
        let store = store(&format!("{LONG}{form}")).await;
        let [first, second] = [queued(1, MUTEX), queued(2, MUTEX)];
        let mut stranger = Stranger::new(store.server.port(), "stranger");
        store.in_gap(&[&first, &second]).await;
        assert_eq!(store.polls(&first).await, ClaimStatus::Waiting);
        assert!(stranger.tries());
        assert_eq!(store.polls(&first).await, ClaimStatus::Waiting);
        assert!(store.gaps()[1] > 0, "it is seen");
        stranger.releases();
        store.takes(&first).await;
        // The claims now have the lock for as long as the stranger had it.
        let [ends, seen, next, pause] = store.gaps();
        assert_eq!((ends, seen), (0, 0));
        assert!(pause < 10_000, "{pause}");
        eventually("the claims had it for as long", async || server_ms(&store) > next).await;
        assert_eq!(store.release(&first).await, Release::Released);
        assert!(store.is_free(), "the next gap comes after one grant");
        assert!(stranger.tries());
        assert_eq!(store.polls(&second).await, ClaimStatus::Waiting);
        stranger.releases();
        store.takes(&second).await;
        assert_eq!(store.release(&second).await, Release::Released);
    }
}

fn server_ms(store: &Store) -> u64 {
    let time = store.server.cli(&["TIME"]);
    let parts: Vec<u64> = time.lines().map(|part| part.parse().unwrap()).collect();
    parts[0] * 1000 + parts[1] / 1000
}

#[tokio::test]
async fn the_claims_have_the_lock_for_about_as_long_as_strangers_had_it() {
    let store = store(LONG).await;
    let [first, second] = [queued(1, MUTEX), queued(2, MUTEX)];
    store.in_gap(&[&first, &second]).await;
    // As if it had been seen 30 s ago, and 30 minutes ago. A turn is shorter, since it ends with a grant.
    for (ago, turn) in [(30_000, 22_500..30_000), (1_800_000, 60_000..60_001)] {
        let seen = server_ms(&store) - ago;
        store.set_gaps(&format!("{} {seen} 1 1", server_ms(&store) + 5000));
        let before = server_ms(&store);
        store.takes(&first).await;
        let [ends, seen, next, pause] = store.gaps();
        assert_eq!((ends, seen), (0, 0));
        assert!(turn.contains(&pause) && next >= before + pause, "{pause}");
        assert_eq!(store.release(&first).await, Release::Released);
        // The second is granted the lock at once.
        store.granted(&second).await;
        store.waits(&first).await;
        store.set_gaps(DUE);
        assert_eq!(store.release(&second).await, Release::Released);
        assert!(store.is_free());
        store.waits(&second).await;
    }
}

#[tokio::test]
async fn nobody_of_ours_overtakes_in_a_gap() {
    let store = store(LONG).await;
    let [first, late, shared] = [queued(1, MUTEX), queued(2, MUTEX), queued(3, ONE_OF_TWO)];
    store.in_gap(&[&first]).await;
    for permits in [MUTEX, ONE_OF_TWO] {
        let tries = claim("a", 4, permits, WaitMode::Try);
        assert_eq!(store.backend.enqueue(&tries).await.unwrap(), ClaimStatus::Gone);
    }
    for newcomer in [&late, &shared] {
        store.waits(newcomer).await;
        assert_eq!(store.renew(newcomer).await, ClaimStatus::Waiting);
    }
    assert!(store.is_free());
    // The gap ends.
    store.set_gaps(&format!("{} 0 1 1", server_ms(&store) - 1));
    store.takes(&first).await;
    store.release(&first).await;
    store.granted(&late).await;
    store.release(&late).await;
    store.granted(&shared).await;
}

#[tokio::test]
async fn gaps_that_nobody_uses_become_rare() {
    let store = store("?gap=20ms").await;
    let [first, second] = [queued(1, MUTEX), queued(2, MUTEX)];
    store.in_gap(&[&first]).await;
    store.takes(&first).await;
    let (mut holder, mut waiter) = (&first, &second);
    for expected in [80, 160, 320, 640, 980, 980] {
        let [ends, seen, next, pause] = store.gaps();
        assert_eq!((ends, seen, pause), (0, 0, expected));
        let now = server_ms(&store);
        assert!(next <= now + pause);
        store.waits(waiter).await;
        // Not before, and then.
        store.set_gaps(&format!("0 0 {} 10000", now + 10_000));
        store.release(holder).await;
        store.granted(waiter).await;
        std::mem::swap(&mut holder, &mut waiter);
        store.waits(waiter).await;
        store.set_gaps(&format!("0 0 {now} {pause}"));
        store.release(holder).await;
        store.takes(waiter).await;
        std::mem::swap(&mut holder, &mut waiter);
    }
}

#[tokio::test]
async fn claims_that_meet_for_a_moment_leave_no_gap() {
    let store = store("?gap=200ms").await;
    let [first, second] = [queued(1, MUTEX), queued(2, MUTEX)];
    store.holds(&first).await;
    store.waits(&second).await;
    let before = server_ms(&store);
    store.release(&first).await;
    store.granted(&second).await;
    let [ends, seen, next, pause] = store.gaps();
    assert_eq!((ends, seen, pause), (0, 0, 2000));
    assert!(next >= before + pause, "{next}");
    store.release(&second).await;
    // Moments in which nobody waits make the server forget nothing, but it forgets in the end.
    let left: i64 = store.server.cli(&["PTTL", GAPS]).parse().unwrap();
    assert!((1..=60_000).contains(&left), "no longer than the lease of a waiter: {left}");
    store.holds(&first).await;
    store.release(&first).await;
    let tries = claim("a", 3, MUTEX, WaitMode::Try);
    store.holds(&tries).await;
    store.release(&tries).await;
    assert_eq!(store.gaps(), [0, 0, next, pause]);
    // Without a longer lease, it forgets 98 gaps after the pause.
    store.server.cli(&["DEL", GAPS]);
    store.holds(&first).await;
    let brief = queued(4, MUTEX).with_lease(Duration::from_secs(10));
    store.waits(&brief).await;
    store.release(&first).await;
    store.granted(&brief).await;
    let left: i64 = store.server.cli(&["PTTL", GAPS]).parse().unwrap();
    assert!((12_000..=21_600).contains(&left), "{left}");
}

#[tokio::test]
async fn a_stranger_that_nobody_waits_for_is_not_noted() {
    let store = store(LONG).await;
    let mut stranger = Stranger::new(store.server.port(), "stranger");
    assert!(stranger.tries());
    let tries = claim("a", 1, MUTEX, WaitMode::Try);
    assert_eq!(store.backend.enqueue(&tries).await.unwrap(), ClaimStatus::Gone);
    assert_eq!(store.server.cli(&["EXISTS", GAPS]), "0");
}

#[tokio::test]
async fn a_stranger_is_known_although_the_queue_runs_empty() {
    let store = store(LONG).await;
    let [first, second] = [queued(1, MUTEX), queued(2, MUTEX)];
    let mut stranger = Stranger::new(store.server.port(), "stranger");
    assert!(stranger.tries());
    store.waits(&first).await;
    assert_eq!(store.polls(&first).await, ClaimStatus::Waiting);
    let seen = store.gaps()[1];
    assert!(seen > 0);
    stranger.releases();
    store.takes(&first).await;
    let known = store.gaps();
    assert!(known[3] <= server_ms(&store) - seen, "{known:?}");
    // Claims that find nobody, and that wait and give up.
    store.waits(&second).await;
    store.release(&second).await;
    store.release(&first).await;
    store.holds(&claim("a", 3, MUTEX, WaitMode::Try)).await;
    let tries = claim("a", 4, ONE_OF_TWO, WaitMode::Try);
    assert_eq!(store.backend.enqueue(&tries).await.unwrap(), ClaimStatus::Gone);
    store.release(&claim("a", 3, MUTEX, WaitMode::Try)).await;
    assert_eq!(store.gaps(), known);
    // So the next gap comes with the next hand-over.
    eventually("its time has gone by", async || server_ms(&store) > known[2]).await;
    store.holds(&first).await;
    store.waits(&second).await;
    store.release(&first).await;
    assert!(store.is_free());
}

#[tokio::test]
async fn waiters_whose_owner_has_not_asked_for_gaps_are_granted_the_lock_at_once() {
    let store = store(LONG).await;
    let older = backend(&store.server, "").await;
    let holder = queued(0, MUTEX);
    let [ours, theirs] = [queued(1, MUTEX), queued(2, MUTEX)];
    store.holds(&holder).await;
    assert_eq!(older.enqueue(&theirs).await.unwrap(), ClaimStatus::Waiting);
    store.waits(&ours).await;
    store.set_gaps(DUE);
    store.release(&holder).await;
    assert!(matches!(older.wait_for_change(&theirs).await.unwrap(), Some(ClaimStatus::Held(_))));
    // Its release grants the lock to ours at once, too.
    assert_eq!(older.release(&theirs).await.unwrap(), Release::Released);
    store.granted(&ours).await;
    store.release(&ours).await;
    // Of shared holders that would be granted the lock together, one has not asked for gaps.
    let [ours, theirs] = [queued(3, ONE_OF_TWO), queued(4, ONE_OF_TWO)];
    store.holds(&holder).await;
    store.waits(&ours).await;
    assert_eq!(older.enqueue(&theirs).await.unwrap(), ClaimStatus::Waiting);
    store.set_gaps(DUE);
    store.release(&holder).await;
    assert!(matches!(older.wait_for_change(&theirs).await.unwrap(), Some(ClaimStatus::Held(_))));
    store.granted(&ours).await;
    // In an open gap, what they ask for ends it.
    store.release(&ours).await;
    older.release(&theirs).await.unwrap();
    let [ours, theirs] = [queued(5, MUTEX), queued(6, MUTEX)];
    store.in_gap(&[&ours]).await;
    assert_eq!(older.enqueue(&theirs).await.unwrap(), ClaimStatus::Waiting);
    store.takes(&ours).await;
}

#[tokio::test]
async fn shared_holders_leave_a_gap_only_when_the_whole_lock_becomes_free() {
    let store = store(LONG).await;
    let of_two = |number, count| queued(number, Permits::new(count, 2));
    let [one, other, next, all] = [of_two(1, 1), of_two(2, 1), of_two(3, 1), of_two(4, 2)];
    store.holds(&one).await;
    store.holds(&other).await;
    store.waits(&next).await;
    store.waits(&all).await;
    store.set_gaps(DUE);
    store.release(&one).await;
    store.granted(&next).await;
    store.release(&other).await;
    assert_eq!(store.renew(&all).await, ClaimStatus::Waiting);
    assert!(!store.is_free());
    store.release(&next).await;
    assert!(store.is_free());
    assert_eq!(store.renew(&all).await, ClaimStatus::Waiting);
    store.set_gaps("1 0 1 1");
    store.takes(&all).await;
    // Nor does a gap come between two claims that share.
    store.waits(&next).await;
    store.waits(&other).await;
    store.set_gaps(DUE);
    store.release(&all).await;
    assert!(store.is_free());
    store.set_gaps("1 0 1 1");
    store.takes(&next).await;
    store.set_gaps(DUE);
    store.granted(&other).await;
}

#[tokio::test]
async fn every_end_of_a_hold_leaves_a_gap() {
    let store = store(LONG).await;
    let [holder, waiter] = [queued(1, MUTEX), queued(2, MUTEX)];
    // An eviction.
    store.holds(&holder).await;
    store.waits(&waiter).await;
    store.set_gaps(DUE);
    let eviction = globallock::Eviction::new(globallock::Owner::default(), "");
    let evicted = store.backend.evict(&holder.name, &holder.id.into(), &eviction).await.unwrap();
    assert_eq!(evicted, Release::Released);
    assert!(store.is_free());
    store.set_gaps("1 0 1 1");
    store.takes(&waiter).await;
    store.release(&waiter).await;
    // The end of a lease, and of a max hold time.
    let brief = Duration::from_millis(1500);
    for holder in [queued(3, MUTEX).with_lease(brief), queued(4, MUTEX).with_max_hold(Some(brief))] {
        store.holds(&holder).await;
        store.waits(&waiter).await;
        store.set_gaps(DUE);
        while !store.is_free() || store.gaps()[0] == 0 {
            assert_eq!(store.polls(&waiter).await, ClaimStatus::Waiting);
        }
        store.set_gaps("1 0 1 1");
        store.takes(&waiter).await;
        store.release(&waiter).await;
    }
}

#[tokio::test]
async fn the_second_waiter_is_told_when_the_gap_ends_in_case_the_first_has_died() {
    let store = store("?gap=500ms").await;
    let dying = backend(&store.server, "?gap=500ms").await;
    let (holder, first) = (queued(0, MUTEX), queued(1, MUTEX));
    let second = queued(2, MUTEX).with_lease(Duration::from_secs(60));
    store.holds(&holder).await;
    assert_eq!(dying.enqueue(&first).await.unwrap(), ClaimStatus::Waiting);
    store.waits(&second).await;
    store.set_gaps(DUE);
    store.release(&holder).await;
    assert!(store.is_free());
    drop(dying);
    // Its lease, and that of the holder, end later than this waits.
    store.takes(&second).await;
}

#[tokio::test]
async fn a_first_waiter_that_cannot_be_told_is_passed_over() {
    let store = store(LONG).await;
    let dead = backend(&store.server, LONG).await;
    let (holder, first, second) = (queued(0, MUTEX), queued(1, MUTEX), queued(2, MUTEX));
    store.holds(&holder).await;
    assert_eq!(dead.enqueue(&first).await.unwrap(), ClaimStatus::Waiting);
    store.waits(&second).await;
    drop(dead);
    eventually("nobody listens for it", async || {
        store.server.cli(&["PUBSUB", "CHANNELS", "globallock:wake:*"]).lines().count() == 1
    })
    .await;
    store.set_gaps(DUE);
    store.release(&holder).await;
    assert!(store.is_free());
    assert_eq!(store.server.cli(&["ZCARD", QUEUE]), "1");
    assert_eq!(store.polls(&second).await, ClaimStatus::Waiting);
    store.set_gaps("1 0 1 1");
    store.takes(&second).await;
}

#[tokio::test]
async fn a_renewal_grants_the_lock_when_the_message_about_a_gap_was_lost() {
    let store = store(LONG).await;
    let [first, second] = [queued(1, MUTEX), queued(2, MUTEX)];
    store.in_gap(&[&first, &second]).await;
    assert_eq!(store.renew(&first).await, ClaimStatus::Waiting);
    assert_eq!(store.renew(&second).await, ClaimStatus::Waiting);
    store.set_gaps("1 0 1 1");
    assert!(matches!(store.renew(&first).await, ClaimStatus::Held(_)));
    // The renewal of the second notices it as well.
    let third = queued(3, MUTEX);
    store.waits(&third).await;
    store.set_gaps(DUE);
    store.release(&first).await;
    store.set_gaps("1 0 1 1");
    assert_eq!(store.renew(&third).await, ClaimStatus::Waiting);
    store.granted(&second).await;
}

#[tokio::test]
async fn a_waiter_that_gives_up_in_a_gap_leaves_it_to_the_next() {
    let store = store(LONG).await;
    let [first, second] = [queued(1, MUTEX), queued(2, MUTEX)];
    store.in_gap(&[&first, &second]).await;
    assert_eq!(store.release(&first).await, Release::Released);
    assert!(store.is_free());
    assert_eq!(store.polls(&second).await, ClaimStatus::Waiting);
    assert_eq!(store.release(&second).await, Release::Released);
    // Nobody waits, so that the next one holds at once.
    store.holds(&first).await;
    assert!(!store.server.cli(&["GET", COUNTER]).ends_with('w'));
}

#[tokio::test]
async fn states_of_other_programs_and_clocks_that_are_set_back_harm_nobody() {
    let store = store("?gap=100ms").await;
    let [first, second] = [queued(1, MUTEX), queued(2, MUTEX)];
    let far = "99999999999999";
    let states = ["junk", "", "0 0", &format!("{far} 0 1 1"), &format!("0 {far} 1 1")];
    for state in states.into_iter().chain([format!("0 0 {far} 1").as_str(), "list"]) {
        store.holds(&first).await;
        store.waits(&second).await;
        store.set_gaps(state);
        if state == "list" {
            store.server.cli(&["DEL", GAPS]);
            store.server.cli(&["RPUSH", GAPS, "1"]);
        }
        store.release(&first).await;
        store.takes(&second).await;
        let [ends, seen, next, pause] = store.gaps();
        assert_eq!((ends, seen), (0, 0), "{state}");
        assert!(next <= server_ms(&store) + pause && pause <= 60_000, "{state}: {next} {pause}");
        store.release(&second).await;
    }
}

#[tokio::test]
async fn gaps_cost_no_command_while_none_is_due() {
    let store = store("?gap=150ms").await;
    let [holder, waiter] = [queued(1, MUTEX), queued(2, MUTEX)];
    store.holds(&holder).await;
    store.release(&holder).await;
    spent(&store);
    store.holds(&holder).await;
    assert_eq!(spent(&store), "set:2 time:1", "an acquire");
    store.release(&holder).await;
    assert_eq!(spent(&store), "del:1 mget:1", "a release");
    store.holds(&holder).await;
    store.waits(&waiter).await;
    let next = server_ms(&store) + 60_000;
    store.set_gaps(&format!("0 0 {next} 60000"));
    spent(&store);
    store.release(&holder).await;
    store.granted(&waiter).await;
    assert_eq!(spent(&store), "mget:1 publish:1 set:1 time:1 zpopmin:1", "a release before a waiter");
}
