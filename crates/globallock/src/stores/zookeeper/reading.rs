//! Reads of a lock's queue, each shared by all tasks that need it at the same time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::config::Config;
use super::failure::Failure;
use super::naming::{Layout, ListedClaim};
use super::positions::Node;
use super::session::Session;
use crate::backend::{Claim, ClaimId};
use crate::sync::{Instant, Mutex};

/// The claims of a lock, as they were read.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// When the read was requested.
    pub(super) requested_at: Instant,
    /// Sorted by sequence number as an `i32`, so negative numbers come first.
    queue: Vec<ListedClaim>,
}

impl Snapshot {
    pub(super) fn new(layout: &Layout, children: &[String], requested_at: Instant) -> Self {
        let mut queue: Vec<ListedClaim> = children.iter().filter_map(|node| layout.parse(node)).collect();
        queue.sort_unstable_by(|one, other| one.order().cmp(&other.order()));
        Snapshot { requested_at, queue }
    }

    /// The claims ahead of a node, from the front of the queue; `None` if the node itself is not there.
    ///
    /// Sequence numbers wrap. So the order is measured from the node itself: the half of all numbers that
    /// lies below its own is ahead of it. Measured from any other node, the order would not be safe: another
    /// program may create a node with a number that no server has assigned, and then two claims could each be
    /// ahead of the other.
    pub(super) fn ahead(
        &self,
        node: &Node,
    ) -> Option<impl DoubleEndedIterator<Item = &ListedClaim> + Clone + use<'_>> {
        let own = node.listed.order();
        let index = self.queue.binary_search_by(|listed| listed.order().cmp(&own)).ok()?;
        let first = own.0.wrapping_add(i32::MIN);
        let start = self.queue.partition_point(|listed| listed.order().0 < first);
        let (wrapped, rest) =
            if start <= index { (0..0, start..index) } else { (start..self.queue.len(), 0..index) };
        Some(self.queue[wrapped].iter().chain(&self.queue[rest]))
    }

    /// The nodes with this claim id.
    pub(super) fn of(&self, id: ClaimId) -> impl Iterator<Item = &ListedClaim> {
        self.queue.iter().filter(move |listed| listed.id == Some(id))
    }
}

type ReadResult = Result<Arc<Snapshot>, Failure>;
/// The senders of tasks that wait for the next read, by the session's id and the path of the lock's node.
type Waiting = HashMap<(i64, String), Vec<oneshot::Sender<ReadResult>>>;

/// The reads in flight. A lock has an entry while one is in flight; tasks that are too late for it share the
/// next one.
pub(super) struct SharedReads {
    config: Arc<Config>,
    by_lock: Mutex<Waiting>,
}

impl SharedReads {
    pub(super) fn new(config: Arc<Config>) -> Arc<Self> {
        Arc::new(SharedReads { config, by_lock: Mutex::default() })
    }

    /// Takes the senders that wait for the next read. Without any, removes the entry: no read follows.
    fn next(&self, of: &(i64, String)) -> Vec<oneshot::Sender<ReadResult>> {
        let mut by_lock = self.by_lock.lock();
        let next = by_lock.get_mut(of).map(std::mem::take).unwrap_or_default();
        if next.is_empty() {
            by_lock.remove(of);
        }
        next
    }

