//! Tests of the claims' positions, and what other tests need for them.

use std::borrow::Borrow;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use super::*;
use crate::backend::WaitMode;
use crate::error::Result;
use crate::queue::Permits;
use crate::stores::address::Address;
use crate::stores::etcd::config::Config;
use crate::stores::etcd::connection::Connection;
use crate::stores::etcd::key_reads::KeyState;
use crate::stores::etcd::messages::KeyValue;
use crate::stores::etcd::owner::Shared;
use crate::stores::etcd::scripted::{Cluster, soon};

pub(in crate::stores::etcd) const PREFIX: &str = "/locks/_glocks/";
pub(in crate::stores::etcd) const OTHER: &str = "/locks/_glocks/a/0123456789abcdef.0.1.1";
pub(in crate::stores::etcd) const MUTEX: Permits = Permits::MUTEX;
pub(in crate::stores::etcd) const READ: Permits = Permits::READ;

pub(in crate::stores::etcd) fn claim(number: u64, permits: Permits) -> Claim {
    Claim {
        id: ClaimId::new(1, number),
        name: Name::new("a").unwrap(),
        permits,
        wait_mode: WaitMode::Wait,
        lease: Duration::from_secs(1),
        max_hold: None,
        owner: Arc::from(""),
        wants_value: false,
    }
}

/// A store that has sent no request, a claim and the key that the claim will have.
pub(in crate::stores::etcd) fn store() -> (Shared, Claim, Vec<u8>) {
    let address = Address::parse("etcd://127.0.0.1:1").unwrap();
    let shared = Shared::new(Connection::new(Config::new(address).unwrap()));
    let claim = claim(1, MUTEX);
    let key = shared.claims.take_key(PREFIX, &claim);
    (shared, claim, key)
}

pub(in crate::stores::etcd) fn found(key: &[u8], create_revision: i64, lease: i64) -> KeyValue {
    KeyValue { key: key.to_vec(), create_revision, lease, ..KeyValue::default() }
}

/// Lets the claim read this whole queue as of a revision.
pub(in crate::stores::etcd) fn read(
    shared: &Shared,
    claim: &Claim,
    queue: &[KeyValue],
    read_at: i64,
) -> ClaimStatus {
    let queue = shared.connection.config().claims(queue);
    let key = shared.claims.key(claim.id).unwrap();
    let mine = queue.iter().find(|entry| entry.key == key).cloned();
    shared.claims.record_view(claim, &QueueView::new(mine, queue, true, read_at), true, now())
}

