//! Tests of the leases, over a scripted cluster.

use futures_util::FutureExt;
use tokio::time::advance;

use super::*;
use crate::stores::etcd::messages::{
    AuthenticateRequest, AuthenticateResponse, LeaseGrantResponse, LeaseResponse,
};
use crate::stores::etcd::owner::Shared;
use crate::stores::etcd::scripted::{Call, Cluster, in_term, soon};

const ADDRESS: &str = "etcd://user:password@127.0.0.1:1";
const GRANT: &str = "Lease/LeaseGrant";
const KEEP: &str = "Lease/LeaseKeepAlive";

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

async fn expect_grant(cluster: &mut Cluster, id: i64, ttl: i64) {
    let (asked, call) = cluster.asked::<LeaseGrantRequest>(GRANT).await;
    assert_eq!(asked.ttl, ttl);
    call.answer(&LeaseGrantResponse { id, ttl, header: None });
}

async fn expect_keep_alive(cluster: &mut Cluster, id: i64, ttl: i64) {
    let (asked, call) = cluster.asked::<LeaseRequest>(KEEP).await;
    assert_eq!(asked.id, id);
    call.answer(&LeaseResponse { ttl, header: None });
}

/// Gets a new lease of this length.
async fn granted(cluster: &mut Cluster, leases: &Leases, id: i64, ttl: i64) -> Lease {
    let length = Duration::from_secs(ttl.unsigned_abs());
    let (got, ()) = soon(async { tokio::join!(leases.get(length), expect_grant(cluster, id, ttl)) }).await;
    let (lease, is_new) = got.unwrap();
    assert_eq!((lease.id, is_new), (id, true));
    lease
}

/// The lease after a request that the cluster agreed on has confirmed its keep-alive.
fn confirmed(leases: &Leases, kept: Lease) -> Lease {
    assert!(leases.confirm(&kept, None));
    leases.find(kept.id).unwrap()
}

/// The lease that claims of this length get without a request.
fn at_hand(leases: &Leases, length: Duration) -> Option<i64> {
    let (lease, is_new) = leases.get(length).now_or_never()?.unwrap();
    assert!(!is_new);
    Some(lease.id)
}

#[tokio::test(start_paused = true)]
async fn claims_share_a_lease_with_those_of_the_same_length_only() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let leases = &shared.leases;
    granted(&mut cluster, leases, 1, 30).await;
    granted(&mut cluster, leases, 2, 60).await;
    for (length, id) in
        [(secs(30), 1), (secs(60), 2), (secs(29) + Duration::from_nanos(1), 1), (secs(59) + secs(1), 2)]
    {
        assert_eq!(at_hand(leases, length), Some(id), "{length:?}");
    }
    assert_eq!(at_hand(leases, secs(29)), None);
}

#[tokio::test(start_paused = true)]
async fn concurrent_claims_ask_for_one_lease_and_renew_it_once() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let get = || shared.leases.get(secs(30));
    let ((one, other), ()) =
        soon(async { tokio::join!(async { tokio::join!(get(), get()) }, expect_grant(&mut cluster, 1, 30)) })
            .await;
    assert_eq!((one.unwrap().1, other.unwrap().1), (true, false));
    advance(secs(20)).await;
    let ((one, other), ()) = soon(async {
        tokio::join!(async { tokio::join!(get(), get()) }, expect_keep_alive(&mut cluster, 1, 30))
    })
    .await;
    for got in [one, other] {
        let (lease, is_new) = got.unwrap();
        assert_eq!((lease.id, is_new, lease.expires() - now()), (1, false, secs(10)));
        assert_eq!(confirmed(&shared.leases, lease).expires() - now(), secs(30));
    }
    assert!(cluster.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_new_claim_renews_a_lease_of_which_more_than_a_third_has_passed() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let leases = &shared.leases;
    granted(&mut cluster, leases, 1, 30).await;
    advance(secs(10)).await;
    assert_eq!(at_hand(leases, secs(30)), Some(1));
    advance(Duration::from_millis(1)).await;
    let (got, ()) =
        soon(async { tokio::join!(leases.get(secs(30)), expect_keep_alive(&mut cluster, 1, 30)) }).await;
    let (lease, is_new) = got.unwrap();
    assert_eq!((lease.id, is_new), (1, false));
    assert_eq!(at_hand(leases, secs(30)), Some(1), "the claim that asked will confirm it");
    assert_eq!(confirmed(leases, lease).expires() - now(), secs(30));
    assert_eq!(at_hand(leases, secs(30)), Some(1));
}

