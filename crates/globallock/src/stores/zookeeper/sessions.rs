//! The sessions of one store: one for each lease that its claims ask for. As a rule that is one.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::config::Config;
use super::session::Session;
use crate::backend::DEFAULT_LEASE;
use crate::error::Result;
use crate::stores::watched::by_length::at_hand_or_made;
use crate::sync::{Mutex, MutexGuard};

/// The sessions, by the requested lease.
pub(super) struct Sessions {
    config: Arc<Config>,
    by_lease: Mutex<HashMap<Duration, Arc<Session>>>,
    /// Notified when a session has expired.
    expired: Arc<Notify>,
    /// Held by the task that opens a session, while others wait for it.
    opening: tokio::sync::Mutex<()>,
    /// The sessions of notices to evicted owners, by the requested timeout. Each lives while one of its
    /// notices is kept.
    for_notices: tokio::sync::Mutex<HashMap<Duration, Weak<Session>>>,
}

impl Sessions {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Sessions {
            config,
            by_lease: Mutex::default(),
            expired: Arc::default(),
            opening: tokio::sync::Mutex::default(),
            for_notices: tokio::sync::Mutex::default(),
        }
    }

    fn by_lease(&self) -> MutexGuard<'_, HashMap<Duration, Arc<Session>>> {
        self.by_lease.lock()
    }

    /// The session for claims of this lease.
    pub(super) async fn get(&self, lease: Duration) -> Result<Arc<Session>> {
        let known = || self.by_lease().get(&lease).filter(|session| !session.is_expired()).cloned();
        let open = async {
            let opened = Session::open(&self.config, lease, &self.expired).await;
            let session = opened.map_err(|failure| self.config.error(failure))?;
            self.by_lease().insert(lease, Arc::clone(&session));
            Ok(session)
        };
        at_hand_or_made(&self.opening, known, open).await
    }

    /// The session for notices that are kept for this long. It is apart from those of claims, because it is
    /// never closed: a notice outlives the process that has written it.
    pub(super) async fn for_notices(&self, kept: Duration) -> Result<Arc<Session>> {
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
    /// stopped renewing. So it is the session that was confirmed last.
    pub(super) async fn any(&self) -> Result<Arc<Session>> {
        match self.newest() {
            Some(session) => Ok(session),
            None => self.get(DEFAULT_LEASE).await,
        }
    }

    /// The living session that was confirmed last, if there is one.
    pub(super) fn newest(&self) -> Option<Arc<Session>> {
        let living = |session: &&Arc<Session>| !session.is_expired();
        self.by_lease().values().filter(living).max_by_key(|session| session.confirmed_at()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::address::Address;
    use crate::sync::Instant;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn observers_use_the_living_session_that_was_confirmed_last() {
        let config = Address::parse("zookeeper://127.0.0.1:1?timeout=1s").and_then(Config::new).unwrap();
        let sessions = Sessions {
            config: Arc::new(config),
            by_lease: Mutex::default(),
            expired: Arc::default(),
            opening: tokio::sync::Mutex::default(),
            for_notices: tokio::sync::Mutex::default(),
        };
        let lease = Duration::from_secs;
        let now = Instant::now();
        for number in 1..=3 {
            let session = Session::detached(number.try_into().unwrap(), lease(number));
            session.state().facts().confirmed_at = now + lease(number);
            sessions.by_lease().insert(lease(number), session);
        }
        let last = sessions.get(lease(3)).await.unwrap();
        assert_eq!(sessions.any().await.unwrap().id(), 3);
        last.state().facts().is_expired = true;
        assert_eq!(sessions.any().await.unwrap().id(), 2);
        assert!(
            sessions.get(lease(3)).await.is_err(),
            "a new session is requested, and nobody answers there"
        );
        assert!(sessions.expired().now_or_never().is_none());
        sessions.expired.notify_one();
        assert!(sessions.expired().now_or_never().is_some());
    }
}
