//! The task that drives a session: it writes requests, delivers answers and notifications, and reconnects.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::config::Config;
use super::connection::{Answer, Connection, SessionCredentials};
use super::failure::Failure;
use super::signs::Signs;
use super::state::{QueuedRequest, State, is_confirmed_by};
use super::wire::{AUTH_XID, NOTIFICATION_XID, OpCode, PING_XID, Reader, Request, Writer};
use crate::backend::{StoreNotice, StoreNoticeKind};
use crate::stores::transport::ToldBy;
use crate::sync::{Backoff, Instant, sleep_until};

/// The shortest and the longest pause before all servers are tried again.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How many bytes of requests are written at once, rounded up to a whole request.
const BATCH_BYTES: usize = 64 * 1024;

/// The type of the event that a node was deleted.
const NODE_DELETED: i32 = 2;

pub(super) struct Driver {
    config: Arc<Config>,
    state: Arc<State>,
    credentials: SessionCredentials,
    host: usize,
    requests: mpsc::UnboundedReceiver<QueuedRequest>,
    in_flight: VecDeque<InFlight>,
    /// Requests that a lost connection left without an answer, to be written first on the next one.
    resend: VecDeque<QueuedRequest>,
    last_xid: i32,
    signs: Signs,
    last_written: Instant,
    last_received: Instant,
    /// When the ping was sent that has no answer yet.
    ping_sent: Option<Instant>,
}

/// A request without an answer yet.
struct InFlight {
    xid: i32,
    queued: QueuedRequest,
    written_at: Instant,
}

impl Driver {
    pub(super) fn new(
        config: Arc<Config>,
        state: Arc<State>,
        credentials: SessionCredentials,
        host: usize,
        requests: mpsc::UnboundedReceiver<QueuedRequest>,
    ) -> Self {
        let mut signs = Signs::new(credentials.created);
        signs.presented(credentials.presented);
        Driver {
            config,
            state,
            credentials,
            host,
            requests,
            in_flight: VecDeque::new(),
            resend: VecDeque::new(),
            last_xid: 0,
            signs,
            last_written: Instant::now(),
            last_received: Instant::now(),
            ping_sent: None,
        }
    }

    /// Runs the session until its last user has dropped it or it has expired.
    pub(super) async fn run(mut self, mut connection: Connection) {
        let mut backoff = Backoff::new(RETRY_PAUSE);
        loop {
            let connected = self.last_received;
            let reason = match self.serve(&mut connection).await {
                Ok(()) => return,
                Err(Failure::Expired) => return self.expire(),
                Err(failure) => failure.to_string(),
            };
            let notice = StoreNotice::new(StoreNoticeKind::ConnectionLost, &reason);
            let (host, port) = &self.config.hosts[self.host];
            self.config.notices.give(notice.with_host(format!("{host}:{port}")));
            self.connection_lost(&reason);
            // A server may accept the session and then close the connection without an answer. Without a
            // pause, it would be tried again and again.
            if self.last_received > connected {
                backoff.reset();
            } else {
                tokio::time::sleep(backoff.pause()).await;
            }
            match self.reconnect().await {
                Ok(next) => connection = next,
                Err(Failure::Expired) => return self.expire(),
                Err(_) => return,
            }
        }
    }

    /// Sends requests and receives answers until the connection fails, or the session is closed or left to
    /// expire, because its last user has dropped it.
    async fn serve(&mut self, connection: &mut Connection) -> Result<(), Failure> {
        while let Some(queued) = self.resend.pop_front() {
            self.write(connection, queued).await?;
        }
        loop {
            let next = self.next_check();
            tokio::select! {
                biased;
                frame = connection.frame() => self.handle(frame?)?,
                queued = self.requests.recv() => match queued {
                    Some(queued) => self.write(connection, queued).await?,
                    None if self.state.is_left_to_expire => return Ok(()),
                    None => {
                        connection.close_session(self.next_xid()).await;
                        return Ok(());
                    }
                },
                () = sleep_until(next) => {
                    let now = Instant::now();
                    if self.answer_due().is_some_and(|due| due <= now) {
                        return Err(Failure::Lost("it did not answer in time".to_owned()));
                    }
                    if self.needs_ping(now) && self.ping_sent.is_none() {
                        (self.ping_sent, self.last_written) = (Some(now), now);
                        connection.send(PING_XID, &Request::bare(OpCode::Ping)).await?;
                    }
                }
            }
        }
    }

