//! One stream of watches for all who wait at one store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;

use super::connection::Connection;
use super::messages::{WatchAction, WatchCancel, WatchCreate, WatchRequest, WatchResponse};
use crate::stores::watched::inbox::{Changes, Inbox};

/// The bounds of the pause before a stream is opened again that has ended without having served anybody.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

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
    watches: HashMap<i64, Watch>,
    /// How long to wait before the next stream is opened.
    pause: Duration,
}

struct Watch {
    key: Vec<u8>,
    /// The revision at which the key was created; `None` where its owner looks by itself.
    revision: Option<i64>,
    /// The revision that the waiter had read before it asked.
    read_at: i64,
    inbox: Arc<Inbox>,
}

/// A wish to be told of deletions, until it is dropped.
pub(super) struct Subscription {
    watches: Arc<Watches>,
    ids: Vec<i64>,
    inbox: Arc<Inbox>,
}

impl Subscription {
    /// Waits for news.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn changes(&self) -> Changes {
        self.inbox.wait().await
    }

    /// Waits for news; `None` when there have been none for so long.
    pub(super) async fn changes_within(&self, limit: Duration) -> Option<Changes> {
        tokio::time::timeout(limit, self.changes()).await.ok()
    }

    /// Whether a key is not watched any more.
    pub(super) fn has_ended(&self) -> bool {
        let state = self.watches.state();
        !self.ids.iter().all(|id| state.watches.contains_key(id))
    }
}

impl Watches {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of the deletion of any of `keys`, each with the revision at which it was created, after revision `read_at`.
    pub(super) fn subscribe(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        keys: impl IntoIterator<Item = (Vec<u8>, Option<i64>)>,
        read_at: i64,
    ) -> Subscription {
        let inbox = Arc::new(Inbox::default());
        let mut state = self.state();
        if state.requests.is_none() {
            let (sender, receiver) = mpsc::unbounded_channel();
            state.requests = Some(sender);
            tokio::spawn(run(Arc::downgrade(self), Arc::downgrade(connection), receiver, state.pause));
        }
        let mut ids = Vec::new();
        for (key, revision) in keys {
            state.last_id += 1;
            let id = state.last_id;
            ids.push(id);
            state
                .watches
                .insert(id, Watch { key: key.clone(), revision, read_at, inbox: Arc::clone(&inbox) });
            // From the revision after the one that was read: etcd serves older ones only every 100 ms.
            let create = WatchCreate { key, start_revision: read_at + 1, filters: vec![0], watch_id: id };
            state.send(WatchAction::Create(create));
        }
        drop(state);
        Subscription { watches: Arc::clone(self), ids, inbox }
    }

    /// The keys that are watched, each once, with the revisions at which they were created.
    pub(super) fn watched(&self) -> Vec<(Vec<u8>, i64)> {
        let state = self.state();
        let watched = state.watches.values().filter_map(|watch| Some((watch.key.clone(), watch.revision?)));
        watched.collect::<HashSet<_>>().into_iter().collect()
    }

    /// Tells those who watch keys that these, with the revisions at which they were created, were found gone as of `as_of`.
    pub(super) fn notify_deleted(&self, gone: &HashSet<(Vec<u8>, i64)>, as_of: i64) {
        let state = self.state();
        for watch in state.watches.values() {
            if watch.revision.is_some_and(|revision| gone.contains(&(watch.key.clone(), revision))) {
                watch.inbox.notify(|changes| changes.add(&watch.key, as_of));
            }
        }
    }

