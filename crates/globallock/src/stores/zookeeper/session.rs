//! A session as the tasks see it that send requests over it. Its connections may come and go.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::config::Config;
use super::connection::{Connection, Failure, SessionCredentials};
use super::driver::Driver;
use super::wire::{OpCode, Request};
use crate::stores::watched::inbox::Inbox;
use crate::sync::{Mutex, MutexGuard};

/// A session with the servers. Dropping it closes it, and the servers delete its nodes at once. One that is
/// left to expire is not closed: its nodes stay until its timeout has passed.
#[derive(Debug)]
pub(super) struct Session {
    state: Arc<State>,
    requests: mpsc::UnboundedSender<QueuedRequest>,
    /// How long an answer may take.
    limit: Duration,
}

/// The body of an answer, or why there is none.
pub(super) type Outcome = Result<Vec<u8>, Failure>;

/// A request on its way to the driver.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub(super) request: Request,
    pub(super) requested_at: Instant,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// A request that has been sent. What is sent after it is written after it.
#[derive(Debug)]
pub(super) struct Sent(oneshot::Receiver<Outcome>);

/// What the driver of a session and its users share.
#[derive(Debug)]
pub(super) struct State {
    pub(super) id: i64,
    pub(super) expired: Arc<Notify>,
    /// Whether the session outlives its last user, until it expires.
    pub(super) is_left_to_expire: bool,
    facts: Mutex<Facts>,
}

#[derive(Debug)]
pub(super) struct Facts {
    /// How long the servers keep the session without a sign of life.
    pub(super) timeout: Duration,
    /// When the request was sent whose answer was the last to prove that the leader knows the session.
    pub(super) confirmed_at: Instant,
    /// How many claims have their nodes in the session, or are requested there.
    pub(super) claims: usize,
    /// Until when the owners of the claims have asked for the session to be kept alive.
    pub(super) keep_alive_until: Instant,
    /// How many connections have been lost.
    pub(super) reconnects: u64,
    /// Whether the servers have ended the session.
    pub(super) is_expired: bool,
    pub(super) watches: HashMap<String, Vec<Weak<Inbox>>>,
}

impl State {
    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock()
    }

    /// Changes the facts, and makes all waiters read again.
    pub(super) fn wake_all_waiters(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts();
        change(&mut facts);
        for inbox in facts.watches.drain().flat_map(|(_, inbox)| inbox).filter_map(|inbox| inbox.upgrade()) {
            inbox.notify(|changes| changes.read_again = true);
        }
    }
}

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
        let facts = Facts {
            timeout: credentials.timeout,
            confirmed_at: requested_at,
            claims: 0,
            keep_alive_until: requested_at,
            reconnects: 0,
            is_expired: false,
            watches: HashMap::new(),
        };
        let state = Arc::new(State {
            id: credentials.id,
            expired: Arc::clone(expired),
            is_left_to_expire,
            facts: Mutex::new(facts),
        });
        let (requests, receiver) = mpsc::unbounded_channel();
        let driver = Driver::new(Arc::clone(config), Arc::clone(&state), credentials, host, receiver);
        tokio::spawn(driver.run(connection));
        Ok(Arc::new(Session { state, requests, limit: config.timeout }))
    }

    /// A session that no server knows.
    #[cfg(test)]
    pub(super) fn detached(id: i64, timeout: Duration) -> Arc<Self> {
        let confirmed_at = Instant::now();
        let watches = HashMap::new();
        let facts = Facts {
            timeout,
            confirmed_at,
            claims: 0,
            keep_alive_until: confirmed_at,
            reconnects: 0,
            is_expired: false,
            watches,
        };
        let state = Arc::new(State {
            id,
            expired: Arc::default(),
            is_left_to_expire: false,
            facts: Mutex::new(facts),
        });
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

/// Tries the servers one after the other, and returns the first connection and the index of its server.
pub(super) async fn connect_any(
    config: &Config,
    credentials: &mut SessionCredentials,
) -> Result<(Connection, usize), Failure> {
    let mut random = [0; 1];
    // A random start spreads clients over the servers. Without randomness, all start with the first.
    let _ = getrandom::fill(&mut random);
    let mut failure = Failure::Lost("no server".to_owned());
    for host in turns(random[0].into(), config.hosts.len()) {
        match Connection::open(config, &config.hosts[host], credentials).await {
            Ok(connection) => return Ok((connection, host)),
            Err(Failure::Lost(reason)) => failure = Failure::Lost(reason),
            Err(other) => return Err(other),
        }
    }
    Err(failure)
}

/// The indices of all hosts in turn, starting from any number.
fn turns(first: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (first + turn) % count)
}

/// Whether this answer to a request of this kind proves that the leader knows the session.
pub(super) fn is_confirmed_by(code: OpCode, answer: &Outcome) -> bool {
    use super::wire::ErrorCode;
    let answered = matches!(answer, Ok(_) | Err(Failure::Refused(ErrorCode::NO_NODE)));
    code.goes_through_leader() && answered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::zookeeper::wire::ErrorCode;

    /// Members answer reads and pings by themselves, even after they have lost their leader.
    #[test]
    fn only_an_answer_of_the_leader_confirms_the_session() {
        let good = || Ok(Vec::new());
        for code in [OpCode::Create2, OpCode::Delete, OpCode::Multi, OpCode::Sync] {
            assert!(is_confirmed_by(code, &good()), "{code:?}");
            assert!(is_confirmed_by(code, &Err(Failure::Refused(ErrorCode::NO_NODE))), "{code:?}");
            // The member may refuse without the leader.
            for error in [ErrorCode::THROTTLED, ErrorCode::SESSION_MOVED, ErrorCode::NO_AUTH] {
                assert!(!is_confirmed_by(code, &Err(Failure::Refused(error))), "{code:?} {error:?}");
            }
            assert!(!is_confirmed_by(code, &Err(Failure::Lost(String::new()))));
            assert!(!is_confirmed_by(code, &Err(Failure::Expired)));
        }
        for code in [
            OpCode::Exists,
            OpCode::GetData,
            OpCode::GetChildren,
            OpCode::Ping,
            OpCode::Auth,
            OpCode::Sasl,
            OpCode::CreateContainer,
            OpCode::CloseSession,
        ] {
            assert!(!is_confirmed_by(code, &good()), "{code:?}");
        }
    }

    #[test]
    fn a_quarter_of_the_timeout_is_not_relied_on() {
        let session = Session::detached(1, Duration::from_secs(8));
        assert_eq!(session.expires(), session.confirmed_at() + Duration::from_secs(6));
    }

    #[test]
    fn every_host_is_tried_once() {
        assert_eq!(turns(0, 3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(turns(200, 3).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(turns(255, 1).collect::<Vec<_>>(), [0]);
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
