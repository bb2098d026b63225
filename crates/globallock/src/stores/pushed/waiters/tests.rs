//! Tests of the claims of this process, in virtual time.

use super::*;

impl Waiters {
    /// Asks for a claim that waits.
    fn track(&self, id: ClaimId) {
        assert_ne!(self.ask(id, true), Known::Asked);
    }
}

fn id() -> ClaimId {
    ClaimId::new(5, 6)
}

fn eviction() -> Arc<Eviction> {
    Arc::new(Eviction::new(crate::owner::Owner::default().with_label("a b"), "no evicted c"))
}

fn pushed(id: ClaimId) -> Pushed {
    Pushed::parse(&format!("{id} 7 1500 0 _glocks:a b")).unwrap()
}

fn clock() -> Clock {
    Clock { sent: now(), server_ms: 1000 }
}

fn milliseconds(number: u64) -> Duration {
    Duration::from_millis(number)
}

/// What a wait ends with, in virtual time; one that never ends fails.
async fn ends(wait: impl Future<Output = Option<ClaimStatus>>) -> Option<ClaimStatus> {
    tokio::time::timeout(Duration::from_secs(3600), wait).await.expect("the wait ends")
}

/// How long from now the waiter is made to poll the server.
async fn polls_after(waiters: &Waiters) -> Duration {
    let since = now();
    assert_eq!(ends(waiters.wait_for_change(id())).await, None);
    now() - since
}

#[tokio::test(start_paused = true)]
async fn a_late_push_counts_from_the_request_and_not_from_its_arrival() {
    let waiters = Waiters::default();
    waiters.track(id());
    let sent = Instant::now() - Duration::from_secs(3);
    waiters.set_waiting(id(), Clock { sent, server_ms: 1000 }, None, false);
    assert_eq!(waiters.deliver(pushed(id())), None);
    let Some(ClaimStatus::Held(grant)) = ends(waiters.wait_for_change(id())).await else {
        panic!("not granted")
    };
    assert_eq!(grant.expires, Some(sent + milliseconds(500)));
}

#[tokio::test(start_paused = true)]
async fn a_push_that_comes_before_the_answer_waits_for_it() {
    let waiters = Waiters::default();
    waiters.track(id());
    assert_eq!(waiters.deliver(pushed(id())), None);
    let changed = waiters.wait_for_change(id());
    tokio::pin!(changed);
    assert!(futures_util::poll!(&mut changed).is_pending());
    waiters.set_waiting(id(), clock(), None, false);
    assert!(matches!(ends(changed).await, Some(ClaimStatus::Held(_))));
}

#[tokio::test(start_paused = true)]
async fn a_push_ends_the_wait_however_late_the_next_poll_would_be() {
    let waiters = Waiters::default();
    waiters.track(id());
    waiters.set_waiting(id(), clock(), Some(Duration::from_secs(60)), false);
    let changed = waiters.wait_for_change(id());
    tokio::pin!(changed);
    assert!(futures_util::poll!(&mut changed).is_pending());
    let since = now();
    assert_eq!(waiters.deliver(pushed(id())), None);
    assert!(matches!(ends(changed).await, Some(ClaimStatus::Held(_))));
    assert_eq!(now(), since);
}

