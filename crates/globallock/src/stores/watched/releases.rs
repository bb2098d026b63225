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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::name::Name;
    use crate::queue::Permits;
    use crate::sync::Mutex;

    /// A store of one claim that counts the tries to release it, of which `fails` fail.
    #[derive(Default)]
    struct Store {
        state: Mutex<State>,
    }

    #[derive(Default)]
    struct State {
        /// The task of the claim's record, if there is a record.
        record: Option<Option<Task>>,
        fails: usize,
        tries: usize,
    }

    impl Releases for Store {
        async fn try_release(self: &Arc<Self>, _: &Claim) -> Result<Release> {
            let mut state = self.state.lock();
            state.tries += 1;
            if state.tries <= state.fails {
                return Err(Error::Closed);
            }
            state.record = None;
            Ok(Release::Released)
        }

        fn with_task<T>(&self, _: ClaimId, change: impl FnOnce(&mut Option<Task>) -> T) -> Option<T> {
            self.state.lock().record.as_mut().map(change)
        }
    }

    fn claim() -> Claim {
        Claim::new(ClaimId::new(1, 1), Name::new("a").unwrap(), Permits::MUTEX)
    }

    /// A store whose claim was tried to be released in vain. So many tries fail.
    async fn refused(fails: usize) -> Arc<Store> {
        let store = Arc::<Store>::default();
        *store.state.lock() = State { record: Some(None), fails, tries: 0 };
        release(&store, &claim()).await.unwrap_err();
        store
    }

    /// How often it was tried, after so many pauses.
    async fn tries_after(store: &Store, pauses: u32) -> usize {
        tokio::time::sleep(PAUSE * pauses + PAUSE / 2).await;
        store.state.lock().tries
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_is_repeated_until_it_is_answered_by_one_task() {
        let store = refused(5).await;
        release(&store, &claim()).await.unwrap_err();
        assert_eq!(tries_after(&store, 2).await, 4, "two by the callers, two by the task");
        assert_eq!(tries_after(&store, 10).await, 6);
        assert!(store.state.lock().record.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_that_is_answered_or_needs_none_is_not_repeated() {
        let store = refused(1).await;
        assert_eq!(release(&store, &claim()).await.unwrap(), Release::Released);
        assert_eq!(tries_after(&store, 10).await, 2);
        // Its record is gone though the release fails: its lease has ended.
        *store.state.lock() = State { record: None, fails: 9, tries: 0 };
        release(&store, &claim()).await.unwrap_err();
        assert_eq!(tries_after(&store, 10).await, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_has_joined_again_is_released_by_a_new_task_only() {
        let store = refused(9).await;
        store.state.lock().record = Some(None);
        assert_eq!(tries_after(&store, 10).await, 1);
        // It is released again before the first task has seen that.
        let store = refused(9).await;
        store.state.lock().record = Some(None);
        release(&store, &claim()).await.unwrap_err();
        assert_eq!(tries_after(&store, 3).await, 5, "two by the callers, three by one task");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_gone_releases_nothing() {
        let store = Arc::downgrade(&refused(9).await);
        assert!(store.upgrade().is_none(), "its task does not keep it");
        tokio::time::sleep(PAUSE * 2).await;
    }
}
