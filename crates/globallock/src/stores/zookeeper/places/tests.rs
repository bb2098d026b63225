use super::*;
use crate::stores::zookeeper::naming::{Layout, Naming};
use crate::stores::zookeeper::scripted::claim;
use proptest::prelude::*;
use std::time::Duration;

const MUTEX: Permits = Permits { count: 1, capacity: 1 };

fn layout() -> Layout {
    Layout { root: String::new(), naming: Naming::Kazoo }
}

/// The node of a claim with this number among those of its lock.
fn node(claim: &Claim, sequence: i32) -> Node {
    let name = format!("{}{sequence:010}", layout().claim(claim));
    let listed = layout().parse(&name).unwrap();
    Node { path: format!("/a/{name}"), created: 1000 + i64::from(sequence), listed }
}

fn session() -> Arc<Session> {
    Session::detached(1, Duration::from_secs(60))
}

fn snapshot(nodes: &[&Node]) -> Snapshot {
    let children: Vec<String> = nodes.iter().map(|node| node.listed.node.clone()).collect();
    Snapshot::new(&layout(), &children, Instant::now())
}

fn gone(node: &Node) -> [Vec<u8>; 1] {
    [node.path.clone().into_bytes()]
}

/// A claim, and its node, that a session has made.
fn made(places: &mut Places, session: &Arc<Session>, sequence: i32) -> (Claim, Node) {
    let claim = claim(u64::from(sequence.unsigned_abs()), MUTEX);
    let node = node(&claim, sequence);
    places.begin(&claim, session);
    places.made(claim.id, session, node.clone());
    (claim, node)
}

/// A holder, and a claim of the same session right behind it.
fn holder_and_waiter(places: &mut Places, session: &Arc<Session>, second: i32) -> [(Claim, Node); 2] {
    let (holder, first) = made(places, session, 1);
    assert!(matches!(places.note(&holder, &first, &snapshot(&[&first])), ClaimStatus::Held(_)));
    let (waiter, node) = made(places, session, second);
    assert_eq!(places.settle(&waiter, Instant::now()), Some(ClaimStatus::Waiting), "without reading");
    [(holder, first), (waiter, node)]
}

fn takes_out(places: &mut Places, session: &Session, claim: &Claim, node: &Node) {
    places.get_mut(claim.id).unwrap().leaves = true;
    places.taken_out(claim.id, session, Some(node));
}

#[test]
fn a_claim_is_granted_by_the_departure_of_the_holder_of_the_number_before_its_own() {
    let (mut places, session) = (Places::default(), session());
    let [(holder, first), (waiter, _)] = holder_and_waiter(&mut places, &session, 2);
    takes_out(&mut places, &session, &holder, &first);
    assert!(matches!(places.advance(&waiter, &gone(&first)), Some(ClaimStatus::Held(_))));
}

#[test]
fn a_claim_with_room_for_others_in_front_is_not_granted_without_reading() {
    let (mut places, session) = (Places::default(), session());
    let [(holder, first), (waiter, _)] = holder_and_waiter(&mut places, &session, 3);
    takes_out(&mut places, &session, &holder, &first);
    assert_eq!(places.advance(&waiter, &gone(&first)), None);
}

#[test]
fn the_end_of_a_claim_of_ours_that_nobody_took_out_grants_nothing() {
    let (mut places, session) = (Places::default(), session());
    let [(_, first), (waiter, _)] = holder_and_waiter(&mut places, &session, 2);
    assert_eq!(places.advance(&waiter, &gone(&first)), None);
    // Nor does it after a renewal has found it gone, and it is forgotten.
    let [(holder, first), (waiter, _)] = holder_and_waiter(&mut places, &session, 2);
    places.found_gone(holder.id, &session, Some(&first));
    assert_eq!(places.advance(&waiter, &gone(&first)), None);
}

#[test]
fn a_waiter_that_gives_up_leaves_the_one_behind_it_whom_it_waited_for() {
    let (mut places, session) = (Places::default(), session());
    let [(_, first), (second, node)] = holder_and_waiter(&mut places, &session, 5);
    let (third, _) = made(&mut places, &session, 9);
    takes_out(&mut places, &session, &second, &node);
    assert_eq!(places.advance(&third, &gone(&node)), Some(ClaimStatus::Waiting), "without reading");
    assert_eq!(places.get(third.id).unwrap().blockers(), [first.listed.node.as_str()]);
}

