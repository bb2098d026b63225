use proptest::prelude::*;

use super::*;
use crate::backend::ClaimId;
use crate::queue::admit;

const READ: Permits = Permits::READ;
const WRITE: Permits = Permits::WRITE;
const MUTEX: Permits = Permits::MUTEX;

/// A claim of a process, by numbers.
fn claim(pid: u32, number: u64, held: bool) -> Entry {
    let owner = Owner { host: "db1".into(), pid: Some(pid), label: None };
    Entry::new(ClaimId::new(u128::from(pid), number).into(), held, Permits::MUTEX, owner)
}

/// The queue of each name, as what its processes ask for; those hold whom the store lets in.
fn graph_of(queues: &[(&str, Vec<(u32, Permits)>)]) -> WaitGraph {
    let queues: Vec<(Name, Vec<Entry>)> = queues
        .iter()
        .map(|(name, claims)| {
            let holding = admit(claims.iter().map(|(_, permits)| *permits));
            let entry = |(at, (pid, permits)): (usize, &(u32, Permits))| Entry {
                permits: *permits,
                ..claim(*pid, at as u64, at < holding)
            };
            (Name::new(name).unwrap(), claims.iter().enumerate().map(entry).collect())
        })
        .collect();
    WaitGraph::of(queues.iter().map(|(name, queue)| (name, &queue[..])))
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
fn a_wait_of_a_process_for_itself_is_no_deadlock_even_if_others_stand_between() {
    for queues in [
        &[("a", &[1, 1][..]), ("b", &[1, 1])][..],
        &[("a", &[1, 2, 1])],
        &[("a", &[1, 2, 1]), ("b", &[1, 1])],
        &[("a", &[1, 2, 1]), ("b", &[1, 3, 1])],
        &[("a", &[1, 2, 1]), ("b", &[1, 2, 1])],
        &[("a", &[1, 2, 1]), ("b", &[2, 3, 2])],
    ] {
        let graph = graph(queues);
        let no_cycles: &[Vec<Wait>] = &[];
        assert_eq!((graph.cycles(), graph.stuck()), (no_cycles, &[][..]), "{queues:?}");
        assert!(!graph.waits().is_empty());
    }
}

#[test]
fn threads_of_a_process_that_ask_for_what_it_holds_hide_no_deadlock() {
    let graph = graph(&[("a", &[1, 2, 1]), ("b", &[2, 1])]);
    let [cycle] = graph.cycles() else { panic!("{:?}", graph.cycles()) };
    assert_eq!(shown(cycle), ["2>a", "1>b"]);
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
    assert_eq!((graph.waits().len(), graph.cycles().len()), (3, 1));
    let foreign: Vec<_> = graph.waits().iter().map(|wait| wait.is_blocker_foreign).collect();
    assert_eq!(foreign, [false, false, true]);
}

#[test]
fn a_crowd_is_looked_through_in_a_moment() {
    let all: Vec<u32> = (1..=20_000).collect();
    let back: Vec<u32> = all.iter().rev().copied().collect();
    let graph = graph(&[("a", &all), ("b", &back)]);
    assert_eq!(graph.waits().len(), 2 * (all.len() - 1));
    assert_eq!(graph.cycles().len(), 1);
}

#[test]
fn a_writer_waits_for_each_reader() {
    let mutex = |claims: [u32; 2]| claims.map(|pid| (pid, MUTEX)).to_vec();
    for readers in [[1, 2], [2, 1]] {
        let [first, second] = readers.map(|pid| (pid, READ));
        let queues = [("m", mutex([3, 1])), ("rw", vec![first, second, (3, WRITE)])];
        let graph = graph_of(&queues);
        let [cycle] = graph.cycles() else { panic!("{:?}", graph.cycles()) };
        assert_eq!(shown(cycle), ["1>m", "3>rw"]);
        assert!(cycle.iter().all(|wait| wait.is_held));
    }
}

#[test]
fn a_reader_that_waits_for_others_hides_no_deadlock_of_a_writer_with_another_reader() {
    let graph = graph_of(&[
        ("m", vec![(3, MUTEX), (1, MUTEX)]),
        ("other", vec![(8, MUTEX), (2, MUTEX), (9, MUTEX)]),
        ("rw", vec![(1, READ), (2, READ), (3, WRITE)]),
        ("third", vec![(9, MUTEX), (8, MUTEX)]),
    ]);
    let cycles: Vec<Vec<String>> = graph.cycles().iter().map(|cycle| shown(cycle)).collect();
    assert_eq!(cycles.len(), 2, "{cycles:?}");
    assert!(cycles.contains(&vec!["1>m".to_owned(), "3>rw".to_owned()]), "{cycles:?}");
}

#[test]
fn a_permit_that_can_be_released_ends_the_wait_for_any() {
    let of_two = Permits::new(1, 2);
    let semaphore = |holders: [u32; 2]| holders.iter().chain(&[3]).map(|pid| (*pid, of_two)).collect();
    let mutex = ("mutex", vec![(3, MUTEX), (1, MUTEX)]);
    for holders in [[1, 2], [2, 1]] {
        let graph = graph_of(&[mutex.clone(), ("semaphore", semaphore(holders))]);
        assert_eq!((graph.cycles().len(), graph.stuck().len()), (0, 0), "the second holder releases");
    }
    // With the second one stuck too, nobody releases.
    let more = ("more", vec![(3, MUTEX), (2, MUTEX)]);
    let graph = graph_of(&[mutex, more, ("semaphore", semaphore([1, 2]))]);
    let [cycle] = graph.cycles() else { panic!("{:?}", graph.cycles()) };
    assert_eq!(shown(cycle), ["1>mutex", "3>semaphore"]);
}

#[test]
fn of_several_holders_those_that_alone_keep_a_claim_out_are_shown() {
    let (one, two) = (Permits::new(1, 3), Permits::new(2, 3));
    let graph = graph_of(&[
        ("m", vec![(3, MUTEX), (1, MUTEX)]),
        ("n", vec![(3, MUTEX), (2, MUTEX)]),
        ("s", vec![(2, two), (1, one), (3, two)]),
    ]);
    let [cycle] = graph.cycles() else { panic!("{:?}", graph.cycles()) };
    assert_eq!(shown(cycle), ["3>s", "2>n"], "beside the first, there is room for the third");
}

#[test]
fn who_waits_behind_a_claim_of_another_kind_waits_for_what_keeps_that_one_out() {
    let (one, two, all) = (Permits::new(1, 3), Permits::new(2, 3), Permits::new(3, 3));
    // The fourth is kept out by the first alone, which is in a deadlock of its own, and stands behind the
    // third, which is kept out by the second as well.
    let graph = graph_of(&[
        ("a", vec![(9, MUTEX), (1, MUTEX)]),
        ("b", vec![(1, MUTEX), (9, MUTEX)]),
        ("m", vec![(4, MUTEX), (2, MUTEX)]),
        ("s", vec![(1, two), (2, one), (3, all), (4, two)]),
    ]);
    let cycles: Vec<Vec<String>> = graph.cycles().iter().map(|cycle| shown(cycle)).collect();
    assert_eq!(cycles.len(), 2, "{cycles:?}");
    assert!(cycles.contains(&["2>m", "4>s", "3>s"].map(str::to_owned).to_vec()), "{cycles:?}");
}

#[test]
fn who_only_waits_in_between_is_no_part_of_a_deadlock() {
    let graph = graph(&[("a", &[1, 2, 4, 3]), ("b", &[3, 1])]);
    let [cycle] = graph.cycles() else { panic!("{:?}", graph.cycles()) };
    assert_eq!(shown(cycle), ["1>b", "3>a"]);
}

#[test]
fn who_is_behind_an_unknown_waiter_waits_for_what_that_one_waits_for() {
    let unknown = Entry::new(EntryKey::new("x"), false, WRITE, Owner::default());
    let reader = |pid, number, held| Entry { permits: READ, ..claim(pid, number, held) };
    let (a, b) = (Name::new("a").unwrap(), Name::new("b").unwrap());
    let queues = [
        (&a, vec![reader(1, 1, true), unknown, reader(2, 2, false)]),
        (&b, vec![claim(2, 3, true), claim(1, 4, false)]),
    ];
    let graph = WaitGraph::of(queues.iter().map(|(name, queue)| (*name, &queue[..])));
    assert_eq!(graph.cycles().len(), 1, "{graph:?}");
}

#[test]
fn a_second_look_keeps_the_deadlocks_alone_that_are_still_there() {
    let of_two = Permits::new(1, 2);
    let [m, n, s] = ["m", "n", "s"].map(|name| Name::new(name).unwrap());
    let permit = |pid, number, held| Entry { permits: of_two, ..claim(pid, number, held) };
    let queues = vec![
        (m, vec![claim(3, 1, true), claim(1, 2, false)]),
        (n, vec![claim(3, 3, true), claim(2, 4, false)]),
        (s, vec![permit(1, 5, true), permit(2, 6, true), permit(3, 7, false)]),
    ];
    let first = WaitGraph::of(queues.iter().map(|(name, queue)| (name, &queue[..])));
    let keys: HashSet<EntryKey> =
        queues.iter().flat_map(|(_, queue)| queue).map(|entry| entry.key.clone()).collect();
    let confirmed = |again: Vec<(Name, Vec<Entry>)>| {
        let mut graph = first.clone();
        graph.confirm(&keys, again);
        graph.cycles().len()
    };
    assert_eq!((first.stuck().len(), confirmed(queues.clone())), (3, 1));
    // Any wait and any holder that has gone is the end of it, also those that are not in the circle shown.
    for (name, place) in [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)] {
        let mut again = queues.clone();
        again[name].1.remove(place);
        assert_eq!(confirmed(again), 0, "{name} {place}");
    }
    // One has been granted what it waited for, and one has given up and asked again.
    let mut again = queues.clone();
    again[1].1[1].held = true;
    assert_eq!(confirmed(again), 0);
    let mut again = queues.clone();
    again[1].1[1] = claim(2, 9, false);
    assert_eq!(confirmed(again), 0);
}

