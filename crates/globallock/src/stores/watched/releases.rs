//! Releases that go on in the background until they are answered.

use std::sync::Arc;
use std::time::Duration;

use crate::backend::{Claim, ClaimId, Release};
use crate::error::Result;

/// The pause between two tries of a release that was not answered.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// The background task that releases a claim. Only the one that its record names goes on.
pub(crate) type Task = Arc<()>;

/// A store that releases its claims in the background.
pub(crate) trait Releases: Send + Sync + 'static {
    /// Tries once to release a claim. The record of a claim that is released names no task any more.
    fn try_release(self: &Arc<Self>, claim: &Claim) -> impl Future<Output = Result<Release>> + Send;

    /// Calls `change` with the place in a claim's record that names its task, if there is such a claim.
    fn with_task<T>(&self, id: ClaimId, change: impl FnOnce(&mut Option<Task>) -> T) -> Option<T>;
}

/// Releases a claim. If that fails, a background task repeats it until it is answered, or the claim is
/// forgotten because its lease or session has ended.
///
/// The core does not repeat it for longer than the claim's lease. That is not enough here, because other
/// claims that share the lease or session keep it alive, and the claim with it.
pub(crate) async fn release<S: Releases>(store: &Arc<S>, claim: &Claim) -> Result<Release> {
    let released = store.try_release(claim).await;
    if released.is_err() {
        in_background(store, claim);
    }
    released
}

fn in_background<S: Releases>(store: &Arc<S>, claim: &Claim) {
    let task = Task::default();
    let begin = |running: &mut Option<Task>| running.is_none().then(|| *running = Some(Arc::clone(&task)));
    if store.with_task(claim.id, begin).flatten().is_none() {
        return;
    }
    let (store, claim) = (Arc::downgrade(store), claim.clone());
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(PAUSE).await;
            let Some(store) = store.upgrade() else { return };
            // A try of the core may have been answered meanwhile, and the claim may even have joined again.
            let is_pending = |running: &mut Option<Task>| {
                running.as_ref().is_some_and(|running| Arc::ptr_eq(running, &task))
            };
            if store.with_task(claim.id, is_pending) != Some(true) || store.try_release(&claim).await.is_ok()
            {
                return;
            }
        }
    });
}
