//! Takes out a claim that an onlooker saw, and leaves a notice for its owner.

use super::connection::{Connection, is_lease_expired};
use super::key_reads::key_request;
use super::keys::{self, QueueEntry};
use super::messages::{
    KeyValue, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest,
    Request, operation,
};
use super::python_etcd3::give_back;
use super::reading::{all_below, queue_request, ranges};
use super::release::delete_if_same;
use super::value;
use crate::backend::{ClaimId, EntryKey, Eviction, Release};
use crate::error::Result;
use crate::name::Name;

/// How much longer than the claim's lease its notice is kept, in seconds.
const KEPT: i64 = 300;
/// What the key of a claim of another program begins with. The revision at which it was created follows.
const CREATED: &str = "etcd:";

/// The id of a claim of ours.
fn id(found: &KeyValue) -> Option<ClaimId> {
    let ours = QueueEntry::new(found).ours;
    ours.then(|| value::parse(&String::from_utf8_lossy(&found.value)).map(|value| value.id)).flatten()
}

/// What tells a claim from all others. No other key of its queue is ever created at the same revision.
pub(super) fn entry_key(found: &KeyValue) -> EntryKey {
    match id(found) {
        Some(id) => id.into(),
        None => EntryKey::new(format!("{CREATED}{}", found.create_revision)),
    }
}

/// The revision at which the key of another program's claim was created.
fn created(entry: &EntryKey) -> Option<i64> {
    let revision: i64 = entry.as_str().strip_prefix(CREATED)?.parse().ok()?;
    (revision > 0).then_some(revision)
}

/// Takes out the claim that was seen, if it is still there.
///
/// Its key is deleted only if it was created at the same revision. So a request that is repeated, or
/// carried out late, hits no other claim.
pub(super) async fn evict(
    connection: &Connection,
    name: &Name,
    entry: &EntryKey,
    by: &Eviction,
) -> Result<Release> {
    // More than once only if the claim's lease has expired meanwhile, and its owner has enqueued it
    // again.
    while let Some(found) = find(connection, name, entry).await? {
        let evicted = match id(&found) {
            Some(id) => evict_ours(connection, name, &found, id, by).await?,
            None => connection.unary(delete_if_same(&found.key, found.create_revision)).await?.succeeded,
        };
        if evicted {
            return Ok(Release::Released);
        }
    }
    Ok(Release::NotHeld)
}

/// Finds the key of a claim, with its value.
async fn find(connection: &Connection, name: &Name, entry: &EntryKey) -> Result<Option<KeyValue>> {
    let config = connection.config();
    let found = match (entry.claim_id(), created(entry)) {
        (Some(id), _) => all_below(connection, &keys::of_manager(&config.prefix, name, id), false).await?,
        (None, Some(revision)) => {
            let request = RangeRequest {
                keys_only: false,
                min_create_revision: revision,
                max_create_revision: revision,
                ..queue_request(&keys::queue(&config.prefix, name), 0)
            };
            connection.unary(request).await?.kvs
        }
        (None, None) => return Ok(None),
    };
    let mut claims = found.into_iter().filter(|kv| config.is_claim(&QueueEntry::new(kv)));
    Ok(claims.find(|kv| entry_key(kv) == *entry))
}

/// Takes out a claim of ours, and returns whether it was there.
///
/// | in one transaction, if the key is the one that was found | why |
/// |---|---|
/// | its deletion | as by a release |
/// | that of the python-etcd3 key, if it is the claim's | as by a release |
/// | the notice | so that the owner is told |
/// | the claim's tombstone | the request that enqueued it may be carried out twice, or once more late |
///
/// If the request fails, it may have been carried out nevertheless, or may be later. So the lease of
/// the notice is left to expire then.
async fn evict_ours(
    connection: &Connection,
    name: &Name,
    found: &KeyValue,
    id: ClaimId,
    by: &Eviction,
) -> Result<bool> {
    let prefix = &connection.config().prefix;
    let lease = lease_of_notice(connection, found.lease).await?;
    let notice = keys::notice(prefix, name, id);
    let tombstone = keys::tombstone(prefix, id, found.lease);
    let put = |key, value| operation(Request::Put(PutRequest::new(key, value, lease)));
    let mut request = delete_if_same(&found.key, found.create_revision);
    request.success.extend([
        put(notice.clone(), by.to_text().into_bytes()),
        put(tombstone, Vec::new()),
        give_back(id, keys::python_etcd3(prefix, name)),
    ]);
    request.failure.push(key_request(&notice));
    let answer = connection.unary(request).await?;
    // An earlier try may have been carried out though it was not answered: then the notice is ours.
    let is_done = answer.succeeded || {
        let notices = ranges(answer.responses).into_iter().flat_map(|range| range.kvs);
        notices.into_iter().any(|notice| notice.lease == lease)
    };
    if is_done {
        return Ok(true);
    }
    // Nothing can be attached to the lease any more. If the revocation fails, it expires.
    let _ = connection.unary(LeaseRevokeRequest { id: lease }).await;
    Ok(false)
}