#[test]
fn what_was_found_gone_is_forgotten_only_if_it_was_what_was_asked_about() {
    let (mut places, session) = (Places::default(), session());
    let (claim, old) = made(&mut places, &session, 1);
    // Asked for again since: under way, then made, in this session and in a newer one.
    let newer = Session::detached(2, Duration::from_secs(60));
    for session in [&session, &newer] {
        places.begin(&claim, session);
        places.found_gone(claim.id, session, Some(&old));
        assert!(places.get(claim.id).is_some(), "its making is under way");
        let new = node(&claim, 2);
        places.made(claim.id, session, new.clone());
        places.found_gone(claim.id, session, Some(&old));
        places.found_gone(claim.id, session, None);
        assert_eq!(places.note(&claim, &old, &snapshot(&[])), ClaimStatus::Waiting, "what was read is older");
        assert_eq!(places.get(claim.id).unwrap().node.as_ref(), Some(&new));
    }
    let new = node(&claim, 2);
    places.found_gone(claim.id, &session, Some(&new));
    assert!(places.get(claim.id).is_some(), "the end of the older session is not its end");
    places.taken_out(claim.id, &session, Some(&new));
    assert!(places.get(claim.id).is_some(), "nor is the departure of the older claim");
    places.made(claim.id, &session, old);
    assert_eq!(places.get(claim.id).unwrap().node.as_ref(), Some(&new), "a late answer changes nothing");
    places.found_gone(claim.id, &newer, Some(&new));
    assert!(places.get(claim.id).is_none());
    assert!(places.lines.is_empty(), "{:?}", places.lines);
}

#[test]
fn a_claim_is_told_whom_of_its_session_it_joins() {
    let (mut places, session) = (Places::default(), session());
    let [first, second, third, other] = [1, 2, 3, 4].map(|number| claim(number, MUTEX));
    assert_eq!(places.begin(&first, &session), Company::Nobody);
    assert_eq!(places.begin(&second, &session), Company::UnderWay);
    let node = node(&first, 1);
    places.made(first.id, &session, node.clone());
    assert_eq!(places.begin(&third, &session), Company::Known(node.path));
    let elsewhere = Claim { name: Name::new("b").unwrap(), ..other };
    assert_eq!(places.begin(&elsewhere, &session), Company::Nobody, "another lock has its own queue");
    places.get_mut(first.id).unwrap().leaves = true;
    assert_eq!(places.begin(&third, &session), Company::UnderWay, "one that leaves is no company");
    for id in [second.id, third.id] {
        places.found_gone(id, &session, None);
    }
    assert_eq!(places.begin(&third, &session), Company::Nobody);
}

#[test]
fn only_the_node_that_was_asked_for_is_taken_for_the_claims_own() {
    let (mut places, session) = (Places::default(), session());
    let newer = Session::detached(2, Duration::from_secs(60));
    let claim = claim(1, MUTEX);
    places.begin(&claim, &newer);
    places.made(claim.id, &session, node(&claim, 1));
    assert_eq!(places.get(claim.id).unwrap().node, None, "an older session's node ends with that session");
    places.made(claim.id, &newer, node(&claim, 2));
    places.made(claim.id, &newer, node(&claim, 3));
    assert_eq!(places.get(claim.id).unwrap().node, Some(node(&claim, 2)), "the first node is the claim's");
}

#[test]
fn a_claim_that_was_never_made_is_forgotten_and_a_made_one_is_not() {
    let (mut places, session) = (Places::default(), session());
    let claim = claim(1, MUTEX);
    places.begin(&claim, &session);
    places.never_made(claim.id, &Session::detached(2, Duration::from_secs(60)));
    assert!(places.get(claim.id).is_some(), "another session made no claim either");
    places.made(claim.id, &session, node(&claim, 1));
    places.never_made(claim.id, &session);
    assert!(places.get(claim.id).is_some(), "there is a node");
    places.begin(&claim, &session);
    places.never_made(claim.id, &session);
    assert!(places.get(claim.id).is_none() && places.lines.is_empty());
    assert_eq!(places.unexplained, 0, "nothing has ended");
}

