//! The inbox of a waiter: the changes that a watch reports to it.

use crate::sync::{Mutex, MutexGuard, Notify};

/// A waiter's inbox.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    notify: Notify,
    changes: Mutex<Changes>,
}

/// The changes since the waiter last read its inbox.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Keys that have been deleted.
    pub(crate) deleted: Vec<Vec<u8>>,
    /// A change may have been missed, so the waiter must read the store again.
    pub(crate) read_again: bool,
    /// The store's revision at which the changes were known, if the store has revisions.
    #[cfg(feature = "etcd")]
    pub(crate) as_of: i64,
}

impl Changes {
    /// Whether there is no change.
    pub(crate) fn is_none(&self) -> bool {
        !self.read_again && self.deleted.is_empty()
    }

    /// Adds a key that was found deleted at a revision.
    #[cfg(feature = "etcd")]
    pub(crate) fn add(&mut self, deleted: &[u8], as_of: i64) {
        self.deleted.push(deleted.to_vec());
        self.as_of = self.as_of.max(as_of);
    }
}

impl Inbox {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock()
    }

    /// Adds changes and wakes the waiter.
    pub(crate) fn notify(&self, change: impl FnOnce(&mut Changes)) {
        change(&mut self.changes());
        self.notify.notify_one();
    }

    /// Waits for changes and takes them.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn wait(&self) -> Changes {
        loop {
            let changes = std::mem::take(&mut *self.changes());
            if !changes.is_none() {
                return changes;
            }
            self.notify.notified().await;
        }
    }
}