/// A holder with lease 1 and revision 4, and its store with a scripted cluster.
pub(in crate::stores::etcd) fn held() -> (Cluster, Arc<Shared>, Claim, Vec<u8>) {
    let (cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
    shared.leases.pretend(1);
    let claim = claim(1, MUTEX);
    let key = shared.claims.take_key(PREFIX, &claim);
    let status = read(&shared, &claim, &[found(&key, 4, 1)], 4);
    assert!(matches!(status, ClaimStatus::Held(_)), "{status:?}");
    (cluster, shared, claim, key)
}

pub(in crate::stores::etcd) fn fencing_token(status: impl Borrow<ClaimStatus>) -> Option<u64> {
    match status.borrow() {
        ClaimStatus::Held(grant) => Some(grant.fencing_token),
        _ => None,
    }
}

/// Waits without a look for the notice of an eviction.
pub(in crate::stores::etcd) async fn wait(shared: &Shared, claim: &Claim) -> Result<Option<ClaimStatus>> {
    shared.wait(claim).await.map(Some)
}

/// Whether a background task releases the claim.
pub(in crate::stores::etcd) fn is_being_released(shared: &Shared, id: ClaimId) -> bool {
    shared.claims.with_background_release(id, |task| task.is_some()).unwrap_or(false)
}

#[tokio::test(start_paused = true)]
async fn the_requests_of_one_claim_take_turns_and_leave_no_record() {
    let (_cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
    let (claims, id, other) = (&shared.claims, ClaimId::new(1, 1), ClaimId::new(1, 2));
    let first = claims.turn(id).await;
    let mut second = Box::pin(claims.turn(id));
    assert!((&mut second).now_or_never().is_none());
    let third = claims.turn(id).now_or_never();
    assert!(third.is_none(), "it was given up");
    drop(claims.turn(other).now_or_never().unwrap());
    let has_record = |id| claims.state.lock().records.get(id).is_some();
    assert!(has_record(id) && !has_record(other));
    drop(first);
    let second = soon(second).await;
    assert!(claims.turn(id).now_or_never().is_none());
    drop(second);
    assert!(claims.state.lock().records.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_record_of_a_released_claim_stays_while_a_request_has_its_turn() {
    let (_cluster, shared, claim, key) = held();
    let turn = shared.claims.turn(claim.id).await;
    shared.claims.forget(claim.id, &key);
    assert!(shared.claims.key(claim.id).is_none() && shared.claims.position(claim.id).is_none());
    assert!(!shared.claims.may_have_joined(claim.id));
    assert!(shared.claims.turn(claim.id).now_or_never().is_none());
    // Another claim gets its key meanwhile.
    let other = Claim { id: ClaimId::new(1, 2), ..claim };
    assert_eq!(shared.claims.take_key(PREFIX, &other), key);
    drop(turn);
    shared.claims.forget(other.id, &key);
    assert!(shared.claims.state.lock().records.is_empty());
}

#[tokio::test]
async fn a_grant_that_is_notified_after_its_lease_expired_does_not_grant_the_claims_next_key() {
    let (shared, claim, key) = store();
    shared.leases.pretend(1);
    let queue = [found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)];
    assert_eq!(read(&shared, &claim, &queue, 4), ClaimStatus::Waiting);
    shared.leases.forget(1);
    assert_eq!(shared.claims.advance(&claim, &[OTHER.into()]), Some(ClaimStatus::Gone));
    // It joins again, behind another claim.
    shared.leases.pretend(2);
    let queue = [found(OTHER.as_bytes(), 5, 9), found(&key, 6, 2)];
    assert_eq!(read(&shared, &claim, &queue, 6), ClaimStatus::Waiting);
    assert_eq!(shared.claims.advance(&claim, &[OTHER.into()]).and_then(fencing_token), Some(6));
}

#[tokio::test]
async fn a_late_answer_does_not_remove_a_claim_that_has_joined_again_since() {
    let (shared, claim, key) = store();
    shared.leases.pretend(1);
    let held = read(&shared, &claim, &[found(&key, 6, 1)], 6);
    assert_eq!(fencing_token(held), Some(6));
    // These requests were sent when the earlier key was gone; their answers came late.
    assert_eq!(fencing_token(shared.claims.record_gone(&claim, 5)), Some(6));
    assert_eq!(fencing_token(read(&shared, &claim, &[], 5)), Some(6));
    assert_eq!(read(&shared, &claim, &[], 6), ClaimStatus::Gone);
    assert!(shared.claims.position(claim.id).is_none());
}

#[tokio::test]
async fn a_late_answer_does_not_overwrite_what_a_later_read_has_shown() {
    let (shared, claim, key) = store();
    shared.leases.pretend(1);
    let queue = [found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)];
    assert_eq!(read(&shared, &claim, &queue, 4), ClaimStatus::Waiting);
    assert_eq!(fencing_token(read(&shared, &claim, &queue[1..], 8)), Some(4));
    assert_eq!(fencing_token(read(&shared, &claim, &queue, 7)), Some(4));
    let position = shared.claims.position(claim.id).unwrap();
    assert_eq!((position.read_at, position.ahead.surely_holds()), (8, true));
}

#[tokio::test]
async fn of_two_reads_as_of_one_revision_the_last_one_counts() {
    let (shared, ..) = store();
    shared.leases.pretend(1);
    let reader = claim(2, READ);
    let key = shared.claims.take_key(PREFIX, &reader);
    let queue = shared.connection.config().claims(&[found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)]);
    let mine = || Some(queue[1].clone());
    // No claim in this part of the queue blocks it, which proves nothing: the rest is unknown.
    let some = QueueView::new(mine(), queue[1..].to_vec(), false, 6);
    assert_eq!(shared.claims.record_view(&reader, &some, true, now()), ClaimStatus::Waiting);
    assert!(!shared.claims.position(reader.id).unwrap().ahead.is_known());
    let whole = QueueView::new(mine(), queue.clone(), true, 6);
    assert_eq!(shared.claims.record_view(&reader, &whole, true, now()), ClaimStatus::Waiting);
    let blockers =
        |position: &Position| position.ahead.blockers().iter().map(|b| b.revision).collect::<Vec<_>>();
    assert_eq!(blockers(&shared.claims.position(reader.id).unwrap()), [3]);
}

#[tokio::test]
async fn a_claim_holds_once_it_is_first_and_complete_and_stays_complete() {
    let (shared, claim, key) = store();
    shared.leases.pretend(1);
    let reads = |queue: &[KeyValue], read_at, is_complete| {
        let queue = shared.connection.config().claims(queue);
        let mine = queue.iter().find(|entry| entry.key == key).cloned();
        shared.claims.record_view(&claim, &QueueView::new(mine, queue, true, read_at), is_complete, now())
    };
    let [other, mine, again] = [found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1), found(&key, 9, 1)];
    // It lacks the other key that it needs; then another claim is in front; then it lacks nothing.
    assert_eq!(reads(std::slice::from_ref(&mine), 5, false), ClaimStatus::Waiting);
    assert_eq!(reads(&[other.clone(), mine.clone()], 6, true), ClaimStatus::Waiting);
    assert_eq!(fencing_token(reads(&[mine], 7, false)), Some(4));
    // The claim's next key has no grant yet.
    assert_eq!(reads(std::slice::from_ref(&again), 9, false), ClaimStatus::Waiting);
    assert_eq!(reads(&[other, again], 10, false), ClaimStatus::Waiting);
    assert_eq!(shared.claims.advance(&claim, &[OTHER.into()]), None);
    assert!(shared.claims.position(claim.id).unwrap().granted.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_max_hold_time_is_counted_from_the_request_whose_answer_showed_the_grant() {
    let (shared, mut claim, key) = store();
    shared.leases.pretend(1);
    claim.max_hold = Some(Duration::from_secs(30));
    let sent = now();
    for (read_at, passed) in [(4, 0), (14, 10)] {
        tokio::time::advance(Duration::from_secs(passed)).await;
        let ClaimStatus::Held(grant) = read(&shared, &claim, &[found(&key, 4, 1)], read_at) else {
            unreachable!("no claim is in front")
        };
        assert_eq!(grant.hold_ends.map(|ends| ends - sent), claim.max_hold);
    }
    claim.max_hold = None;
    let status = shared.claims.status(&claim);
    assert!(matches!(status, ClaimStatus::Held(grant) if grant.hold_ends.is_none()));
}

#[test]
fn a_read_proves_a_key_gone_if_it_finds_none_or_another_and_is_not_older_than_the_key() {
    for (created, read_at, proves_gone) in
        [(7, 9, false), (0, 9, true), (8, 9, true), (0, 6, false), (0, 7, true)]
    {
        assert_eq!(
            KeyState { created, read_at }.proves_gone(7),
            proves_gone,
            "created {created}, read at {read_at}"
        );
    }
}

#[tokio::test]
async fn a_claim_joins_behind_the_last_claim_of_its_store_unless_that_is_leaving() {
    let (shared, first, key) = store();
    let second = claim(2, MUTEX);
    assert!(shared.claims.behind(&second).is_none());
    shared.leases.pretend(1);
    read(&shared, &first, &[found(OTHER.as_bytes(), 3, 9), found(&key, 4, 1)], 4);
    let behind = shared.claims.behind(&second).unwrap();
    assert_eq!((behind.last.revision, behind.read_at), (4, None));
    assert!(behind.ahead.is_blocked_only_by(&behind.last));
    // A shared claim has the blockers of the last claim, as of when those were read.
    let shared_key = shared.claims.take_key(PREFIX, &claim(3, READ));
    read(&shared, &claim(3, READ), &[found(&key, 4, 1), found(&shared_key, 5, 1)], 6);
    let behind = shared.claims.behind(&claim(4, READ)).unwrap();
    assert_eq!((behind.last.revision, behind.read_at), (5, Some(6)));
    assert_eq!(behind.ahead.blockers()[0].revision, 4);
    // Not behind itself, nor a claim that is being released, nor one whose lease may have expired.
    assert!(shared.claims.behind(&claim(3, READ)).is_none());
    shared.claims.with(ClaimId::new(1, 3), |position| position.releasing = true).unwrap();
    assert!(shared.claims.behind(&second).is_none());
    shared.claims.record_deleted(ClaimId::new(1, 3));
    assert!(shared.claims.behind(&second).is_some());
    shared.leases.pretend_expired(1);
    assert!(shared.claims.behind(&second).is_none());
}

#[tokio::test]
async fn the_deletion_of_another_claim_of_the_store_grants_only_if_that_was_being_released() {
    let (shared, first, key) = store();
    let second = claim(2, MUTEX);
    let second_key = shared.claims.take_key(PREFIX, &second);
    shared.leases.pretend(1);
    let queue = [found(&key, 4, 1), found(&second_key, 5, 1)];
    read(&shared, &first, &queue, 5);
    assert_eq!(read(&shared, &second, &queue, 5), ClaimStatus::Waiting);
    let deleted = std::slice::from_ref(&key);
    assert_eq!(shared.claims.advance(&second, deleted), None, "their lease may have expired");
    read(&shared, &second, &queue, 6);
    shared.claims.with(first.id, |position| position.releasing = true).unwrap();
    assert_eq!(shared.claims.advance(&second, deleted).and_then(fencing_token), Some(5));
}