/// However many are in front, those who are not remembered still keep the claim waiting.
#[test]
fn the_departure_of_all_but_the_last_in_front_grants_nothing() {
    for count in 1..=FEW as i32 + 4 {
        let (mut places, session) = (Places::default(), session());
        let front: Vec<Node> =
            (1..=count).map(|number| node(&claim(number.unsigned_abs().into(), MUTEX), number)).collect();
        let (waiter, own) = made(&mut places, &session, 100);
        let queue: Vec<&Node> = front.iter().chain([&own]).collect();
        assert_eq!(places.note(&waiter, &own, &snapshot(&queue)), ClaimStatus::Waiting);
        let left: Vec<Vec<u8>> =
            front[..front.len() - 1].iter().map(|node| node.path.clone().into_bytes()).collect();
        assert_eq!(places.advance(&waiter, &left), Some(ClaimStatus::Waiting), "one of {count} is left");
        let last = front.last().unwrap();
        let then = places.advance(&waiter, &gone(last));
        assert_eq!(then.is_some_and(|status| status != ClaimStatus::Waiting), count <= FEW as i32, "{count}");
    }
}

#[test]
fn what_is_taken_over_from_one_that_leaves_is_as_old_as_what_was_known() {
    let (mut places, session) = (Places::default(), session());
    let [(_, first), (second, node)] = holder_and_waiter(&mut places, &session, 2);
    let (third, _) = made(&mut places, &session, 4);
    assert_eq!(places.settle(&third, Instant::now()), Some(ClaimStatus::Waiting));
    // The end of another claim that nobody took out: sessions may have ended, and everybody looks again.
    let (other, its) = made(&mut places, &session, 9);
    places.found_gone(other.id, &session, Some(&its));
    takes_out(&mut places, &session, &second, &node);
    assert_eq!(places.settle(&third, Instant::now()), None, "it has to read");
    assert_eq!(places.advance(&third, &gone(&first)), None);
}

#[test]
fn one_that_waits_for_somebody_else_takes_nothing_over_from_one_that_leaves() {
    let (mut places, session) = (Places::default(), session());
    let [(_, first), (second, own)] = holder_and_waiter(&mut places, &session, 2);
    let (third, last) = made(&mut places, &session, 20);
    let others: Vec<Node> =
        (3_i32..20).map(|number| node(&claim(number.unsigned_abs().into(), MUTEX), number)).collect();
    let queue: Vec<&Node> = [&first, &own].into_iter().chain(&others).chain([&last]).collect();
    assert_eq!(places.note(&third, &last, &snapshot(&queue)), ClaimStatus::Waiting);
    let nearest = others.last().unwrap().listed.node.as_str();
    assert_eq!(places.get(third.id).unwrap().blockers(), [nearest]);
    takes_out(&mut places, &session, &second, &own);
    assert_eq!(places.get(third.id).unwrap().blockers(), [nearest]);
}

#[test]
fn one_that_knows_everybody_in_front_is_granted_without_reading() {
    let (mut places, session) = (Places::default(), session());
    let [(holder, first), (waiter, own)] = holder_and_waiter(&mut places, &session, 5);
    assert_eq!(places.note(&waiter, &own, &snapshot(&[&first, &own])), ClaimStatus::Waiting);
    takes_out(&mut places, &session, &holder, &first);
    assert!(matches!(places.advance(&waiter, &gone(&first)), Some(ClaimStatus::Held(_))));
}

#[test]
fn the_longest_hold_counts_from_the_grant() {
    let (mut places, session) = (Places::default(), session());
    let (claim, node) = made(&mut places, &session, 1);
    let claim = Claim { max_hold: Some(Duration::from_secs(7)), ..claim };
    let read = snapshot(&[&node]);
    let ClaimStatus::Held(grant) = places.note(&claim, &node, &read) else { panic!("nobody is in front") };
    assert_eq!(grant.hold_ends, Some(read.asked_at + Duration::from_secs(7)));
    assert_eq!(grant.expires, Some(session.expires()));
}

