//! Reads from the cluster: a queue, single keys, or all keys below a prefix, page by page.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::connection::Connection;
use super::keys::{self, QueueEntry};
use super::messages::{
    KeyValue, RangeRequest, RangeResponse, Response, ResponseOp, SortOrder, SortTarget, TxnResponse, revision,
};
use crate::backend::Claim;
use crate::error::Result;
use crate::name::Name;
use crate::queue::Permits;
use crate::stores::watched::ahead::Ahead;
use crate::sync::Mutex;

/// How many keys one answer has at most: even with values, far below the size that clients refuse.
pub(super) const PAGE_SIZE: i64 = 1000;
/// How many claims are read when only a part of a queue is.
pub(super) const FEW: i64 = 16;

/// What a claim has read of its queue, all of it or a part.
#[derive(Clone, Debug)]
pub(super) struct QueueView {
    /// The claim's own key, if it was found.
    pub(super) mine: Option<QueueEntry>,
    /// What was read of the queue, sorted by creation revision.
    queue: Arc<Vec<QueueEntry>>,
    /// How many of those are in front of the claim.
    index: usize,
    /// Whether all claims in front of it were read.
    pub(super) is_whole: bool,
    /// The revision as of which the queue was read.
    pub(super) read_at: i64,
}

impl QueueView {
    /// Sorts what was found. `is_whole` says whether it contains all claims in front.
    pub(super) fn new(
        mine: Option<QueueEntry>,
        mut found: Vec<QueueEntry>,
        is_whole: bool,
        read_at: i64,
    ) -> Self {
        found.sort_by_key(|entry| entry.revision);
        let revision = mine.as_ref().map_or(0, |mine| mine.revision);
        let index = found.partition_point(|entry| entry.revision < revision);
        QueueView { mine, queue: Arc::new(found), index, is_whole, read_at }
    }

    /// What the claim whose key was created at `revision` sees of the same queue.
    fn of(&self, key: &[u8], revision: i64) -> Self {
        let index = self.queue.partition_point(|entry| entry.revision < revision);
        let mine = self.queue.get(index).filter(|entry| entry.key == key).cloned();
        QueueView { mine, index, ..self.clone() }
    }

    /// The claims ahead, sorted by creation revision.
    pub(super) fn ahead(&self) -> &[QueueEntry] {
        &self.queue[..self.index]
    }

    /// What a claim with these permits must remember of it.
    pub(super) fn known(&self, mine: Permits) -> Ahead<QueueEntry> {
        Ahead::of(self.ahead().iter(), self.is_whole, mine)
    }
}

/// The snapshots that are in use: whole queues, each for all claims that need it at the same time.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    by_name: HashMap<Name, Weak<Reading>>,
    /// At how many names the unused ones are dropped.
    most: usize,
}

/// The snapshot of one name. The claim that holds the mutex reads the queue; the others wait for its
/// snapshot.
type Reading = tokio::sync::Mutex<Option<QueueView>>;

impl Snapshots {
    fn of(&mut self, name: &Name) -> Arc<Reading> {
        if let Some(reading) = self.by_name.get(name).and_then(Weak::upgrade) {
            return reading;
        }
        if self.by_name.len() >= self.most {
            self.by_name.retain(|_, reading| reading.strong_count() > 0);
            self.most = (self.by_name.len() * 2).max(64);
        }
        let reading = Arc::new(Reading::default());
        self.by_name.insert(name.clone(), Arc::downgrade(&reading));
        reading
    }
}

/// The request for the claims of a lock, at most `limit` of them (0: all).
pub(super) fn queue_request(start: &str, limit: i64) -> RangeRequest {
    let range_end = keys::end(start);
    RangeRequest { key: start.into(), range_end, keys_only: true, limit, ..RangeRequest::default() }
}

/// All ranges of an answer in their order, including those of nested transactions.
pub(super) fn ranges(responses: Vec<ResponseOp>) -> Vec<RangeResponse> {
    let mut ranges = Vec::new();
    for response in responses {
        match response.response {
            Some(Response::Range(range)) => ranges.push(range),
            Some(Response::Transaction(TxnResponse { responses, .. })) => {
                ranges.extend(self::ranges(responses));
            }
            _ => {}
        }
    }
    ranges
}

/// The reader of queues.
pub(super) struct Queues {
    connection: Arc<Connection>,
    snapshots: Mutex<Snapshots>,
}

