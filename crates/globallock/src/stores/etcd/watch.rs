//! One stream of watches for all waiters of one store.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::stream;
use tokio::sync::mpsc;

use super::connection::Connection;
use super::messages::{WatchAction, WatchCancel, WatchCreate, WatchRequest, WatchResponse};
use crate::stores::watched::inbox::{Changes, Inbox};
use crate::sync::{Mutex, MutexGuard, jittered};

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
    /// The pause before the next stream is opened.
    pause: Duration,
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
            // From the revision after the one that was read. A watch that starts at a revision which exists
            // already is served only every 100 ms, until it has caught up.
            let create = WatchCreate { key, start_revision: read_at + 1, filters: vec![0], watch_id: id };
            state.send(WatchAction::Create(create));
        }
        drop(state);
        Subscription { watches: Arc::clone(self), ids, inbox }
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

    fn dispatch(&self, answer: &WatchResponse) {
        let mut state = self.state();
        if answer.created && !answer.canceled {
            state.pause = Duration::ZERO;
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
        for (_, watch) in state.watches.drain() {
            watch.inbox.notify(|changes| changes.read_again = true);
        }
    }
}

impl State {
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
        Some(connection) => {
            connection.stream::<_, WatchResponse>("/etcdserverpb.Watch/Watch", Box::pin(requests)).await
        }
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
mod tests {
    use super::*;
    use crate::stores::etcd::Shared;
    use crate::stores::etcd::messages::Header;
    use crate::stores::etcd::scripted::{Cluster, created_watch, soon};
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

    fn take_changes(inbox: &Inbox) -> Option<Changes> {
        inbox.wait().now_or_never()
    }

    #[test]
    fn the_pause_before_another_stream_doubles_until_a_watch_begins() {
        let (watches, _inbox) = watches();
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
    fn a_watch_is_late_if_somebody_wrote_since_its_subscribers_read() {
        let (watches, inbox) = watches();
        watches.dispatch(&WatchResponse { created: true, ..answer(7) });
        assert!(take_changes(&inbox).is_none());
        watches.dispatch(&WatchResponse { created: true, ..answer(8) });
        let changes = take_changes(&inbox).unwrap();
        assert!(changes.read_again && changes.deleted.is_empty() && changes.as_of == 8);
    }

    #[test]
    fn a_deletion_is_notified_by_the_stream_and_by_a_read_that_finds_it() {
        let (watches, inbox) = watches();
        assert_eq!(watches.watched(), [(b"a".to_vec(), 3)]);
        watches.dispatch(&WatchResponse { events: vec![Default::default()], ..answer(9) });
        let changes = take_changes(&inbox).unwrap();
        assert!(!changes.read_again && changes.deleted == [b"a"] && changes.as_of == 9);
        for (revision, is_notified) in [(2, false), (3, true)] {
            watches.notify_deleted(&HashSet::from([(b"a".to_vec(), revision)]), 11);
            let changes =
                take_changes(&inbox).filter(|changes| changes.deleted == [b"a"] && changes.as_of == 11);
            assert_eq!(changes.is_some(), is_notified);
        }
    }

    fn cluster_and_store() -> (Cluster, Arc<Shared>) {
        Cluster::with_store("etcd://127.0.0.1:1")
    }

    fn keys<const N: usize>(keys: [&str; N]) -> [(Vec<u8>, Option<i64>); N] {
        keys.map(|key| (key.into(), Some(3)))
    }

    #[tokio::test(start_paused = true)]
    async fn one_stream_serves_all_subscribers_each_from_its_own_read_on() {
        let (mut cluster, shared) = cluster_and_store();
        let one = shared.watches.subscribe(&shared.connection, keys(["a", "b"]), 7);
        let other = shared.watches.subscribe(&shared.connection, keys(["a"]), 9);
        let (first, mut stream) = soon(cluster.asked("Watch/Watch")).await;
        let mut created = vec![created_watch(first)];
        for _ in 0..2 {
            created.push(created_watch(soon(stream.request()).await));
        }
        let asked: Vec<_> = created.iter().map(|create| (&create.key[..], create.start_revision)).collect();
        assert_eq!(asked, [(&b"a"[..], 8), (b"b", 8), (b"a", 10)]);
        assert!(created.iter().all(|create| create.filters == [0]), "puts are not notified");
        let ids: Vec<i64> = created.iter().map(|create| create.watch_id).collect();
        assert!(ids.iter().all(|id| *id > 0), "0 and less mean something else: {ids:?}");
        let deletion = |watch_id| WatchResponse { watch_id, events: vec![Default::default()], ..answer(12) };
        for id in &ids {
            stream.say(&WatchResponse { watch_id: *id, created: true, ..answer(7) });
        }
        stream.say(&deletion(ids[1]));
        let changes = soon(one.changes()).await;
        assert_eq!((changes.deleted, changes.as_of, changes.read_again), (vec![b"b".to_vec()], 12, false));
        assert!(other.changes().now_or_never().is_none());
        stream.say(&deletion(ids[2]));
        assert_eq!(soon(other.changes()).await.deleted, [b"a"]);
        assert!(cluster.is_idle().await);
        // A dropped subscription cancels its watches, so that the cluster has no needless work.
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
    async fn a_wait_with_a_limit_gets_the_changes_until_then() {
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
    async fn the_subscribers_of_a_stream_that_ends_or_is_refused_read_again_and_use_another() {
        for refuses in [false, true] {
            let (mut cluster, shared) = cluster_and_store();
            for _ in 0..2 {
                let subscription = shared.watches.subscribe(&shared.connection, keys(["a"]), 7);
                let (first, stream) = soon(cluster.asked("Watch/Watch")).await;
                let watch_id = created_watch(first).watch_id;
                if refuses {
                    // The cluster refuses the watch, and leaves the stream open.
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
    fn a_watch_has_ended_if_it_was_refused_or_its_stream_has_ended() {
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
            assert!(take_changes(&subscription.inbox).unwrap().read_again);
        }
    }
}
