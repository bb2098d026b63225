//! A session as the tasks see it that send requests over it. Its connections may come and go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::config::Config;
use super::connection::{Connection, SessionCredentials};
use super::driver::{Driver, connect_any};
use super::failure::{Failure, Outcome};
use super::state::{QueuedRequest, State};
use super::wire::Request;
use crate::deadline::margin;
use crate::stores::watched::inbox::Inbox;
use crate::sync::Instant;

/// A session with the servers. Dropping it closes it, and the servers delete its nodes at once. One that is
/// left to expire is not closed: its nodes stay until its timeout has passed.
#[derive(Debug)]
pub(super) struct Session {
    state: Arc<State>,
    requests: mpsc::UnboundedSender<QueuedRequest>,
    /// How long an answer may take.
    limit: Duration,
}

/// A request that has been sent. What is sent after it is written after it.
#[derive(Debug)]
pub(super) struct Sent(oneshot::Receiver<Outcome>);

impl Session {
    /// Creates a session that outlives its owner's last sign of life by `lease`, if the servers allow it.
    ///
    /// `expired` is notified when the servers have ended it.
    pub(super) async fn open(
        config: &Arc<Config>,
        lease: Duration,
        expired: &Arc<Notify>,
    ) -> Result<Arc<Self>, Failure> {
        Self::open_with(config, lease, expired, false).await
    }

    /// Creates a session that outlives its last user, also the process, by `lasts`, if the servers allow it.
    pub(super) async fn open_to_expire(config: &Arc<Config>, lasts: Duration) -> Result<Arc<Self>, Failure> {
        Self::open_with(config, lasts, &Arc::default(), true).await
    }

    async fn open_with(
        config: &Arc<Config>,
        lease: Duration,
        expired: &Arc<Notify>,
        is_left_to_expire: bool,
    ) -> Result<Arc<Self>, Failure> {
        let (config, expired) = (Arc::clone(config), Arc::clone(expired));
        // A task of its own, so that it ends well if this call is dropped: a session that nobody takes is
        // closed.
        let made = tokio::spawn(Self::make(config, lease, expired, is_left_to_expire));
        made.await.unwrap_or_else(|_| Err(Failure::Lost("the runtime is shutting down".to_owned())))
    }

    async fn make(
        config: Arc<Config>,
        lease: Duration,
        expired: Arc<Notify>,
        is_left_to_expire: bool,
    ) -> Result<Arc<Self>, Failure> {
        let mut credentials = SessionCredentials::new(lease);
        let (connection, host) = match connect_any(&config, &mut credentials).await {
            Ok(connected) => connected,
            Err(failure) => {
                if credentials.id != 0 {
                    tokio::spawn(close_half_made(config, credentials));
                }
                return Err(failure);
            }
        };
        let mut state = State::new(credentials.id, credentials.timeout, credentials.created);
        (state.expired, state.is_left_to_expire) = (expired, is_left_to_expire);
        let state = Arc::new(state);
        let (requests, receiver) = mpsc::unbounded_channel();
        let limit = config.timeout;
        let driver = Driver::new(config, Arc::clone(&state), credentials, host, receiver);
        tokio::spawn(driver.run(connection));
        Ok(Arc::new(Session { state, requests, limit }))
    }

    /// A session that no server knows.
    #[cfg(test)]
    pub(super) fn detached(id: i64, timeout: Duration) -> Arc<Self> {
        let state = Arc::new(State::new(id, timeout, Instant::now()));
        Arc::new(Session { state, requests: mpsc::unbounded_channel().0, limit: Duration::ZERO })
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The number that the servers have given it.
    pub(super) fn id(&self) -> i64 {
        self.state.id
    }

    pub(super) fn is_expired(&self) -> bool {
        self.state.facts().is_expired
    }

    pub(super) fn reconnects(&self) -> u64 {
        self.state.facts().reconnects
    }

    pub(super) fn timeout(&self) -> Duration {
        self.state.facts().timeout
    }

    /// The leader counts the session's timeout from this moment, or from a later one.
    pub(super) fn counted_from(&self) -> Instant {
        self.state.facts().counted_from
    }

    /// Until when the servers surely keep the session.
    ///
    /// The core takes off what clocks may differ by within a lease. The session may last longer than that.
    pub(super) fn expires(&self) -> Instant {
        let facts = self.state.facts();
        facts.counted_from + facts.timeout.saturating_sub(margin(facts.timeout))
    }

    /// Counts a claim of the session.
    pub(super) fn add_claim(&self) {
        let mut facts = self.state.facts();
        facts.claims += 1;
        facts.last_used = Instant::now();
    }

    /// Counts that a claim has left the session.
    pub(super) fn remove_claim(&self) {
        let mut facts = self.state.facts();
        facts.claims = facts.claims.saturating_sub(1);
        facts.last_used = Instant::now();
    }

    /// When a claim was last requested in the session, or left it.
    pub(super) fn last_used(&self) -> Instant {
        self.state.facts().last_used
    }

    /// From when on the session counts as idle if no claim uses it until then; `None` while it has claims.
    pub(super) fn idle_from(&self) -> Option<Instant> {
        let facts = self.state.facts();
        (facts.claims == 0).then(|| facts.last_used + facts.timeout)
    }

    /// Keeps the session alive for `lease` from now, because the owner of a claim has given a sign of life.
    ///
    /// The servers may allow less.
    pub(super) fn keep_alive_for(&self, lease: Duration) {
        let until = Instant::now() + lease;
        let mut facts = self.state.facts();
        facts.keep_alive_until = facts.keep_alive_until.max(until);
    }

    /// Sends a request.
    pub(super) fn send(&self, request: Request) -> Sent {
        let (answer, receiver) = oneshot::channel();
        // A driver that has ended drops the request, and the receiver fails.
        let _ = self.requests.send(QueuedRequest { request, answer });
        Sent(receiver)
    }

    /// Waits for the answer to a request.
    pub(super) async fn answer(&self, sent: Sent) -> Outcome {
        match timeout(self.limit, sent.0).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if self.is_expired() => Err(Failure::Expired),
            Ok(Err(_)) => Err(Failure::Lost("the request was dropped".to_owned())),
            Err(_) => Err(Failure::Lost("it did not answer in time".to_owned())),
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn ask(&self, request: Request) -> Outcome {
        self.answer(self.send(request)).await
    }

    /// Has what the server notifies of a node put into an inbox. The watch itself is requested after this.
    pub(super) fn put_into(&self, inbox: &Arc<Inbox>, path: &str) {
        let mut facts = self.state.facts();
        if !facts.is_expired {
            let watching = facts.watches.entry(path.to_owned()).or_default();
            let inbox = Arc::downgrade(inbox);
            watching.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&inbox));
            watching.push(inbox);
        }
    }