    fn dispatch(&self, answer: &WatchResponse) {
        let mut state = self.state();
        if answer.created && !answer.canceled {
            state.pause = Duration::ZERO;
        }
        let Some(watch) = state.watches.get(&answer.watch_id) else { return };
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        // Somebody wrote between the reading and the watch, so the watch is served late: what it watches is looked at.
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

    /// Ends the stream, and has everybody look.
    fn end(&self) {
        let mut state = self.state();
        state.requests = None;
        state.pause = (state.pause * 2).clamp(PAUSE.0, PAUSE.1);
        for (_, watch) in state.watches.drain() {
            watch.inbox.notify(|changes| changes.read_again = true);
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
            if state.watches.remove(id).is_some() {
                state.send(WatchAction::Cancel(WatchCancel { watch_id: *id }));
            }
        }
    }
}

/// Serves the watches as long as the store lives and the stream does.
async fn run(
    watches: Weak<Watches>,
    connection: Weak<Connection>,
    requests: mpsc::UnboundedReceiver<WatchRequest>,
    pause: Duration,
) {
    tokio::time::sleep(pause).await;
    let requests = stream::unfold(requests, async |mut requests| {
        let request = requests.recv().await?;
        Some((request, requests))
    });
    let opened = match connection.upgrade() {
        Some(connection) => {
            connection.stream::<_, WatchResponse>("/etcdserverpb.Watch/Watch", Box::pin(requests)).await
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::etcd::Shared;
    use crate::stores::etcd::messages::Header;
    use crate::stores::etcd::scripted::{Cluster, creates, soon};
    use futures_util::FutureExt;

    fn watches() -> (Arc<Watches>, Arc<Inbox>) {
        let (watches, inbox) = (Arc::<Watches>::default(), Arc::<Inbox>::default());
        let watch = Watch { key: b"a".to_vec(), revision: Some(3), read_at: 7, inbox: Arc::clone(&inbox) };
        watches.state().watches.insert(1, watch);
        (watches, inbox)
    }

    fn answer(revision: i64) -> WatchResponse {
        WatchResponse { header: Some(Header { revision }), watch_id: 1, ..WatchResponse::default() }
    }

    fn changes(inbox: &Inbox) -> Option<Changes> {
        inbox.wait().now_or_never()
    }

    #[test]
    fn a_stream_that_serves_nobody_is_opened_again_more_and_more_slowly() {
        let (watches, _told) = watches();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            watches.end();
            pauses.push(watches.state().pause);
        }
        assert_eq!(pauses[..3], [20, 40, 80].map(Duration::from_millis));
        assert_eq!(pauses[8], Duration::from_secs(1));
        watches.dispatch(&WatchResponse { created: true, canceled: true, ..answer(7) });
        assert_eq!(watches.state().pause, Duration::from_secs(1));
        watches.dispatch(&WatchResponse { created: true, ..answer(7) });
        assert_eq!(watches.state().pause, Duration::ZERO);
    }

    #[test]
    fn a_watch_is_late_where_somebody_wrote_since_what_it_watches_was_read() {
        let (watches, inbox) = watches();
        watches.dispatch(&WatchResponse { created: true, ..answer(7) });
        assert!(changes(&inbox).is_none());
        watches.dispatch(&WatchResponse { created: true, ..answer(8) });
        let changes = changes(&inbox).unwrap();
        assert!(changes.read_again && changes.deleted.is_empty() && changes.as_of == 8);
    }

    #[test]
    fn the_end_of_a_key_is_told_with_its_revision_and_by_whom_ever_finds_it() {
        let (watches, inbox) = watches();
        assert_eq!(watches.watched(), [(b"a".to_vec(), 3)]);
        watches.dispatch(&WatchResponse { events: vec![Default::default()], ..answer(9) });
        let heard = changes(&inbox).unwrap();
        assert!(!heard.read_again && heard.deleted == [b"a"] && heard.as_of == 9);
        for (revision, is_told) in [(2, false), (3, true)] {
            watches.notify_deleted(&HashSet::from([(b"a".to_vec(), revision)]), 11);
            let heard = changes(&inbox).filter(|changes| changes.deleted == [b"a"] && changes.as_of == 11);
            assert_eq!(heard.is_some(), is_told);
        }
    }

    fn cluster_and_store() -> (Cluster, Arc<Shared>) {
        Cluster::with_store("etcd://127.0.0.1:1")
    }

    fn keys<const N: usize>(keys: [&str; N]) -> [(Vec<u8>, Option<i64>); N] {
        keys.map(|key| (key.into(), Some(3)))
    }

    #[tokio::test(start_paused = true)]
    async fn one_stream_serves_all_who_watch_each_from_what_it_has_read() {
        let (mut cluster, shared) = cluster_and_store();
        let one = shared.watches.subscribe(&shared.connection, keys(["a", "b"]), 7);
        let other = shared.watches.subscribe(&shared.connection, keys(["a"]), 9);
        let (first, mut stream) = soon(cluster.asked("Watch/Watch")).await;
        let mut created = vec![creates(first)];
        for _ in 0..2 {
            created.push(creates(soon(stream.request()).await));
        }
        let asked: Vec<_> = created.iter().map(|create| (&create.key[..], create.start_revision)).collect();
        assert_eq!(asked, [(&b"a"[..], 8), (b"b", 8), (b"a", 10)]);
        assert!(created.iter().all(|create| create.filters == [0]), "puts are not told");
        let ids: Vec<i64> = created.iter().map(|create| create.watch_id).collect();
        assert!(ids.iter().all(|id| *id > 0), "the others have a meaning of their own: {ids:?}");
        let told = |watch_id| WatchResponse { watch_id, events: vec![Default::default()], ..answer(12) };
        for id in &ids {
            stream.say(&WatchResponse { watch_id: *id, created: true, ..answer(7) });
        }
        stream.say(&told(ids[1]));
        let changes = soon(one.changes()).await;
        assert_eq!((changes.deleted, changes.as_of, changes.read_again), (vec![b"b".to_vec()], 12, false));
        assert!(other.changes().now_or_never().is_none());
        stream.say(&told(ids[2]));
        assert_eq!(soon(other.changes()).await.deleted, [b"a"]);
        assert!(cluster.is_idle().await);
        // What nobody wants any more is not watched, so that the cluster has no more to do than it must.
        assert_eq!(shared.watches.watched().len(), 2);
        drop(one);
        for id in &ids[..2] {
            let cancel = Some(WatchAction::Cancel(WatchCancel { watch_id: *id }));
            assert_eq!(soon(stream.request::<WatchRequest>()).await.action, cancel);
        }
        assert_eq!(shared.watches.watched(), [(b"a".to_vec(), 3)]);
        assert!(!other.has_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_news_only_so_long_gets_those_that_come_until_then() {
        let (watches, inbox) = watches();
        let subscription = Subscription { watches, ids: vec![1], inbox: Arc::clone(&inbox) };
        let limit = Duration::from_secs(3);
        let began = tokio::time::Instant::now();
        assert!(subscription.changes_within(limit).await.is_none());
        assert_eq!(began.elapsed(), limit);
        inbox.notify(|changes| changes.add(b"a", 9));
        assert_eq!(
            subscription.changes_within(limit).await.map(|changes| changes.deleted),
            Some(vec![b"a".to_vec()])
        );
        assert_eq!(began.elapsed(), limit);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_watches_by_a_stream_that_ends_or_is_refused_looks_and_watches_by_another() {
        for refuses in [false, true] {
            let (mut cluster, shared) = cluster_and_store();
            for _ in 0..2 {
                let subscription = shared.watches.subscribe(&shared.connection, keys(["a"]), 7);
                let (first, stream) = soon(cluster.asked("Watch/Watch")).await;
                let watch_id = creates(first).watch_id;
                if refuses {
                    // It says so, and leaves the stream open.
                    let refused = WatchResponse { watch_id, created: true, canceled: true, ..answer(7) };
                    stream.say(&refused);
                    assert!(soon(subscription.changes()).await.read_again);
                    assert!(cluster.is_idle().await);
                } else {
                    stream.say(&WatchResponse { watch_id, created: true, ..answer(7) });
                    assert!(subscription.changes().now_or_never().is_none());
                    drop(stream);
                    assert!(soon(subscription.changes()).await.read_again);
                }
                assert!(subscription.has_ended());
            }
        }
    }

    #[test]
    fn a_watch_that_is_refused_has_ended_and_those_of_an_ended_stream_have() {
        for refuses in [true, false] {
            let (watches, inbox) = watches();
            let subscription = Subscription { watches: Arc::clone(&watches), ids: vec![1], inbox };
            assert!(!subscription.has_ended());
            if refuses {
                watches.dispatch(&WatchResponse { canceled: true, ..answer(7) });
            } else {
                watches.end();
            }
            assert!(subscription.has_ended());
            assert!(changes(&subscription.inbox).unwrap().read_again);
        }
    }
}