impl Queues {
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        Queues { connection, snapshots: Mutex::default() }
    }

    /// Reads what a claim must know of its queue, as of revision `since` or later.
    ///
    /// | the claim | what is read |
    /// |---|---|
    /// | is alone in reading this queue | the front of the queue, which is enough if the claim is in it |
    /// | is further behind, or others want the queue too | the whole queue, once for all of them |
    pub(super) async fn view(&self, claim: &Claim, mine: &QueueEntry, since: i64) -> Result<QueueView> {
        let reading = self.snapshots.lock().of(&claim.name);
        let mut last = reading.lock().await;
        let known = last.as_ref().filter(|snapshot| snapshot.read_at >= since);
        if let Some(snapshot) = known {
            return Ok(snapshot.of(&mine.key, mine.revision));
        }
        // Each other claim that wants this queue now has a reference to it too.
        let is_alone = Arc::strong_count(&reading) == 1;
        if is_alone && let Some(view) = self.read_front(claim, mine).await? {
            return Ok(view);
        }
        let snapshot = self.read_snapshot(&claim.name).await?;
        let view = snapshot.of(&mine.key, mine.revision);
        *last = Some(snapshot);
        Ok(view)
    }

    /// Reads the front of a queue; `None` if the claim is further behind.
    async fn read_front(&self, claim: &Claim, mine: &QueueEntry) -> Result<Option<QueueView>> {
        let front = RangeRequest {
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..self.request(&claim.name, FEW)
        };
        let answer = self.connection.unary(front).await?;
        let read_at = revision(answer.header.as_ref());
        let found = self.connection.config().claims(&answer.kvs);
        let mine = found.iter().find(|entry| entry.key == mine.key).cloned();
        let is_enough = mine.is_some() || !answer.more;
        Ok(is_enough.then(|| QueueView::new(mine, found, true, read_at)))
    }

    /// Reads the whole queue of a name.
    async fn read_snapshot(&self, name: &Name) -> Result<QueueView> {
        let answer = self.connection.unary(self.request(name, 0)).await?;
        let found = self.connection.config().claims(&answer.kvs);
        Ok(QueueView::new(None, found, true, revision(answer.header.as_ref())))
    }

    fn request(&self, name: &Name, limit: i64) -> RangeRequest {
        queue_request(&keys::queue(&self.connection.config().prefix, name), limit)
    }
}

