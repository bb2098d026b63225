//! What those who wait are told by a store that only says that something has gone.

use std::sync::PoisonError;

use crate::sync::{Mutex, MutexGuard, Notify};

/// A waiter's mailbox.
#[derive(Debug, Default)]
pub(crate) struct Told {
    notify: Notify,
    news: Mutex<News>,
}

/// What has happened since the waiter looked last.
#[derive(Clone, Debug, Default)]
pub(crate) struct News {
    /// Keys that have been deleted.
    pub(crate) deleted: Vec<Vec<u8>>,
    /// Something may have been missed: the store must be read again.
    pub(crate) read_again: bool,
    /// The revision of the store as of which this is so, where it counts such.
    #[cfg(feature = "etcd")]
    pub(crate) as_of: i64,
}

impl News {
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

impl Told {
    fn news(&self) -> MutexGuard<'_, News> {
        // No code panics while it holds the lock, so poisoned news are still whole.
        self.news.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the waiter, and wakes it.
    pub(crate) fn tell(&self, change: impl FnOnce(&mut News)) {
        change(&mut self.news());
        self.notify.notify_one();
    }

    /// Waits for news.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn wait(&self) -> News {
        loop {
            let news = std::mem::take(&mut *self.news());
            if !news.is_none() {
                return news;
            }
            self.notify.notified().await;
        }
    }
}
