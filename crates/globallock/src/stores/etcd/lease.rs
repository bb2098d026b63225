//! The leases of one store: one for each lease length that its claims ask for. Usually there is only one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream;

use super::connection::Connection;
use super::messages::{LeaseGrantRequest, LeaseRequest};
use crate::error::Result;
use crate::stores::watched::by_length::at_hand_or_made;
use crate::sync::{Mutex, MutexGuard, Notify, now};

/// A lease that the cluster granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) id: i64,
    /// The length that was asked for, in seconds.
    length: i64,
    /// Whether new claims must be attached to another lease, so that this one ends with its present claims.
    draining: bool,
    /// The length that the cluster granted.
    ttl: Duration,
    /// When the request was sent whose answer confirmed the lease last.
    confirmed: Instant,
}

impl Lease {
    /// Until when the cluster certainly keeps it.
    ///
    /// Counted from before the request, because the cluster may have handled it at any time since.
    pub(super) fn expires(&self) -> Instant {
        self.confirmed + self.ttl
    }

    /// How long it lives after its last renewal.
    pub(super) fn ttl(&self) -> Duration {
        self.ttl
    }

    fn is_alive(&self) -> bool {
        now() < self.expires()
    }

    /// Whether more than a third has passed, so that it must be renewed before a new claim is attached to
    /// it.
    fn is_stale(&self) -> bool {
        (now() - self.confirmed) * 3 > self.ttl
    }
}

/// The leases that are alive, and those that expired by our clock since the last lease was added.
pub(super) struct Leases {
    pub(super) connection: Arc<Connection>,
    known: Mutex<Vec<Lease>>,
    /// Held by the caller that asks the cluster; the others wait and use its lease.
    granting: tokio::sync::Mutex<()>,
    /// Notified when a lease is found to have ended.
    lost: Arc<Notify>,
}

impl Leases {
    pub(super) fn new(connection: Arc<Connection>, lost: Arc<Notify>) -> Self {
        Leases { connection, known: Mutex::default(), granting: tokio::sync::Mutex::default(), lost }
    }

    fn known(&self) -> MutexGuard<'_, Vec<Lease>> {
        self.known.lock()
    }

    /// Returns a lease of this length that is fresh enough for a new claim, and whether it is new.
    pub(super) async fn get(&self, length: Duration) -> Result<(Lease, bool)> {
        let length = seconds(length);
        let usable = |lease: &&Lease| lease.length == length && !lease.draining && lease.is_alive();
        let current = || self.known().iter().find(usable).copied();
        let fresh = || Some((current().filter(|lease| !lease.is_stale())?, false));
        let make = async {
            if let Some(stale) = current()
                && let Some(lease) = self.keep_alive(stale.id).await?
            {
                return Ok((lease, false));
            }
            let sent = now();
            let granted = self.connection.unary(LeaseGrantRequest { ttl: length }).await?;
            let ttl = Duration::from_secs(granted.ttl.unsigned_abs());
            let lease = Lease { id: granted.id, length, draining: false, ttl, confirmed: sent };
            self.add(lease);
            Ok((lease, true))
        };
        at_hand_or_made(&self.granting, fresh, make).await
    }

    fn add(&self, lease: Lease) {
        let mut known = self.known();
        known.retain(Lease::is_alive);
        known.push(lease);
    }

    /// Adds a lease without a request.
    #[cfg(test)]
    pub(super) fn pretend(&self, id: i64) {
        let ttl = Duration::from_secs(60);
        self.add(Lease { id, length: 60, draining: false, ttl, confirmed: now() });
    }

    /// Lets a lease expire by our clock.
    #[cfg(test)]
    pub(super) fn pretend_expired(&self, id: i64) {
        self.known().iter_mut().filter(|lease| lease.id == id).for_each(|lease| lease.ttl = Duration::ZERO);
    }

    /// Removes a lease that the cluster has ended.
    pub(super) fn forget(&self, id: i64) {
        self.known().retain(|lease| lease.id != id);
    }

    /// Removes a lease that the cluster has ended, and has its claims checked.
    pub(super) fn ended(&self, id: i64) {
        self.forget(id);
        self.lost.notify_one();
    }

    /// Keeps new claims from this lease, so that it ends with the claims that are attached to it now.
    pub(super) fn drain(&self, id: i64) {
        if let Some(lease) = self.known().iter_mut().find(|lease| lease.id == id) {
            lease.draining = true;
        }
    }

    /// The lease with this id, if it is certainly alive.
    pub(super) fn find(&self, id: i64) -> Option<Lease> {
        self.known().iter().find(|lease| lease.id == id).copied().filter(Lease::is_alive)
    }

    /// Whether any lease is certainly alive.
    pub(super) fn any_is_alive(&self) -> bool {
        self.known().iter().any(Lease::is_alive)
    }

    /// Whether this lease may be alive.
    ///
    /// A lease that has expired by our clock counts too: an answer that comes late may still confirm it.
    pub(super) fn may_be_alive(&self, id: i64) -> bool {
        self.known().iter().any(|lease| lease.id == id)
    }

    /// Renews a lease for its whole length. `None` if the cluster has ended it.
    pub(super) async fn keep_alive(&self, id: i64) -> Result<Option<Lease>> {
        let connection = &self.connection;
        let ask = async || {
            let sent = now();
            let request = stream::once(std::future::ready(LeaseRequest { id }));
            let mut answers = connection.stream(request).await?;
            let answer = answers.message().await?;
            let ended = || tonic::Status::unavailable("it ended the keep-alive without an answer");
            Ok::<_, tonic::Status>((sent, answer.ok_or_else(ended)?))
        };
        let asked = async {
            let token = connection.token();
            match ask().await {
                Err(status) if connection.refresh_token(&status, token).await? => ask().await,
                answer => answer,
            }
        };
        let answer = tokio::time::timeout(connection.config().timeout, asked).await;
        let (sent, answer) = answer
            .unwrap_or_else(|_| {
                Err(tonic::Status::deadline_exceeded("it did not answer a keep-alive in time"))
            })
            .map_err(|status| connection.error(status))?;
        let mut known = self.known();
        if answer.ttl <= 0 {
            drop(known);
            self.forget(id);
            return Ok(None);
        }
        let ttl = Duration::from_secs(answer.ttl.unsigned_abs());
        let lease = known.iter_mut().find(|lease| lease.id == id);
        Ok(lease.map(|lease| {
            // A late answer must not shorten what a later request has confirmed.
            if sent + ttl > lease.expires() {
                *lease = Lease { ttl, confirmed: sent, ..*lease };
            }
            *lease
        }))
    }

    /// Removes and returns all leases, to be revoked.
    pub(super) fn take_all(&self) -> Vec<i64> {
        self.known().drain(..).map(|lease| lease.id).collect()
    }
}

