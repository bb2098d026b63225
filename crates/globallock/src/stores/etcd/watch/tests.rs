//! Tests of the watches, over a scripted cluster.

use super::*;
use crate::stores::etcd::Shared;
use crate::stores::etcd::messages::{Event, Header};
use crate::stores::etcd::scripted::{Cluster, created_watch, soon};
use futures_util::FutureExt;

fn watches() -> (Arc<Watches>, Arc<Inbox>) {
    let (watches, inbox) = (Arc::<Watches>::default(), Arc::<Inbox>::default());
    let watch = Watch { key: b"a".to_vec(), revision: Some(3), read_at: 7, inbox: Arc::clone(&inbox) };
    watches.state().watches.insert(1, watch);
    (watches, inbox)
}

fn answer(revision: i64) -> WatchResponse {
    WatchResponse {
        header: Some(Header { revision, ..Header::default() }),
        watch_id: 1,
        ..WatchResponse::default()
    }
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
        let changes = take_changes(&inbox).filter(|changes| changes.deleted == [b"a"] && changes.as_of == 11);
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
    let began = Instant::now();
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

#[tokio::test(start_paused = true)]
async fn keys_that_are_put_into_a_range_are_reported_until_the_watch_ends() {
    for ending in ["refused", "ended", "dropped"] {
        let (mut cluster, shared) = cluster_and_store();
        let mut puts = shared.watches.subscribe_to_puts(&shared.connection, "/a/", 7);
        let (first, mut stream) = soon(cluster.asked("Watch/Watch")).await;
        let create = created_watch(first);
        assert_eq!((&create.key[..], &create.range_end[..]), (&b"/a/"[..], &b"/a0"[..]));
        assert_eq!((create.start_revision, &create.filters[..]), (8, &[1][..]), "deletions are not told");
        let watch_id = create.watch_id;
        // It began late, which costs it nothing.
        stream.say(&WatchResponse { watch_id, created: true, ..answer(9) });
        let put = KeyValue { key: b"/a/b".to_vec(), create_revision: 9, ..KeyValue::default() };
        let events = vec![Event { kv: Some(put.clone()) }];
        stream.say(&WatchResponse { watch_id, events, ..answer(9) });
        assert_eq!(soon(puts.next()).await, Some(vec![put]));
        assert!(shared.watches.watched().is_empty(), "a renewal reads keys that block, not this range");
        match ending {
            "refused" => stream.say(&WatchResponse { watch_id, canceled: true, ..answer(12) }),
            "ended" => drop(stream),
            _ => {
                drop(puts);
                let cancel = Some(WatchAction::Cancel(WatchCancel { watch_id }));
                assert_eq!(soon(stream.request::<WatchRequest>()).await.action, cancel);
                continue;
            }
        }
        assert_eq!(soon(puts.next()).await, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watched_range_does_not_keep_the_watches_of_a_store_that_is_gone() {
    let (mut cluster, shared) = cluster_and_store();
    let mut puts = shared.watches.subscribe_to_puts(&shared.connection, "/a/", 7);
    let (_, _stream): (WatchRequest, _) = soon(cluster.asked("Watch/Watch")).await;
    assert!(puts.next().now_or_never().is_none());
    drop(shared);
    assert_eq!(soon(puts.next()).await, None);
}
