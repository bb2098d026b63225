//! What is read of the cluster: a queue, single keys, all keys below one, page by page.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::keys::{self, Listed};
use super::messages::{
    KeyValue, RangeRequest, RangeResponse, Request, RequestOp, Response, ResponseOp, SortOrder, SortTarget,
    TxnRequest, TxnResponse,
};
use super::{Shared, operation};
use crate::backend::Claim;
use crate::error::Result;
use crate::name::Name;

const RANGE: &str = "/etcdserverpb.KV/Range";
/// How many keys one transaction asks for: etcd allows 128 operations unless it is told otherwise.
const TOGETHER: usize = 100;
/// How many keys one answer has at most: with their values, they are far from the size that clients refuse.
const PAGE: i64 = 1000;
/// How many claims are read of a queue where not all of it is.
pub(super) const FEW: i64 = 16;

/// A key as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// The revision at which it was created; 0 where it is not there.
    pub(super) created: i64,
    /// The revision as of which that is so.
    pub(super) read_at: i64,
}

impl Seen {
    /// Whether the key that was created at `revision` has gone; not where that was after the look.
    pub(super) fn misses(self, revision: i64) -> bool {
        self.created != revision && revision <= self.read_at
    }
}

/// What a claim has read of its queue.
#[derive(Debug)]
pub(super) struct Sight {
    /// The claim's own key.
    pub(super) mine: Option<Listed>,
    /// The queue, or a part of it, in the order of joining.
    queue: Arc<Vec<Listed>>,
    /// How many of those are in front of the claim.
    position: usize,
    /// Whether they are all that are in front of it.
    pub(super) is_whole: bool,
    /// The revision as of which that is so.
    pub(super) read_at: i64,
}

impl Sight {
    /// Sorts out what was found in a queue, which is all that is in front of a claim or only a part.
    pub(super) fn new(mine: Option<Listed>, mut found: Vec<Listed>, is_whole: bool, read_at: i64) -> Self {
        found.sort_by_key(|listed| listed.revision);
        found.dedup_by_key(|listed| listed.revision);
        let revision = mine.as_ref().map_or(0, |mine| mine.revision);
        let position = found.partition_point(|listed| listed.revision < revision);
        Sight { mine, queue: Arc::new(found), position, is_whole, read_at }
    }

    /// Those in front of the claim, in the order of joining.
    pub(super) fn ahead(&self) -> &[Listed] {
        &self.queue[..self.position]
    }
}

/// The whole queue of a name, for all who need to read it at the same time.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// In the order of joining.
    queue: Arc<Vec<Listed>>,
    read_at: i64,
}

impl Snapshot {
    /// What it shows to the claim whose key was created at `revision`.
    fn sight(&self, key: &[u8], revision: i64) -> Sight {
        let position = self.queue.partition_point(|listed| listed.revision < revision);
        let mine = self.queue.get(position).filter(|listed| listed.key == key).cloned();
        Sight { mine, queue: Arc::clone(&self.queue), position, is_whole: true, read_at: self.read_at }
    }
}

/// The snapshots that somebody uses.
#[derive(Debug, Default)]
pub(super) struct Snapshots {
    by_name: HashMap<Name, Weak<Reading>>,
    /// How many names there may be before those that nobody uses are dropped.
    most: usize,
}

/// One reads, the others wait for what it reads.
type Reading = tokio::sync::Mutex<Option<Arc<Snapshot>>>;

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

/// The request for the claims of a lock, no more than `limit` of them (0: all).
pub(super) fn queue_request(start: &str, limit: i64) -> RangeRequest {
    let range_end = keys::end(start);
    RangeRequest { key: start.into(), range_end, keys_only: true, limit, ..RangeRequest::default() }
}

/// The request for one key, without its value.
pub(super) fn key_request(key: &[u8]) -> RequestOp {
    let request = RangeRequest { key: key.to_vec(), keys_only: true, ..RangeRequest::default() };
    operation(Request::Range(request))
}

/// Each answered range, those of transactions within the transaction in their places.
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