#[test]
fn a_push_that_nobody_waits_for_is_returned() {
    let (waiters, other) = (Waiters::default(), ClaimId::new(7, 8));
    assert_eq!(waiters.deliver(pushed(id())), Some(pushed(id())));
    waiters.track(other);
    assert_eq!(waiters.deliver(pushed(id())), Some(pushed(id())));
    waiters.track(id());
    waiters.untrack(id());
    assert_eq!(waiters.deliver(pushed(id())), Some(pushed(id())));
    assert_eq!(waiters.deliver(pushed(other)), None);
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_taken_once() {
    let waiters = Waiters::default();
    waiters.track(id());
    waiters.set_waiting(id(), clock(), None, false);
    assert_eq!(waiters.deliver(pushed(id())), None);
    assert!(matches!(ends(waiters.wait_for_change(id())).await, Some(ClaimStatus::Held(_))));
    // A second wait has no entry and polls the server; a second push is returned.
    assert_eq!(ends(waiters.wait_for_change(id())).await, None);
    assert_eq!(waiters.deliver(pushed(id())), Some(pushed(id())));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_polls_once_at_the_time_that_the_server_has_named() {
    let waiters = Waiters::default();
    waiters.track(id());
    waiters.set_waiting(id(), clock(), Some(milliseconds(1234)), false);
    assert_eq!(polls_after(&waiters).await, milliseconds(1234));
    let changed = tokio::time::timeout(Duration::from_secs(3600), waiters.wait_for_change(id()));
    assert!(changed.await.is_err(), "it polls once more without a new answer");
    // The last answer counts.
    waiters.set_waiting(id(), clock(), Some(milliseconds(10)), false);
    waiters.set_waiting(id(), clock(), Some(milliseconds(20)), false);
    assert_eq!(polls_after(&waiters).await, milliseconds(20));
    waiters.set_waiting(id(), clock(), Some(milliseconds(10)), false);
    waiters.set_waiting(id(), clock(), None, false);
    let changed = tokio::time::timeout(Duration::from_secs(3600), waiters.wait_for_change(id()));
    assert!(changed.await.is_err(), "it polls though the server has not asked for it");
}

#[tokio::test(start_paused = true)]
async fn a_new_answer_counts_for_a_wait_that_has_begun() {
    let waiters = Waiters::default();
    waiters.track(id());
    let changed = waiters.wait_for_change(id());
    tokio::pin!(changed);
    assert!(futures_util::poll!(&mut changed).is_pending());
    let since = now();
    waiters.set_waiting(id(), clock(), Some(milliseconds(30)), false);
    assert_eq!(ends(changed).await, None);
    assert_eq!(now() - since, milliseconds(30));
}

#[tokio::test(start_paused = true)]
async fn polls_for_a_foreign_holder_slow_down_to_a_tenth_of_a_second_and_start_over_with_the_next_one() {
    let waiters = Waiters::default();
    waiters.track(id());
    for round in 0..2 {
        for expected in [5, 10, 20, 40, 80, 100, 100] {
            waiters.set_waiting(id(), clock(), Some(Duration::from_secs(60)), true);
            assert_eq!(polls_after(&waiters).await, milliseconds(expected), "in round {round}");
        }
        waiters.set_waiting(id(), clock(), Some(milliseconds(700)), false);
        assert_eq!(polls_after(&waiters).await, milliseconds(700));
    }
}

#[tokio::test(start_paused = true)]
async fn a_poll_comes_as_soon_as_the_key_of_a_foreign_holder_expires() {
    let waiters = Waiters::default();
    waiters.track(id());
    waiters.set_waiting(id(), clock(), Some(milliseconds(3)), true);
    assert_eq!(polls_after(&waiters).await, milliseconds(3));
    waiters.set_waiting(id(), clock(), None, true);
    assert_eq!(polls_after(&waiters).await, milliseconds(10));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_is_told_to_poll_polls_then_or_sooner() {
    let waiters = Waiters::default();
    let polls = |number| Polls { id: id(), poll_in: milliseconds(number) };
    waiters.poll(polls(1));
    waiters.track(id());
    waiters.set_waiting(id(), clock(), None, false);
    waiters.poll(polls(7));
    waiters.poll(polls(9));
    assert_eq!(polls_after(&waiters).await, milliseconds(7));
    waiters.set_waiting(id(), clock(), Some(milliseconds(3)), false);
    waiters.poll(polls(5));
    assert_eq!(polls_after(&waiters).await, milliseconds(3));
}

#[tokio::test(start_paused = true)]
async fn what_a_waiter_is_told_before_an_answer_is_taken_counts_unless_the_answer_is_newer() {
    let waiters = Waiters::default();
    waiters.track(id());
    let asked = clock();
    waiters.poll(Polls { id: id(), poll_in: milliseconds(7) });
    waiters.set_waiting(id(), asked, Some(Duration::from_secs(60)), false);
    waiters.watch(id(), Some(Duration::from_secs(60)));
    assert_eq!(polls_after(&waiters).await, milliseconds(7));
    waiters.poll(Polls { id: id(), poll_in: milliseconds(7) });
    tokio::time::advance(milliseconds(1)).await;
    waiters.set_waiting(id(), clock(), Some(milliseconds(90)), false);
    assert_eq!(polls_after(&waiters).await, milliseconds(90));
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_key_is_watched_polls_when_the_server_says_or_once_a_second() {
    let waiters = Waiters::default();
    waiters.track(id());
    for (poll_in, expected) in [(None, 1000), (Some(150), 150), (Some(7000), 1000)] {
        waiters.set_waiting(id(), clock(), poll_in.map(milliseconds), true);
        waiters.watch(id(), poll_in.map(milliseconds));
        assert_eq!(polls_after(&waiters).await, milliseconds(expected), "{poll_in:?}");
    }
    // Where it is not watched any more, it begins at the quickest pace.
    waiters.set_waiting(id(), clock(), None, true);
    assert_eq!(polls_after(&waiters).await, FOREIGN_POLL.0);
}

#[tokio::test(start_paused = true)]
async fn every_waiter_polls_at_once_when_a_push_may_have_been_lost() {
    let (waiters, other) = (Waiters::default(), ClaimId::new(7, 8));
    for claim in [id(), other] {
        waiters.track(claim);
        waiters.set_waiting(claim, clock(), Some(Duration::from_secs(60)), false);
    }
    let since = now();
    let changed = waiters.wait_for_change(id());
    tokio::pin!(changed);
    assert!(futures_util::poll!(&mut changed).is_pending());
    waiters.poll_all();
    assert_eq!(ends(changed).await, None);
    assert_eq!(ends(waiters.wait_for_change(other)).await, None);
    assert_eq!(now(), since);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_released_claim_leaves_no_waiter_behind() {
    let waiters = Waiters::default();
    waiters.set_waiting(id(), clock(), Some(milliseconds(1)), false);
    assert_eq!(waiters.deliver(pushed(id())), Some(pushed(id())));
}

#[tokio::test(start_paused = true)]
async fn an_evicted_waiter_is_told_at_once_and_whenever_it_asks() {
    let waiters = Waiters::default();
    waiters.track(id());
    waiters.set_waiting(id(), clock(), Some(Duration::from_secs(60)), false);
    let changed = waiters.wait_for_change(id());
    tokio::pin!(changed);
    assert!(futures_util::poll!(&mut changed).is_pending());
    let since = now();
    assert_eq!(waiters.evict(id(), eviction()), Whose::Waiter);
    assert_eq!(ends(changed).await, Some(ClaimStatus::Evicted(eviction())));
    assert_eq!(ends(waiters.wait_for_change(id())).await, Some(ClaimStatus::Evicted(eviction())));
    assert_eq!(waiters.ask(id(), true), Known::Evicted(eviction()));
    assert_eq!(now(), since);
    // Its grant came first, but was not taken yet.
    let waiters = Waiters::default();
    waiters.track(id());
    waiters.set_waiting(id(), clock(), None, false);
    assert_eq!(waiters.deliver(pushed(id())), None);
    assert_eq!(waiters.evict(id(), eviction()), Whose::Waiter);
    assert_eq!(ends(waiters.wait_for_change(id())).await, Some(ClaimStatus::Evicted(eviction())));
}

#[test]
fn an_answer_from_before_an_eviction_grants_nothing() {
    let waiters = Waiters::default();
    waiters.track(id());
    assert_eq!(waiters.untrack(id()), None);
    assert_eq!(waiters.evict(id(), eviction()), Whose::Other);
    assert_eq!(waiters.untrack(id()), Some(eviction()));
    assert_eq!(waiters.ask(id(), false), Known::Evicted(eviction()));
}

#[test]
fn a_claim_is_known_from_its_first_request_until_it_is_given_up() {
    for waits in [true, false] {
        let waiters = Waiters::default();
        assert_eq!(waiters.ask(id(), waits), Known::New);
        assert_eq!(waiters.ask(id(), waits), Known::Asked);
        assert_eq!(waiters.untrack(id()), None);
        assert_eq!(waiters.ask(id(), waits), Known::Asked, "it holds");
        assert!(!waiters.give_up(id()));
        assert_eq!(waiters.evict(id(), eviction()), Whose::Nobody);
        assert_eq!(waiters.ask(id(), waits), Known::New);
        waiters.forget(id());
        assert_eq!(waiters.ask(id(), waits), Known::New);
    }
}

#[test]
fn an_evicted_claim_is_known_until_its_release_is_answered() {
    let waiters = Waiters::default();
    waiters.track(id());
    waiters.evict(id(), eviction());
    for _ in 0..2 {
        assert!(waiters.give_up(id()), "a release may be repeated");
    }
    assert_eq!(waiters.ask(id(), true), Known::Evicted(eviction()));
    waiters.forget(id());
    assert!(!waiters.give_up(id()));
    assert_eq!(waiters.ask(id(), true), Known::New);
}

#[test]
fn a_waiters_place_is_that_at_which_it_joined() {
    let waiters = Waiters::default();
    waiters.note_place(id(), Some(3));
    assert_eq!(waiters.place(id()), None, "it was not asked for");
    waiters.track(id());
    assert_eq!(waiters.place(id()), None);
    waiters.note_place(id(), Some(3));
    // A later answer does not tell it.
    waiters.note_place(id(), None);
    assert_eq!(waiters.place(id()), Some(3));
    waiters.untrack(id());
    assert_eq!(waiters.place(id()), None);
}