#[test]
fn many_who_wait_behind_themselves_are_looked_through_in_a_moment() {
    let pids = 1..=300_u32;
    let queue: Vec<u32> = pids.clone().chain(pids.clone()).collect();
    let names: Vec<String> = (0..30).map(|number| format!("{number}")).collect();
    let queues: Vec<(&str, &[u32])> = names.iter().map(|name| (name.as_str(), &queue[..])).collect();
    assert!(graph(&queues).cycles().is_empty(), "the first one may release each");
    let back: Vec<u32> = queue.iter().rev().copied().collect();
    let queues: Vec<(&str, &[u32])> = queues.into_iter().chain([("back", &back[..])]).collect();
    assert_eq!(graph(&queues).cycles().len(), 1);
}

fn permits() -> impl Strategy<Value = Permits> {
    prop_oneof![
        Just(MUTEX),
        Just(READ),
        Just(WRITE),
        (1_u32..4)
            .prop_flat_map(|capacity| (1..=capacity).prop_map(move |count| Permits::new(count, capacity))),
    ]
}

/// The owners with a claim that no order of releases lets in, by trying every order. A claim that waits goes
/// once it has been let in. One that holds goes when the claims of its owner on other names have been let in.
fn dead(queues: &[Vec<(u32, Permits)>]) -> HashSet<u32> {
    let claims: Vec<(usize, usize)> =
        (0..queues.len()).flat_map(|name| (0..queues[name].len()).map(move |at| (name, at))).collect();
    let holding = |queue: &[(u32, Permits)]| admit(queue.iter().map(|(_, permits)| *permits));
    let begun: Vec<usize> = queues.iter().map(|queue| holding(queue)).collect();
    let bit = |claim: &(usize, usize)| 1_u64 << claims.iter().position(|other| other == claim).unwrap();
    let mut reached = HashSet::from([0_u64]);
    let mut next = vec![0_u64];
    let mut let_in = 0_u64;
    while let Some(gone) = next.pop() {
        let has = |claim: &(usize, usize)| {
            let (name, at) = *claim;
            let ahead = (0..=at).filter(|other| gone & bit(&(name, *other)) == 0);
            let ahead: Vec<(u32, Permits)> = ahead.map(|other| queues[name][other]).collect();
            gone & bit(claim) > 0 || holding(&ahead) == ahead.len()
        };
        let pid = |claim: &(usize, usize)| queues[claim.0][claim.1].0;
        for claim in claims.iter().filter(|claim| gone & bit(claim) == 0 && has(claim)) {
            let_in |= bit(claim);
            let is_held = claim.1 < begun[claim.0];
            let mut others = claims.iter().filter(|other| other.0 != claim.0 && pid(other) == pid(claim));
            if (!is_held || others.all(has)) && reached.insert(gone | bit(claim)) {
                next.push(gone | bit(claim));
            }
        }
    }
    claims.iter().filter(|claim| let_in & bit(claim) == 0).map(|claim| queues[claim.0][claim.1].0).collect()
}

