//! One stream of watches for all waiters of one store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;

use super::connection::Connection;
use super::key_reads::read_keys;
use super::keys;
use super::messages::{KeyValue, WatchAction, WatchCancel, WatchCreate, WatchRequest, WatchResponse};
use crate::stores::watched::inbox::{Changes, Inbox};
use crate::sync::{Instant, Mutex, MutexGuard, jittered, now};

/// The bounds of the pause before another stream is opened, if no watch began on the last one.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The watches of one store.
#[derive(Default)]
pub(super) struct Watches {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// `Some` while a stream is open or being opened.
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    last_id: i64,
    watches: HashMap<i64, Watch>,
    /// Where the keys go that are put into the watched ranges.
    ranges: HashMap<i64, mpsc::UnboundedSender<Vec<KeyValue>>>,
    /// The pause before the next stream is opened.
    pause: Duration,
    /// When all watched keys were last read.
    last_poll: Option<Instant>,
}

/// The watch of one key.
struct Watch {
    key: Vec<u8>,
    /// The revision at which the key was created; `None` if its subscriber reads the key by itself.
    revision: Option<i64>,
    /// The revision as of which the subscriber had read before.
    read_at: i64,
    inbox: Arc<Inbox>,
}

/// A subscription to the deletions of some keys. Dropping it cancels the watches.
pub(super) struct Subscription {
    watches: Arc<Watches>,
    ids: Vec<i64>,
    inbox: Arc<Inbox>,
}

impl Subscription {
    /// Waits for changes.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn changes(&self) -> Changes {
        self.inbox.wait().await
    }

    /// Waits for changes; `None` if there are none within `limit`.
    pub(super) async fn changes_within(&self, limit: Duration) -> Option<Changes> {
        tokio::time::timeout(limit, self.changes()).await.ok()
    }

    /// Whether any of the keys is no longer watched.
    pub(super) fn has_ended(&self) -> bool {
        let state = self.watches.state();
        !self.ids.iter().all(|id| state.watches.contains_key(id))
    }
}

/// A subscription to the puts into a range of keys. Dropping it cancels the watch.
///
/// It does not keep the watches open when the store is gone.
pub(super) struct Puts {
    watches: Weak<Watches>,
    id: i64,
    found: mpsc::UnboundedReceiver<Vec<KeyValue>>,
}

impl Puts {
    /// Waits for keys that are put; `None` when the watch has ended, so that some may have been missed.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn next(&mut self) -> Option<Vec<KeyValue>> {
        self.found.recv().await
    }
}