    /// When the oldest request must have been answered.
    fn answer_due(&self) -> Option<Instant> {
        let oldest = self.in_flight.front().map(|in_flight| in_flight.written_at);
        Some(oldest.into_iter().chain(self.ping_sent).min()? + self.config.timeout)
    }

    /// Whether the session may soon expire because nothing was written.
    fn needs_ping(&self, now: Instant) -> bool {
        self.ping_due().is_some_and(|due| due <= now)
    }

    /// When a ping has to be sent to keep the session alive.
    ///
    /// `None`: owners have stopped renewing, so do not ping; let the session expire. Owners have stopped if
    /// the last write already keeps the session alive for longer than any owner of a claim has asked for, by
    /// more than a quarter of its timeout. Within that one more ping is sent, so that a claim may outlive its
    /// lease by half of the timeout. Without that ping, a waiter that renews every third of its lease would
    /// have no sign of life that is young and yet known to the leader. No session is longer than its lease by
    /// more than a third, unless the servers ask for that, so that every other waiter has this ping.
    fn ping_due(&self) -> Option<Instant> {
        let facts = self.state.facts();
        let pause = facts.timeout / 4;
        if facts.claims > 0 && facts.keep_alive_until + pause < self.last_written + facts.timeout {
            return None;
        }
        Some(self.last_written + pause)
    }

    /// When to check again what is due.
    fn next_check(&self) -> Instant {
        let ping = if self.ping_sent.is_some() { None } else { self.ping_due() };
        // Claims that are enqueued, renewed or released change when a ping is due, and do not wake this task.
        // So it checks at least four times within the session's timeout.
        let regular = Instant::now() + self.credentials.timeout / 4;
        self.answer_due().into_iter().chain(ping).fold(regular, Instant::min)
    }

    /// Writes a request, and all others that are queued, up to the size of a batch.
    async fn write(&mut self, connection: &mut Connection, first: QueuedRequest) -> Result<(), Failure> {
        let mut frames = Writer::default();
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(queued) = next.take() {
            // A caller that no longer waits must not have its request carried out late.
            if !queued.answer.is_closed() {
                self.last_xid = self.next_xid();
                queued.request.write(self.last_xid, &mut frames);
                self.in_flight.push_back(InFlight { xid: self.last_xid, queued, written_at: now });
            }
            if frames.0.len() < BATCH_BYTES {
                next = self.resend.pop_front().or_else(|| self.requests.try_recv().ok());
            }
        }
        if !frames.0.is_empty() {
            self.last_written = now;
            connection.write(&frames.0).await?;
        }
        Ok(())
    }

    /// Xids of requests are positive, because the protocol reserves negative ones.
    fn next_xid(&self) -> i32 {
        self.last_xid.wrapping_add(1).max(1)
    }

    fn handle(&mut self, frame: Vec<u8>) -> Result<(), Failure> {
        let answer = Answer::read(frame)?;
        self.last_received = Instant::now();
        match answer.xid {
            NOTIFICATION_XID => {
                let mut event = Reader(&answer.body);
                let (kind, _state, path) = (event.int()?, event.int()?, event.text()?);
                self.notify(kind, &path);
                return Ok(());
            }
            PING_XID => {
                if let Some(sent) = self.ping_sent.take() {
                    self.signs.answered(sent, self.last_received, self.credentials.timeout);
                }
                return Ok(());
            }
            AUTH_XID => return answer.result().map(drop),
            _ => {}
        }
        self.credentials.last_zxid = self.credentials.last_zxid.max(answer.zxid);
        let Some(in_flight) = self.in_flight.pop_front().filter(|first| first.xid == answer.xid) else {
            return Err(Failure::Lost("it answered a request that was not sent".to_owned()));
        };
        let result = answer.result();
        let InFlight { queued: QueuedRequest { request, answer }, written_at, .. } = in_flight;
        let timeout = self.credentials.timeout;
        if is_confirmed_by(request.code, &result) {
            self.state.facts().counted_from = self.signs.confirmed(written_at, timeout);
        }
        if matches!(result, Ok(_) | Err(Failure::Refused(_))) {
            self.signs.answered(written_at, self.last_received, timeout);
        }
        let failure =
            result.as_ref().err().filter(|failure| !matches!(failure, Failure::Refused(_))).cloned();
        // An error means that the caller is gone, and needs no answer.
        let _ = answer.send(result);
        failure.map_or(Ok(()), Err)
    }