impl Shared {
    /// Those of these keys that are claims.
    pub(super) fn claims<'a>(&self, found: impl IntoIterator<Item = &'a KeyValue>) -> Vec<Listed> {
        found.into_iter().map(Listed::new).filter(|listed| self.is_claim(listed)).collect()
    }

    /// Reads what a claim in a queue must know of that, as of revision `since` or later.
    ///
    /// The front of the queue tells it to those who are there. The others read all of it; where several need to read one
    /// queue at the same time, one of them reads it for all.
    pub(super) async fn sight(&self, claim: &Claim, mine: &Listed, since: i64) -> Result<Sight> {
        let reading = self.snapshots().of(&claim.name);
        let mut last = reading.lock().await;
        let known = last.as_ref().filter(|snapshot| snapshot.read_at >= since);
        if let Some(snapshot) = known {
            return Ok(snapshot.sight(&mine.key, mine.revision));
        }
        // Each other claim that is waiting for this reading has a share in it as well.
        let is_alone = Arc::strong_count(&reading) == 1;
        if is_alone && let Some(sight) = self.front(claim, mine).await? {
            return Ok(sight);
        }
        let snapshot = self.snapshot(&claim.name).await?;
        let sight = snapshot.sight(&mine.key, mine.revision);
        *last = Some(snapshot);
        Ok(sight)
    }

    /// Reads the front of a queue; `None` where the claim is further behind.
    async fn front(&self, claim: &Claim, mine: &Listed) -> Result<Option<Sight>> {
        let front = RangeRequest {
            sort_order: SortOrder::Ascend.into(),
            sort_target: SortTarget::Create.into(),
            ..queue_request(&keys::queue(self.prefix(), &claim.name), FEW)
        };
        let answer: RangeResponse = self.link.unary(RANGE, front).await?;
        let read_at = answer.header.map_or(0, |header| header.revision);
        let found = self.claims(&answer.kvs);
        let mine = found.iter().find(|listed| listed.key == mine.key).cloned();
        let tells = mine.is_some() || !answer.more;
        Ok(tells.then(|| Sight::new(mine, found, true, read_at)))
    }

    /// Reads the whole queue of a name.
    async fn snapshot(&self, name: &Name) -> Result<Arc<Snapshot>> {
        let request = queue_request(&keys::queue(self.prefix(), name), 0);
        let answer: RangeResponse = self.link.unary(RANGE, request).await?;
        let read_at = answer.header.map_or(0, |header| header.revision);
        let mut queue = self.claims(&answer.kvs);
        queue.sort_by_key(|listed| listed.revision);
        Ok(Arc::new(Snapshot { queue: Arc::new(queue), read_at }))
    }

    /// Says of each key when it was created.
    pub(super) async fn look(&self, keys: &[Vec<u8>]) -> Result<Vec<Seen>> {
        let mut seen = Vec::with_capacity(keys.len());
        for keys in keys.chunks(TOGETHER) {
            let success = keys.iter().map(|key| key_request(key)).collect();
            let answer = self.transaction(TxnRequest { success, ..TxnRequest::default() }).await?;
            let read_at = answer.header.map_or(0, |header| header.revision);
            seen.extend(ranges(answer.responses).into_iter().map(|range| Seen {
                created: range.kvs.first().map_or(0, |kv| kv.create_revision),
                read_at,
            }));
        }
        Ok(seen)
    }

    /// Reads the keys below `start` as of one revision, page by page.
    pub(super) async fn all_below(&self, start: &str, keys_only: bool) -> Result<Vec<KeyValue>> {
        let mut request = RangeRequest { keys_only, ..queue_request(start, PAGE) };
        let mut found = Vec::new();
        loop {
            let answer: RangeResponse = self.link.unary(RANGE, request.clone()).await?;
            request.revision = request.revision.max(answer.header.map_or(0, |header| header.revision));
            match answer.kvs.last().filter(|_| answer.more) {
                // The very next key there can be.
                Some(last) => request.key = [&last.key[..], &[0]].concat(),
                None => request.key.clear(),
            }
            found.extend(answer.kvs);
            if request.key.is_empty() {
                return Ok(found);
            }
        }
    }
}
