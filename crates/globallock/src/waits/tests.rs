use proptest::prelude::*;

use super::*;
use crate::backend::ClaimId;

/// A claim of a process, by numbers.
fn claim(pid: u32, number: u64, held: bool) -> Entry {
    let owner = Owner { host: "db1".into(), pid: Some(pid), label: None };
    Entry::new(ClaimId::new(u128::from(pid), number).into(), held, Permits::MUTEX, owner)
}

/// The queue of each name, given as the processes in it; the first holds.
fn graph(queues: &[(&str, &[u32])]) -> WaitGraph {
    let queues: Vec<(Name, Vec<Entry>)> = queues
        .iter()
        .map(|(name, pids)| {
            let entries = pids.iter().enumerate().map(|(at, pid)| claim(*pid, at as u64, at == 0));
            (Name::new(name).unwrap(), entries.collect())
        })
        .collect();
    WaitGraph::of(queues.iter().map(|(name, queue)| (name, &queue[..])))
}

fn shown(cycle: &[Wait]) -> Vec<String> {
    cycle.iter().map(|wait| format!("{}>{}", wait.waiter.pid.unwrap(), wait.name.as_str())).collect()
}

#[test]
fn a_waiter_waits_for_the_claim_in_front() {
    let graph = graph(&[("a", &[1, 2, 3])]);
    let waits: Vec<String> = graph.waits().iter().map(Wait::to_string).collect();
    assert_eq!(
        waits,
        [
            "pid 2 on db1 waits for \"a\", held by pid 1 on db1",
            "pid 3 on db1 waits for \"a\", behind pid 2 on db1"
        ]
    );
    assert!(graph.cycles().is_empty());
}

#[test]
fn owners_that_wait_for_each_other_are_a_deadlock() {
    let graph = graph(&[("a", &[1, 2]), ("b", &[2, 3]), ("c", &[3, 1]), ("d", &[1, 9]), ("e", &[9])]);
    let [cycle] = graph.cycles() else { panic!("{:?}", graph.cycles()) };
    assert_eq!(shown(cycle), ["2>a", "1>c", "3>b"]);
}

#[test]
fn each_deadlock_is_told_once_and_by_the_shortest_way() {
    let graph = graph(&[
        ("a", &[1, 2]),
        ("b", &[2, 1]),
        ("c", &[2, 3]),
        ("d", &[3, 1]),
        ("x", &[5, 6]),
        ("y", &[6, 5]),
    ]);
    let cycles: Vec<Vec<String>> = graph.cycles().iter().map(|cycle| shown(cycle)).collect();
    assert_eq!(cycles, [vec!["2>a", "1>b"], vec!["6>x", "5>y"]]);
}

#[test]
fn a_wait_of_a_process_for_itself_is_no_deadlock() {
    assert_eq!(graph(&[("a", &[1, 1]), ("b", &[1, 1])]), WaitGraph::default());
}

#[test]
fn managers_are_told_apart_where_no_process_is_known() {
    let of = |manager, number, held| {
        Entry::new(ClaimId::new(manager, number).into(), held, Permits::MUTEX, Owner::default())
    };
    let foreign =
        || Entry::new(EntryKey::new("x"), true, Permits::MUTEX, Owner::default().with_label("cron"));
    let [a, b, c] = ["a", "b", "c"].map(|name| Name::new(name).unwrap());
    let queues = [
        (&a, vec![of(1, 1, true), of(2, 1, false)]),
        (&b, vec![of(2, 2, true), of(1, 2, false)]),
        (&c, vec![foreign(), of(1, 3, false)]),
    ];
    let graph = WaitGraph::of(queues.iter().map(|(name, queue)| (*name, &queue[..])));
    assert_eq!((graph.waits().len(), graph.cycles().len()), (2, 1));
}

#[test]
fn a_crowd_is_looked_through_in_a_moment() {
    let all: Vec<u32> = (1..=20_000).collect();
    let back: Vec<u32> = all.iter().rev().copied().collect();
    let graph = graph(&[("a", &all), ("b", &back)]);
    assert_eq!(graph.waits().len(), 2 * (all.len() - 1));
    assert_eq!(graph.cycles().len(), 1);
}

/// Whether parties reach each other, by trying every way.
fn reaches(edges: &[(u32, u32)], from: u32, to: u32) -> bool {
    let mut seen = vec![from];
    let mut at = 0;
    while at < seen.len() {
        for (waiter, next) in edges {
            if *waiter == seen[at] && !seen.contains(next) {
                seen.push(*next);
            }
        }
        at += 1;
    }
    edges.iter().any(|(waiter, blocker)| seen.contains(waiter) && *blocker == to)
}

proptest! {
    #[test]
    fn every_group_that_waits_for_itself_has_one_true_circle(
        queues in prop::collection::vec(prop::collection::vec(1..9_u32, 1..5), 0..9),
    ) {
        let names: Vec<String> = (0..queues.len()).map(|number| number.to_string()).collect();
        let queues: Vec<(&str, &[u32])> =
            names.iter().zip(&queues).map(|(name, queue)| (name.as_str(), &queue[..])).collect();
        let graph = graph(&queues);
        let edges: Vec<(u32, u32)> =
            graph.waits().iter().map(|wait| (wait.waiter.pid.unwrap(), wait.blocker.pid.unwrap())).collect();
        let mut in_cycles = Vec::new();
        for cycle in graph.cycles() {
            for (wait, next) in cycle.iter().zip(cycle.iter().cycle().skip(1)) {
                prop_assert!(graph.waits().contains(wait));
                prop_assert_eq!(&wait.blocker, &next.waiter);
            }
            in_cycles.push(cycle[0].waiter.pid.unwrap());
        }
        for pid in 1..9 {
            let groups = in_cycles.iter().filter(|other| {
                reaches(&edges, pid, **other) && reaches(&edges, **other, pid)
            });
            prop_assert_eq!(groups.count(), usize::from(reaches(&edges, pid, pid)), "{}", pid);
        }
    }
}
