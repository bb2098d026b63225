//! Reading the queue of a lock, once for all who want to know it at the same time.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::Shared;
use super::connection::Failure;
use super::naming::{Layout, Listed};
use super::places::Node;
use super::session::Session;
use super::wire::{Reader, Refusal, Request};
use crate::backend::ClaimId;

/// The claims below a lock, as they were read.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// When that was asked for.
    pub(super) asked_at: Instant,
    /// By their numbers, the negative ones first.
    queue: Vec<Listed>,
}

impl Snapshot {
    pub(super) fn new(layout: &Layout, children: &[String], asked_at: Instant) -> Self {
        let mut queue: Vec<Listed> = children.iter().filter_map(|node| layout.parse(node)).collect();
        queue.sort_unstable_by(|one, other| one.order().cmp(&other.order()));
        Snapshot { asked_at, queue }
    }

    /// Those in front of a node, from the front to there; `None` if the node itself is not there.
    ///
    /// Numbers count around that of the node, since they wrap: half of all are in front of it. Others may make nodes with
    /// numbers that no server has given out, and around those two claims could each be in front of the other.
    pub(super) fn ahead(
        &self,
        node: &Node,
    ) -> Option<impl DoubleEndedIterator<Item = &Listed> + Clone + use<'_>> {
        let mine = node.listed.order();
        let place = self.queue.binary_search_by(|listed| listed.order().cmp(&mine)).ok()?;
        let first = mine.0.wrapping_add(i32::MIN);
        let start = self.queue.partition_point(|listed| listed.order().0 < first);
        let (wrapped, plain) =
            if start <= place { (0..0, start..place) } else { (start..self.queue.len(), 0..place) };
        Some(self.queue[wrapped].iter().chain(&self.queue[plain]))
    }

    /// The nodes that carry a claim's id.
    pub(super) fn of(&self, id: ClaimId) -> impl Iterator<Item = &Listed> {
        self.queue.iter().filter(move |listed| listed.id == Some(id))
    }
}

type Answer = Result<Arc<Snapshot>, Failure>;
/// Those who wait for a reading, by the session and the lock's node.
type Waiting = HashMap<(i64, String), Vec<oneshot::Sender<Answer>>>;

/// The readings under way, each with those who came too late for it: they share the next.
#[derive(Default)]
pub(super) struct Readings {
    by_lock: Mutex<Waiting>,
}

impl Readings {
    fn by_lock(&self) -> MutexGuard<'_, Waiting> {
        // No code panics while it holds the lock, so a poisoned map is still whole.
        self.by_lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who wait for the next reading; with nobody there, none is under way any more.
    fn next(&self, of: &(i64, String)) -> Vec<oneshot::Sender<Answer>> {
        let mut by_lock = self.by_lock();
        let next = by_lock.get_mut(of).map(std::mem::take).unwrap_or_default();
        if next.is_empty() {
            by_lock.remove(of);
        }
        next
    }
}

