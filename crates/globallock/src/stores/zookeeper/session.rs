//! A session, whatever becomes of its connections, as those see it who send requests over it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;

use super::config::Config;
use super::connection::{Connection, Failure, Identity};
use super::driver::Driver;
use super::wire::{Code, Request};
use crate::stores::watched::inbox::Inbox;

/// A session with the servers. Dropped, it is closed, and its claims end at once.
#[derive(Debug)]
pub(super) struct Session {
    state: Arc<State>,
    requests: mpsc::UnboundedSender<Asked>,
    /// How long an answer may take.
    limit: Duration,
}

/// A request on its way to the driver.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) request: Request,
    pub(super) asked_at: Instant,
    pub(super) answer: oneshot::Sender<Result<Vec<u8>, Failure>>,
}

/// A request that has been sent: what is sent next travels behind it.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) asked_at: Instant,
    answer: oneshot::Receiver<Result<Vec<u8>, Failure>>,
}

/// What the driver and the users of a session know of it together.
#[derive(Debug)]
pub(super) struct State {
    pub(super) id: i64,
    pub(super) ended: Arc<Notify>,
    facts: Mutex<Facts>,
}

#[derive(Debug)]
pub(super) struct Facts {
    /// How long the servers keep the session without a sign of life.
    pub(super) timeout: Duration,
    /// When the request was sent whose answer told last that the leader knows the session.
    pub(super) confirmed: Instant,
    /// How many claims hang on the session.
    pub(super) claims: usize,
    /// Until when the session must live though its claims give no sign of life.
    pub(super) kept_until: Instant,
    /// How many connections have been lost.
    pub(super) losses: u64,
    /// Whether the servers have ended it.
    pub(super) is_over: bool,
    pub(super) watches: HashMap<String, Vec<Weak<Inbox>>>,
}

impl State {
    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        // No code panics while it holds the lock, so poisoned facts are still whole.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has everybody who waits for news look for themselves.
    pub(super) fn all_look(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts();
        change(&mut facts);
        for inbox in facts.watches.drain().flat_map(|(_, inbox)| inbox).filter_map(|inbox| inbox.upgrade()) {
            inbox.notify(|changes| changes.read_again = true);
        }
    }
}

impl Session {
    /// Makes a session that outlives its owner's last sign of life by `lease`, or by what the servers make of that.
    ///
    /// Tells `ended` when the servers have ended it.
    pub(super) async fn open(
        config: &Arc<Config>,
        lease: Duration,
        ended: &Arc<Notify>,
    ) -> Result<Arc<Self>, Failure> {
        let mut identity = Identity { id: 0, password: vec![0; 16], timeout: lease, seen: 0 };
        let asked_at = Instant::now();
        let (connection, host) = connect_any(config, &mut identity).await?;
        let facts = Facts {
            timeout: identity.timeout,
            confirmed: asked_at,
            claims: 0,
            kept_until: asked_at,
            losses: 0,
            is_over: false,
            watches: HashMap::new(),
        };
        let state = Arc::new(State { id: identity.id, ended: Arc::clone(ended), facts: Mutex::new(facts) });
        let (requests, receiver) = mpsc::unbounded_channel();
        let driver = Driver::new(Arc::clone(config), Arc::clone(&state), identity, host, receiver);
        tokio::spawn(driver.run(connection));
        Ok(Arc::new(Session { state, requests, limit: config.timeout }))
    }

    /// A session that no server knows.
    #[cfg(test)]
    pub(super) fn detached(id: i64, timeout: Duration) -> Arc<Self> {
        let confirmed = Instant::now();
        let watches = HashMap::new();
        let facts = Facts {
            timeout,
            confirmed,
            claims: 0,
            kept_until: confirmed,
            losses: 0,
            is_over: false,
            watches,
        };
        let state = Arc::new(State { id, ended: Arc::default(), facts: Mutex::new(facts) });
        Arc::new(Session { state, requests: mpsc::unbounded_channel().0, limit: Duration::ZERO })
    }

    #[cfg(test)]
    pub(super) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The servers' number for it.
    pub(super) fn id(&self) -> i64 {
        self.state.id
    }

    pub(super) fn is_over(&self) -> bool {
        self.state.facts().is_over
    }

    pub(super) fn losses(&self) -> u64 {
        self.state.facts().losses
    }

    pub(super) fn timeout(&self) -> Duration {
        self.state.facts().timeout
    }

    /// When the request was sent whose answer told last that the session lives.
    pub(super) fn confirmed(&self) -> Instant {
        self.state.facts().confirmed
    }

    /// Until when the servers surely keep the session.
    ///
    /// A member tells the leader of signs of life only every half tick, and a session lasts two ticks at least unless
    /// the servers are told otherwise: so a quarter of the session is taken off.
    pub(super) fn expires(&self) -> Instant {
        let facts = self.state.facts();
        facts.confirmed + facts.timeout * 3 / 4
    }

    /// Takes note of a claim that hangs on the session.
    pub(super) fn add_claim(&self) {
        self.state.facts().claims += 1;
    }

    /// Takes note that a claim does not hang on the session any more.
    pub(super) fn remove_claim(&self) {
        let mut facts = self.state.facts();
        facts.claims = facts.claims.saturating_sub(1);
    }

    /// Keeps the session alive for as long as a claim outlives the sign of life that its owner has just given: the
    /// servers may allow less.
    pub(super) fn sign_of_life(&self, lease: Duration) {
        let until = Instant::now() + lease;
        let mut facts = self.state.facts();
        facts.kept_until = facts.kept_until.max(until);
    }