#[test]
fn ten_thousand_claims_remember_few_in_front_each() {
    let (mut places, session) = (Places::default(), session());
    let read = |places: &mut Places, number| {
        let (claim, node) = made(places, &session, number);
        places.settle(&claim, Instant::now()).is_none().then_some((claim, node))
    };
    let (first, node) = read(&mut places, 0).expect("nobody is in front that is known");
    places.note(&first, &node, &snapshot(&[&node]));
    for number in 1..10_000 {
        assert!(read(&mut places, number).is_none(), "the {number}th need not read");
    }
    let remembered: usize = places.by_id.values().map(|place| place.front.ahead.len()).sum();
    assert!(remembered < 10_000 + FEW * FEW, "{remembered}");
}

#[derive(Clone, Debug)]
enum Step {
    Join(Permits),
    Foreign(Permits),
    /// One of the queue leaves, ours or not.
    Leave(prop::sample::Index),
    /// One of the queue is deleted by somebody else.
    Evict(prop::sample::Index),
}

fn permits() -> impl Strategy<Value = Permits> {
    prop_oneof![
        3 => Just(MUTEX),
        1 => (1_u32..4, 0_u32..3).prop_map(|(count, more)| Permits { count, capacity: count + more }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => permits().prop_map(Step::Join),
        3 => permits().prop_map(Step::Foreign),
        4 => any::<prop::sample::Index>().prop_map(Step::Leave),
        1 => any::<prop::sample::Index>().prop_map(Step::Evict),
    ]
}

proptest! {
    /// Whatever joins and leaves: who is said to hold does so, and who waits watches somebody who is there.
    #[test]
    fn what_is_remembered_agrees_with_the_queue(steps in prop::collection::vec(step(), 1..80)) {
        let (mut places, session) = (Places::default(), session());
        let mut queue: Vec<(Claim, Node, bool)> = Vec::new();
        for (number, step) in (1_i32..).zip(steps) {
            let join = |permits| {
                let claim = claim(number.unsigned_abs().into(), permits);
                let node = node(&claim, number);
                (claim, node)
            };
            let mut left = None;
            match step {
                Step::Join(permits) => {
                    let (claim, node) = join(permits);
                    places.begin(&claim, &session);
                    queue.push((claim.clone(), node.clone(), true));
                    places.made(claim.id, &session, node.clone());
                    if places.settle(&claim, Instant::now()).is_none() {
                        let nodes: Vec<&Node> = queue.iter().map(|(_, node, _)| node).collect();
                        places.note(&claim, &node, &snapshot(&nodes));
                    }
                }
                Step::Foreign(permits) => {
                    let (claim, node) = join(permits);
                    queue.push((claim, node, false));
                }
                Step::Leave(_) | Step::Evict(_) if queue.is_empty() => {}
                Step::Leave(index) => {
                    let (claim, node, ours) = queue.remove(index.index(queue.len()));
                    if ours {
                        takes_out(&mut places, &session, &claim, &node);
                    }
                    left = Some(node);
                }
                Step::Evict(index) => {
                    let (claim, node, ours) = queue.remove(index.index(queue.len()));
                    if ours {
                        places.found_gone(claim.id, &session, Some(&node));
                    }
                    left = Some(node);
                }
            }
            let nodes: Vec<&Node> = queue.iter().map(|(_, node, _)| node).collect();
            let holding = crate::queue::admit(queue.iter().map(|(claim, ..)| claim.permits));
            for (position, (claim, node, _)) in queue.iter().enumerate().filter(|(_, (.., ours))| *ours) {
                // Inbox of the departure if it watches that, and of what it watches and is not there.
                let waits = |places: &Places| places.get(claim.id).is_some_and(|place| place.granted.is_none());
                while waits(&places) {
                    let watched: Vec<String> =
                        places.get(claim.id).unwrap().blockers().into_iter().map(str::to_owned).collect();
                    let was_there = |name: &String| nodes.iter().any(|node| node.listed.node == *name);
                    let gone: Vec<Vec<u8>> =
                        watched.iter().filter(|name| !was_there(name)).map(|name| format!("/a/{name}").into_bytes()).collect();
                    if gone.is_empty() {
                        prop_assert!(!watched.is_empty(), "who waits watches somebody");
                        prop_assert!(places.get(claim.id).unwrap().front.ahead.len() <= FEW + 1);
                        break;
                    }
                    prop_assert!(left.is_some());
                    if places.advance(claim, &gone).is_none() {
                        places.note(claim, node, &snapshot(&nodes));
                    }
                }
                prop_assert_eq!(!waits(&places), position < holding, "{:?}", claim.id);
            }
        }
    }
}
