//! The releases that go on in the background.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::Backend;
use crate::hold::Hold;
use crate::observe::{Event, Observers};
use crate::sync::{Backoff, Handle, now, sleep_until, watch};

/// The bounds of the pause between two tries of a release that the store did not answer.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The background releases of one manager.
#[derive(Clone)]
pub(crate) struct Releases {
    backend: Arc<dyn Backend>,
    runtime: Handle,
    observers: Observers,
    under_way: watch::Sender<usize>,
}

impl Releases {
    pub(crate) fn new(backend: Arc<dyn Backend>, runtime: Handle, observers: Observers) -> Self {
        Releases { backend, runtime, observers, under_way: watch::Sender::new(0) }
    }

    /// Repeats the release of a claim until the store answers it or the claim's lease has expired.
    pub(crate) fn start(&self, hold: &Arc<Hold>) {
        let counted = Counted::new(self.under_way.clone());
        let backend = Arc::clone(&self.backend);
        let (claim, observers) = (Arc::clone(&hold.claim), self.observers.clone());
        self.runtime.spawn(async move {
            let _counted = counted;
            let expires = now() + claim.lease;
            let mut backoff = Backoff::new(PAUSE);
            while let Err(error) = backend.release(&claim).await {
                let next = now() + backoff.pause();
                if next >= expires {
                    observers.tell(&Event::ReleaseUnanswered { claim: &claim, error: &error });
                    return;
                }
                sleep_until(next).await;
            }
        });
    }

    /// Releases a claim whose enqueue the store has refused for good. So it is not in its queue, as far as
    /// the store tells the truth, and a refusal of the release too says nothing new: it is neither repeated
    /// nor told.
    pub(crate) fn start_after_refusal(&self, hold: &Arc<Hold>) {
        let counted = Counted::new(self.under_way.clone());
        let (backend, claim) = (Arc::clone(&self.backend), Arc::clone(&hold.claim));
        self.runtime.spawn(async move {
            let _counted = counted;
            let _ = backend.release(&claim).await;
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