    /// Forgets the inboxes of a node that have been dropped.
    pub(super) fn unwatch(&self, path: &str) {
        let mut facts = self.state.facts();
        if let Some(watching) = facts.watches.get_mut(path) {
            watching.retain(|inbox| inbox.strong_count() > 0);
            if watching.is_empty() {
                facts.watches.remove(path);
            }
        }
    }
}

/// Closes a session that was created, and whose user could not log in. It would hold nothing, but the servers
/// would keep it for its timeout, as they do if they take no request of a user that is not logged in.
async fn close_half_made(config: Arc<Config>, mut credentials: SessionCredentials) {
    for host in &config.hosts {
        // A server that has refused a login reads nothing more from that connection.
        if let Ok(mut connection) = Connection::open(&config, host, None, &mut credentials).await {
            return connection.close_session(1).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::zookeeper::wire::OpCode;

    #[test]
    fn a_session_is_relied_on_for_its_timeout_less_what_clocks_may_differ_by() {
        let timeout = Duration::from_secs(8);
        let session = Session::detached(1, timeout);
        assert_eq!(session.expires(), session.counted_from() + timeout - margin(timeout));
    }

    #[test]
    fn the_claims_of_a_session_are_counted() {
        let session = Session::detached(1, Duration::from_secs(8));
        let claims = || session.state.facts().claims;
        session.add_claim();
        session.add_claim();
        assert_eq!(claims(), 2);
        for left in [1, 0, 0] {
            session.remove_claim();
            assert_eq!(claims(), left);
        }
    }

    #[test]
    fn a_sign_of_life_keeps_the_session_for_a_lease_and_never_shortens_that() {
        let session = Session::detached(1, Duration::from_secs(8));
        let from = Instant::now();
        session.keep_alive_for(Duration::from_secs(60));
        let kept = session.state.facts().keep_alive_until;
        assert!(from + Duration::from_secs(60) <= kept && kept <= Instant::now() + Duration::from_secs(60));
        session.keep_alive_for(Duration::from_secs(30));
        assert_eq!(session.state.facts().keep_alive_until, kept);
    }

    #[tokio::test]
    async fn a_request_in_an_expired_session_fails_as_expired() {
        let session = Session { limit: Duration::from_secs(30), ..detached() };
        assert!(matches!(session.ask(Request::bare(OpCode::Ping)).await, Err(Failure::Lost(_))));
        session.state.facts().is_expired = true;
        assert!(matches!(session.ask(Request::bare(OpCode::Ping)).await, Err(Failure::Expired)));
    }

    fn detached() -> Session {
        Arc::into_inner(Session::detached(1, Duration::from_secs(8))).unwrap()
    }

    #[tokio::test]
    async fn an_inbox_is_kept_once_for_each_node_and_only_while_it_exists() {
        let session = detached();
        let watching = |path: &str| session.state.facts().watches.get(path).map(Vec::len);
        let [one, other] = [Arc::<Inbox>::default(), Arc::default()];
        for inbox in [&one, &other, &one] {
            drop(session.watch("/a", inbox));
        }
        drop(session.watch("/b", &one));
        assert_eq!((watching("/a"), watching("/b")), (Some(2), Some(1)));
        drop(one);
        session.unwatch("/a");
        session.unwatch("/b");
        assert_eq!((watching("/a"), watching("/b")), (Some(1), None));
        let third = Arc::default();
        drop(session.watch("/b", &Arc::default()));
        drop(session.watch("/b", &third));
        assert_eq!(watching("/b"), Some(1), "a dropped inbox is forgotten");
        session.state.facts().is_expired = true;
        drop(session.watch("/c", &other));
        assert_eq!(watching("/c"), None, "an expired session notifies nobody");
    }
}
