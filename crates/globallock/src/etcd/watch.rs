//! One stream of watches for all who wait at one store.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;

use super::link::Link;
use super::messages::{WatchAction, WatchCancel, WatchCreate, WatchRequest, WatchResponse};
use crate::news::{News, Told};

/// The watches of one store.
#[derive(Default)]
pub(super) struct Watches {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// There while a stream is open or being opened.
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    last_id: i64,
    waiters: HashMap<i64, Waiter>,
}

struct Waiter {
    key: Vec<u8>,
    /// The revision that the waiter had read before it asked.
    read_at: i64,
    told: Arc<Told>,
}

/// A wish to be told of deletions, until it is dropped.
pub(super) struct Subscription {
    watches: Arc<Watches>,
    ids: Vec<i64>,
    told: Arc<Told>,
}

impl Subscription {
    /// Waits for news; `None` when there have been none for so long.
    pub(super) async fn news(&self, within: Duration) -> Option<News> {
        tokio::time::timeout(within, self.told.wait()).await.ok()
    }
}

impl Watches {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of the deletion of any of `keys` after revision `read_at`.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        link: &Arc<Link>,
        keys: impl IntoIterator<Item = Vec<u8>>,
        read_at: i64,
    ) -> Subscription {
        let told = Arc::new(Told::default());
        let mut state = self.state();
        if state.requests.is_none() {
            let (sender, receiver) = mpsc::unbounded_channel();
            state.requests = Some(sender);
            tokio::spawn(run(Arc::downgrade(self), Arc::downgrade(link), receiver));
        }
        let mut ids = Vec::new();
        for key in keys {
            state.last_id += 1;
            let id = state.last_id;
            ids.push(id);
            state.waiters.insert(id, Waiter { key: key.clone(), read_at, told: Arc::clone(&told) });
            // From the revision after the one that was read: etcd serves older ones only every 100 ms.
            let create = WatchCreate { key, start_revision: read_at + 1, filters: vec![0], watch_id: id };
            state.send(WatchAction::Create(create));
        }
        drop(state);
        Subscription { watches: Arc::clone(self), ids, told }
    }

    fn dispatch(&self, answer: &WatchResponse) {
        let state = self.state();
        let Some(waiter) = state.waiters.get(&answer.watch_id) else { return };
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        // Somebody wrote between the reading and the watch, so the watch is served late: read at once.
        let late = answer.created && revision > waiter.read_at;
        if answer.canceled || late {
            waiter.told.tell(|news| news.read_again = true);
        }
        if !answer.events.is_empty() {
            let deleted = waiter.key.clone();
            waiter.told.tell(|news| news.deleted.push(deleted));
        }
    }

    /// Ends the stream, and has everybody read again.
    fn end(&self) {
        let mut state = self.state();
        state.requests = None;
        for (_, waiter) in state.waiters.drain() {
            waiter.told.tell(|news| news.read_again = true);
        }
    }
}

impl State {
    fn send(&self, action: WatchAction) {
        if let Some(requests) = &self.requests {
            // A stream that has just ended has everybody read again.
            let _ = requests.send(WatchRequest { action: Some(action) });
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut state = self.watches.state();
        for id in &self.ids {
            if state.waiters.remove(id).is_some() {
                state.send(WatchAction::Cancel(WatchCancel { watch_id: *id }));
            }
        }
    }
}

/// Serves the watches as long as the store lives and the stream does.
async fn run(watches: Weak<Watches>, link: Weak<Link>, requests: mpsc::UnboundedReceiver<WatchRequest>) {
    let requests = stream::unfold(requests, async |mut requests| {
        let request = requests.recv().await?;
        Some((request, requests))
    });
    let opened = match link.upgrade() {
        Some(link) => link.stream::<_, WatchResponse>("/etcdserverpb.Watch/Watch", Box::pin(requests)).await,
        None => return,
    };
    if let Ok(mut answers) = opened {
        while let Ok(Some(answer)) = answers.message().await {
            let Some(watches) = watches.upgrade() else { return };
            watches.dispatch(&answer);
            // It refuses the token that the stream was opened with: whoever reads again gets another.
            if answer.created && answer.canceled {
                break;
            }
        }
    }
    if let Some(watches) = watches.upgrade() {
        watches.end();
    }
}
