//! The claims of this process, so that a pushed grant or eviction finds its owner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::pushed::{Clock, Polls, Pushed};
use crate::backend::{ClaimId, ClaimStatus, Eviction};
use crate::sync::{Instant, Mutex, MutexGuard, Notify, now, sleep_until};

/// The shortest and the longest pause between two polls for a foreign holder by the first waiter.
const FOREIGN_POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// The longest pause between two polls by the first waiter while the server watches the key for it: what the
/// server says then is only a message, too.
const WATCHED_POLL: Duration = Duration::from_secs(1);

/// The claims that were asked for over one connection and not given up since.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    claims: Mutex<HashMap<ClaimId, Asked>>,
}

/// A claim that was asked for: it may be in the store, whether it was answered or not.
#[derive(Debug, Default)]
struct Asked {
    /// There while it waits, or may wait.
    waiter: Option<Box<WaiterEntry>>,
    /// Set when its owner is told that it has been evicted.
    evicted: Option<Arc<Eviction>>,
}

#[derive(Debug, Default)]
struct WaiterEntry {
    notify: Arc<Notify>,
    pushed: Option<Pushed>,
    clock: Option<Clock>,
    /// When to poll the server.
    poll_at: Option<Instant>,
    /// The pause before the next poll for a foreign holder.
    pace: Option<Duration>,
}

/// What is known of a claim that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It was not asked for yet.
    New,
    /// It was, and may be in the store, or have been evicted.
    Asked,
    /// It has been evicted.
    Evicted(Arc<Eviction>),
}

/// Whose claim was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// That of a waiter here, which is told.
    Waiter,
    /// That of another owner here.
    Other,
    /// None of here.
    Nobody,
}

impl Waiters {
    fn claims(&self) -> MutexGuard<'_, HashMap<ClaimId, Asked>> {
        self.claims.lock()
    }

    /// Notes that `id` is asked for; it may wait if it `waits`. Called before the request is sent, because a
    /// push may come before the answer.
    pub(super) fn ask(&self, id: ClaimId, waits: bool) -> Known {
        let mut claims = self.claims();
        let known = match claims.get(&id) {
            None => Known::New,
            Some(Asked { evicted: Some(eviction), .. }) => return Known::Evicted(Arc::clone(eviction)),
            Some(_) => Known::Asked,
        };
        let asked = claims.entry(id).or_default();
        if waits {
            asked.waiter.get_or_insert_default();
        }
        known
    }

    /// Notes that a claim does not wait any more, because it holds; unless it has been evicted since, which
    /// is returned.
    pub(super) fn untrack(&self, id: ClaimId) -> Option<Arc<Eviction>> {
        let mut claims = self.claims();
        let asked = claims.get_mut(&id)?;
        asked.waiter = None;
        asked.evicted.clone()
    }

    /// Notes that the owner gives up a claim. Returns whether it knows that the claim has been evicted: then
    /// it remains to [`Self::forget`] it.
    pub(super) fn give_up(&self, id: ClaimId) -> bool {
        let mut claims = self.claims();
        let evicted = claims.get_mut(&id).is_some_and(|asked| {
            asked.waiter = None;
            asked.evicted.is_some()
        });
        if !evicted {
            claims.remove(&id);
        }
        evicted
    }

    /// Forgets a claim that will not be asked for again.
    pub(super) fn forget(&self, id: ClaimId) {
        self.claims().remove(&id);
    }

    /// Notes that a claim has been evicted, and tells its waiter.
    pub(super) fn evict(&self, id: ClaimId, eviction: Arc<Eviction>) -> Whose {
        let mut claims = self.claims();
        let Some(asked) = claims.get_mut(&id) else { return Whose::Nobody };
        asked.evicted = Some(eviction);
        match &asked.waiter {
            Some(waiter) => {
                waiter.notify.notify_one();
                Whose::Waiter
            }
            None => Whose::Other,
        }
    }

    /// Records that the server has answered "waiting", and that it should be polled in `poll_in`. `foreign`
    /// says that the claim is the first waiter and the holder is foreign.
    pub(super) fn set_waiting(&self, id: ClaimId, clock: Clock, poll_in: Option<Duration>, foreign: bool) {
        let mut claims = self.claims();
        let Some(entry) = claims.get_mut(&id).and_then(|asked| asked.waiter.as_mut()) else { return };
        entry.clock = Some(clock);
        entry.pace =
            foreign.then(|| entry.pace.map_or(FOREIGN_POLL.0, |pace| (pace * 2).min(FOREIGN_POLL.1)));
        let poll_in = [poll_in, entry.pace].into_iter().flatten().min();
        entry.poll_at = poll_in.map(|poll_in| now() + poll_in);
        entry.notify.notify_one();
    }

    /// Delivers a pushed grant to its waiter. Returns it if nobody here waits for it.
    pub(super) fn deliver(&self, pushed: Pushed) -> Option<Pushed> {
        let mut claims = self.claims();
        let Some(entry) = claims.get_mut(&pushed.id).and_then(|asked| asked.waiter.as_mut()) else {
            return Some(pushed);
        };
        entry.pushed = Some(pushed);
        entry.notify.notify_one();
        None
    }

    /// Notes that the server watches the key for the first waiter, which need not poll at its own pace.
    pub(super) fn watch(&self, id: ClaimId, poll_in: Option<Duration>) {
        let mut claims = self.claims();
        let Some(entry) = claims.get_mut(&id).and_then(|asked| asked.waiter.as_mut()) else { return };
        entry.pace = None;
        entry.poll_at = Some(now() + poll_in.map_or(WATCHED_POLL, |poll_in| poll_in.min(WATCHED_POLL)));
        entry.notify.notify_one();
    }

    /// Makes a waiter poll the server in this time, unless it polls sooner.
    pub(super) fn poll(&self, polls: Polls) {
        let mut claims = self.claims();
        let Some(entry) = claims.get_mut(&polls.id).and_then(|asked| asked.waiter.as_mut()) else { return };
        let poll_at = now() + polls.poll_in;
        entry.poll_at = Some(entry.poll_at.map_or(poll_at, |at| at.min(poll_at)));
        entry.notify.notify_one();
    }

    /// Makes every waiter poll the server now, because a push may have been lost.
    pub(super) fn poll_all(&self) {
        let now = now();
        for entry in self.claims().values_mut().filter_map(|asked| asked.waiter.as_mut()) {
            entry.poll_at = Some(now);
            entry.notify.notify_one();
        }
    }

    /// Waits until the server has granted or evicted `id` (its new status), or must be polled (`None`).
    ///
    /// # Cancel safety
    /// Nothing is lost: a grant stays in its entry until it is taken.
    pub(super) async fn wait_for_change(&self, id: ClaimId) -> Option<ClaimStatus> {
        loop {
            let (notify, poll_at) = {
                let mut claims = self.claims();
                let asked = claims.get_mut(&id)?;
                if let Some(eviction) = &asked.evicted {
                    return Some(ClaimStatus::Evicted(Arc::clone(eviction)));
                }
                let entry = asked.waiter.as_mut()?;
                if let (Some(pushed), Some(clock)) = (&entry.pushed, entry.clock) {
                    let grant = clock.grant(pushed);
                    asked.waiter = None;
                    return Some(ClaimStatus::Held(grant));
                }
                if entry.poll_at.is_some_and(|at| at <= now()) {
                    entry.poll_at = None;
                    return None;
                }
                (Arc::clone(&entry.notify), entry.poll_at)
            };
            match poll_at {
                None => notify.notified().await,
                Some(at) => tokio::select! {
                    () = notify.notified() => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
}
