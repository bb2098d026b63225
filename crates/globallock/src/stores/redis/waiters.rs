//! Who of this process waits at the server, so that a pushed grant finds its owner.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{ClaimId, ClaimStatus, Grant};
use crate::sync::{Mutex, MutexGuard, Notify, now, sleep_until};

/// The bounds of the pace at which the head of a queue looks whether a stranger has left.
const STRANGER: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// A moment that both clocks know: the request left here no later than the server's clock read `server_ms`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) sent: Instant,
    pub(super) server_ms: u64,
}

impl Clock {
    /// The moment here that is no later than `server_ms` on the server.
    fn here(self, server_ms: u64) -> Instant {
        self.sent + Duration::from_millis(server_ms.saturating_sub(self.server_ms))
    }

    /// What a push says of a claim that holds.
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
    /// The lock's key, for giving back what nobody wants.
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
    slots: Mutex<HashMap<ClaimId, Slot>>,
}

#[derive(Debug, Default)]
struct Slot {
    told: Arc<Notify>,
    pushed: Option<Pushed>,
    clock: Option<Clock>,
    /// When to ask the server again.
    look_at: Option<Instant>,
    /// The pace of looking for a stranger.
    pace: Option<Duration>,
}

impl Waiters {
    fn slots(&self) -> MutexGuard<'_, HashMap<ClaimId, Slot>> {
        // No code panics while it holds the lock, so the poisoned map is still whole.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a place for a grant of `id` to arrive at: before the request, since the push may come before the answer.
    pub(super) fn expect(&self, id: ClaimId) {
        self.slots().entry(id).or_default();
    }

    pub(super) fn forget(&self, id: ClaimId) {
        self.slots().remove(&id);
    }

    /// Takes note that the server has answered "waiting", and asks to be asked again in `again`.
    pub(super) fn waits(&self, id: ClaimId, clock: Clock, again: Option<Duration>, stranger: bool) {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(&id) else { return };
        slot.clock = Some(clock);
        slot.pace = stranger.then(|| slot.pace.map_or(STRANGER.0, |pace| (pace * 2).min(STRANGER.1)));
        let again = [again, slot.pace].into_iter().flatten().min();
        slot.look_at = again.map(|again| now() + again);
        slot.told.notify_one();
    }

    /// Hands a pushed grant to whom it is for; gives it back when nobody here waits for it.
    pub(super) fn tell(&self, pushed: Pushed) -> Option<Pushed> {
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(&pushed.id) else {
            return Some(pushed);
        };
        slot.pushed = Some(pushed);
        slot.told.notify_one();
        None
    }

    /// Makes every waiter ask the server again: a push may have been missed.
    pub(super) fn look_all(&self) {
        let now = now();
        for slot in self.slots().values_mut() {
            slot.look_at = Some(now);
            slot.told.notify_one();
        }
    }

