//! Several locks that are held together, for threads.

use std::time::Duration;

use super::{Guard, block_on};
use crate::backend::Release;
use crate::error::Result;
use crate::loss::Loss;

/// Several locks that are held together; see [`crate::GuardSet`].
///
/// ```
/// let manager = globallock::blocking::LockManager::connect("memory:example")?;
/// let accounts = manager.lock_all(["account-7", "account-3"])?;
/// assert_eq!(accounts.guards().len(), 2);
/// accounts.release()?;
/// # Ok::<(), globallock::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "guards that are dropped at once release their locks at once"]
pub struct GuardSet {
    guards: Vec<Guard>,
}

impl GuardSet {
    pub(super) fn new(guards: crate::GuardSet) -> Self {
        GuardSet { guards: guards.into_guards().into_iter().map(Guard).collect() }
    }

    fn into_inner(self) -> crate::GuardSet {
        crate::GuardSet::new(self.guards.into_iter().map(|guard| guard.0).collect())
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

    /// Waits up to `limit` for one of the locks to be lost, and names it and the reason; `None` if all are
    /// still held then.
    #[must_use]
    pub fn lost_within(&self, limit: Duration) -> Option<(&Guard, Loss)> {
        let losses = crate::guard_set::first_lost(self.guards.iter().map(|guard| &guard.0));
        let (at, loss) = block_on(async { tokio::time::timeout(limit, losses).await.ok() })?;
        Some((&self.guards[at], loss))
    }

    /// Releases all of the locks, and says whether all were still held; see [`crate::GuardSet::release`].
    ///
    /// # Errors
    /// As [`crate::GuardSet::release`].
    pub fn release(self) -> Result<Release> {
        block_on(self.into_inner().release())
    }
}