/// A new lease that outlives the last sign of life of a claim's owner, and is not renewed.
async fn lease_of_notice(connection: &Connection, claims: i64) -> Result<i64> {
    let of_claim = connection.unary(LeaseTimeToLiveRequest { id: claims }).await?;
    let ttl = of_claim.granted_ttl.max(0).saturating_add(KEPT);
    Ok(connection.unary(LeaseGrantRequest { ttl }).await?.id)
}

/// Ends the notices for claims that were evicted, and with each the tombstone of its claim.
pub(super) async fn forget(connection: &Connection, name: &Name, evicted: &[ClaimId]) -> Result<()> {
    for id in evicted {
        let key = keys::notice(&connection.config().prefix, name, *id);
        let found =
            connection.unary(RangeRequest { key, keys_only: true, ..RangeRequest::default() }).await?;
        for notice in found.kvs.into_iter().filter(|notice| notice.lease != 0) {
            match connection.unary(LeaseRevokeRequest { id: notice.lease }).await {
                Err(error) if !is_lease_expired(&error) => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::Status;

    use super::*;
    use crate::backend::Claim;
    use crate::owner::Owner;
    use crate::queue::Permits;
    use crate::stores::etcd::Shared;
    use crate::stores::etcd::claims::tests::found;
    use crate::stores::etcd::messages::{
        Compare, DeleteRangeRequest, Empty, LeaseGrantResponse, LeaseRequest, LeaseTimeToLiveResponse,
        RangeResponse, Response, ResponseOp, TxnRequest, TxnResponse,
    };
    use crate::stores::etcd::scripted::{Cluster, as_of, soon};

    const ADDRESS: &str = "etcd://127.0.0.1:1";
    const KEY: &[u8] = b"/locks/_glocks/a/00000000000000000001.0.1.1";
    const FOREIGN: &[u8] = b"/locks/_glocks/a/694d80a1b2c3d4e5";
    /// The lease of the claims, and that of the notice.
    const LEASES: [i64; 2] = [0x1f, 0x2e];

    fn name() -> Name {
        Name::new("a").unwrap()
    }

    fn by() -> Eviction {
        Eviction::new(Owner::default().with_label("somebody"), "because")
    }

    /// The claim with this id, as another process has put it.
    fn claim() -> (ClaimId, KeyValue) {
        let id = ClaimId::new(1, 7);
        let claim = Claim::new(id, name(), Permits::MUTEX);
        (id, KeyValue { value: value::write(&claim), ..found(KEY, 40, LEASES[0]) })
    }

    async fn expect_find(cluster: &mut Cluster, expected: RangeRequest, kvs: Vec<KeyValue>) {
        let (asked, call) = cluster.asked::<RangeRequest>("KV/Range").await;
        assert_eq!(asked, expected);
        call.answer(&RangeResponse { header: as_of(50), kvs, more: false });
    }

    /// Expects that the key of the claim is looked for, and answers with these keys.
    async fn expect_find_ours(cluster: &mut Cluster, kvs: Vec<KeyValue>) {
        let start = "/locks/_glocks/a/00000000000000000001.";
        let limit = super::super::reading::PAGE_SIZE;
        expect_find(cluster, RangeRequest { keys_only: false, ..queue_request(start, limit) }, kvs).await;
    }

    async fn expect_find_foreign(cluster: &mut Cluster, revision: i64, kvs: Vec<KeyValue>) {
        let expected = RangeRequest {
            keys_only: false,
            min_create_revision: revision,
            max_create_revision: revision,
            ..queue_request("/locks/_glocks/a/", 0)
        };
        expect_find(cluster, expected, kvs).await;
    }

    async fn expect_lease(cluster: &mut Cluster, granted_ttl: i64) {
        let (asked, call) = cluster.asked::<LeaseRequest>("Lease/LeaseTimeToLive").await;
        assert_eq!(asked.id, LEASES[0]);
        call.answer(&LeaseTimeToLiveResponse { ttl: granted_ttl / 2, granted_ttl });
        let (asked, call) = cluster.asked::<LeaseGrantRequest>("Lease/LeaseGrant").await;
        assert_eq!(asked.ttl, granted_ttl.max(0) + 300);
        call.answer(&LeaseGrantResponse { id: LEASES[1], ttl: asked.ttl, header: None });
    }

    /// The whole transaction that evicts the claim.
    fn evicts(id: ClaimId) -> TxnRequest {
        let notice = format!("/locks/_glocks//evicted/{id}/a").into_bytes();
        let put = |key, value| operation(Request::Put(PutRequest::new(key, value, LEASES[1])));
        TxnRequest {
            compare: vec![Compare::created(KEY.to_vec(), 40)],
            success: vec![
                operation(Request::Delete(DeleteRangeRequest { key: KEY.to_vec() })),
                put(notice.clone(), by().to_text().into_bytes()),
                put(format!("/locks/_glocks//{id}.1f").into_bytes(), Vec::new()),
                give_back(id, b"/locks/_glocks/a".to_vec()),
            ],
            failure: vec![key_request(&notice)],
        }
    }

    /// The answer that the key was another, and that the notice is attached to this lease.
    fn not_the_same(lease: Option<i64>) -> TxnResponse {
        let kvs = lease.map(|lease| found(b"notice", 45, lease)).into_iter().collect();
        let range = RangeResponse { header: None, kvs, more: false };
        let responses = vec![ResponseOp { response: Some(Response::Range(range)) }];
        TxnResponse { header: as_of(50), succeeded: false, responses }
    }

    fn done() -> TxnResponse {
        TxnResponse { succeeded: true, ..TxnResponse::default() }
    }

    async fn evicted(
        shared: &Arc<Shared>,
        key: &EntryKey,
        answers: impl Future<Output = ()>,
    ) -> Result<Release> {
        let (name, by) = (name(), by());
        soon(async { tokio::join!(evict(&shared.connection, &name, key, &by), answers) }).await.0
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_of_ours_is_deleted_and_its_notice_put_in_one_transaction() {
        // Also if its lease has ended, in a store that never saw it.
        for granted_ttl in [60, -1] {
            let (mut cluster, shared) = Cluster::with_store(ADDRESS);
            let (id, kv) = claim();
            let other = KeyValue {
                value: value::write(&Claim::new(ClaimId::new(1, 8), name(), Permits::MUTEX)),
                ..kv.clone()
            };
            let answers = async {
                expect_find_ours(&mut cluster, vec![other, kv]).await;
                expect_lease(&mut cluster, granted_ttl).await;
                let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
                assert_eq!(asked, evicts(id));
                call.answer(&done());
            };
            assert_eq!(evicted(&shared, &id.into(), answers).await.unwrap(), Release::Released);
            assert!(cluster.is_idle().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_eviction_whose_answer_was_lost_knows_itself_by_its_lease() {
        for lease in [Some(LEASES[1]), Some(99), None] {
            let (mut cluster, shared) = Cluster::with_store(ADDRESS);
            let (id, kv) = claim();
            let answers = async {
                expect_find_ours(&mut cluster, vec![kv]).await;
                expect_lease(&mut cluster, 60).await;
                cluster.asked::<TxnRequest>("KV/Txn").await.1.answer(&not_the_same(lease));
                if lease != Some(LEASES[1]) {
                    let (asked, call) = cluster.asked::<LeaseRequest>("Lease/LeaseRevoke").await;
                    assert_eq!(asked.id, LEASES[1]);
                    call.answer(&Empty {});
                    expect_find_ours(&mut cluster, Vec::new()).await;
                }
            };
            let by_us = lease == Some(LEASES[1]);
            let release = evicted(&shared, &id.into(), answers).await.unwrap();
            assert_eq!(release, if by_us { Release::Released } else { Release::NotHeld });
            assert!(cluster.is_idle().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_that_has_joined_again_meanwhile_is_evicted_nevertheless() {
        let (mut cluster, shared) = Cluster::with_store(ADDRESS);
        let (id, kv) = claim();
        let again = KeyValue { create_revision: 48, ..kv.clone() };
        let answers = async {
            expect_find_ours(&mut cluster, vec![kv]).await;
            expect_lease(&mut cluster, 60).await;
            cluster.asked::<TxnRequest>("KV/Txn").await.1.answer(&not_the_same(None));
            cluster.asked::<LeaseRequest>("Lease/LeaseRevoke").await.1.answer(&Empty {});
            expect_find_ours(&mut cluster, vec![again]).await;
            expect_lease(&mut cluster, 60).await;
            let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
            assert_eq!(asked.compare, [Compare::created(KEY.to_vec(), 48)]);
            call.answer(&done());
        };
        assert_eq!(evicted(&shared, &id.into(), answers).await.unwrap(), Release::Released);
    }

    #[tokio::test(start_paused = true)]
    async fn an_eviction_that_fails_leaves_its_lease_to_expire() {
        // It may have been carried out: without the lease the notice would be gone.
        let (mut cluster, shared) = Cluster::with_store(ADDRESS);
        let (id, kv) = claim();
        let answers = async {
            expect_find_ours(&mut cluster, vec![kv]).await;
            expect_lease(&mut cluster, 60).await;
            cluster.asked::<TxnRequest>("KV/Txn").await.1.fail(Status::permission_denied("not for you"));
        };
        let refused = evicted(&shared, &id.into(), answers).await.unwrap_err().to_string();
        assert!(refused.contains("read and write on the prefix"), "{refused}");
        assert!(cluster.is_idle().await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_of_another_program_is_deleted_if_it_was_created_when_it_was_seen() {
        let (mut cluster, shared) = Cluster::with_store(ADDRESS);
        let theirs = found(FOREIGN, 30, 9);
        let key = entry_key(&theirs);
        assert_eq!(key.as_str(), "etcd:30");
        for succeeded in [true, false] {
            let answers = async {
                expect_find_foreign(&mut cluster, 30, vec![theirs.clone()]).await;
                let (asked, call) = cluster.asked::<TxnRequest>("KV/Txn").await;
                assert_eq!(asked.compare, [Compare::created(FOREIGN.to_vec(), 30)]);
                let delete = operation(Request::Delete(DeleteRangeRequest { key: FOREIGN.to_vec() }));
                assert_eq!((asked.success, asked.failure), (vec![delete], Vec::new()));
                call.answer(&TxnResponse { succeeded, ..TxnResponse::default() });
                if !succeeded {
                    expect_find_foreign(&mut cluster, 30, Vec::new()).await;
                }
            };
            let release = evicted(&shared, &key, answers).await.unwrap();
            assert_eq!(release == Release::Released, succeeded);
            assert!(cluster.is_idle().await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_another_key_is_not_evicted() {
        let nested = "etcd://127.0.0.1:1?interop=python-etcd3";
        let (id, ours) = claim();
        // Of our manager but another claim; our claim by its revision; the python-etcd3 key of `a/b`.
        for (address, key, kv) in [
            (ADDRESS, ClaimId::new(1, 8).into(), ours.clone()),
            (ADDRESS, EntryKey::new("etcd:40"), ours),
            (nested, EntryKey::new("etcd:30"), found(b"/locks/_glocks/a/b", 30, 9)),
        ] {
            let (mut cluster, shared) = Cluster::with_store(address);
            let answers = async {
                match key.claim_id() {
                    Some(_) => expect_find_ours(&mut cluster, vec![kv.clone()]).await,
                    None => expect_find_foreign(&mut cluster, kv.create_revision, vec![kv.clone()]).await,
                }
            };
            assert_eq!(evicted(&shared, &key, answers).await.unwrap(), Release::NotHeld);
            assert!(cluster.is_idle().await, "{id} {key}");
        }
        let (mut cluster, shared) = Cluster::with_store(ADDRESS);
        for text in ["etcd:", "etcd:0", "etcd:-4", "etcd:x", "30", ""] {
            let release = evicted(&shared, &EntryKey::new(text), async {}).await.unwrap();
            assert_eq!(release, Release::NotHeld, "{text:?}");
        }
        assert!(cluster.is_idle().await);
    }
}
