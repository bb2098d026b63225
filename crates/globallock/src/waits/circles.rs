//! The circles among claims that wait in vain.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use super::reduction::{Place, Reduction};
use crate::queue::admit;

/// A claim waits for another one of the same queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) name: usize,
    /// The place of the claim that waits.
    pub(super) waiter: usize,
    /// The place of the claim that it waits for.
    pub(super) blocker: usize,
}

/// What waits: a claim, by its name and place; or an owner that keeps something, with all of its claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Node {
    Claim(usize, usize),
    Owner(usize),
}

/// One circle for each group of claims of which each waits, over others, for every other one.
///
/// A claim waits for every tied holder that alone keeps it out, and if none does, for all of them together;
/// and it waits for what those wait for who are in front of it. So that crowds make few edges, a claim leaves
/// it to the last one of its kind in front of it to wait for those in front of that. The cost is the claims
/// of a name times the kinds of claims on it.
pub(super) fn circles(left: &Reduction, names: usize) -> Vec<Vec<Step>> {
    let mut edges = Edges::default();
    let places: Vec<Vec<bool>> = (0..names).map(|name| left.stuck_places(name)).collect();
    // The claims by which each owner is stuck.
    let mut stuck: BTreeMap<usize, Vec<(usize, usize)>> = BTreeMap::new();
    for (name, places) in places.iter().enumerate() {
        for (at, _) in places.iter().enumerate().filter(|(_, is_stuck)| **is_stuck) {
            stuck.entry(left.queue(name)[at].party).or_default().push((name, at));
        }
    }
    for (name, is_stuck) in places.iter().enumerate() {
        let queue = left.queue(name);
        for (waiter, _) in queue.iter().enumerate().filter(|(at, _)| is_stuck[*at]) {
            for blocker in in_front(left, name, is_stuck, waiter) {
                let from = Node::Claim(name, waiter);
                let step = Some(Step { name, waiter, blocker });
                if is_stuck[blocker] {
                    edges.add(from, Node::Claim(name, blocker), step);
                    continue;
                }
                let party = queue[blocker].party;
                if !left.stuck(party).contains(&name) {
                    edges.add(from, Node::Owner(party), step);
                    continue;
                }
                // Its claims on the same name are those of other threads.
                for (other, at) in stuck[&party].iter().filter(|(other, _)| *other != name) {
                    edges.add(from, Node::Claim(*other, *at), step);
                }
            }
        }
    }
    for (party, claims) in &stuck {
        claims.iter().for_each(|(name, at)| edges.add(Node::Owner(*party), Node::Claim(*name, *at), None));
    }
    edges.cycles().into_iter().map(|cycle| joined(left, &cycle)).collect()
}

fn excludes(one: &Place, other: &Place) -> bool {
    admit([one.permits, other.permits]) < 2
}

/// For which claims in front of it a claim waits.
fn in_front(left: &Reduction, name: usize, is_stuck: &[bool], waiter: usize) -> Vec<usize> {
    let queue = left.queue(name);
    let mine = &queue[waiter];
    let (mut behind, mut kept) = (Vec::new(), Vec::new());
    for at in (0..waiter).rev() {
        let other = &queue[at];
        let is_same = other.permits == mine.permits;
        if is_stuck[at] {
            if is_same || other.party != mine.party {
                behind.push(at);
            }
            if is_same {
                break;
            }
        } else if other.party != mine.party && left.is_tied(other, name) {
            kept.push(at);
        }
    }
    if kept.iter().any(|at| excludes(&queue[*at], mine)) {
        kept.retain(|at| excludes(&queue[*at], mine));
    }
    behind.extend(kept);
    behind
}