    /// Sends a request.
    pub(super) fn send(&self, request: Request) -> Pending {
        let (answer, receiver) = oneshot::channel();
        let asked_at = Instant::now();
        // A driver that has ended drops the request, which the receiver learns.
        let _ = self.requests.send(Asked { request, asked_at, answer });
        Pending { asked_at, answer: receiver }
    }

    /// Waits for the answer to a request that has been sent.
    pub(super) async fn answer(&self, pending: Pending) -> Result<Vec<u8>, Failure> {
        match timeout(self.limit, pending.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) if self.is_over() => Err(Failure::Expired),
            Ok(Err(_)) => Err(Failure::Lost("the request was dropped".to_owned())),
            Err(_) => Err(Failure::Lost("it did not answer in time".to_owned())),
        }
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn ask(&self, request: Request) -> Result<Vec<u8>, Failure> {
        self.answer(self.send(request)).await
    }

    /// Asks to be told of the end of a node, and whether it is there.
    pub(super) fn watch(&self, path: &str, inbox: &Arc<Inbox>) -> Pending {
        {
            let mut facts = self.state.facts();
            if !facts.is_over {
                let watching = facts.watches.entry(path.to_owned()).or_default();
                let inbox = Arc::downgrade(inbox);
                watching.retain(|other| other.strong_count() > 0 && !other.ptr_eq(&inbox));
                watching.push(inbox);
            }
        }
        self.send(Request::data(path, true))
    }

    /// Forgets who waits for news and has gone.
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

/// Connects to one server after the other until one serves, and says which.
pub(super) async fn connect_any(
    config: &Config,
    identity: &mut Identity,
) -> Result<(Connection, usize), Failure> {
    let mut random = [0; 1];
    // Clients spread over the servers; a system without randomness lets them all begin with the first.
    let _ = getrandom::fill(&mut random);
    let mut failure = Failure::Lost("no server".to_owned());
    for host in turns(random[0].into(), config.hosts.len()) {
        match Connection::open(config, &config.hosts[host], identity).await {
            Ok(connection) => return Ok((connection, host)),
            Err(Failure::Lost(reason)) => failure = Failure::Lost(reason),
            Err(other) => return Err(other),
        }
    }
    Err(failure)
}

/// All of so many hosts, beginning with one of them.
fn turns(first: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (first + turn) % count)
}

/// Whether the session's leader has answered a request of this kind by what it says.
pub(super) fn is_confirmed_by(code: Code, answer: &Result<Vec<u8>, Failure>) -> bool {
    use super::wire::Refusal;
    let answered = matches!(answer, Ok(_) | Err(Failure::Refused(Refusal::NO_NODE)));
    code.asks_leader() && answered
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::zookeeper::wire::Refusal;

    /// Members answer reads and pings by themselves, also when they have lost their leader.
    #[test]
    fn only_what_the_leader_has_answered_is_a_sign_of_life() {
        let good = || Ok(Vec::new());
        for code in [Code::Create2, Code::Delete, Code::Sync] {
            assert!(is_confirmed_by(code, &good()), "{code:?}");
            assert!(is_confirmed_by(code, &Err(Failure::Refused(Refusal::NO_NODE))), "{code:?}");
            // A refusal may be the member's own.
            for refusal in [Refusal::THROTTLED, Refusal::SESSION_MOVED, Refusal::NO_AUTH] {
                assert!(!is_confirmed_by(code, &Err(Failure::Refused(refusal))), "{code:?} {refusal:?}");
            }
            assert!(!is_confirmed_by(code, &Err(Failure::Lost(String::new()))));
            assert!(!is_confirmed_by(code, &Err(Failure::Expired)));
        }
        for code in [
            Code::Exists,
            Code::GetData,
            Code::GetChildren,
            Code::Ping,
            Code::Auth,
            Code::Sasl,
            Code::CreateContainer,
            Code::CloseSession,
        ] {
            assert!(!is_confirmed_by(code, &good()), "{code:?}");
        }
    }

    #[test]
    fn a_quarter_of_the_session_is_not_relied_on() {
        let session = Session::detached(1, Duration::from_secs(8));
        assert_eq!(session.expires(), session.confirmed() + Duration::from_secs(6));
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
    fn a_sign_of_life_keeps_the_session_for_a_lease_and_no_shorter_than_before() {
        let session = Session::detached(1, Duration::from_secs(8));
        let from = Instant::now();
        session.sign_of_life(Duration::from_secs(60));
        let kept = session.state.facts().kept_until;
        assert!(from + Duration::from_secs(60) <= kept && kept <= Instant::now() + Duration::from_secs(60));
        session.sign_of_life(Duration::from_secs(30));
        assert_eq!(session.state.facts().kept_until, kept);
    }

    #[tokio::test]
    async fn a_request_to_a_session_that_has_ended_says_so() {
        let session = Session { limit: Duration::from_secs(30), ..detached() };
        assert!(matches!(session.ask(Request::ping()).await, Err(Failure::Lost(_))));
        session.state.facts().is_over = true;
        assert!(matches!(session.ask(Request::ping()).await, Err(Failure::Expired)));
    }

    fn detached() -> Session {
        Arc::into_inner(Session::detached(1, Duration::from_secs(8))).unwrap()
    }

    #[tokio::test]
    async fn those_who_watch_a_node_are_remembered_once_and_for_as_long_as_they_live() {
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
        assert_eq!(watching("/b"), Some(1), "whoever has gone is forgotten");
        session.state.facts().is_over = true;
        drop(session.watch("/c", &other));
        assert_eq!(watching("/c"), None, "nothing comes over a session that has ended");
    }
}
