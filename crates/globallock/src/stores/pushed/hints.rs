//! Tells the core that claims may have been lost, so that it renews all of its claims at once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::sync::{Instant, Mutex, now, sleep_until, watch};

/// The shortest time between two hints: many evictions in a row must not make an owner of many claims renew
/// all of them for each.
const PACE: Duration = Duration::from_secs(1);

/// The hints of one store.
pub(crate) struct Hints {
    /// How often there was a reason.
    reasons: watch::Sender<u64>,
    /// How many of the reasons have been told.
    told: AtomicU64,
    /// When the next hint may be given.
    next: Mutex<Option<Instant>>,
}

impl Default for Hints {
    fn default() -> Self {
        Hints { reasons: watch::Sender::new(0), told: AtomicU64::new(0), next: Mutex::default() }
    }
}

impl Hints {
    /// Gives a hint, now or when the last one is long enough ago.
    pub(crate) fn give(&self) {
        self.reasons.send_modify(|reasons| *reasons += 1);
    }

    /// Waits for a hint. Several that are given meanwhile are one.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn given(&self) {
        let told = self.told.load(Ordering::SeqCst);
        // The sender lives in `self`, so the wait can only end with a reason.
        let _ = self.reasons.subscribe().wait_for(|reasons| *reasons > told).await;
        let next = *self.next.lock();
        if let Some(next) = next {
            sleep_until(next).await;
        }
        *self.next.lock() = Some(now() + PACE);
        self.told.store(*self.reasons.borrow(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn a_hint_is_given_at_once_and_the_next_ones_together_a_second_later() {
        let hints = Hints::default();
        assert!(hints.given().now_or_never().is_none());
        hints.give();
        assert!(hints.given().now_or_never().is_some());
        let since = now();
        assert!(hints.given().now_or_never().is_none());
        for _ in 0..3 {
            hints.give();
        }
        hints.given().await;
        assert_eq!(now() - since, PACE);
        assert!(tokio::time::timeout(10 * PACE, hints.given()).await.is_err());
        hints.give();
        assert!(hints.given().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hint_that_nobody_took_waits_and_each_manager_that_waits_is_told() {
        let hints = Hints::default();
        hints.give();
        drop(hints.given());
        let (first, second) = (hints.given(), hints.given());
        tokio::pin!(first, second);
        assert!(futures_util::poll!(&mut first).is_ready());
        assert!(futures_util::poll!(&mut second).is_pending(), "all that were given have been told");
        hints.give();
        let third = hints.given();
        tokio::pin!(third);
        let since = now();
        tokio::join!(second, third);
        assert!(now() - since <= 2 * PACE);
    }
}
