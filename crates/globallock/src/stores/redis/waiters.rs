//! The waiters of this process, so that a pushed grant finds its owner.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::backend::{ClaimId, ClaimStatus, Grant};
use crate::sync::{Mutex, MutexGuard, Notify, now, sleep_until};

/// The shortest and the longest pause between two polls for a foreign holder by the first waiter.
const FOREIGN_POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// A moment on both clocks: the request was sent at `sent`, which is no later than `server_ms` on the
/// server's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) sent: Instant,
    pub(super) server_ms: u64,
}

impl Clock {
    /// Converts a time of the server to a moment here that is no later.
    fn here(self, server_ms: u64) -> Instant {
        self.sent + Duration::from_millis(server_ms.saturating_sub(self.server_ms))
    }

    /// Makes the grant that a push describes.
    fn grant(self, pushed: &Pushed) -> Grant {
        Grant {
            fencing_token: pushed.fencing_token,
            expires: Some(self.here(pushed.expires)),
            hold_ends: (pushed.hold_until > 0).then(|| self.here(pushed.hold_until)),
        }
    }
}

/// A grant as the server pushes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) id: ClaimId,
    pub(super) fencing_token: u64,
    pub(super) expires: u64,
    pub(super) hold_until: u64,
    /// The lock's key, needed to release a grant that nobody here waits for.
    pub(super) key: String,
}

impl Pushed {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut fields = text.splitn(5, ' ');
        Some(Pushed {
            id: ClaimId::parse(fields.next()?)?,
            fencing_token: fields.next()?.parse().ok()?,
            expires: fields.next()?.parse().ok()?,
            hold_until: fields.next()?.parse().ok()?,
            key: fields.next()?.to_owned(),
        })
    }
}

/// The waiting claims of one connection.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    entries: Mutex<HashMap<ClaimId, WaiterEntry>>,
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

impl Waiters {
    fn entries(&self) -> MutexGuard<'_, HashMap<ClaimId, WaiterEntry>> {
        self.entries.lock()
    }

    /// Makes an entry for `id`. Called before the request is sent, because a pushed grant may come before the
    /// answer.
    pub(super) fn track(&self, id: ClaimId) {
        self.entries().entry(id).or_default();
    }

    /// Removes the entry of a claim that does not wait any more.
    pub(super) fn untrack(&self, id: ClaimId) {
        self.entries().remove(&id);
    }

    /// Records that the server has answered "waiting", and that it should be polled in `poll_in`. `foreign`
    /// says that the claim is the first waiter and the holder is foreign.
    pub(super) fn set_waiting(&self, id: ClaimId, clock: Clock, poll_in: Option<Duration>, foreign: bool) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&id) else { return };
        entry.clock = Some(clock);
        entry.pace =
            foreign.then(|| entry.pace.map_or(FOREIGN_POLL.0, |pace| (pace * 2).min(FOREIGN_POLL.1)));
        let poll_in = [poll_in, entry.pace].into_iter().flatten().min();
        entry.poll_at = poll_in.map(|poll_in| now() + poll_in);
        entry.notify.notify_one();
    }

    /// Delivers a pushed grant to its waiter. Returns it if nobody here waits for it.
    pub(super) fn deliver(&self, pushed: Pushed) -> Option<Pushed> {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(&pushed.id) else {
            return Some(pushed);
        };
        entry.pushed = Some(pushed);
        entry.notify.notify_one();
        None
    }

    /// Makes every waiter poll the server now, because a push may have been lost.
    pub(super) fn poll_all(&self) {
        let now = now();
        for entry in self.entries().values_mut() {
            entry.poll_at = Some(now);
            entry.notify.notify_one();
        }
    }

    /// Waits until the server has granted `id` (its new status), or must be polled (`None`).
    ///
    /// # Cancel safety
    /// Nothing is lost: a grant stays in its entry until it is taken.
    pub(super) async fn wait_for_change(&self, id: ClaimId) -> Option<ClaimStatus> {
        loop {
            let (notify, poll_at) = {
                let mut entries = self.entries();
                let entry = entries.get_mut(&id)?;
                if let (Some(pushed), Some(clock)) = (&entry.pushed, entry.clock) {
                    let grant = clock.grant(pushed);
                    entries.remove(&id);
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
                    () = sleep_until(at.into()) => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ClaimId {
        ClaimId::new(5, 6)
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

    #[test]
    fn a_push_is_read_with_the_whole_key() {
        let expected = Pushed {
            id: id(),
            fencing_token: 7,
            expires: 1500,
            hold_until: 0,
            key: "_glocks:a b".to_owned(),
        };
        assert_eq!(pushed(id()), expected);
        for text in ["", "x", "00000000000000000000000000000000 1 2", "zz 1 2 3 key"] {
            assert_eq!(Pushed::parse(text), None, "{text}");
        }
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

    #[test]
    fn a_grant_ends_as_long_after_the_request_as_the_server_says_and_never_before_it() {
        let clock = clock();
        let after = |number| Some(clock.sent + milliseconds(number));
        for (expires, hold_until, left, hold_left) in [
            (1500, 0, after(500), None),
            (1500, 1200, after(500), after(200)),
            // The server's clock has been set back since.
            (900, 1, after(0), after(0)),
        ] {
            let grant = clock.grant(&Pushed { expires, hold_until, ..pushed(id()) });
            assert_eq!(
                (grant.fencing_token, grant.expires, grant.hold_ends),
                (7, left, hold_left),
                "{expires} {hold_until}"
            );
        }
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
}
