//! Tests of waiting, over a scripted cluster.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::advance;

use super::super::*;
use crate::stores::etcd::claims::tests::{MUTEX, PREFIX, claim, fencing_token, found, read, wait};
use crate::stores::etcd::key_reads::key_request;
use crate::stores::etcd::messages::{
    Event, RangeRequest, RangeResponse, Response, ResponseOp, TxnRequest, TxnResponse, WatchRequest,
    WatchResponse,
};
use crate::stores::etcd::scripted::{Call, Cluster, as_of, created_watch, soon};

const QUEUE: &str = "/locks/_glocks/a/";
const RANGE: &str = "KV/Range";
const WATCH: &str = "Watch/Watch";

/// A waiter with revision 40 behind this many claims of other programs, as of revision 50.
fn waiter_behind(others: i64) -> (Cluster, Arc<Shared>, Claim, Vec<KeyValue>) {
    let (cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
    shared.leases.pretend(1);
    let claim = claim(1, MUTEX);
    let mut queue: Vec<KeyValue> = (1..=others)
        .map(|revision| found(format!("{QUEUE}{revision:08x}").as_bytes(), revision, 9))
        .collect();
    queue.push(found(&shared.claims.take_key(PREFIX, &claim), 40, 1));
    assert_eq!(read(&shared, &claim, &queue, 50), ClaimStatus::Waiting);
    (cluster, shared, claim, queue)
}

/// The watches of the claim's own key and of its blocker.
struct Watched {
    stream: Call,
    ids: [i64; 2],
}

impl Watched {
    async fn begin(cluster: &mut Cluster, queue: &[KeyValue], from: i64) -> Self {
        let (first, stream) = cluster.asked::<WatchRequest>(WATCH).await;
        Watched::begin_with(first, stream, queue, from).await
    }

    async fn begin_with(first: WatchRequest, mut stream: Call, queue: &[KeyValue], from: i64) -> Self {
        let created = [created_watch(first), created_watch(stream.request().await)];
        let [other, mine] = &queue[queue.len() - 2..] else { unreachable!() };
        assert_eq!([&created[0].key, &created[1].key], [&mine.key, &other.key]);
        assert_eq!(created.each_ref().map(|create| create.start_revision), [from; 2]);
        Watched { stream, ids: created.map(|create| create.watch_id) }
    }

    fn begins(&self, revision: i64) {
        for watch_id in self.ids {
            self.say(&WatchResponse {
                header: as_of(revision),
                watch_id,
                created: true,
                ..Default::default()
            });
        }
    }

    /// Notifies the deletion of the claim's own key (0) or of its blocker (1).
    fn deleted(&self, ahead: usize, revision: i64) {
        let events = vec![Event::default()];
        self.say(&WatchResponse {
            header: as_of(revision),
            watch_id: self.ids[ahead],
            events,
            ..Default::default()
        });
    }

    fn say(&self, answer: &WatchResponse) {
        self.stream.say(answer);
    }
}

fn range(kvs: &[KeyValue], read_at: i64) -> RangeResponse {
    RangeResponse { header: as_of(read_at), kvs: kvs.to_vec(), more: false }
}

/// Expects a read of the queue, and answers it.
async fn expect_queue_read(cluster: &mut Cluster, answer: &[KeyValue], read_at: i64) {
    let (asked, call) = cluster.asked::<RangeRequest>(RANGE).await;
    assert_eq!(&asked.key[..], QUEUE.as_bytes());
    call.answer(&range(answer, read_at));
}

/// Expects a read of these keys, and answers that those of `existing` exist.
async fn expect_key_read(cluster: &mut Cluster, keys: &[&KeyValue], existing: &[&KeyValue], read_at: i64) {
    let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
    let success = keys.iter().map(|kv| key_request(&kv.key)).collect();
    assert_eq!(asked, TxnRequest { success, ..TxnRequest::default() });
    let answer = |kv: &&KeyValue| {
        let kvs = if existing.contains(kv) { vec![KeyValue::clone(kv)] } else { Vec::new() };
        ResponseOp { response: Some(Response::Range(range(&kvs, read_at))) }
    };
    let responses = keys.iter().map(answer).collect();
    call.answer(&TxnResponse { header: as_of(read_at), succeeded: true, responses });
}

/// The status of a claim after `notifies` has made the cluster send something. The watches stay open
/// meanwhile.
async fn status_after(
    (cluster, shared, claim, queue): (&mut Cluster, &Arc<Shared>, &Claim, &[KeyValue]),
    notifies: impl AsyncFnOnce(&mut Cluster, &Watched),
) -> Result<Option<ClaimStatus>> {
    let notified = async {
        let watched = Watched::begin(cluster, queue, 51).await;
        notifies(cluster, &watched).await;
        watched
    };
    let (status, _watched) = soon(async { tokio::join!(wait(shared, claim), notified) }).await;
    status
}

#[tokio::test(start_paused = true)]
async fn a_claim_holds_when_its_blockers_deletion_is_notified_and_sends_no_request() {
    let (mut cluster, shared, claim, queue) = waiter_behind(1);
    let status = status_after((&mut cluster, &shared, &claim, &queue), async |_, watched| {
        watched.begins(50);
        watched.deleted(1, 52);
    })
    .await;
    assert_eq!(status.unwrap().and_then(fencing_token), Some(40));
    assert!(cluster.is_idle().await);
    // Another call returns the same.
    assert_eq!(soon(wait(&shared, &claim)).await.unwrap().and_then(fencing_token), Some(40));
    shared.claims.record_deleted(claim.id);
    assert_eq!(soon(wait(&shared, &claim)).await.unwrap(), Some(ClaimStatus::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_key_was_deleted_before_its_turn_is_gone() {
    let (mut cluster, shared, claim, queue) = waiter_behind(1);
    let status = status_after((&mut cluster, &shared, &claim, &queue), async |cluster, watched| {
        watched.begins(50);
        watched.deleted(0, 52);
        watched.deleted(1, 53);
        expect_queue_read(cluster, &[], 53).await;
    })
    .await;
    assert_eq!(status.unwrap(), Some(ClaimStatus::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_watch_began_late_reads_before_it_holds() {
    // The deletion of its own key may have been missed, before that of the blocker was notified.
    let (mut cluster, shared, claim, queue) = waiter_behind(1);
    let status = status_after((&mut cluster, &shared, &claim, &queue), async |cluster, watched| {
        watched.begins(52);
        watched.deleted(1, 53);
        expect_queue_read(cluster, &[], 53).await;
    })
    .await;
    assert_eq!(status.unwrap(), Some(ClaimStatus::Gone));
}

#[tokio::test(start_paused = true)]
async fn a_short_queue_is_read_at_once_if_a_deletion_may_have_been_missed() {
    let (mut cluster, shared, claim, queue) = waiter_behind(1);
    let status = status_after((&mut cluster, &shared, &claim, &queue), async |cluster, watched| {
        watched.begins(52);
        expect_queue_read(cluster, &queue[1..], 52).await;
    })
    .await;
    assert_eq!(status.unwrap().and_then(fencing_token), Some(40));
}

#[tokio::test(start_paused = true)]
async fn behind_a_long_queue_two_keys_are_read_if_a_deletion_may_have_been_missed() {
    let (mut cluster, shared, claim, queue) = waiter_behind(30);
    let both = [&queue[30], &queue[29]];
    let changed = wait(&shared, &claim);
    let mut changed = Box::pin(changed);
    let answers = async {
        let watched = Watched::begin(&mut cluster, &queue, 51).await;
        watched.begins(60);
        expect_key_read(&mut cluster, &both, &both, 61).await;
        watched
    };
    let watched = soon(async {
        tokio::select! {
            status = &mut changed => panic!("{status:?}"),
            watched = answers => watched,
        }
    })
    .await;
    assert!((&mut changed).now_or_never().is_none());
    assert!(cluster.is_idle().await, "both exist, and their watches go on");
    // The stream ends: both keys are watched again, from the last read on.
    let answers = async {
        drop(watched);
        expect_key_read(&mut cluster, &both, &both, 70).await;
        let watched = Watched::begin(&mut cluster, &queue, 71).await;
        watched.begins(80);
        expect_key_read(&mut cluster, &both, &both[..1], 81).await;
        expect_queue_read(&mut cluster, &queue[30..], 82).await;
        watched
    };
    let (status, _watched) = soon(async { tokio::join!(changed, answers) }).await;
    assert_eq!(status.unwrap().and_then(fencing_token), Some(40));
}

#[tokio::test(start_paused = true)]
async fn a_claim_does_not_use_a_snapshot_that_is_older_than_what_it_has_read() {
    let (mut cluster, shared, claim, queue) = waiter_behind(1);
    // It knows no blocker that it could watch.
    shared.claims.with(claim.id, |position| position.ahead = Ahead::unknown(MUTEX)).unwrap();
    let (other, unknown) = (claim.clone(), QueueEntry::new(&found(b"/locks/_glocks/a/0", 7, 9)));
    let mut others = Box::pin(shared.queues.view(&other, &unknown, 0));
    assert!((&mut others).now_or_never().is_none());
    let reads = async {
        let (_, call) = cluster.asked::<RangeRequest>(RANGE).await;
        call.answer(&RangeResponse { more: true, ..range(&[], 50) });
        expect_queue_read(&mut cluster, &queue, 50).await;
        expect_queue_read(&mut cluster, &queue[1..], 51).await;
    };
    let (status, view, ()) = soon(async { tokio::join!(wait(&shared, &claim), others, reads) }).await;
    assert_eq!(view.unwrap().read_at, 50);
    assert_eq!(status.unwrap().and_then(fencing_token), Some(40));
}

#[tokio::test(start_paused = true)]
async fn watched_keys_are_read_once_per_lease_and_their_deletion_is_notified() {
    let (mut cluster, shared, claim, queue) = waiter_behind(1);
    let lease = Duration::from_secs(30);
    shared.watches.poll(&shared.connection, Duration::ZERO);
    assert!(cluster.is_idle().await, "nothing is watched");
    let mut changed = Box::pin(wait(&shared, &claim));
    assert!((&mut changed).now_or_never().is_none());
    let watched = soon(Watched::begin(&mut cluster, &queue, 51)).await;
    watched.begins(50);
    advance(lease - Duration::from_millis(1)).await;
    shared.watches.poll(&shared.connection, lease);
    assert!(cluster.is_idle().await, "less than a lease has passed");
    advance(Duration::from_millis(1)).await;
    shared.watches.poll(&shared.connection, lease);
    let (asked, call) = soon(cluster.asked::<TxnRequest>("KV/Txn")).await;
    // The two keys may come in any order.
    let is_mine = asked.success[0] == key_request(&queue[1].key);
    let kvs = if is_mine { [queue[1..].to_vec(), Vec::new()] } else { [Vec::new(), queue[1..].to_vec()] };
    let responses = kvs.map(|kvs| ResponseOp { response: Some(Response::Range(range(&kvs, 60))) }).to_vec();
    assert_eq!(asked.success.len(), 2);
    shared.watches.poll(&shared.connection, lease);
    call.answer(&TxnResponse { header: as_of(60), succeeded: true, responses });
    assert_eq!(soon(changed).await.unwrap().and_then(fencing_token), Some(40));
    assert!(cluster.is_idle().await);
    drop(watched);
}