impl Shared {
    /// Reads the queue of a lock as it is now, after the leader has told that the session lives.
    ///
    /// Whoever asks while a reading is under way shares the next one: what was read before the question says nothing.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn read(self: &Arc<Self>, session: &Arc<Session>, lock: &str) -> Answer {
        let (sender, answer) = oneshot::channel();
        let of = (session.id(), lock.to_owned());
        let begins = match self.readings.by_lock().entry(of.clone()) {
            Entry::Occupied(mut under_way) => {
                under_way.get_mut().push(sender);
                false
            }
            Entry::Vacant(none) => {
                none.insert(vec![sender]);
                true
            }
        };
        if begins {
            let (shared, session) = (Arc::clone(self), Arc::clone(session));
            tokio::spawn(async move {
                loop {
                    let next = shared.readings.next(&of);
                    if next.is_empty() {
                        return;
                    }
                    let read = shared.read_now(&session, &of.1).await;
                    for sender in next {
                        // Whoever does not wait any more needs no answer.
                        let _ = sender.send(read.clone());
                    }
                }
            });
        }
        answer.await.unwrap_or_else(|_| Err(Failure::Lost("the runtime ends".to_owned())))
    }

    async fn read_now(&self, session: &Session, lock: &str) -> Answer {
        let synced = session.send(Request::sync(lock));
        let listed = session.send(Request::children(lock));
        let asked_at = synced.asked_at;
        session.answer(synced).await?;
        let children = match session.answer(listed).await {
            Ok(children) => Reader(&children).children()?,
            Err(Failure::Refused(Refusal::NO_NODE)) => Vec::new(),
            Err(failure) => return Err(failure),
        };
        Ok(Arc::new(Snapshot::new(&self.config.layout, &children, asked_at)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::zookeeper::naming::Naming;
    use proptest::prelude::*;

    fn node(layout: &Layout, name: &str) -> Node {
        Node { path: format!("/{name}"), created: 1, listed: layout.parse(name).unwrap() }
    }

    fn layout() -> Layout {
        Layout { root: String::new(), naming: Naming::Kazoo }
    }

    #[test]
    fn numbers_from_nowhere_change_nothing_between_two_claims() {
        let layout = layout();
        let [one, other] = ["a__lock__0000000000", "b__lock__0000000021"].map(str::to_owned);
        for number in [i32::MIN, i32::MIN + 1, i32::MIN + 22, -1, 7, i32::MAX] {
            let nodes = [format!("x__lock__{number:010}"), one.clone(), other.clone()];
            let snapshot = Snapshot::new(&layout, &nodes, Instant::now());
            let ahead = |mine: &String| -> Vec<String> {
                let ahead = snapshot.ahead(&node(&layout, mine)).unwrap();
                ahead.map(|listed| listed.node.clone()).collect()
            };
            assert!(ahead(&other).contains(&one) && !ahead(&one).contains(&other), "{number}");
        }
    }

    #[test]
    fn of_two_that_are_half_of_all_numbers_apart_one_is_in_front() {
        let layout = layout();
        let ahead = |mine: i32| -> Vec<i32> {
            let name = |number: i32| format!("x__lock__{number:010}");
            let nodes = [mine.wrapping_add(i32::MIN), mine, mine.wrapping_add(i32::MAX)].map(name);
            let snapshot = Snapshot::new(&layout, &nodes, Instant::now());
            let mine = node(&layout, &name(mine));
            snapshot.ahead(&mine).unwrap().map(|listed| listed.sequence).collect()
        };
        for mine in [0, 5, -5, i32::MAX, i32::MIN] {
            assert_eq!(ahead(mine), [mine.wrapping_add(i32::MIN)], "in front of {mine}");
        }
    }

    proptest! {
        #[test]
        fn those_in_front_are_half_of_all_numbers_in_their_order(
            mut numbers in prop::collection::btree_set(prop_oneof![any::<i32>(), -9..9, i32::MAX - 9..i32::MAX], 1..20),
            mine in any::<i32>(),
        ) {
            let layout = layout();
            let name = |number: i32| format!("x__lock__{number:010}");
            let absent = Snapshot::new(&layout, &[], Instant::now());
            prop_assert!(absent.ahead(&node(&layout, &name(mine))).is_none());
            numbers.insert(mine);
            let nodes: Vec<String> = numbers.iter().map(|number| name(*number)).collect();
            let snapshot = Snapshot::new(&layout, &nodes, Instant::now());
            let found: Vec<i32> = snapshot.ahead(&node(&layout, &name(mine))).unwrap().map(|listed| listed.sequence).collect();
            let mut expected: Vec<i32> = numbers.into_iter().filter(|number| number.wrapping_sub(mine) < 0).collect();
            expected.sort_by_key(|number| number.wrapping_sub(mine));
            prop_assert_eq!(found, expected);
        }
    }
}
