//! Who of this process waits at the server, so that a pushed grant finds its owner.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use crate::backend::{ClaimId, Grant, Standing};
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
            fence: pushed.fence,
            expires: Some(self.here(pushed.expires)),
            hold_ends: (pushed.hold_until > 0).then(|| self.here(pushed.hold_until)),
        }
    }
}

/// A grant as the server pushes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pushed {
    pub(super) id: ClaimId,
    pub(super) fence: u64,
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
            fence: fields.next()?.parse().ok()?,
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
    pub(super) async fn changed(&self, id: ClaimId) -> Option<Standing> {
        loop {
            let (told, look_at) = {
                let mut slots = self.slots();
                let slot = slots.get_mut(&id)?;
                if let (Some(pushed), Some(clock)) = (&slot.pushed, slot.clock) {
                    let grant = clock.grant(pushed);
                    slots.remove(&id);
                    return Some(Standing::Held(grant));
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

    fn pushed(id: ClaimId) -> Pushed {
        Pushed::parse(&format!("{id} 7 1500 0 _glocks:a b")).unwrap()
    }

    #[test]
    fn a_push_is_read_with_the_key_whole() {
        let id = ClaimId::new(5, 6);
        let expected = Pushed { id, fence: 7, expires: 1500, hold_until: 0, key: "_glocks:a b".to_owned() };
        assert_eq!(pushed(id), expected);
        for text in ["", "x", "00000000000000000000000000000000 1 2", "zz 1 2 3 key"] {
            assert_eq!(Pushed::parse(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_late_push_counts_from_the_request_and_not_from_its_arrival() {
        let (waiters, id) = (Waiters::default(), ClaimId::new(5, 6));
        waiters.expect(id);
        let sent = Instant::now() - Duration::from_secs(3);
        waiters.waits(id, Clock { sent, server_ms: 1000 }, None, false);
        assert_eq!(waiters.tell(pushed(id)), None);
        let Some(Standing::Held(grant)) = waiters.changed(id).await else { panic!("not granted") };
        assert_eq!(grant.expires, Some(sent + Duration::from_millis(500)));
    }

    #[tokio::test]
    async fn a_push_that_comes_before_the_answer_waits_for_it() {
        let (waiters, id) = (Waiters::default(), ClaimId::new(5, 6));
        waiters.expect(id);
        assert_eq!(waiters.tell(pushed(id)), None);
        let changed = waiters.changed(id);
        tokio::pin!(changed);
        assert!(futures_util::poll!(&mut changed).is_pending());
        waiters.waits(id, Clock { sent: Instant::now(), server_ms: 1000 }, None, false);
        assert!(matches!(changed.await, Some(Standing::Held(_))));
    }

    #[test]
    fn a_push_that_nobody_waits_for_is_given_back() {
        let id = ClaimId::new(5, 6);
        assert_eq!(Waiters::default().tell(pushed(id)), Some(pushed(id)));
    }
}