    /// Delivers an event to the inboxes that watch the node.
    fn notify(&self, kind: i32, path: &str) {
        let inboxes = self.state.facts().watches.remove(path);
        for inbox in inboxes.into_iter().flatten().filter_map(|inbox| inbox.upgrade()) {
            inbox.notify(|changes| match kind {
                NODE_DELETED => changes.deleted.push(path.as_bytes().to_vec()),
                _ => changes.read_again = true,
            });
        }
    }

    /// Handles the requests without an answer, which may or may not have been carried out.
    ///
    /// Requests that may be repeated safely are kept for the next connection. The others fail.
    fn connection_lost(&mut self, reason: &str) {
        self.ping_sent = None;
        self.state.wake_all_waiters(|facts| facts.reconnects += 1);
        for InFlight { queued, .. } in self.in_flight.drain(..) {
            if queued.request.may_be_repeated {
                self.resend.push_back(queued);
            } else {
                let _ = queued.answer.send(Err(Failure::Lost(reason.to_owned())));
            }
        }
    }

    /// Connects to a server that accepts the session. It fails if the session has expired, or if nobody uses
    /// it any more.
    ///
    /// It also counts as expired when no server has answered for the session's whole timeout. By then the
    /// owners of its claims have been told that the claims are lost. To the servers, each attempt that
    /// arrives is a sign of life, even if its answer never comes back. So further attempts would keep those
    /// claims in the queue.
    async fn reconnect(&mut self) -> Result<Connection, Failure> {
        let mut backoff = Backoff::new(RETRY_PAUSE);
        loop {
            if self.last_received.elapsed() >= self.credentials.timeout {
                return Err(Failure::Expired);
            }
            let connected = connect_any(&self.config, &mut self.credentials).await;
            // Also if it failed: a member may have taken up the session before.
            self.state.facts().timeout = self.credentials.timeout;
            match connected {
                Ok((connection, host)) => {
                    self.host = host;
                    self.last_written = Instant::now();
                    self.last_received = self.last_written;
                    self.signs.presented(self.credentials.presented);
                    return Ok(connection);
                }
                Err(Failure::Expired) => return Err(Failure::Expired),
                Err(failure) => {
                    self.config.notices.say(StoreNoticeKind::NotConnected, &failure);
                }
            }
            if self.requests.is_closed() {
                return Err(Failure::Lost("nobody uses the session any more".to_owned()));
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    /// Ends the session: fails all its requests and wakes all its waiters.
    fn expire(mut self) {
        self.state.wake_all_waiters(|facts| facts.is_expired = true);
        self.state.expired.notify_one();
        self.requests.close();
        let queued = std::iter::from_fn(|| self.requests.try_recv().ok());
        let in_flight = self.in_flight.into_iter().map(|in_flight| in_flight.queued);
        for queued in queued.chain(self.resend).chain(in_flight) {
            let _ = queued.answer.send(Err(Failure::Expired));
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
    let login = match &config.login {
        Some(login) => Some(login.read(config.timeout).await?),
        None => None,
    };
    let (mut lost, mut refused): (Option<(ToldBy, String)>, _) = (None, None);
    for host in turns(random[0].into(), config.hosts.len()) {
        let failure = match Connection::open(config, &config.hosts[host], login.as_ref(), credentials).await {
            Ok(connection) => return Ok((connection, host)),
            Err(failure) => failure,
        };
        let (told_by, reason) = match failure {
            Failure::Lost(reason) => (ToldBy::Server, reason),
            Failure::Unreached(unreached) => (unreached.told_by(), unreached.reason().to_owned()),
            Failure::FailedPrecondition(reason) => {
                refused = Some(reason);
                continue;
            }
            other => return Err(other),
        };
        if lost.as_ref().is_none_or(|(most, _)| *most <= told_by) {
            lost = Some((told_by, reason));
        }
    }
    // Another server may serve later. But what somebody has to change is told first, and what a server has
    // said before what is known of the others.
    Err(match (lost, refused) {
        (None, Some(reason)) => Failure::FailedPrecondition(reason),
        (Some(_), Some(reason)) | (Some((_, reason)), None) => Failure::Lost(reason),
        (None, None) => Failure::Lost("no server".to_owned()),
    })
}

/// The indices of all hosts in turn, starting from any number.
fn turns(first: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |turn| (first + turn) % count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::address::Address;

    const TIMEOUT: Duration = Duration::from_secs(9);

    /// A driver without a connection, which has written and received something at the same moment.
    fn driver() -> Driver {
        let config = Address::parse("zookeeper://h?timeout=2s").and_then(Config::new).unwrap();
        let state = State::new(1, TIMEOUT, Instant::now());
        let credentials = SessionCredentials { id: 1, ..SessionCredentials::new(TIMEOUT) };
        let (_, requests) = mpsc::unbounded_channel();
        Driver::new(Arc::new(config), Arc::new(state), credentials, 0, requests)
    }

    #[test]
    fn every_host_is_tried_once() {
        assert_eq!(turns(0, 3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(turns(200, 3).collect::<Vec<_>>(), [2, 0, 1]);
        assert_eq!(turns(255, 1).collect::<Vec<_>>(), [0]);
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn an_idle_session_is_pinged_after_a_quarter_of_its_timeout() {
        let driver = driver();
        let due = driver.last_written + TIMEOUT / 4;
        assert_eq!(driver.ping_due(), Some(due));
        assert!(driver.needs_ping(due) && !driver.needs_ping(due - Duration::from_nanos(1)));
    }

    #[test]
    fn a_session_whose_claims_are_not_renewed_is_not_pinged() {
        let driver = driver();
        driver.state.facts().claims = 1;
        let due = Some(driver.last_written + TIMEOUT / 4);
        driver.state.facts().keep_alive_until =
            driver.last_written + TIMEOUT * 3 / 4 - Duration::from_nanos(1);
        assert_eq!(driver.ping_due(), None);
        driver.state.facts().keep_alive_until = driver.last_written + TIMEOUT * 3 / 4;
        assert_eq!(driver.ping_due(), due, "it is kept alive for a quarter of the timeout too long");
        driver.state.facts().keep_alive_until = driver.last_written;
        driver.state.facts().claims = 0;
        assert_eq!(driver.ping_due(), due, "no claim outlives its lease by it");
    }

    #[test]
    fn an_answer_is_due_after_the_timeout_of_the_address() {
        let mut driver = driver();
        assert_eq!(driver.answer_due(), None);
        driver.ping_sent = Some(driver.last_written + seconds(1));
        assert_eq!(driver.answer_due(), Some(driver.last_written + seconds(3)));
        let (answer, _) = tokio::sync::oneshot::channel();
        let queued = QueuedRequest { request: Request::bare(OpCode::Ping), answer };
        driver.in_flight.push_back(InFlight { xid: 1, queued, written_at: driver.last_written });
        assert_eq!(driver.answer_due(), Some(driver.last_written + seconds(2)), "the older of the two");
    }

    #[test]
    fn the_next_check_is_when_something_is_due_and_within_a_quarter_of_the_timeout() {
        let mut driver = driver();
        let quarter = TIMEOUT / 4;
        let check =
            |driver: &Driver| (Instant::now() + quarter, driver.next_check(), Instant::now() + quarter);
        // The ping is due later than the regular check.
        driver.last_written += seconds(2);
        let (from, next, to) = check(&driver);
        assert!(from <= next && next <= to);
        driver.last_written -= seconds(4);
        assert_eq!(driver.next_check(), driver.last_written + quarter);
        driver.ping_sent = Some(driver.last_written);
        assert_eq!(
            driver.next_check(),
            driver.last_written + seconds(2),
            "the answer is due, and no other ping"
        );
    }
}
