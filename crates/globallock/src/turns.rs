//! A limit on the claims that ask the store at the same time, so that each is answered in time however many
//! there are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::sync::{Instant, now};

/// How many claims of one manager ask at a time: enough to keep a connection busy, few enough for a busy
/// server.
const AT_A_TIME: usize = 128;

/// The turns of one manager's claims, first come, first served.
pub(crate) struct Turns {
    permits: Semaphore,
    begin: Instant,
    /// When the store answered last, in microseconds since `begin`.
    heard: AtomicU64,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Turns { permits: Semaphore::new(AT_A_TIME), begin: now(), heard: AtomicU64::new(0) }
    }

    /// Takes a turn if there is one and nobody waits for it.
    pub(crate) fn try_take(&self) -> Option<Turn<'_>> {
        let permit = self.permits.try_acquire().ok()?;
        Some(Turn { turns: self, _permit: permit })
    }

    /// Waits for a turn.
    ///
    /// # Cancel safety
    /// The place in the order is lost.
    pub(crate) async fn take(&self) -> Turn<'_> {
        match self.permits.acquire().await {
            Ok(permit) => Turn { turns: self, _permit: permit },
            // Nobody closes them.
            Err(_) => std::future::pending().await,
        }
    }

    /// When the store answered last; if it never did, when this began.
    pub(crate) fn heard(&self) -> Instant {
        self.begin + Duration::from_micros(self.heard.load(Ordering::Relaxed))
    }
}

/// A turn to ask, until it is dropped.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    _permit: SemaphorePermit<'a>,
}

impl Turn<'_> {
    /// Takes note that the store has answered at this moment.
    pub(crate) fn answered(&self, at: Instant) {
        let since = at.duration_since(self.turns.begin).as_micros();
        self.turns.heard.fetch_max(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}
