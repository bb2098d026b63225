//! A session as the tasks see it that send requests over it. Its connections may come and go.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::config::Config;
use super::connection::SessionCredentials;
use super::driver::{Driver, connect_any};
use super::failure::{Failure, Outcome};
use super::state::{QueuedRequest, State};
use super::wire::Request;
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
        let mut credentials =
            SessionCredentials { id: 0, password: vec![0; 16], timeout: lease, last_zxid: 0 };
        let requested_at = Instant::now();
        let (connection, host) = connect_any(config, &mut credentials).await?;
        let mut state = State::new(credentials.id, credentials.timeout, requested_at);
        (state.expired, state.is_left_to_expire) = (Arc::clone(expired), is_left_to_expire);
        let state = Arc::new(state);
        let (requests, receiver) = mpsc::unbounded_channel();
        let driver = Driver::new(Arc::clone(config), Arc::clone(&state), credentials, host, receiver);
        tokio::spawn(driver.run(connection));
        Ok(Arc::new(Session { state, requests, limit: config.timeout }))
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

    /// When the request was sent whose answer was the last to prove that the leader knows the session.
    pub(super) fn confirmed_at(&self) -> Instant {
        self.state.facts().confirmed_at
    }

    /// Until when the servers surely keep the session: three quarters of its timeout after it was confirmed.
    ///
    /// The leader may count from an earlier sign of life, because a member passes them on only every half
    /// tick. With the servers' default limits a timeout is at least two ticks, so half a tick is at most a
    /// quarter of it.
    pub(super) fn expires(&self) -> Instant {
        let facts = self.state.facts();
        facts.confirmed_at + facts.timeout * 3 / 4
    }

    /// Counts a claim of the session.
    pub(super) fn add_claim(&self) {
        self.state.facts().claims += 1;
    }

    /// Counts that a claim has left the session.
    pub(super) fn remove_claim(&self) {
        let mut facts = self.state.facts();
        facts.claims = facts.claims.saturating_sub(1);
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
        let requested_at = Instant::now();
        // A driver that has ended drops the request, and the receiver fails.
        let _ = self.requests.send(QueuedRequest { request, requested_at, answer });
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::zookeeper::wire::OpCode;

    #[test]
    fn a_quarter_of_the_timeout_is_not_relied_on() {
        let session = Session::detached(1, Duration::from_secs(8));
        assert_eq!(session.expires(), session.confirmed_at() + Duration::from_secs(6));
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