/// The names of queues in a test.
fn named(queues: &[Vec<(u32, Permits)>]) -> Vec<(&'static str, Vec<(u32, Permits)>)> {
    ["a", "b", "c", "d", "e"].into_iter().zip(queues.iter().cloned()).collect()
}

fn queues(most: usize) -> impl Strategy<Value = Vec<Vec<(u32, Permits)>>> {
    prop::collection::vec(prop::collection::vec((1..6_u32, permits()), 0..most), 0..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn there_is_a_deadlock_iff_no_order_of_releases_lets_all_in(mut queues in queues(4)) {
        // One claim of each owner in a queue.
        for queue in &mut queues {
            let mut seen = HashSet::new();
            queue.retain(|(pid, _)| seen.insert(*pid));
        }
        let dead = dead(&queues);
        let graph = graph_of(&named(&queues));
        prop_assert_eq!(graph.cycles().is_empty(), dead.is_empty(), "{:?}", dead);
        for wait in graph.cycles().iter().flatten() {
            prop_assert!(dead.contains(&wait.waiter.pid.unwrap()), "{} is not dead: {:?}", wait, dead);
        }
    }

    #[test]
    fn circles_go_round_several_owners_and_names_that_wait_in_vain(queues in queues(5)) {
        // Here an owner waits for its own claims too.
        let dead = dead(&queues);
        let named = named(&queues);
        let graph = graph_of(&named);
        prop_assert_eq!(graph.cycles().is_empty(), graph.stuck().is_empty());
        for cycle in graph.cycles() {
            for (wait, next) in cycle.iter().zip(cycle.iter().cycle().skip(1)) {
                prop_assert_eq!(&wait.blocker, &next.waiter);
                prop_assert_ne!(&wait.blocker, &wait.waiter);
                prop_assert!(dead.contains(&wait.waiter.pid.unwrap()));
                let (_, queue) = named.iter().find(|(name, _)| *name == wait.name.as_str()).unwrap();
                let place = |key: &EntryKey| usize::from_str_radix(&key.as_str()[20..], 16).unwrap();
                let (waiter, blocker) = (place(&wait.claim), place(&wait.blocked_by));
                let holding = admit(queue.iter().map(|(_, permits)| *permits));
                prop_assert!(blocker < waiter && holding <= waiter);
                prop_assert_eq!(wait.is_held, blocker < holding);
            }
            let names: HashSet<&Name> = cycle.iter().map(|wait| &wait.name).collect();
            prop_assert!(names.len() > 1);
        }
    }
}
