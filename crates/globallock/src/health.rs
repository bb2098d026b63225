//! Whether the store answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Result;
use crate::observe::{Event, Observers};
use crate::sync::{Instant, Mutex, now};

/// Tells observers when the store stops answering this manager, and when it answers again, or that it did not
/// until this was dropped.
#[derive(Debug)]
pub(crate) struct Health {
    store: Arc<str>,
    observers: Observers,
    /// Read at each answer, so that the mutex is not taken while all is well.
    is_away: AtomicBool,
    away_since: Mutex<Option<Instant>>,
}

impl Health {
    pub(crate) fn new(store: &str, observers: Observers) -> Self {
        Health {
            store: store.into(),
            observers,
            is_away: AtomicBool::new(false),
            away_since: Mutex::new(None),
        }
    }

    /// Takes an answer of the store, or the lack of one, into account.
    pub(crate) fn note<T>(&self, answer: &Result<T>) {
        let failure = answer.as_ref().err().filter(|error| error.is_unavailable());
        match (failure, self.is_away.load(Ordering::Relaxed)) {
            (Some(error), false) => {
                let mut since = self.away_since.lock();
                let is_first = since.replace(now()).is_none();
                self.is_away.store(true, Ordering::Relaxed);
                drop(since);
                if is_first {
                    self.observers.tell(&Event::StoreLost { error });
                }
            }
            (None, true) => {
                let mut since = self.away_since.lock();
                let back = since.take();
                self.is_away.store(false, Ordering::Relaxed);
                drop(since);
                if let Some(since) = back {
                    let away = now().saturating_duration_since(since);
                    self.observers.tell(&Event::StoreBack { store: &self.store, away });
                }
            }
            _ => {}
        }
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        if let Some(since) = self.away_since.get_mut().take() {
            let away = now().saturating_duration_since(since);
            self.observers.tell(&Event::StoreLeft { store: &self.store, away });
        }
    }
}