    /// Waits until the server has granted `id` (its standing), or must be asked again (`None`).
    ///
    /// # Cancel safety
    /// Nothing is lost: a grant stays in its slot until it is taken.
    pub(super) async fn wait_for_change(&self, id: ClaimId) -> Option<ClaimStatus> {
        loop {
            let (told, look_at) = {
                let mut slots = self.slots();
                let slot = slots.get_mut(&id)?;
                if let (Some(pushed), Some(clock)) = (&slot.pushed, slot.clock) {
                    let grant = clock.grant(pushed);
                    slots.remove(&id);
                    return Some(ClaimStatus::Held(grant));
                }
                if slot.look_at.is_some_and(|at| at <= now()) {
                    slot.look_at = None;
                    return None;
                }
                (Arc::clone(&slot.told), slot.look_at)
            };
            match look_at {
                None => told.notified().await,
                Some(at) => tokio::select! {
                    () = told.notified() => {}
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

    /// When the waiter is told to ask the server again, counted from now.
    async fn asks_again_after(waiters: &Waiters) -> Duration {
        let since = now();
        assert_eq!(ends(waiters.wait_for_change(id())).await, None);
        now() - since
    }

    #[test]
    fn a_push_is_read_with_the_key_whole() {
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
        waiters.expect(id());
        let sent = Instant::now() - Duration::from_secs(3);
        waiters.waits(id(), Clock { sent, server_ms: 1000 }, None, false);
        assert_eq!(waiters.tell(pushed(id())), None);
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
        waiters.expect(id());
        assert_eq!(waiters.tell(pushed(id())), None);
        let changed = waiters.wait_for_change(id());
        tokio::pin!(changed);
        assert!(futures_util::poll!(&mut changed).is_pending());
        waiters.waits(id(), clock(), None, false);
        assert!(matches!(ends(changed).await, Some(ClaimStatus::Held(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_push_ends_the_wait_however_late_the_next_look_would_be() {
        let waiters = Waiters::default();
        waiters.expect(id());
        waiters.waits(id(), clock(), Some(Duration::from_secs(60)), false);
        let changed = waiters.wait_for_change(id());
        tokio::pin!(changed);
        assert!(futures_util::poll!(&mut changed).is_pending());
        let since = now();
        assert_eq!(waiters.tell(pushed(id())), None);
        assert!(matches!(ends(changed).await, Some(ClaimStatus::Held(_))));
        assert_eq!(now(), since);
    }

    #[test]
    fn a_push_that_nobody_waits_for_is_given_back() {
        let (waiters, other) = (Waiters::default(), ClaimId::new(7, 8));
        assert_eq!(waiters.tell(pushed(id())), Some(pushed(id())));
        waiters.expect(other);
        assert_eq!(waiters.tell(pushed(id())), Some(pushed(id())));
        waiters.expect(id());
        waiters.forget(id());
        assert_eq!(waiters.tell(pushed(id())), Some(pushed(id())));
        assert_eq!(waiters.tell(pushed(other)), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_grant_is_taken_once() {
        let waiters = Waiters::default();
        waiters.expect(id());
        waiters.waits(id(), clock(), None, false);
        assert_eq!(waiters.tell(pushed(id())), None);
        assert!(matches!(ends(waiters.wait_for_change(id())).await, Some(ClaimStatus::Held(_))));
        // The server is asked by whoever waits for nothing here, and a second push is given back.
        assert_eq!(ends(waiters.wait_for_change(id())).await, None);
        assert_eq!(waiters.tell(pushed(id())), Some(pushed(id())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_asks_again_when_the_server_has_said_and_once() {
        let waiters = Waiters::default();
        waiters.expect(id());
        waiters.waits(id(), clock(), Some(milliseconds(1234)), false);
        assert_eq!(asks_again_after(&waiters).await, milliseconds(1234));
        let changed = tokio::time::timeout(Duration::from_secs(3600), waiters.wait_for_change(id()));
        assert!(changed.await.is_err(), "it asks once more without a new answer");
        // What the server has said last counts.
        waiters.waits(id(), clock(), Some(milliseconds(10)), false);
        waiters.waits(id(), clock(), Some(milliseconds(20)), false);
        assert_eq!(asks_again_after(&waiters).await, milliseconds(20));
        waiters.waits(id(), clock(), Some(milliseconds(10)), false);
        waiters.waits(id(), clock(), None, false);
        let changed = tokio::time::timeout(Duration::from_secs(3600), waiters.wait_for_change(id()));
        assert!(changed.await.is_err(), "it asks though the server said that it need not");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_answer_counts_for_whoever_waits_already() {
        let waiters = Waiters::default();
        waiters.expect(id());
        let changed = waiters.wait_for_change(id());
        tokio::pin!(changed);
        assert!(futures_util::poll!(&mut changed).is_pending());
        let since = now();
        waiters.waits(id(), clock(), Some(milliseconds(30)), false);
        assert_eq!(ends(changed).await, None);
        assert_eq!(now() - since, milliseconds(30));
    }

    #[tokio::test(start_paused = true)]
    async fn the_look_for_a_foreign_holder_slows_down_to_a_tenth_of_a_second_and_begins_again_with_the_next()
    {
        let waiters = Waiters::default();
        waiters.expect(id());
        for round in 0..2 {
            for expected in [5, 10, 20, 40, 80, 100, 100] {
                waiters.waits(id(), clock(), Some(Duration::from_secs(60)), true);
                assert_eq!(asks_again_after(&waiters).await, milliseconds(expected), "in round {round}");
            }
            waiters.waits(id(), clock(), Some(milliseconds(700)), false);
            assert_eq!(asks_again_after(&waiters).await, milliseconds(700));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_foreign_holder_whose_key_ends_sooner_is_looked_for_then() {
        let waiters = Waiters::default();
        waiters.expect(id());
        waiters.waits(id(), clock(), Some(milliseconds(3)), true);
        assert_eq!(asks_again_after(&waiters).await, milliseconds(3));
        waiters.waits(id(), clock(), None, true);
        assert_eq!(asks_again_after(&waiters).await, milliseconds(10));
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_asks_at_once_when_a_push_may_have_been_missed() {
        let (waiters, other) = (Waiters::default(), ClaimId::new(7, 8));
        for claim in [id(), other] {
            waiters.expect(claim);
            waiters.waits(claim, clock(), Some(Duration::from_secs(60)), false);
        }
        let since = now();
        let changed = waiters.wait_for_change(id());
        tokio::pin!(changed);
        assert!(futures_util::poll!(&mut changed).is_pending());
        waiters.look_all();
        assert_eq!(ends(changed).await, None);
        assert_eq!(ends(waiters.wait_for_change(other)).await, None);
        assert_eq!(now(), since);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_to_one_that_has_left_leaves_no_waiter_behind() {
        let waiters = Waiters::default();
        waiters.waits(id(), clock(), Some(milliseconds(1)), false);
        assert_eq!(waiters.tell(pushed(id())), Some(pushed(id())));
    }
}
