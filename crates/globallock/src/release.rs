//! The releases that go on in the background, and the claims that are held at least for longer than their
//! owners hold them.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Backend, ClaimStatus, RENEWALS_PER_LEASE, Release};
use crate::error::Result;
use crate::hold::Hold;
use crate::observe::{Event, Observers, Operation};
use crate::renewer::{RETRY, renew_each};
use crate::sync::{Backoff, Handle, Instant, now, sleep_until, watch};

/// The bounds of the pause between two tries of a release that the store did not answer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The background releases of one manager.
#[derive(Clone)]
pub(crate) struct Releases {
    backend: Arc<dyn Backend>,
    runtime: Handle,
    observers: Observers,
    under_way: watch::Sender<usize>,
    /// Whether the manager is closed, so that nothing is kept any longer than necessary.
    closed: watch::Sender<bool>,
}

/// Takes a claim out of its queue, or leaves it there for as long as it is held at least from now.
pub(crate) async fn release(
    backend: &dyn Backend,
    observers: &Observers,
    hold: &Hold,
    now: Instant,
) -> Result<Release> {
    let under_way = observers.request_at(Operation::Release, now);
    let request = match hold.kept_for(now) {
        Some(rest) if backend.capabilities().keeps_after_owner => backend.release_after(&hold.claim, rest),
        _ => backend.release(&hold.claim),
    };
    let answer = request.await;
    under_way.answered(answer.as_ref().err());
    answer
}

impl Releases {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        runtime: Handle,
        observers: Observers,
        closed: watch::Sender<bool>,
    ) -> Self {
        Releases { backend, runtime, observers, under_way: watch::Sender::new(0), closed }
    }

    /// Repeats the release of a claim until the store answers it, or the claim's lease has expired. A claim
    /// that is held at least for longer is kept until then.
    pub(crate) fn start(&self, hold: &Arc<Hold>) {
        let counted = Counted::new(self.under_way.clone());
        let (releases, hold) = (self.clone(), Arc::clone(hold));
        self.runtime.spawn(async move {
            let _counted = counted;
            if !releases.backend.capabilities().keeps_after_owner {
                releases.keep(&hold).await;
            }
            releases.release(&hold).await;
        });
    }

    async fn release(&self, hold: &Hold) {
        let mut expires = now() + hold.claim.lease;
        let mut backoff = Backoff::new(PAUSE);
        while let Err(error) = release(self.backend.as_ref(), &self.observers, hold, now()).await {
            let next = now() + backoff.pause();
            if hold.kept_for(now()).is_some() && self.backend.capabilities().keeps_after_owner {
                expires = next + hold.claim.lease;
            }
            if next >= expires {
                self.observers.tell(&Event::ReleaseUnanswered { claim: &hold.claim, error: &error });
                return;
            }
            sleep_until(next).await;
        }
    }

    /// Renews a claim that was released until it need not be held any longer, or the manager is closed.
    async fn keep(&self, hold: &Hold) {
        let mut closed = self.closed.subscribe();
        let mut pause = hold.renewal_pause(now(), RENEWALS_PER_LEASE);
        while let Some(left) = hold.kept_for(now()) {
            tokio::select! {
                biased;
                // The sender lives in `self`.
                _ = closed.wait_for(|closed| *closed) => {
                    let (claim, fencing_token) = (&*hold.claim, hold.fencing_token());
                    if let Some(left) = hold.kept_for(now()) {
                        self.observers.tell(&Event::CutShort { claim, fencing_token, left });
                    }
                    return;
                }
                () = sleep_until(now() + pause.min(left)) => {}
            }
            let claims = std::slice::from_ref(&hold.claim);
            for answer in renew_each(self.backend.as_ref(), &self.observers, claims).await {
                pause = match answer {
                    Ok(ClaimStatus::Held(_)) => hold.claim.lease / RENEWALS_PER_LEASE,
                    // Somebody took it out, or the store has lost it: there is nothing to keep.
                    Ok(_) => return,
                    Err(_) => (hold.claim.lease / 8).clamp(RETRY.0, RETRY.1),
                };
            }
        }
    }

    /// Releases a claim whose enqueue the store has refused for good. So it is not in its queue, as far as
    /// the store tells the truth, and a refusal of the release too says nothing new: it is neither repeated
    /// nor told.
    pub(crate) fn start_after_refusal(&self, hold: &Arc<Hold>) {
        let counted = Counted::new(self.under_way.clone());
        let (backend, claim) = (Arc::clone(&self.backend), Arc::clone(&hold.claim));
        let observers = self.observers.clone();
        self.runtime.spawn(async move {
            let _counted = counted;
            let _ = observers.asking(Operation::Release, backend.release(&claim)).await;
        });
    }

    /// Waits until no release is under way.
    pub(crate) async fn all_answered(&self) {
        // The sender lives in `self`, so the wait can only end with the count at zero.
        let _ = self.under_way.subscribe().wait_for(|count| *count == 0).await;
    }
}

/// One release under way, counted until this is dropped, which happens with its task at the latest.
struct Counted(watch::Sender<usize>);

impl Counted {
    fn new(count: watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Counted(count)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}
