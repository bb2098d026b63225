//! Several locks that are held together.

use futures_util::future::{join_all, select_all};

use crate::backend::Release;
use crate::error::Result;
use crate::guard::Guard;
use crate::loss::Loss;

/// Several locks that are held together.
///
/// ```
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// # let manager = globallock::LockManager::connect("memory:example").await?;
/// let accounts = manager.lock_all(["account-7", "account-3"]).await?;
/// let names: Vec<_> = accounts.guards().iter().map(|guard| guard.name().as_str()).collect();
/// assert_eq!(names, ["account-3", "account-7"]);
/// accounts.release().await?;
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Debug)]
#[must_use = "guards that are dropped at once release their locks at once"]
pub struct GuardSet {
    guards: Vec<Guard>,
}

impl GuardSet {
    pub(crate) fn new(guards: Vec<Guard>) -> Self {
        GuardSet { guards }
    }

    /// The guards, in the canonical order of their names.
    pub fn guards(&self) -> &[Guard] {
        &self.guards
    }

    /// Whether all of the locks are held at this moment.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.guards.iter().all(Guard::is_held)
    }

    /// Waits until the first of the locks is lost, and names it and the reason; never returns for an empty
    /// set.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn lost(&self) -> (&Guard, Loss) {
        let (at, loss) = first_lost(&self.guards).await;
        (&self.guards[at], loss)
    }

    pub(crate) fn into_guards(self) -> Vec<Guard> {
        self.guards
    }

    /// Releases all of the locks at once, and says whether all were still held.
    ///
    /// # Errors
    /// The first error; the others are released all the same.
    ///
    /// # Cancel safety
    /// A dropped call goes on in the background.
    pub async fn release(self) -> Result<Release> {
        let releases: Result<Vec<_>> =
            join_all(self.guards.into_iter().map(Guard::release)).await.into_iter().collect();
        let all_held = releases?.iter().all(|release| *release == Release::Released);
        Ok(if all_held { Release::Released } else { Release::NotHeld })
    }
}

/// What was taken of several locks while not all are: nobody else is kept out by it any longer, if it is
/// dropped.
#[derive(Default)]
pub(crate) struct Taken(Vec<Guard>);

impl Taken {
    pub(crate) fn push(&mut self, guard: Guard) {
        self.0.push(guard);
    }

    /// All are taken.
    pub(crate) fn into_set(mut self) -> GuardSet {
        GuardSet::new(std::mem::take(&mut self.0))
    }

    /// Releases what was taken before another error, which matters more than one of these: the observers hear
    /// of it.
    pub(crate) async fn release_quietly(mut self) {
        let guards = std::mem::take(&mut self.0);
        guards.iter().for_each(Guard::keep_nobody_out);
        let _ = GuardSet::new(guards).release().await;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.iter().for_each(Guard::keep_nobody_out);
    }
}

/// Waits until the first of the locks is lost, and says which it is and why; never returns for no lock.
pub(crate) async fn first_lost<'a>(guards: impl IntoIterator<Item = &'a Guard>) -> (usize, Loss) {
    let losses: Vec<_> = guards.into_iter().map(|guard| Box::pin(guard.lost())).collect();
    if losses.is_empty() {
        std::future::pending::<()>().await;
    }
    let (loss, at, _) = select_all(losses).await;
    (at, loss)
}
