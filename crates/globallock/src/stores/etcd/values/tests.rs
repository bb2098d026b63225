//! Tests of writing values, over a scripted cluster.

use std::sync::Arc;

use super::*;
use crate::queue::Permits;
use crate::stores::etcd::claims::tests::{MUTEX, PREFIX, claim, found};
use crate::stores::etcd::keys::QueueEntry;
use crate::stores::etcd::messages::{Empty, LeaseGrantResponse, Response, ResponseOp, TxnResponse};
use crate::stores::etcd::scripted::{Cluster, as_of, soon};
use crate::stores::watched::ahead::Ahead;
use crate::sync::now;

const KEEP: Duration = Duration::from_millis(60_500);
const VALUE: &[u8] = b"/locks/_glocks//value/a";
/// The leases of the new value, and of the one before.
const LEASES: [i64; 2] = [0x2e, 0x1f];

/// A claim that holds by a key that was created at revision 40.
fn holding(permits: Permits) -> (Cluster, Arc<Shared>, Claim, Vec<u8>) {
    let (cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
    shared.leases.pretend(1);
    let claim = claim(1, permits);
    let key = shared.claims.take_key(PREFIX, &claim);
    let mine = QueueEntry::new(&found(&key, 40, 1));
    let ahead = Ahead::of(std::iter::empty(), true, permits);
    let status = shared.claims.record_position(&claim, &mine, ahead, 50, true, now());
    assert!(matches!(status, ClaimStatus::Held(_)), "{status:?}");
    (cluster, shared, claim, key)
}

/// A value that was written by this token, at revision 45.
fn written(token: u64, lease: i64) -> KeyValue {
    let value = Record::now(token, KEEP, b"before").to_bytes();
    KeyValue { value, mod_revision: 45, ..found(VALUE, 30, lease) }
}

async fn expect_read(cluster: &mut Cluster, kvs: Vec<KeyValue>) {
    let (asked, call) = cluster.asked::<RangeRequest>("KV/Range").await;
    assert_eq!(asked, RangeRequest { key: VALUE.to_vec(), ..RangeRequest::default() });
    call.answer(&RangeResponse { header: as_of(50), kvs, more: false });
}

async fn expect_lease(cluster: &mut Cluster) {
    let (asked, call) = cluster.asked::<LeaseGrantRequest>("Lease/LeaseGrant").await;
    assert_eq!(asked.ttl, 61, "rounded up");
    call.answer(&LeaseGrantResponse { id: LEASES[0], ttl: 61, header: None });
}

async fn expect_revoke(cluster: &mut Cluster, lease: i64) {
    let (asked, call) = cluster.asked::<LeaseRevokeRequest>("Lease/LeaseRevoke").await;
    assert_eq!(asked.id, lease);
    call.answer(&Empty {});
}

/// Expects the transaction that writes; answers that it was done, or what the keys are instead.
async fn expect_write(cluster: &mut Cluster, key: &[u8], seen: i64, instead: Option<[Option<KeyValue>; 2]>) {
    let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
    let compare = [Compare::created(key.to_vec(), 40), Compare::modified(VALUE.to_vec(), seen)];
    assert_eq!(asked.compare, compare);
    let [put] = &asked.success[..] else { panic!("{asked:?}") };
    let Some(Request::Put(put)) = &put.request else { panic!("{put:?}") };
    assert_eq!((&put.key[..], put.lease), (VALUE, LEASES[0]));
    let record = Record::parse(&put.value).unwrap();
    assert_eq!((record.fencing_token, record.keep, record.bytes), (40, 60_500, &b"new"[..]));
    assert_eq!(asked.failure, [key_request(key), value_request(VALUE.to_vec())]);
    let range = |kv: Option<KeyValue>| {
        let range = RangeResponse { header: None, kvs: kv.into_iter().collect(), more: false };
        ResponseOp { response: Some(Response::Range(range)) }
    };
    let succeeded = instead.is_none();
    let responses = instead.map_or_else(Vec::new, |found| found.map(range).to_vec());
    call.answer(&TxnResponse { header: as_of(51), succeeded, responses });
}

async fn write(shared: &Shared, claim: &Claim, answers: impl Future<Output = ()>) -> ValueWrite {
    soon(async { tokio::join!(shared.write_value(claim, b"new", KEEP), answers) }).await.0.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_value_is_written_while_the_claims_key_is_there_and_ends_the_lease_of_the_one_before() {
    let foreign = KeyValue { value: b"garbage".to_vec(), mod_revision: 45, ..found(VALUE, 30, LEASES[1]) };
    for (before, seen, revoked) in [
        (None, 0, None),
        (Some(written(39, LEASES[1])), 45, Some(LEASES[1])),
        (Some(written(40, 0)), 45, None),
        // The lease of a key that is no record may have other keys.
        (Some(foreign), 45, None),
    ] {
        let (mut cluster, shared, claim, key) = holding(MUTEX);
        let answers = async {
            expect_read(&mut cluster, before.into_iter().collect()).await;
            expect_lease(&mut cluster).await;
            expect_write(&mut cluster, &key, seen, None).await;
            if let Some(lease) = revoked {
                expect_revoke(&mut cluster, lease).await;
            }
        };
        assert_eq!(write(&shared, &claim, answers).await, ValueWrite::Written);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_key_is_gone_or_another_writes_nothing() {
    for created in [None, Some(60)] {
        let (mut cluster, shared, claim, key) = holding(MUTEX);
        let own = created.map(|created| found(&key, created, 1));
        let answers = async {
            expect_read(&mut cluster, Vec::new()).await;
            expect_lease(&mut cluster).await;
            expect_write(&mut cluster, &key, 0, Some([own, None])).await;
            expect_revoke(&mut cluster, LEASES[0]).await;
        };
        assert_eq!(write(&shared, &claim, answers).await, ValueWrite::NotHeld);
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_of_a_higher_token_stays_also_if_it_comes_in_between() {
    let (mut cluster, shared, claim, key) = holding(MUTEX);
    let answers = expect_read(&mut cluster, vec![written(41, LEASES[1])]);
    assert_eq!(write(&shared, &claim, answers).await, ValueWrite::Outranked);
    let answers = async {
        expect_read(&mut cluster, Vec::new()).await;
        expect_lease(&mut cluster).await;
        let now = [Some(found(&key, 40, 1)), Some(written(41, LEASES[1]))];
        expect_write(&mut cluster, &key, 0, Some(now)).await;
        expect_read(&mut cluster, vec![written(41, LEASES[1])]).await;
        expect_revoke(&mut cluster, LEASES[0]).await;
    };
    assert_eq!(write(&shared, &claim, answers).await, ValueWrite::Outranked);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_done_without_an_answer_is_done() {
    // The claim may be gone since: what stands under the lease was written while it held.
    for own_is_there in [true, false] {
        let (mut cluster, shared, claim, key) = holding(MUTEX);
        let answers = async {
            expect_read(&mut cluster, Vec::new()).await;
            expect_lease(&mut cluster).await;
            let own = own_is_there.then(|| found(&key, 40, 1));
            expect_write(&mut cluster, &key, 0, Some([own, Some(written(40, LEASES[0]))])).await;
        };
        assert_eq!(write(&shared, &claim, answers).await, ValueWrite::Written, "and nothing is revoked");
        assert!(cluster.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_not_held_asks_for_nothing() {
    let (_cluster, shared) = Cluster::with_store("etcd://127.0.0.1:1");
    let answer = write(&shared, &claim(1, MUTEX), async {}).await;
    assert_eq!(answer, ValueWrite::NotHeld);
}
