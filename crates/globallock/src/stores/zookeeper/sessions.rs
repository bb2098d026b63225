//! The sessions of one store: a few, however many leases its claims ask for. As a rule that is one.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::config::Config;
use super::session::Session;
use crate::backend::DEFAULT_LEASE;
use crate::error::Result;
use crate::stores::watched::by_length::at_hand_or_made;
use crate::sync::{Instant, Mutex, sleep_until};

/// The timeouts that sessions ask for, from one power of ten to the next. The servers' default limits are a
/// power of ten apart, so that a store has fourteen sessions for claims at most.
const STEPS: [u64; 12] = [10, 12, 15, 20, 25, 30, 40, 50, 60, 70, 80, 90];

/// The sessions of one store.
pub(super) struct Sessions {
    config: Arc<Config>,
    for_claims: Arc<Mutex<ForClaims>>,
    /// Notified when a session has expired.
    expired: Arc<Notify>,
    /// Held by the task that opens a session, while others wait for it.
    opening: tokio::sync::Mutex<()>,
    /// The sessions of notices to evicted owners, by the requested timeout. Each lives while one of its
    /// notices is kept.
    for_notices: tokio::sync::Mutex<HashMap<Duration, Weak<Session>>>,
}

/// The sessions of claims.
#[derive(Default)]
struct ForClaims {
    /// By the timeout that the servers have granted.
    by_timeout: BTreeMap<Duration, Arc<Session>>,
    /// The shortest and the longest timeout that the servers grant, once they have granted another than was
    /// asked for.
    limits: (Option<Duration>, Option<Duration>),
}

impl ForClaims {
    /// The timeout of the session for claims of this lease.
    fn timeout_for(&self, lease: Duration) -> Duration {
        let (shortest, longest) = self.limits;
        let at_least = step(lease).max(shortest.unwrap_or(Duration::ZERO));
        at_least.min(longest.unwrap_or(Duration::MAX))
    }

    /// The living session for claims of this lease.
    fn get(&self, lease: Duration) -> Option<Arc<Session>> {
        let session = self.by_timeout.get(&self.timeout_for(lease))?;
        Some(session).filter(|session| !session.is_expired()).cloned()
    }

    /// Records a session that was opened for this lease, and returns the one to use: another one may have the
    /// timeout that it was granted.
    fn opened(&mut self, lease: Duration, session: Arc<Session>) -> Arc<Session> {
        let (asked, granted) = (self.timeout_for(lease), session.timeout());
        // A limit that was learned from a member with other limits, or from servers as they were, is dropped.
        self.limits.0 = self.limits.0.filter(|shortest| *shortest <= granted);
        self.limits.1 = self.limits.1.filter(|longest| *longest >= granted);
        if granted > asked {
            self.limits.0 = Some(granted);
        }
        if granted < asked {
            self.limits.1 = Some(granted);
        }
        let known = self.by_timeout.get(&granted).filter(|known| !known.is_expired()).cloned();
        known.unwrap_or_else(|| {
            self.by_timeout.insert(granted, Arc::clone(&session));
            session
        })
    }

    /// Gives up a session that is idle, unless claims have used no other since. Returns whether it did, or
    /// the session was given up before.
    fn closes(&mut self, session: &Arc<Session>, now: Instant) -> bool {
        let is_it = |known: &Arc<Session>| Arc::ptr_eq(known, session);
        let Some((&timeout, _)) = self.by_timeout.iter().find(|(_, known)| is_it(known)) else { return true };
        let is_idle = session.idle_from().is_some_and(|from| from <= now);
        let used = session.last_used();
        let is_later =
            |other: &Arc<Session>| !is_it(other) && !other.is_expired() && other.last_used() > used;
        let is_last = !self.by_timeout.values().any(is_later);
        let closes = session.is_expired() || (is_idle && !is_last);
        if closes {
            self.by_timeout.remove(&timeout);
        }
        closes
    }
}

/// The timeout that a session for this lease asks for: the lease, rounded up to a step.
fn step(lease: Duration) -> Duration {
    let milliseconds = lease.as_nanos().div_ceil(1_000_000).max(1);
    let mut power: u128 = 1;
    loop {
        let fitting =
            STEPS.iter().map(|step| u128::from(*step) * power).find(|step| *step >= milliseconds * 10);
        if let Some(step) = fitting {
            return Duration::from_millis(u64::try_from(step / 10).unwrap_or(u64::MAX));
        }
        power *= 10;
    }
}