#[tokio::test(start_paused = true)]
async fn claims_get_another_lease_after_the_cluster_has_ended_theirs() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let leases = &shared.leases;
    granted(&mut cluster, leases, 1, 30).await;
    advance(secs(20)).await;
    let answers = async {
        expect_keep_alive(&mut cluster, 1, 0).await;
        expect_grant(&mut cluster, 2, 30).await;
    };
    let (got, ()) = soon(async { tokio::join!(leases.get(secs(30)), answers) }).await;
    assert_eq!(got.unwrap().0.id, 2);
    assert!(!leases.may_be_alive(1) && leases.may_be_alive(2));
    assert_eq!((leases.find(1), leases.find(2).map(|lease| lease.id)), (None, Some(2)));
}

#[tokio::test(start_paused = true)]
async fn a_lease_expires_its_length_after_the_request_that_confirmed_it_was_sent() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let leases = &shared.leases;
    let sent = now();
    let late = async {
        let (_, call) = cluster.asked::<LeaseGrantRequest>(GRANT).await;
        advance(secs(1)).await;
        call.answer(&LeaseGrantResponse { id: 1, ttl: 30, header: None });
    };
    let (got, ()) = tokio::join!(leases.get(secs(30)), late);
    let (lease, _) = got.unwrap();
    assert_eq!((lease.expires() - sent, lease.ttl()), (secs(30), secs(30)));
    advance(secs(29) - Duration::from_millis(1)).await;
    assert!(leases.find(1).is_some());
    advance(Duration::from_millis(1)).await;
    assert_eq!(leases.find(1), None);
    assert!(leases.may_be_alive(1), "a late answer may confirm it");
    assert_eq!(at_hand(leases, secs(30)), None);
    // When another lease is granted, nothing can confirm the first one any more, and it is removed.
    granted(&mut cluster, leases, 2, 30).await;
    assert!(!leases.may_be_alive(1));
}

#[tokio::test(start_paused = true)]
async fn a_draining_lease_is_renewed_but_takes_no_new_claims() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let leases = &shared.leases;
    granted(&mut cluster, leases, 1, 30).await;
    granted(&mut cluster, leases, 2, 60).await;
    leases.drain(2);
    assert_eq!(at_hand(leases, secs(60)), None);
    assert_eq!(at_hand(leases, secs(30)), Some(1), "it is not draining");
    granted(&mut cluster, leases, 3, 60).await;
    assert_eq!(at_hand(leases, secs(60)), Some(3));
    advance(secs(1)).await;
    let (kept, ()) =
        soon(async { tokio::join!(leases.keep_alive(2), expect_keep_alive(&mut cluster, 2, 60)) }).await;
    let kept = confirmed(leases, kept.unwrap().unwrap());
    assert_eq!((kept.id, kept.expires() - now()), (2, secs(60)));
    leases.forget(3);
    assert_eq!([1, 2, 3].map(|id| leases.find(id).is_some()), [true, true, false]);
    let mut all = leases.take_all();
    all.sort_unstable();
    assert_eq!(all, [1, 2]);
    assert!(leases.take_all().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lease_has_the_length_of_the_clusters_last_answer() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let leases = &shared.leases;
    granted(&mut cluster, leases, 1, 30).await;
    let (kept, ()) =
        soon(async { tokio::join!(leases.keep_alive(1), expect_keep_alive(&mut cluster, 1, 90)) }).await;
    let lease = confirmed(leases, kept.unwrap().unwrap());
    assert_eq!((lease.ttl(), lease.expires() - now()), (secs(90), secs(90)));
    assert_eq!(leases.find(1), Some(lease));
}