    /// Reads the queue of a lock as it is after this call.
    ///
    /// A call that comes while a read is in flight shares the next read, because the one in flight may show
    /// the queue as it was before the call.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn read(self: &Arc<Self>, session: &Arc<Session>, lock: &str) -> ReadResult {
        let (sender, answer) = oneshot::channel();
        let of = (session.id(), lock.to_owned());
        let starts = {
            let mut by_lock = self.by_lock.lock();
            let in_flight = by_lock.entry(of.clone());
            let starts = matches!(in_flight, Entry::Vacant(_));
            in_flight.or_default().push(sender);
            starts
        };
        if starts {
            let (reads, session) = (Arc::clone(self), Arc::clone(session));
            tokio::spawn(async move {
                loop {
                    let next = reads.next(&of);
                    if next.is_empty() {
                        return;
                    }
                    let read = reads.read_now(&session, &of.1).await;
                    for sender in next {
                        // An error means that the caller is gone, and needs no answer.
                        let _ = sender.send(read.clone());
                    }
                }
            });
        }
        answer.await.unwrap_or_else(|_| Err(Failure::Lost("the runtime is shutting down".to_owned())))
    }

    async fn read_now(&self, session: &Session, lock: &str) -> ReadResult {
        let requested_at = Instant::now();
        let children = session.children_synced(lock).await?;
        Ok(Arc::new(Snapshot::new(&self.config.layout, &children, requested_at)))
    }

    /// The paths of the nodes with the claim's id, as the leader knows them.
    pub(super) async fn nodes_of(
        self: &Arc<Self>,
        claim: &Claim,
        session: &Arc<Session>,
    ) -> Result<Vec<String>, Failure> {
        let lock = self.config.layout.lock(&claim.name);
        let snapshot = self.read(session, &lock).await?;
        Ok(snapshot.of(claim.id).map(|listed| listed.path(&lock)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::zookeeper::naming::Naming;
    use proptest::prelude::*;

    fn node(layout: &Layout, name: &str) -> Node {
        Node { path: format!("/{name}"), czxid: 1, listed: layout.parse(name).unwrap() }
    }

    fn layout() -> Layout {
        Layout { root: String::new(), naming: Naming::Kazoo }
    }

    #[test]
    fn a_forged_number_does_not_change_the_order_of_two_claims() {
        let layout = layout();
        let [one, other] = ["a__lock__0000000000", "b__lock__0000000021"].map(str::to_owned);
        for forged in [i32::MIN, i32::MIN + 1, i32::MIN + 22, -1, 7, i32::MAX] {
            let nodes = [format!("x__lock__{forged:010}"), one.clone(), other.clone()];
            let snapshot = Snapshot::new(&layout, &nodes, Instant::now());
            let ahead = |own: &String| -> Vec<String> {
                let ahead = snapshot.ahead(&node(&layout, own)).unwrap();
                ahead.map(|listed| listed.node.clone()).collect()
            };
            assert!(ahead(&other).contains(&one) && !ahead(&one).contains(&other), "{forged}");
        }
    }

    #[test]
    fn of_two_claims_half_of_all_numbers_apart_one_is_ahead() {
        let layout = layout();
        let ahead = |own: i32| -> Vec<i32> {
            let name = |number: i32| format!("x__lock__{number:010}");
            let nodes = [own.wrapping_add(i32::MIN), own, own.wrapping_add(i32::MAX)].map(name);
            let snapshot = Snapshot::new(&layout, &nodes, Instant::now());
            let own = node(&layout, &name(own));
            snapshot.ahead(&own).unwrap().map(|listed| listed.sequence).collect()
        };
        for own in [0, 5, -5, i32::MAX, i32::MIN] {
            assert_eq!(ahead(own), [own.wrapping_add(i32::MIN)], "ahead of {own}");
        }
    }

    proptest! {
        #[test]
        fn the_half_of_all_numbers_below_a_claim_is_ahead_in_order(
            mut numbers in prop::collection::btree_set(
                prop_oneof![any::<i32>(), -9..9, i32::MAX - 9..i32::MAX],
                1..20,
            ),
            own in any::<i32>(),
        ) {
            let layout = layout();
            let name = |number: i32| format!("x__lock__{number:010}");
            let absent = Snapshot::new(&layout, &[], Instant::now());
            prop_assert!(absent.ahead(&node(&layout, &name(own))).is_none());
            numbers.insert(own);
            let nodes: Vec<String> = numbers.iter().map(|number| name(*number)).collect();
            let snapshot = Snapshot::new(&layout, &nodes, Instant::now());
            let ahead = snapshot.ahead(&node(&layout, &name(own))).unwrap();
            let found: Vec<i32> = ahead.map(|listed| listed.sequence).collect();
            let is_ahead = |number: &i32| number.wrapping_sub(own) < 0;
            let mut expected: Vec<i32> = numbers.into_iter().filter(is_ahead).collect();
            expected.sort_by_key(|number| number.wrapping_sub(own));
            prop_assert_eq!(found, expected);
        }
    }
}