impl Watches {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Subscribes to the deletions after revision `read_at` of any of `keys`.
    ///
    /// Each key comes with the revision at which it was created.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        keys: impl IntoIterator<Item = (Vec<u8>, Option<i64>)>,
        read_at: i64,
    ) -> Subscription {
        let inbox = Arc::new(Inbox::default());
        let mut state = self.opened(connection);
        let mut ids = Vec::new();
        for (key, revision) in keys {
            let id = state.next_id();
            ids.push(id);
            state
                .watches
                .insert(id, Watch { key: key.clone(), revision, read_at, inbox: Arc::clone(&inbox) });
            // From the revision after the one that was read. A watch that starts at a revision which exists
            // already is served only every 100 ms, until it has caught up.
            let create = WatchCreate {
                key,
                start_revision: read_at + 1,
                filters: vec![0],
                watch_id: id,
                ..WatchCreate::default()
            };
            state.send(WatchAction::Create(create));
        }
        drop(state);
        Subscription { watches: Arc::clone(self), ids, inbox }
    }

    /// Subscribes to the puts into the range from `start` on that follow revision `read_at`.
    ///
    /// A watch that begins late is served late, but misses nothing.
    pub(super) fn subscribe_to_puts(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        start: &str,
        read_at: i64,
    ) -> Puts {
        let (sender, found) = mpsc::unbounded_channel();
        let mut state = self.opened(connection);
        let id = state.next_id();
        state.ranges.insert(id, sender);
        state.send(WatchAction::Create(WatchCreate {
            key: start.into(),
            range_end: keys::end(start),
            start_revision: read_at + 1,
            filters: vec![1],
            watch_id: id,
        }));
        Puts { watches: Arc::downgrade(self), id, found }
    }

    /// The state, with a stream that is open or being opened.
    fn opened(self: &Arc<Self>, connection: &Arc<Connection>) -> MutexGuard<'_, State> {
        let mut state = self.state();
        if state.requests.is_none() {
            let (sender, receiver) = mpsc::unbounded_channel();
            state.requests = Some(sender);
            tokio::spawn(run(Arc::downgrade(self), Arc::downgrade(connection), receiver, state.pause));
        }
        state
    }

    /// The watched keys, each once, with the revisions at which they were created.
    pub(super) fn watched(&self) -> Vec<(Vec<u8>, i64)> {
        let state = self.state();
        let watched = state.watches.values().filter_map(|watch| Some((watch.key.clone(), watch.revision?)));
        watched.collect::<HashSet<_>>().into_iter().collect()
    }

    /// Notifies the subscribers of keys that a read as of `as_of` found deleted.
    ///
    /// Each key comes with the revision at which it was created.
    pub(super) fn notify_deleted(&self, gone: &HashSet<(Vec<u8>, i64)>, as_of: i64) {
        let state = self.state();
        for watch in state.watches.values() {
            if watch.revision.is_some_and(|revision| gone.contains(&(watch.key.clone(), revision))) {
                watch.inbox.notify(|changes| changes.add(&watch.key, as_of));
            }
        }
    }

    /// Reads all watched keys once per lease, in the background, because a notification may get lost.
    ///
    /// One read serves all waiters, however many there are.
    pub(super) fn poll(self: &Arc<Self>, connection: &Arc<Connection>, lease: Duration) {
        let mut state = self.state();
        if state.last_poll.is_some_and(|last_poll| now() - last_poll < lease) {
            return;
        }
        state.last_poll = Some(now());
        drop(state);
        let watched = self.watched();
        if watched.is_empty() {
            return;
        }
        let (watches, connection) = (Arc::clone(self), Arc::clone(connection));
        tokio::spawn(async move {
            let keys: Vec<Vec<u8>> = watched.iter().map(|(key, _)| key.clone()).collect();
            // After an error, a later renewal reads them again.
            let Ok(states) = read_keys(&connection, &keys, |_| {}).await else { return };
            let as_of = states.iter().map(|state| state.read_at).min().unwrap_or(0);
            let missing =
                watched.into_iter().zip(states).filter(|((_, revision), state)| state.proves_gone(*revision));
            let gone: HashSet<(Vec<u8>, i64)> = missing.map(|(watched, _)| watched).collect();
            if !gone.is_empty() {
                watches.notify_deleted(&gone, as_of);
            }
        });
    }

    fn dispatch(&self, answer: &WatchResponse) {
        let mut state = self.state();
        if answer.created && !answer.canceled {
            state.pause = Duration::ZERO;
        }
        if let Some(range) = state.ranges.get(&answer.watch_id) {
            let found: Vec<KeyValue> = answer.events.iter().filter_map(|event| event.kv.clone()).collect();
            // A subscriber that has gone needs none.
            if !found.is_empty() {
                let _ = range.send(found);
            }
            if answer.canceled {
                state.ranges.remove(&answer.watch_id);
            }
            return;
        }
        let Some(watch) = state.watches.get(&answer.watch_id) else { return };
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        // Somebody wrote after the subscriber's read and before the watch began. A deletion may be among it,
        // and the watch would notify it late. So the subscriber reads again.
        let late = answer.created && revision > watch.read_at;
        if answer.canceled || late {
            watch.inbox.notify(|changes| {
                changes.read_again = true;
                changes.as_of = changes.as_of.max(revision);
            });
        }
        if !answer.events.is_empty() {
            watch.inbox.notify(|changes| changes.add(&watch.key, revision));
        }
        if answer.canceled {
            state.watches.remove(&answer.watch_id);
        }
    }

    /// Records the end of the stream, and makes all subscribers read again.
    fn end(&self) {
        let mut state = self.state();
        state.requests = None;
        state.pause = (state.pause * 2).clamp(PAUSE.0, PAUSE.1);
        state.ranges.clear();
        for (_, watch) in state.watches.drain() {
            watch.inbox.notify(|changes| changes.read_again = true);
        }
    }
}

impl State {
    fn next_id(&mut self) -> i64 {
        self.last_id += 1;
        self.last_id
    }

    fn send(&self, action: WatchAction) {
        if let Some(requests) = &self.requests {
            // A failure means that the stream has just ended, and then all subscribers read again.
            let _ = requests.send(WatchRequest { action: Some(action) });
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.watches.state();
        for id in &self.ids {
            if state.watches.remove(id).is_some() {
                state.send(WatchAction::Cancel(WatchCancel { watch_id: *id }));
            }
        }
    }
}

impl Drop for Puts {
    fn drop(&mut self) {
        let Some(watches) = self.watches.upgrade() else { return };
        let mut state = watches.state();
        if state.ranges.remove(&self.id).is_some() {
            state.send(WatchAction::Cancel(WatchCancel { watch_id: self.id }));
        }
    }
}

/// Serves the watches as long as the store exists and the stream is open.
async fn run(
    watches: Weak<Watches>,
    connection: Weak<Connection>,
    requests: mpsc::UnboundedReceiver<WatchRequest>,
    pause: Duration,
) {
    tokio::time::sleep(jittered(pause)).await;
    let requests = stream::unfold(requests, async |mut requests| {
        let request = requests.recv().await?;
        Some((request, requests))
    });
    let opened = match connection.upgrade() {
        Some(connection) => connection.stream(Box::pin(requests)).await,
        None => return,
    };
    if let Ok(mut answers) = opened {
        while let Ok(Some(answer)) = answers.message().await {
            let Some(watches) = watches.upgrade() else { return };
            watches.dispatch(&answer);
            // A watch that is refused at once: the token that the stream was opened with has expired. The
            // subscribers' next read gets another token, and the next stream uses that.
            if answer.created && answer.canceled {
                break;
            }
        }
    }
    if let Some(watches) = watches.upgrade() {
        watches.end();
    }
}

#[cfg(test)]
mod tests;