impl Sessions {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Sessions {
            config,
            for_claims: Arc::default(),
            expired: Arc::default(),
            opening: tokio::sync::Mutex::default(),
            for_notices: tokio::sync::Mutex::default(),
        }
    }

    /// The session for claims of this lease.
    pub(super) async fn get(&self, lease: Duration) -> Result<Arc<Session>> {
        let known = || self.for_claims.lock().get(lease);
        let open = async {
            let timeout = self.for_claims.lock().timeout_for(lease);
            let opened = Session::open(&self.config, timeout, &self.expired).await;
            let opened = opened.map_err(|failure| self.config.error(failure))?;
            let session = self.for_claims.lock().opened(lease, Arc::clone(&opened));
            if Arc::ptr_eq(&session, &opened) {
                close_when_idle(&self.for_claims, &session);
            }
            Ok(session)
        };
        at_hand_or_made(&self.opening, known, open).await
    }

    /// The session for notices that are kept for this long. It is apart from those of claims, because it is
    /// never closed: a notice outlives the process that has written it.
    pub(super) async fn for_notices(&self, kept: Duration) -> Result<Arc<Session>> {
        let kept = self.for_claims.lock().timeout_for(kept);
        let mut sessions = self.for_notices.lock().await;
        let known = sessions.get(&kept).and_then(Weak::upgrade);
        if let Some(session) = known.filter(|session| !session.is_expired()) {
            return Ok(session);
        }
        let session = Session::open_to_expire(&self.config, kept)
            .await
            .map_err(|failure| self.config.error(failure))?;
        sessions.retain(|_, session| session.strong_count() > 0);
        sessions.insert(kept, Arc::downgrade(&session));
        Ok(session)
    }

    /// Waits until a session has expired.
    pub(super) async fn expired(&self) {
        self.expired.notified().await;
    }

    /// Has all who wait for the end of a session look at their claims, because some are lost.
    pub(super) fn claims_are_lost(&self) {
        self.expired.notify_waiters();
    }

    /// A session for observers.
    ///
    /// Their requests are signs of life to the servers, and must not prolong the claims of an owner that has
    /// stopped renewing. So it is a session without claims, or else the one that was renewed last.
    pub(super) async fn any(&self) -> Result<Arc<Session>> {
        match self.newest() {
            Some(session) => Ok(session),
            None => self.get(DEFAULT_LEASE).await,
        }
    }

    /// The living session for observers, if there is one.
    pub(super) fn newest(&self) -> Option<Arc<Session>> {
        let living = |session: &&Arc<Session>| !session.is_expired();
        let sessions = self.for_claims.lock();
        sessions
            .by_timeout
            .values()
            .filter(living)
            .max_by_key(|session| (session.idle_from().is_some(), session.counted_from()))
            .cloned()
    }
}

