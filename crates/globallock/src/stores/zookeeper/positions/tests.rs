use super::*;
use crate::stores::zookeeper::naming::{Layout, Naming};
use crate::stores::zookeeper::scripted::claim;
use proptest::prelude::*;
use std::time::Duration;

const MUTEX: Permits = Permits::MUTEX;

fn layout() -> Layout {
    Layout { root: String::new(), naming: Naming::Kazoo }
}

/// The node of a claim with this sequence number.
fn node(claim: &Claim, sequence: i32) -> Node {
    let name = format!("{}{sequence:010}", layout().claim(claim));
    let listed = layout().parse(&name).unwrap();
    Node { path: format!("/a/{name}"), czxid: 1000 + i64::from(sequence), listed }
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

/// A claim whose node a session has created.
fn created(positions: &mut Positions, session: &Arc<Session>, sequence: i32) -> (Claim, Node) {
    let claim = claim(u64::from(sequence.unsigned_abs()), MUTEX);
    let node = node(&claim, sequence);
    positions.begin(&claim, session);
    positions.created(claim.id, session, node.clone());
    (claim, node)
}

/// A holder, and a waiter of the same session behind it with no other claim of the session in between.
fn holder_and_waiter(positions: &mut Positions, session: &Arc<Session>, second: i32) -> [(Claim, Node); 2] {
    let (holder, first) = created(positions, session, 1);
    assert!(matches!(positions.apply(&holder, &first, &snapshot(&[&first])), ClaimStatus::Held(_)));
    let (waiter, node) = created(positions, session, second);
    assert_eq!(positions.decide(&waiter, Instant::now()), Some(ClaimStatus::Waiting), "without a read");
    [(holder, first), (waiter, node)]
}

fn release(positions: &mut Positions, session: &Session, claim: &Claim, node: &Node) {
    positions.get_mut(claim.id).unwrap().releasing = true;
    positions.released(claim.id, session, Some(node));
}

#[test]
fn a_waiter_is_granted_without_a_read_by_the_release_of_the_adjacent_holder() {
    let (mut positions, session) = (Positions::default(), session());
    let [(holder, first), (waiter, _)] = holder_and_waiter(&mut positions, &session, 2);
    release(&mut positions, &session, &holder, &first);
    assert!(matches!(positions.advance(&waiter, &gone(&first)), Some(ClaimStatus::Held(_))));
}

#[test]
fn a_waiter_that_may_have_others_ahead_is_not_granted_without_a_read() {
    let (mut positions, session) = (Positions::default(), session());
    let [(holder, first), (waiter, _)] = holder_and_waiter(&mut positions, &session, 3);
    release(&mut positions, &session, &holder, &first);
    assert_eq!(positions.advance(&waiter, &gone(&first)), None);
}

#[test]
fn the_end_of_a_claim_that_was_not_released_here_grants_nothing() {
    let (mut positions, session) = (Positions::default(), session());
    let [(_, first), (waiter, _)] = holder_and_waiter(&mut positions, &session, 2);
    assert_eq!(positions.advance(&waiter, &gone(&first)), None);
    // Nor does it once a renewal has found the claim gone and it is forgotten.
    let [(holder, first), (waiter, _)] = holder_and_waiter(&mut positions, &session, 2);
    positions.found_gone(holder.id, &session, Some(&first));
    assert_eq!(positions.advance(&waiter, &gone(&first)), None);
}

#[test]
fn a_waiter_that_gives_up_hands_over_the_claim_that_it_waited_for() {
    let (mut positions, session) = (Positions::default(), session());
    let [(_, first), (second, node)] = holder_and_waiter(&mut positions, &session, 5);
    let (third, _) = created(&mut positions, &session, 9);
    release(&mut positions, &session, &second, &node);
    assert_eq!(positions.advance(&third, &gone(&node)), Some(ClaimStatus::Waiting), "without a read");
    assert_eq!(positions.get(third.id).unwrap().blockers(), [first.listed.node.as_str()]);
}

#[test]
fn a_claim_that_was_requested_again_is_not_forgotten_with_its_older_node() {
    let (mut positions, session) = (Positions::default(), session());
    let (claim, old) = created(&mut positions, &session, 1);
    // Requested again since, in this session and in a newer one: first in flight, then created.
    let newer = Session::detached(2, Duration::from_secs(60));
    for session in [&session, &newer] {
        positions.begin(&claim, session);
        positions.found_gone(claim.id, session, Some(&old));
        assert!(positions.get(claim.id).is_some(), "its creation is in flight");
        let new = node(&claim, 2);
        positions.created(claim.id, session, new.clone());
        positions.found_gone(claim.id, session, Some(&old));
        positions.found_gone(claim.id, session, None);
        assert_eq!(positions.apply(&claim, &old, &snapshot(&[])), ClaimStatus::Waiting, "the read is older");
        assert_eq!(positions.get(claim.id).unwrap().node.as_ref(), Some(&new));
    }
    let new = node(&claim, 2);
    positions.found_gone(claim.id, &session, Some(&new));
    assert!(positions.get(claim.id).is_some(), "the end of the older session is not its end");
    positions.released(claim.id, &session, Some(&new));
    assert!(positions.get(claim.id).is_some(), "nor is the release of the older claim");
    positions.created(claim.id, &session, old);
    assert_eq!(positions.get(claim.id).unwrap().node.as_ref(), Some(&new), "a late answer changes nothing");
    positions.found_gone(claim.id, &newer, Some(&new));
    assert!(positions.get(claim.id).is_none());
    assert!(positions.records.is_empty(), "{:?}", positions.records);
}

#[test]
fn the_predecessor_is_the_last_claim_of_the_session_that_is_not_released() {
    let (mut positions, session) = (Positions::default(), session());
    let [first, second, third, other] = [1, 2, 3, 4].map(|number| claim(number, MUTEX));
    assert_eq!(positions.begin(&first, &session), Predecessor::Absent);
    assert_eq!(positions.begin(&second, &session), Predecessor::Pending);
    let node = node(&first, 1);
    positions.created(first.id, &session, node.clone());
    assert_eq!(positions.begin(&third, &session), Predecessor::Known(node.path));
    let elsewhere = Claim { name: Name::new("b").unwrap(), ..other };
    assert_eq!(positions.begin(&elsewhere, &session), Predecessor::Absent, "another lock has its own queue");
    positions.get_mut(first.id).unwrap().releasing = true;
    assert_eq!(
        positions.begin(&third, &session),
        Predecessor::Pending,
        "a claim that is being released is no predecessor"
    );
    for id in [second.id, third.id] {
        positions.found_gone(id, &session, None);
    }
    assert_eq!(positions.begin(&third, &session), Predecessor::Absent);
}

#[test]
fn only_the_first_node_of_the_current_session_is_taken_for_the_claims_own() {
    let (mut positions, session) = (Positions::default(), session());
    let newer = Session::detached(2, Duration::from_secs(60));
    let claim = claim(1, MUTEX);
    positions.begin(&claim, &newer);
    positions.created(claim.id, &session, node(&claim, 1));
    assert_eq!(positions.get(claim.id).unwrap().node, None, "an older session's node ends with that session");
    positions.created(claim.id, &newer, node(&claim, 2));
    positions.created(claim.id, &newer, node(&claim, 3));
    assert_eq!(positions.get(claim.id).unwrap().node, Some(node(&claim, 2)), "the first node is the claim's");
}

#[test]
fn a_claim_whose_creation_is_refused_is_forgotten_unless_it_has_a_node() {
    let (mut positions, session) = (Positions::default(), session());
    let claim = claim(1, MUTEX);
    positions.begin(&claim, &session);
    positions.not_created(claim.id, &Session::detached(2, Duration::from_secs(60)));
    assert!(positions.get(claim.id).is_some(), "another session was refused");
    positions.created(claim.id, &session, node(&claim, 1));
    positions.not_created(claim.id, &session);
    assert!(positions.get(claim.id).is_some(), "there is a node");
    positions.begin(&claim, &session);
    positions.not_created(claim.id, &session);
    assert!(positions.get(claim.id).is_none() && positions.records.is_empty());
    assert_eq!(positions.unexplained, 0, "nothing has ended");
}

/// However many claims are ahead, those that are not remembered still keep the claim waiting.
#[test]
fn the_release_of_all_claims_ahead_but_the_last_grants_nothing() {
    for count in 1..=SHORT as i32 + 4 {
        let (mut positions, session) = (Positions::default(), session());
        let ahead: Vec<Node> =
            (1..=count).map(|number| node(&claim(number.unsigned_abs().into(), MUTEX), number)).collect();
        let (waiter, own) = created(&mut positions, &session, 100);
        let queue: Vec<&Node> = ahead.iter().chain([&own]).collect();
        assert_eq!(positions.apply(&waiter, &own, &snapshot(&queue)), ClaimStatus::Waiting);
        let left: Vec<Vec<u8>> =
            ahead[..ahead.len() - 1].iter().map(|node| node.path.clone().into_bytes()).collect();
        assert_eq!(positions.advance(&waiter, &left), Some(ClaimStatus::Waiting), "one of {count} is left");
        let last = ahead.last().unwrap();
        let then = positions.advance(&waiter, &gone(last));
        assert_eq!(
            then.is_some_and(|status| status != ClaimStatus::Waiting),
            count <= SHORT as i32,
            "{count}"
        );
    }
}

#[test]
fn what_is_handed_over_is_not_newer_than_what_was_known() {
    let (mut positions, session) = (Positions::default(), session());
    let [(_, first), (second, node)] = holder_and_waiter(&mut positions, &session, 2);
    let (third, _) = created(&mut positions, &session, 4);
    assert_eq!(positions.decide(&third, Instant::now()), Some(ClaimStatus::Waiting));
    // Another claim ends without a release. Its session may have expired, so all claims read the queue again.
    let (other, its) = created(&mut positions, &session, 9);
    positions.found_gone(other.id, &session, Some(&its));
    release(&mut positions, &session, &second, &node);
    assert_eq!(positions.decide(&third, Instant::now()), None, "a read is needed");
    assert_eq!(positions.advance(&third, &gone(&first)), None);
}

#[test]
fn a_waiter_that_waits_for_another_claim_is_handed_nothing() {
    let (mut positions, session) = (Positions::default(), session());
    let [(_, first), (second, own)] = holder_and_waiter(&mut positions, &session, 2);
    let (third, last) = created(&mut positions, &session, 20);
    let others: Vec<Node> =
        (3_i32..20).map(|number| node(&claim(number.unsigned_abs().into(), MUTEX), number)).collect();
    let queue: Vec<&Node> = [&first, &own].into_iter().chain(&others).chain([&last]).collect();
    assert_eq!(positions.apply(&third, &last, &snapshot(&queue)), ClaimStatus::Waiting);
    let nearest = others.last().unwrap().listed.node.as_str();
    assert_eq!(positions.get(third.id).unwrap().blockers(), [nearest]);
    release(&mut positions, &session, &second, &own);
    assert_eq!(positions.get(third.id).unwrap().blockers(), [nearest]);
}

#[test]
fn a_waiter_that_knows_all_claims_ahead_is_granted_without_a_read() {
    let (mut positions, session) = (Positions::default(), session());
    let [(holder, first), (waiter, own)] = holder_and_waiter(&mut positions, &session, 5);
    assert_eq!(positions.apply(&waiter, &own, &snapshot(&[&first, &own])), ClaimStatus::Waiting);
    release(&mut positions, &session, &holder, &first);
    assert!(matches!(positions.advance(&waiter, &gone(&first)), Some(ClaimStatus::Held(_))));
}

#[test]
fn max_hold_counts_from_the_grant() {
    let (mut positions, session) = (Positions::default(), session());
    let (claim, node) = created(&mut positions, &session, 1);
    let claim = Claim { max_hold: Some(Duration::from_secs(7)), ..claim };
    let read = snapshot(&[&node]);
    let ClaimStatus::Held(grant) = positions.apply(&claim, &node, &read) else { panic!("nobody is ahead") };
    assert_eq!(grant.hold_ends, Some(read.requested_at + Duration::from_secs(7)));
    assert_eq!(grant.expires, Some(session.expires()));
}

#[test]
fn ten_thousand_claims_remember_few_claims_ahead_each() {
    let (mut positions, session) = (Positions::default(), session());
    let read = |positions: &mut Positions, number| {
        let (claim, node) = created(positions, &session, number);
        positions.decide(&claim, Instant::now()).is_none().then_some((claim, node))
    };
    let (first, node) = read(&mut positions, 0).expect("nobody is known to be ahead");
    positions.apply(&first, &node, &snapshot(&[&node]));
    for number in 1..10_000 {
        assert!(read(&mut positions, number).is_none(), "the {number}th needs no read");
    }
    let remembered: usize = positions.records.iter().map(|position| position.ahead.len()).sum();
    assert!(remembered < 10_000 + SHORT * SHORT, "{remembered}");
}

#[derive(Clone, Debug)]
enum Step {
    Enqueue(Permits),
    Foreign(Permits),
    /// One of the claims is released, by this store or by another program.
    Release(prop::sample::Index),
    /// The node of one of the claims is deleted by somebody else.
    Evict(prop::sample::Index),
}

fn permits() -> impl Strategy<Value = Permits> {
    prop_oneof![
        3 => Just(MUTEX),
        1 => (1_u32..4, 0_u32..3).prop_map(|(count, more)| Permits::new(count, count + more)),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => permits().prop_map(Step::Enqueue),
        3 => permits().prop_map(Step::Foreign),
        4 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => any::<prop::sample::Index>().prop_map(Step::Evict),
    ]
}

proptest! {
    /// Whatever happens in the queue, claims that are said to hold do so, and waiters watch a claim that is
    /// there.
    #[test]
    fn what_is_remembered_agrees_with_the_queue(steps in prop::collection::vec(step(), 1..80)) {
        let (mut positions, session) = (Positions::default(), session());
        let mut queue: Vec<(Claim, Node, bool)> = Vec::new();
        for (number, step) in (1_i32..).zip(steps) {
            let new = |permits| {
                let claim = claim(number.unsigned_abs().into(), permits);
                let node = node(&claim, number);
                (claim, node)
            };
            let mut removed = None;
            match step {
                Step::Enqueue(permits) => {
                    let (claim, node) = new(permits);
                    positions.begin(&claim, &session);
                    queue.push((claim.clone(), node.clone(), true));
                    positions.created(claim.id, &session, node.clone());
                    if positions.decide(&claim, Instant::now()).is_none() {
                        let nodes: Vec<&Node> = queue.iter().map(|(_, node, _)| node).collect();
                        positions.apply(&claim, &node, &snapshot(&nodes));
                    }
                }
                Step::Foreign(permits) => {
                    let (claim, node) = new(permits);
                    queue.push((claim, node, false));
                }
                Step::Release(_) | Step::Evict(_) if queue.is_empty() => {}
                Step::Release(index) => {
                    let (claim, node, ours) = queue.remove(index.index(queue.len()));
                    if ours {
                        release(&mut positions, &session, &claim, &node);
                    }
                    removed = Some(node);
                }
                Step::Evict(index) => {
                    let (claim, node, ours) = queue.remove(index.index(queue.len()));
                    if ours {
                        positions.found_gone(claim.id, &session, Some(&node));
                    }
                    removed = Some(node);
                }
            }
            let nodes: Vec<&Node> = queue.iter().map(|(_, node, _)| node).collect();
            let holding = crate::queue::admit(queue.iter().map(|(claim, ..)| claim.permits));
            for (index, (claim, node, _)) in queue.iter().enumerate().filter(|(_, (.., ours))| *ours) {
                // It is notified of each node that it watches and that is not there (any more).
                let waits = |positions: &Positions| {
                    positions.get(claim.id).is_some_and(|position| position.granted.is_none())
                };
                while waits(&positions) {
                    let watched: Vec<String> =
                        positions.get(claim.id).unwrap().blockers().into_iter().map(str::to_owned).collect();
                    let was_there = |name: &String| nodes.iter().any(|node| node.listed.node == *name);
                    let path = |name: &String| format!("/a/{name}").into_bytes();
                    let gone = watched.iter().filter(|name| !was_there(name)).map(path);
                    let gone: Vec<Vec<u8>> = gone.collect();
                    if gone.is_empty() {
                        prop_assert!(!watched.is_empty(), "a waiter watches somebody");
                        let remembered = positions.get(claim.id).unwrap().ahead.len();
                        prop_assert!(remembered <= SHORT + 1);
                        break;
                    }
                    prop_assert!(removed.is_some());
                    if positions.advance(claim, &gone).is_none() {
                        positions.apply(claim, node, &snapshot(&nodes));
                    }
                }
                prop_assert_eq!(!waits(&positions), index < holding, "{:?}", claim.id);
            }
        }
    }
}

#[test]
fn a_late_answer_to_a_release_does_not_forget_a_claim_that_was_requested_again() {
    let (mut positions, session) = (Positions::default(), session());
    let (claim, first) = created(&mut positions, &session, 1);
    release(&mut positions, &session, &claim, &first);
    positions.begin(&claim, &session);
    positions.released(claim.id, &session, Some(&first));
    assert!(positions.get(claim.id).is_some());
    let second = node(&claim, 2);
    positions.created(claim.id, &session, second.clone());
    positions.released(claim.id, &session, Some(&first));
    assert!(positions.get(claim.id).is_some());
    positions.released(claim.id, &session, Some(&second));
    assert!(positions.get(claim.id).is_none());
}
