//! What those who wait are told by a store that only says that something has gone.

use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard, Notify};

/// A waiter's mailbox.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    notify: Notify,
    changes: Mutex<Changes>,
}

/// What has happened since the waiter looked last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Changes {
    /// Keys that have been deleted.
    pub(crate) deleted: Vec<Vec<u8>>,
    /// Something may have been missed: the store must be read again.
    pub(crate) read_again: bool,
    /// The revision of the store as of which this is so, where it counts such.
    #[cfg(feature = "etcd")]
    pub(crate) as_of: i64,
}

impl Changes {
    /// Whether nothing has happened.
    pub(crate) fn is_none(&self) -> bool {
        !self.read_again && self.deleted.is_empty()
    }

    /// Adds a key that was found deleted as of a revision.
    #[cfg(feature = "etcd")]
    pub(crate) fn add(&mut self, deleted: &[u8], as_of: i64) {
        self.deleted.push(deleted.to_vec());
        self.as_of = self.as_of.max(as_of);
    }
}

impl Inbox {
    fn changes(&self) -> MutexGuard<'_, Changes> {
        // No code panics while it holds the lock, so poisoned news are still whole.
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the waiter, and wakes it.
    pub(crate) fn notify(&self, change: impl FnOnce(&mut Changes)) {
        change(&mut self.changes());
        self.notify.notify_one();
    }

    /// Waits for news.
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