/// Gives up a session once claims use others and no claim has used it for its timeout. Whoever uses it by
/// then keeps it until the end of that use.
fn close_when_idle(sessions: &Arc<Mutex<ForClaims>>, session: &Arc<Session>) {
    let (sessions, session) = (Arc::downgrade(sessions), Arc::downgrade(session));
    tokio::spawn(async move {
        loop {
            let Some(next) = session.upgrade().map(|session| {
                let now = Instant::now();
                session.idle_from().filter(|from| *from > now).unwrap_or(now + session.timeout())
            }) else {
                return;
            };
            sleep_until(next).await;
            let (Some(sessions), Some(session)) = (sessions.upgrade(), session.upgrade()) else { return };
            if sessions.lock().closes(&session, Instant::now()) {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::address::Address;
    use futures_util::FutureExt;
    use proptest::prelude::*;

    const fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    fn sessions() -> Sessions {
        let config = Address::parse("zookeeper://127.0.0.1:1?timeout=1s").and_then(Config::new).unwrap();
        Sessions::new(Arc::new(config))
    }

    #[tokio::test]
    async fn observers_use_a_living_session_without_claims_or_else_the_one_that_was_renewed_last() {
        let sessions = sessions();
        let now = Instant::now();
        for number in 1..=3 {
            let session = Session::detached(number.try_into().unwrap(), seconds(number));
            session.state().facts().counted_from = now + seconds(number);
            sessions.for_claims.lock().opened(seconds(number), session);
        }
        let last = sessions.get(seconds(3)).await.unwrap();
        assert_eq!(sessions.any().await.unwrap().id(), 3);
        last.add_claim();
        assert_eq!(sessions.any().await.unwrap().id(), 2);
        for lease in [1, 2] {
            sessions.get(seconds(lease)).await.unwrap().add_claim();
        }
        assert_eq!(sessions.any().await.unwrap().id(), 3);
        last.state().facts().is_expired = true;
        assert_eq!(sessions.any().await.unwrap().id(), 2);
        assert!(
            sessions.get(seconds(3)).await.is_err(),
            "a new session is requested, and nobody answers there"
        );
        assert!(sessions.expired().now_or_never().is_none());
        sessions.expired.notify_one();
        assert!(sessions.expired().now_or_never().is_some());
    }

    /// Opens the sessions for these leases, in seconds, on servers that grant 4 to 40 s, and returns the
    /// timeouts of those that are open then.
    fn opened(sessions: &mut ForClaims, leases: impl IntoIterator<Item = u64>) -> Vec<u64> {
        for (lease, number) in leases.into_iter().zip(1..) {
            let lease = seconds(lease);
            if sessions.get(lease).is_none() {
                let asked = sessions.timeout_for(lease);
                let granted = asked.clamp(seconds(4), seconds(40));
                let session = sessions.opened(lease, Session::detached(number, granted));
                assert_eq!(session.timeout(), granted);
            }
            assert_eq!(sessions.get(lease).map(|session| session.timeout().as_secs()), {
                Some(step(lease).clamp(seconds(4), seconds(40)).as_secs())
            });
        }
        sessions.by_timeout.keys().map(Duration::as_secs).collect()
    }

    #[test]
    fn few_sessions_serve_any_leases() {
        let mut sessions = ForClaims::default();
        assert_eq!(opened(&mut sessions, [10, 9, 7, 10]), [7, 9, 10]);
        assert_eq!(opened(&mut sessions, 1..200), [4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40]);
        assert_eq!(sessions.limits, (Some(seconds(4)), Some(seconds(40))));
    }

    #[test]
    fn members_with_other_limits_do_not_cost_a_session_for_each_claim() {
        let mut sessions = ForClaims::default();
        // One member grants 4 s and more, the other 3 s and less.
        for granted in [4, 3, 4, 3].map(seconds) {
            if sessions.get(seconds(1)).is_none() {
                sessions.opened(seconds(1), Session::detached(1, granted));
                assert!(sessions.get(seconds(1)).is_some(), "{granted:?}: {:?}", sessions.limits);
            }
            if sessions.get(seconds(10)).is_none() {
                sessions.opened(seconds(10), Session::detached(2, granted));
                assert!(sessions.get(seconds(10)).is_some(), "{granted:?}: {:?}", sessions.limits);
            }
        }
        assert!(sessions.by_timeout.len() <= 2);
    }

    #[test]
    fn a_session_that_was_granted_the_timeout_of_another_is_not_kept() {
        let mut sessions = ForClaims::default();
        let first = sessions.opened(seconds(4), Session::detached(1, seconds(4)));
        let used = sessions.opened(seconds(1), Session::detached(2, seconds(4)));
        assert!(Arc::ptr_eq(&used, &first));
        assert_eq!(sessions.by_timeout.len(), 1);
    }

    #[test]
    fn an_idle_session_is_given_up_once_another_was_used_since() {
        let mut sessions = ForClaims::default();
        let [one, other] = [seconds(4), seconds(8)].map(|timeout| {
            let session = sessions.opened(timeout, Session::detached(1, timeout));
            session.add_claim();
            session
        });
        let later = Instant::now() + seconds(60);
        assert!(!sessions.closes(&one, later), "it has a claim");
        one.remove_claim();
        assert!(!sessions.closes(&one, later), "it was used last");
        other.remove_claim();
        let idle = one.idle_from().unwrap();
        assert_eq!(idle, one.last_used() + seconds(4));
        assert!(!sessions.closes(&one, idle - Duration::from_nanos(1)));
        assert!(sessions.closes(&one, idle));
        assert!(sessions.closes(&one, idle), "it is gone already");
        assert!(!sessions.closes(&other, later), "the last one is kept");
        let dead = sessions.opened(seconds(2), Session::detached(3, seconds(2)));
        dead.add_claim();
        dead.state().facts().is_expired = true;
        assert!(!sessions.closes(&other, later), "a dead one serves nobody");
        assert!(sessions.closes(&dead, later));
        other.state().facts().is_expired = true;
        assert!(sessions.closes(&other, later));
        assert!(sessions.by_timeout.is_empty());
    }

    proptest! {
        #[test]
        fn a_step_is_no_shorter_than_the_lease_and_a_third_longer_at_most(nanoseconds in 1..u64::MAX) {
            let lease = Duration::from_nanos(nanoseconds);
            let (step_of, longest) = (step(lease), (lease + Duration::from_millis(1)) * 4 / 3);
            let longest = longest.max(Duration::from_millis(2));
            prop_assert!(lease <= step_of && step_of <= longest, "{:?}", step_of);
            prop_assert_eq!(step(step_of), step_of);
            // Otherwise its waiters would not be pinged for: see `Driver::ping_due`.
            prop_assert!(step_of * 3 / 4 <= lease + Duration::from_millis(1));
        }
    }
}