#[tokio::test(start_paused = true)]
async fn a_late_answer_does_not_shorten_what_a_later_request_confirmed() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let leases = &shared.leases;
    granted(&mut cluster, leases, 1, 30).await;
    granted(&mut cluster, leases, 2, 60).await;
    let mut first = Box::pin(leases.keep_alive(1));
    assert!((&mut first).now_or_never().is_none());
    let (_, late): (_, Call) = soon(cluster.asked::<LeaseRequest>(KEEP)).await;
    advance(secs(1)).await;
    let (kept, ()) =
        soon(async { tokio::join!(leases.keep_alive(1), expect_keep_alive(&mut cluster, 1, 30)) }).await;
    let later = kept.unwrap().unwrap();
    late.answer(&LeaseResponse { ttl: 30, header: None });
    let first = soon(first).await.unwrap().unwrap();
    let confirmed = confirmed(leases, later);
    assert_eq!(confirmed.expires() - now(), secs(30));
    assert!(leases.confirm(&first, None));
    assert_eq!(leases.find(1), Some(confirmed));
}

#[tokio::test(start_paused = true)]
async fn an_answer_does_not_bring_back_a_lease_that_was_given_up_meanwhile() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let leases = &shared.leases;
    granted(&mut cluster, leases, 1, 30).await;
    let answers = async {
        let (_, call) = cluster.asked::<LeaseRequest>(KEEP).await;
        assert_eq!(leases.take_all(), [1]);
        call.answer(&LeaseResponse { ttl: 30, header: None });
    };
    let (kept, ()) = soon(async { tokio::join!(leases.keep_alive(1), answers) }).await;
    assert_eq!(kept.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_is_repeated_only_if_its_token_has_expired() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let leases = &shared.leases;
    granted(&mut cluster, leases, 1, 30).await;
    let answers = async {
        let (_, call) = cluster.asked::<LeaseRequest>(KEEP).await;
        call.fail(tonic::Status::unauthenticated("invalid auth token"));
        let (asked, call) = cluster.asked::<AuthenticateRequest>("Auth/Authenticate").await;
        assert_eq!((&asked.name[..], &asked.password[..]), ("user", "password"));
        call.answer(&AuthenticateResponse { token: "new".to_owned() });
        let (_, call) = cluster.asked::<LeaseRequest>(KEEP).await;
        assert_eq!(call.token.as_deref(), Some(&b"new"[..]));
        call.answer(&LeaseResponse { ttl: 30, header: None });
    };
    let (kept, ()) = soon(async { tokio::join!(leases.keep_alive(1), answers) }).await;
    assert_eq!(kept.unwrap().map(|lease| lease.id), Some(1));
    let fails = async {
        let (_, call) = cluster.asked::<LeaseRequest>(KEEP).await;
        call.fail(tonic::Status::unavailable("no leader"));
    };
    let (kept, ()) = soon(async { tokio::join!(leases.keep_alive(1), fails) }).await;
    assert!(kept.unwrap_err().to_string().contains("no leader"));
    assert!(cluster.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_silent_cluster_neither_renews_nor_ends_a_lease() {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let leases = &shared.leases;
    let lease = granted(&mut cluster, leases, 1, 30).await;
    let (kept, call) = tokio::join!(leases.keep_alive(1), cluster.asked::<LeaseRequest>(KEEP));
    assert!(kept.unwrap_err().to_string().contains("did not answer"));
    drop(call);
    // Nor does a cluster that ends the request without an answer.
    let ends = async { drop(cluster.asked::<LeaseRequest>(KEEP).await) };
    let (kept, ()) = soon(async { tokio::join!(leases.keep_alive(1), ends) }).await;
    assert!(kept.unwrap_err().to_string().contains("without an answer"));
    assert_eq!(leases.find(1), Some(lease));
}

#[test]
fn the_length_of_a_lease_is_rounded_up_to_whole_seconds() {
    let millis = Duration::from_millis;
    for (length, whole) in [
        (Duration::ZERO, 1),
        (millis(1), 1),
        (millis(1000), 1),
        (millis(1001), 2),
        (millis(29_999), 30),
        (millis(30_000), 30),
        (secs(365 * 24 * 3600), 365 * 24 * 3600),
    ] {
        assert_eq!(seconds(length), whole, "{length:?}");
    }
}

/// What a test of terms sends and expects: the header of the answer to a request.
async fn answer_keep_alive(cluster: &mut Cluster, member: u64, term: u64) {
    let (asked, call) = cluster.asked::<LeaseRequest>(KEEP).await;
    assert_eq!(asked.id, 1);
    call.answer(&LeaseResponse { header: in_term(member, term), ttl: 30 });
}

/// A lease of 30 s that member 1 granted in term 2, five seconds ago.
async fn granted_in_term_2() -> (Cluster, Arc<Shared>) {
    let (mut cluster, shared) = Cluster::with_store(ADDRESS);
    let answers = async {
        let (_, call) = cluster.asked::<LeaseGrantRequest>(GRANT).await;
        call.answer(&LeaseGrantResponse { header: in_term(1, 2), id: 1, ttl: 30 });
    };
    let (got, ()) = soon(async { tokio::join!(shared.leases.get(secs(30)), answers) }).await;
    got.unwrap();
    advance(secs(5)).await;
    (cluster, shared)
}

#[tokio::test(start_paused = true)]
async fn a_keep_alive_counts_once_the_cluster_has_agreed_on_something_in_its_term() {
    // By whichever member.
    for (header, counts) in [(in_term(1, 2), true), (in_term(2, 2), true), (in_term(1, 3), false)] {
        let (mut cluster, shared) = granted_in_term_2().await;
        let leases = &shared.leases;
        let left = || leases.find(1).unwrap().expires() - now();
        let (kept, ()) =
            soon(async { tokio::join!(leases.keep_alive(1), answer_keep_alive(&mut cluster, 1, 2)) }).await;
        let kept = kept.unwrap().unwrap();
        assert_eq!((left(), kept.expires() - now()), (secs(25), secs(25)), "it is not confirmed yet");
        assert_eq!(leases.confirm(&kept, header.as_ref()), counts);
        assert_eq!(left(), if counts { secs(30) } else { secs(25) });
        assert!(cluster.is_idle().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_answers_in_a_new_term_is_asked_again_at_once() {
    // After an election; and a member that has not answered before.
    for (member, term) in [(1, 3), (2, 2)] {
        let (mut cluster, shared) = granted_in_term_2().await;
        let leases = &shared.leases;
        let answers = async {
            answer_keep_alive(&mut cluster, member, term).await;
            answer_keep_alive(&mut cluster, member, term).await;
        };
        let (kept, ()) = soon(async { tokio::join!(leases.keep_alive(1), answers) }).await;
        assert!(leases.confirm(&kept.unwrap().unwrap(), in_term(3, term).as_ref()));
        assert_eq!(leases.find(1).unwrap().expires() - now(), secs(30));
        assert!(cluster.is_idle().await);
    }
    // Elections without end.
    let (mut cluster, shared) = granted_in_term_2().await;
    let answers = async {
        answer_keep_alive(&mut cluster, 1, 3).await;
        answer_keep_alive(&mut cluster, 1, 4).await;
    };
    let (kept, ()) = soon(async { tokio::join!(shared.leases.keep_alive(1), answers) }).await;
    assert!(!shared.leases.confirm(&kept.unwrap().unwrap(), in_term(1, 4).as_ref()));
    assert_eq!(shared.leases.find(1).unwrap().expires() - now(), secs(25));
    assert!(cluster.is_idle().await);
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_keep_alive_is_not_confirmed_is_renewed_for_the_next_claim() {
    let (mut cluster, shared) = granted_in_term_2().await;
    let leases = &shared.leases;
    advance(secs(10)).await;
    let mut got = None;
    for term in [2, 3] {
        // In term 3 the member is asked twice.
        let answers = async {
            for _ in 0..term - 1 {
                answer_keep_alive(&mut cluster, 1, term).await;
            }
        };
        let (lease, ()) = soon(async { tokio::join!(leases.get(secs(30)), answers) }).await;
        let (lease, is_new) = lease.unwrap();
        assert_eq!((lease.id, is_new, at_hand(leases, secs(30))), (1, false, Some(1)));
        assert_eq!(leases.confirm(&lease, in_term(2, 3).as_ref()), term == 3);
        got = Some(lease);
    }
    assert!(cluster.is_idle().await);
    let expires = leases.find(1).unwrap().expires();
    assert_eq!(expires - now(), secs(30));
    // The same answer once more, late.
    advance(secs(1)).await;
    leases.confirm(&got.unwrap(), in_term(2, 3).as_ref());
    assert_eq!(leases.find(1).unwrap().expires(), expires);
}
