//! One look at the store for all that ask: pages, and the metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use globallock::{LockManager, Result, WaitGraph};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};

use super::changes::{Look, Snapshot};
use crate::onlook::away::Away;
use crate::onlook::board::Board;
use crate::onlook::rows::WaitRow;

/// How long a newcomer waits for a fresh look before it is shown what is known.
const FRESH: Duration = Duration::from_secs(1);
/// The pause between two searches for deadlocks, which inspect every name that is waited for: so long at
/// least, and so many times what the last one took.
const PAUSE: Duration = Duration::from_secs(4);
const PAUSE_FACTOR: u32 = 10;

/// Looks at the store while somebody wants to know, and keeps what it has seen.
#[derive(Debug)]
pub(super) struct Watcher {
    manager: LockManager,
    prefix: String,
    interval: Duration,
    /// Looked at by one at a time, and whether the store was away then.
    board: tokio::sync::Mutex<(Board, Away)>,
    waits: tokio::sync::Mutex<Option<Waits>>,
    snapshot: Mutex<Snapshot>,
    /// The number of the last look that has found something, for those who follow.
    looked: watch::Sender<u64>,
    /// Somebody has begun to follow, or wants a look now.
    wanted: Notify,
}

/// Who waits for whom, as it was found.
#[derive(Clone, Debug)]
pub(super) struct Waits {
    pub(super) graph: Arc<WaitGraph>,
    pub(super) at: Instant,
    took: Duration,
}

impl Watcher {
    pub(super) fn new(manager: LockManager, prefix: String, interval: Duration) -> Self {
        Watcher {
            manager,
            prefix,
            interval,
            board: tokio::sync::Mutex::default(),
            waits: tokio::sync::Mutex::default(),
            snapshot: Mutex::default(),
            looked: watch::Sender::default(),
            wanted: Notify::new(),
        }
    }

    /// The names that this is about begin with it.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(super) fn interval(&self) -> Duration {
        self.interval
    }

    /// What was seen.
    pub(super) fn snapshot(&self) -> MutexGuard<'_, Snapshot> {
        self.snapshot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says if the store does not answer at the start, and then looks while somebody follows.
    pub(super) async fn keep_looking(&self) {
        self.look_for_the_log().await;
        loop {
            if self.looked.receiver_count() == 0 {
                self.wanted.notified().await;
            }
            self.look(Duration::ZERO).await;
            if self.looked.receiver_count() > 0 {
                self.search_deadlocks().await;
            }
            tokio::select! {
                () = sleep(self.interval) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    /// Makes the next look come now.
    pub(super) fn hurry(&self) {
        self.wanted.notify_one();
    }

    /// Begins to follow, from a look that is not older than others see it, if the store answers soon.
    pub(super) async fn follow(&self) -> watch::Receiver<u64> {
        let mut looked = self.looked.subscribe();
        if !self.snapshot().is_fresh(self.interval * 2) {
            self.hurry();
            let _ = timeout(FRESH, looked.changed()).await;
        }
        looked.mark_unchanged();
        looked
    }

    /// Looks, unless the last look is not older than this.
    pub(super) async fn look(&self, older_than: Duration) {
        let mut looked = self.board.lock().await;
        if !older_than.is_zero() && self.snapshot().is_fresh(older_than) {
            return;
        }
        let begun = Instant::now();
        self.update(&mut looked).await;
        let board = &looked.0;
        let look = Look {
            rows: board.rows().collect(),
            failure: board.failure().map(ToString::to_string),
            begun,
            took: begun.elapsed(),
        };
        drop(looked);
        let number = self.snapshot().take(look);
        self.tell(number);
    }

    /// Looks for the log alone: nobody has asked yet, and whoever asks is to see what is then.
    async fn look_for_the_log(&self) {
        self.update(&mut *self.board.lock().await).await;
    }

    /// Looks, and says what has become of the store.
    async fn update(&self, (board, away): &mut (Board, Away)) {
        board.look(&self.manager, &self.prefix).await;
        away.tell(board.failure(), board.age());
    }

    /// Who waits for whom; what was found not longer ago than this is good enough.
    pub(super) async fn waits(&self, older_than: Duration) -> Result<Waits> {
        let mut kept = self.waits.lock().await;
        if let Some(waits) = kept.as_ref().filter(|waits| waits.at.elapsed() <= older_than) {
            return Ok(waits.clone());
        }
        let begun = Instant::now();
        let graph = Arc::new(self.manager.waits(&self.prefix).await?);
        let waits = Waits { graph, at: Instant::now(), took: begun.elapsed() };
        Ok(kept.insert(waits).clone())
    }

    /// Marks the names that are part of a deadlock. Nothing is sought where nobody waits.
    pub(super) async fn search_deadlocks(&self) {
        let last = self.waits.lock().await.as_ref().map(|waits| (waits.at.elapsed(), waits.took));
        if last.is_some_and(|(age, took)| age < PAUSE.max(took * PAUSE_FACTOR)) {
            return;
        }
        let deadlocks = if !self.snapshot().is_anything_waited_for() {
            Vec::new()
        } else {
            // The look has told what is wrong with the store, or the next one will.
            let Ok(waits) = self.waits(Duration::ZERO).await else { return };
            WaitRow::deadlocks(&waits.graph)
        };
        let number = self.snapshot().take_deadlocks(deadlocks);
        self.tell(number);
    }

    fn tell(&self, number: u64) {
        self.looked.send_if_modified(|known| std::mem::replace(known, number) != number);
    }
}