/// Reads all keys below `start` page by page, all as of the first page's revision.
pub(super) async fn all_below(
    connection: &Connection,
    start: &str,
    keys_only: bool,
) -> Result<Vec<KeyValue>> {
    let mut request = RangeRequest { keys_only, ..queue_request(start, PAGE_SIZE) };
    let mut found = Vec::new();
    loop {
        let answer = connection.unary(request.clone()).await?;
        request.revision = request.revision.max(revision(answer.header.as_ref()));
        match answer.kvs.last().filter(|_| answer.more) {
            // The next page begins at the smallest key after the last one.
            Some(last) => request.key = [&last.key[..], &[0]].concat(),
            None => request.key.clear(),
        }
        found.extend(answer.kvs);
        if request.key.is_empty() {
            return Ok(found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::etcd::claims::tests::{MUTEX, PREFIX, claim, found};
    use crate::stores::etcd::key_reads::key_request;
    use crate::stores::etcd::messages::{Header, Request};
    use crate::stores::etcd::owner::Shared;
    use crate::stores::etcd::scripted::{Call, Cluster, as_of, soon};

    const ADDRESS: &str = "etcd://127.0.0.1:1";
    const QUEUE: &str = "/locks/_glocks/a/";
    const KEYS: &str = "KV/Range";

    /// A key of another program, created at this revision.
    fn other(revision: i64) -> KeyValue {
        found(format!("{QUEUE}{revision:08x}").as_bytes(), revision, 9)
    }

    fn mine(shared: &Shared, revision: i64) -> KeyValue {
        found(&shared.claims.take_key(PREFIX, &claim(1, MUTEX)), revision, 1)
    }

    fn range(read_at: i64, kvs: &[KeyValue], more: bool) -> RangeResponse {
        RangeResponse { header: as_of(read_at), kvs: kvs.to_vec(), more }
    }

    fn revisions(entry: &[QueueEntry]) -> Vec<i64> {
        entry.iter().map(|entry| entry.revision).collect()
    }

    /// Expects a read of the front of the queue, and answers it.
    async fn answer_front(cluster: &mut Cluster, answer: &RangeResponse) {
        let (asked, call) = cluster.asked::<RangeRequest>(KEYS).await;
        assert_eq!(
            (asked.limit, asked.sort_order(), asked.sort_target()),
            (FEW, SortOrder::Ascend, SortTarget::Create)
        );
        assert_eq!((&asked.key[..], &asked.range_end[..]), (QUEUE.as_bytes(), &keys::end(QUEUE)[..]));
        assert!(asked.keys_only);
        call.answer(answer);
    }

    /// Expects a read of the whole queue.
    async fn expect_whole_queue(cluster: &mut Cluster) -> Call {
        let (asked, call) = cluster.asked::<RangeRequest>(KEYS).await;
        let all = RangeRequest {
            key: QUEUE.into(),
            range_end: keys::end(QUEUE),
            keys_only: true,
            ..RangeRequest::default()
        };
        assert_eq!(asked, all);
        call
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_in_the_front_of_its_queue_reads_only_that() {
        let (mut cluster, shared) = Cluster::with_store(ADDRESS);
        let own = mine(&shared, 5);
        let answer = range(9, &[other(3), own.clone(), other(7)], true);
        let entry = QueueEntry::new(&own);
        let claim = claim(1, MUTEX);
        let (view, ()) = soon(async {
            tokio::join!(shared.queues.view(&claim, &entry, 5), answer_front(&mut cluster, &answer))
        })
        .await;
        let view = view.unwrap();
        assert_eq!((view.mine.as_ref(), view.is_whole, view.read_at), (Some(&entry), true, 9));
        assert_eq!(revisions(view.ahead()), [3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_is_not_in_the_whole_of_a_short_queue_is_gone() {
        let (mut cluster, shared) = Cluster::with_store(ADDRESS);
        let entry = QueueEntry::new(&mine(&shared, 5));
        let claim = claim(1, MUTEX);
        let answer = range(9, &[other(3)], false);
        let (view, ()) = soon(async {
            tokio::join!(shared.queues.view(&claim, &entry, 5), answer_front(&mut cluster, &answer))
        })
        .await;
        let view = view.unwrap();
        assert_eq!((view.mine, view.read_at), (None, 9));
        assert!(cluster.is_idle().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_behind_the_front_of_its_queue_reads_all_of_it() {
        let (mut cluster, shared) = Cluster::with_store(ADDRESS);
        let own = mine(&shared, 5);
        let entry = QueueEntry::new(&own);
        let claim = claim(1, MUTEX);
        let answers = async {
            answer_front(&mut cluster, &range(9, &[other(3)], true)).await;
            // Sorted by key, not by revision.
            expect_whole_queue(&mut cluster).await.answer(&range(
                10,
                &[own, other(8), other(4), other(3)],
                false,
            ));
        };
        let (view, ()) = soon(async { tokio::join!(shared.queues.view(&claim, &entry, 5), answers) }).await;
        let view = view.unwrap();
        assert_eq!((view.mine.as_ref(), view.is_whole, view.read_at), (Some(&entry), true, 10));
        assert_eq!(revisions(view.ahead()), [3, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn claims_that_read_one_queue_at_the_same_time_share_a_snapshot_that_is_recent_enough() {
        let (mut cluster, shared) = Cluster::with_store(ADDRESS);
        let own = mine(&shared, 5);
        let (claim, entry) = (claim(1, MUTEX), QueueEntry::new(&own));
        let view = async |since| shared.queues.view(&claim, &entry, since).await.unwrap().read_at;
        let asked = async { tokio::join!(view(5), view(5), view(9), view(10), view(9)) };
        let answers = async {
            // The first one does not know of the others yet.
            answer_front(&mut cluster, &range(8, std::slice::from_ref(&own), true)).await;
            for read_at in [9, 10] {
                expect_whole_queue(&mut cluster).await.answer(&range(
                    read_at,
                    std::slice::from_ref(&own),
                    false,
                ));
            }
        };
        let (states, ()) = soon(async { tokio::join!(asked, answers) }).await;
        assert_eq!(states, (8, 9, 9, 10, 10));
        assert!(cluster.is_idle().await);
    }

    #[test]
    fn a_snapshot_shows_each_claim_its_own_position_and_no_other() {
        let queue: Vec<QueueEntry> = [3, 5, 8].map(|revision| QueueEntry::new(&other(revision))).to_vec();
        let snapshot = QueueView::new(None, queue.clone(), true, 9);
        for (index, entry) in queue.iter().enumerate() {
            let view = snapshot.of(&entry.key, entry.revision);
            assert_eq!((view.mine.as_ref(), view.read_at, view.is_whole), (Some(entry), 9, true));
            assert_eq!(view.ahead(), &queue[..index]);
        }
        for (key, revision) in [(&queue[1].key, 6), (&queue[1].key, 9), (&queue[0].key, 5)] {
            assert_eq!(snapshot.of(key, revision).mine, None, "{revision}");
        }
    }

    #[test]
    fn a_snapshot_is_shared_while_it_is_used_and_dropped_after_that() {
        let name = |number: usize| Name::new(number.to_string()).unwrap();
        let mut snapshots = Snapshots::default();
        let used: Vec<Arc<Reading>> = (0..100).map(|number| snapshots.of(&name(number))).collect();
        // The limit grows with what is used, so that unused names are searched for seldom.
        assert!(snapshots.most >= 2 * 64, "{}", snapshots.most);
        for number in 1000..3000 {
            snapshots.of(&name(number));
        }
        assert!(snapshots.by_name.len() <= 2 * used.len(), "{}", snapshots.by_name.len());
        for (number, reading) in used.iter().enumerate() {
            assert!(Arc::ptr_eq(reading, &snapshots.of(&name(number))), "{number}");
        }
    }

    #[test]
    fn a_queue_and_a_key_are_read_without_values() {
        let few = RangeRequest {
            key: b"/a/".to_vec(),
            range_end: b"/a0".to_vec(),
            keys_only: true,
            limit: 16,
            ..RangeRequest::default()
        };
        assert_eq!(queue_request("/a/", 16), few);
        let key = RangeRequest { key: b"/a/b".to_vec(), keys_only: true, ..RangeRequest::default() };
        assert_eq!(key_request(b"/a/b").request, Some(Request::Range(key)));
    }

    #[test]
    fn ranges_of_nested_transactions_are_found_in_their_order() {
        let range = |read_at| ResponseOp { response: Some(Response::Range(range(read_at, &[], false))) };
        let within = TxnResponse { responses: vec![range(2), range(3)], ..TxnResponse::default() };
        let transaction = ResponseOp { response: Some(Response::Transaction(within)) };
        let put = ResponseOp { response: Some(Response::Put(Default::default())) };
        let found = ranges(vec![range(1), put, transaction, range(4)]);
        let found: Vec<Option<Header>> = found.into_iter().map(|range| range.header).collect();
        assert_eq!(found, [1, 2, 3, 4].map(as_of));
    }

    #[tokio::test(start_paused = true)]
    async fn many_keys_are_read_page_by_page_as_of_one_revision() {
        let (mut cluster, shared) = Cluster::with_store(ADDRESS);
        for keys_only in [true, false] {
            let answers = async {
                let first = RangeRequest { keys_only, ..queue_request(QUEUE, PAGE_SIZE) };
                let (asked, call) = cluster.asked::<RangeRequest>(KEYS).await;
                assert_eq!(asked, first);
                call.answer(&range(7, &[other(2), other(3)], true));
                let next = RangeRequest { key: [&other(3).key[..], b"\0"].concat(), revision: 7, ..first };
                let (asked, call) = cluster.asked::<RangeRequest>(KEYS).await;
                assert_eq!(asked, next);
                call.answer(&range(9, &[other(4)], false));
            };
            let (all, ()) =
                soon(async { tokio::join!(all_below(&shared.connection, QUEUE, keys_only), answers) }).await;
            assert_eq!(all.unwrap(), [other(2), other(3), other(4)]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn with_interop_the_key_of_a_nested_name_is_no_claim() {
        let [plain, nested] = ["", "?interop=python-etcd3"].map(|option| format!("{ADDRESS}{option}"));
        for (address, claims) in [(plain, [2, 3, 4].to_vec()), (nested, [2, 4].to_vec())] {
            let (_cluster, shared) = Cluster::with_store(&address);
            let own = found(&shared.claims.take_key(PREFIX, &claim(1, MUTEX)), 4, 1);
            let name = found(format!("{QUEUE}name").as_bytes(), 3, 1);
            let found = [found(format!("{QUEUE}694d80123").as_bytes(), 2, 1), name, own];
            assert_eq!(revisions(&shared.connection.config().claims(&found)), claims);
        }
    }
}