/// A circle without those who only stand between two others in one queue.
fn joined(left: &Reduction, circle: &[Step]) -> Vec<Step> {
    let mut joined: Vec<Step> = Vec::with_capacity(circle.len());
    let take = |joined: &mut Vec<Step>, next: Step| {
        if let Some(last) = joined.last_mut()
            && (last.name, last.blocker) == (next.name, next.waiter)
        {
            let queue = left.queue(last.name);
            let [mine, between, other] = [last.waiter, last.blocker, next.blocker].map(|at| &queue[at]);
            let is_kept_out = excludes(other, mine) || !excludes(between, mine);
            if mine.party == between.party || (is_kept_out && mine.party != other.party) {
                last.blocker = next.blocker;
                return;
            }
        }
        joined.push(next);
    };
    // It begins where one goes from one name to another.
    let is_turn = |at: &usize| {
        let before = circle[(at + circle.len() - 1) % circle.len()];
        (before.name, before.blocker) != (circle[*at].name, circle[*at].waiter)
    };
    let begin = (0..circle.len()).find(is_turn).unwrap_or(0);
    circle.iter().cycle().skip(begin).take(circle.len()).for_each(|step| take(&mut joined, *step));
    joined
}

/// The nodes by number, and whom each waits for, by which step.
#[derive(Debug, Default)]
struct Edges {
    numbers: HashMap<Node, usize>,
    of: Vec<Vec<(usize, Option<Step>)>>,
}

impl Edges {
    fn number(&mut self, node: Node) -> usize {
        let number = *self.numbers.entry(node).or_insert(self.of.len());
        self.of.resize(self.numbers.len(), Vec::new());
        number
    }

    fn add(&mut self, from: Node, to: Node, step: Option<Step>) {
        let (from, to) = (self.number(from), self.number(to));
        self.of[from].push((to, step));
    }

    /// For each group of nodes of which each leads to every other one, a circle of its first node, as steps.
    fn cycles(&self) -> Vec<Vec<Step>> {
        let groups = self.groups();
        let mut told = HashSet::new();
        // A group of one has no circle, because nothing leads to itself.
        let starts = (0..self.of.len()).filter(|node| told.insert(groups[*node]));
        starts.filter_map(|start| self.shortest_cycle(start, &groups)).collect()
    }

    /// The group of each node: Kosaraju's algorithm, as in Aho, Hopcroft and Ullman, "Data Structures and
    /// Algorithms" (1983), section 6.7.
    fn groups(&self) -> Vec<usize> {
        let mut left = Vec::with_capacity(self.of.len());
        let mut seen = vec![false; self.of.len()];
        for start in 0..self.of.len() {
            let mut path = vec![(start, 0)];
            while let Some((node, next)) = path.pop() {
                if next == 0 && std::mem::replace(&mut seen[node], true) {
                    continue;
                }
                match self.of[node].get(next) {
                    Some((to, _)) => path.extend([(node, next + 1), (*to, 0)]),
                    None => left.push(node),
                }
            }
        }
        let mut back = vec![Vec::new(); self.of.len()];
        for (from, edges) in self.of.iter().enumerate() {
            edges.iter().for_each(|(to, _)| back[*to].push(from));
        }
        let mut groups = vec![None; self.of.len()];
        for start in left.into_iter().rev() {
            let mut next = vec![start];
            while let Some(node) = next.pop() {
                if groups[node].is_none() {
                    groups[node] = Some(start);
                    next.extend(&back[node]);
                }
            }
        }
        groups.into_iter().flatten().collect()
    }

    /// The steps that lead from a node to itself by the fewest edges, found by breadth. Another circle of the
    /// same group may have fewer.
    fn shortest_cycle(&self, start: usize, groups: &[usize]) -> Option<Vec<Step>> {
        let mut came_by: HashMap<usize, (usize, Option<Step>)> = HashMap::new();
        let mut next = VecDeque::from([start]);
        while let Some(node) = next.pop_front() {
            for &(to, step) in self.of[node].iter().filter(|(to, _)| groups[*to] == groups[start]) {
                if to == start {
                    let before = std::iter::successors(came_by.get(&node), |(before, _)| came_by.get(before));
                    let mut cycle: Vec<Option<Step>> = before.map(|(_, step)| *step).collect();
                    cycle.reverse();
                    cycle.push(step);
                    return Some(cycle.into_iter().flatten().collect());
                }
                came_by.entry(to).or_insert_with(|| {
                    next.push_back(to);
                    (node, step)
                });
            }
        }
        None
    }
}