/// Rounds up to whole seconds, because the cluster counts in those.
fn seconds(length: Duration) -> i64 {
    let whole = length.as_secs() + u64::from(length.subsec_nanos() > 0);
    i64::try_from(whole).unwrap_or(i64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;
    use crate::stores::etcd::messages::{
        AuthenticateRequest, AuthenticateResponse, LeaseGrantResponse, LeaseResponse,
    };
    use crate::stores::etcd::scripted::{Call, Cluster, soon};

    const ADDRESS: &str = "etcd://user:password@127.0.0.1:1";
    const GRANT: &str = "Lease/LeaseGrant";
    const KEEP: &str = "Lease/LeaseKeepAlive";

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    async fn expect_grant(cluster: &mut Cluster, id: i64, ttl: i64) {
        let (asked, call) = cluster.asked::<LeaseGrantRequest>(GRANT).await;
        assert_eq!(asked.ttl, ttl);
        call.answer(&LeaseGrantResponse { id, ttl });
    }

    async fn expect_keep_alive(cluster: &mut Cluster, id: i64, ttl: i64) {
        let (asked, call) = cluster.asked::<LeaseRequest>(KEEP).await;
        assert_eq!(asked.id, id);
        call.answer(&LeaseResponse { ttl });
    }

    /// Gets a new lease of this length.
    async fn granted(cluster: &mut Cluster, leases: &Leases, id: i64, ttl: i64) -> Lease {
        let length = Duration::from_secs(ttl.unsigned_abs());
        let (got, ()) =
            soon(async { tokio::join!(leases.get(length), expect_grant(cluster, id, ttl)) }).await;
        let (lease, is_new) = got.unwrap();
        assert_eq!((lease.id, is_new), (id, true));
        lease
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
        let ((one, other), ()) = soon(async {
            tokio::join!(async { tokio::join!(get(), get()) }, expect_grant(&mut cluster, 1, 30))
        })
        .await;
        assert_eq!((one.unwrap().1, other.unwrap().1), (true, false));
        advance(secs(20)).await;
        let ((one, other), ()) = soon(async {
            tokio::join!(async { tokio::join!(get(), get()) }, expect_keep_alive(&mut cluster, 1, 30))
        })
        .await;
        for got in [one, other] {
            let (lease, is_new) = got.unwrap();
            assert_eq!((lease.id, is_new, lease.expires() - now()), (1, false, secs(30)));
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
        assert_eq!((lease.id, is_new, lease.expires() - now()), (1, false, secs(30)));
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
            call.answer(&LeaseGrantResponse { id: 1, ttl: 30 });
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
        assert_eq!(kept.unwrap().map(|lease| (lease.id, lease.expires() - now())), Some((2, secs(60))));
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
        let lease = kept.unwrap().unwrap();
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
        let confirmed = kept.unwrap().unwrap();
        assert_eq!(confirmed.expires() - now(), secs(30));
        late.answer(&LeaseResponse { ttl: 30 });
        assert_eq!(soon(first).await.unwrap(), Some(confirmed));
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
            call.answer(&LeaseResponse { ttl: 30 });
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
            call.answer(&LeaseResponse { ttl: 30 });
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
}
