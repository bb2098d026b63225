//! The task of a session: it carries requests out and answers in, and finds a new server when one is lost.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::config::Config;
use super::connection::{Answer, Connection, Failure, Identity};
use super::session::{Asked, State, connect_any, is_confirmed_by};
use super::wire::{AUTH, EVENT, PING, Reader, Request, Writer};

/// The bounds of the pause between two tries of all servers.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// How many bytes of requests are written at once, or a little more.
const TOGETHER: usize = 64 * 1024;

/// The kind of event that tells of a node's end.
const DELETED: i32 = 2;

pub(super) struct Driver {
    config: Arc<Config>,
    state: Arc<State>,
    identity: Identity,
    host: usize,
    requests: mpsc::UnboundedReceiver<Asked>,
    under_way: VecDeque<UnderWay>,
    /// What a lost connection has left unanswered, to be written first over the next one.
    again: VecDeque<Asked>,
    number: i32,
    /// When something was written last.
    written: Instant,
    /// When a server said something last.
    heard: Instant,
    ping: Option<Instant>,
}

/// A request that waits for its answer.
struct UnderWay {
    number: i32,
    asked: Asked,
    written_at: Instant,
}

/// Why a connection is not used any more.
enum End {
    /// Nobody needs the session.
    Closed,
    Broken(String),
    Expired,
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Expired => End::Expired,
            other => End::Broken(other.to_string()),
        }
    }
}

impl Driver {
    pub(super) fn new(
        config: Arc<Config>,
        state: Arc<State>,
        identity: Identity,
        host: usize,
        requests: mpsc::UnboundedReceiver<Asked>,
    ) -> Self {
        Driver {
            config,
            state,
            identity,
            host,
            requests,
            under_way: VecDeque::new(),
            again: VecDeque::new(),
            number: 0,
            written: Instant::now(),
            heard: Instant::now(),
            ping: None,
        }
    }

    /// Serves the session until nobody needs it, or the servers have ended it.
    pub(super) async fn run(mut self, mut connection: Connection) {
        let mut pause = RETRY.0;
        loop {
            let taken = self.heard;
            let reason = match self.serve(&mut connection).await {
                End::Closed => return,
                End::Expired => return self.expire(),
                End::Broken(reason) => reason,
            };
            tracing::debug!(store = %self.config.shown, host = self.host, reason, "a connection is lost");
            self.lose(&reason);
            // A server that takes the session and says nothing more would be asked all the time.
            if self.heard > taken {
                pause = RETRY.0;
            } else {
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
            }
            match self.reconnect().await {
                Some(Ok(next)) => connection = next,
                Some(Err(())) => return self.expire(),
                None => return,
            }
        }
    }

    /// Carries requests and answers until the connection is lost.
    async fn serve(&mut self, connection: &mut Connection) -> End {
        while let Some(asked) = self.again.pop_front() {
            if let Err(failure) = self.write(connection, asked).await {
                return failure.into();
            }
        }
        loop {
            let next = self.next_look();
            tokio::select! {
                biased;
                frame = connection.frame() => {
                    let handled = frame.and_then(|frame| self.handle(frame));
                    if let Err(failure) = handled {
                        return failure.into();
                    }
                }
                asked = self.requests.recv() => {
                    let Some(asked) = asked else {
                        return self.close(connection).await;
                    };
                    if let Err(failure) = self.write(connection, asked).await {
                        return failure.into();
                    }
                }
                () = tokio::time::sleep_until(next.into()) => {
                    let now = Instant::now();
                    if self.answer_due().is_some_and(|due| due <= now) {
                        return End::Broken("it did not answer in time".to_owned());
                    }
                    if self.is_idle(now) && self.ping.is_none() {
                        let mut frames = Writer::default();
                        Request::ping().write(PING, &mut frames);
                        self.ping = Some(now);
                        self.written = now;
                        if let Err(failure) = connection.write(&frames.0).await {
                            return failure.into();
                        }
                    }
                }
            }
        }
    }

    /// When the oldest request must have been answered.
    fn answer_due(&self) -> Option<Instant> {
        let oldest = self.under_way.front().map(|under_way| under_way.written_at);
        Some(oldest.into_iter().chain(self.ping).min()? + self.config.timeout)
    }

    /// Whether so little has been sent that the server may take the session for dead.
    fn is_idle(&self, now: Instant) -> bool {
        now >= self.ping_due()
    }

    fn ping_due(&self) -> Instant {
        let facts = self.state.facts();
        let pause = facts.timeout / 3;
        // Claims live by their owners' signs of life: without those they shall end.
        if facts.claims > 0 && facts.kept_until < self.written + facts.timeout {
            return self.written + pause * 1000;
        }
        self.written + pause
    }

    /// When to see what is overdue.
    fn next_look(&self) -> Instant {
        let ping = if self.ping.is_some() { None } else { Some(self.ping_due()) };
        // A claim that leaves or joins changes what is due without waking anybody: so it is looked at now and then.
        let look = Instant::now() + self.identity.timeout / 4;
        self.answer_due().into_iter().chain(ping).fold(look, Instant::min)
    }

    /// Writes a request, and whatever else waits to be written.
    async fn write(&mut self, connection: &mut Connection, first: Asked) -> Result<(), Failure> {
        let mut frames = Writer::default();
        let now = Instant::now();
        let mut next = Some(first);
        while let Some(asked) = next.take() {
            // Who does not wait any more does not want it carried out late either.
            if !asked.answer.is_closed() {
                self.number = self.number.wrapping_add(1).max(1);
                asked.request.write(self.number, &mut frames);
                self.under_way.push_back(UnderWay { number: self.number, asked, written_at: now });
            }
            if frames.0.len() < TOGETHER {
                next = self.again.pop_front().or_else(|| self.requests.try_recv().ok());
            }
        }
        if !frames.0.is_empty() {
            self.written = now;
            connection.write(&frames.0).await?;
        }
        Ok(())
    }

    fn handle(&mut self, frame: Vec<u8>) -> Result<(), Failure> {
        let answer = Answer::read(frame)?;
        self.heard = Instant::now();
        match answer.number {
            EVENT => {
                let mut event = Reader(answer.body());
                let (kind, _state, path) = (event.int()?, event.int()?, event.text()?);
                self.tell(kind, &path);
                return Ok(());
            }
            PING => {
                self.ping = None;
                return Ok(());
            }
            AUTH => return answer.result().map(drop),
            _ => {}
        }
        self.identity.seen = self.identity.seen.max(answer.seen);
        let Some(under_way) = self.under_way.pop_front().filter(|first| first.number == answer.number) else {
            return Err(Failure::Lost("it answered what was not asked".to_owned()));
        };
        let result = answer.result();
        let Asked { request, asked_at, answer } = under_way.asked;
        if is_confirmed_by(request.code, &result) {
            let mut facts = self.state.facts();
            facts.confirmed = facts.confirmed.max(asked_at);
        }
        let failure = match &result {
            Err(failure @ (Failure::Expired | Failure::Lost(_))) => Some(failure.clone()),
            _ => None,
        };
        // Whoever does not wait any more needs no answer.
        let _ = answer.send(result);
        failure.map_or(Ok(()), Err)
    }

    fn tell(&self, kind: i32, path: &str) {
        let inbox = self.state.facts().watches.remove(path);
        for inbox in inbox.into_iter().flatten().filter_map(|inbox| inbox.upgrade()) {
            inbox.notify(|changes| match kind {
                DELETED => changes.deleted.push(path.as_bytes().to_vec()),
                _ => changes.read_again = true,
            });
        }
    }

    /// Ends the session, which frees its claims at once.
    async fn close(&mut self, connection: &mut Connection) -> End {
        let mut frames = Writer::default();
        Request::close().write(self.number.wrapping_add(1).max(1), &mut frames);
        if connection.write(&frames.0).await.is_ok() {
            // Read until the server has closed: bytes that nobody reads would reset the connection under the request.
            let _ = tokio::time::timeout(self.config.timeout, async {
                while connection.frame().await.is_ok() {}
            })
            .await;
        }
        End::Closed
    }

    /// Tells everybody whose request may or may not have been carried out; what only looks is kept for later.
    fn lose(&mut self, reason: &str) {
        self.ping = None;
        self.state.all_look(|facts| facts.losses += 1);
        for UnderWay { asked, .. } in self.under_way.drain(..) {
            if asked.request.code.only_looks() {
                self.again.push_back(asked);
            } else {
                let _ = asked.answer.send(Err(Failure::Lost(reason.to_owned())));
            }
        }
    }

    /// Finds a server for the session; `None` when nobody needs it, an error when it is over.
    ///
    /// It is over as well when no server has said anything for as long as it lasts. Each try that arrives is a sign of
    /// life, though nothing comes back, and would keep claims in the queue whose owners have been told that they are lost.
    async fn reconnect(&mut self) -> Option<Result<Connection, ()>> {
        let mut pause = RETRY.0;
        loop {
            if self.heard.elapsed() >= self.identity.timeout {
                return Some(Err(()));
            }
            match connect_any(&self.config, &mut self.identity).await {
                Ok((connection, host)) => {
                    self.host = host;
                    self.written = Instant::now();
                    self.heard = self.written;
                    self.state.facts().timeout = self.identity.timeout;
                    return Some(Ok(connection));
                }
                Err(Failure::Expired) => return Some(Err(())),
                Err(failure) => {
                    tracing::debug!(store = %self.config.shown, %failure, "no server takes the session");
                }
            }
            if self.requests.is_closed() {
                return None;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Tells everybody that the session is over.
    fn expire(mut self) {
        self.state.all_look(|facts| facts.is_over = true);
        self.state.ended.notify_one();
        self.requests.close();
        while let Ok(asked) = self.requests.try_recv() {
            let _ = asked.answer.send(Err(Failure::Expired));
        }
        for asked in self.again.drain(..) {
            let _ = asked.answer.send(Err(Failure::Expired));
        }
        for UnderWay { asked, .. } in self.under_way.drain(..) {
            let _ = asked.answer.send(Err(Failure::Expired));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stores::address::Address;
    use crate::stores::zookeeper::session::Session;

    const TIMEOUT: Duration = Duration::from_secs(9);

    /// A driver without a connection, that wrote and heard something at the same moment.
    fn driver() -> Driver {
        let config = Address::parse("zookeeper://h?timeout=2s").and_then(Config::new).unwrap();
        let session = Session::detached(1, TIMEOUT);
        let identity = Identity { id: 1, password: Vec::new(), timeout: TIMEOUT, seen: 0 };
        let (_, requests) = mpsc::unbounded_channel();
        Driver::new(Arc::new(config), Arc::clone(session.state()), identity, 0, requests)
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_session_that_is_not_written_to_is_pinged_after_a_third_of_it() {
        let driver = driver();
        let due = driver.written + seconds(3);
        assert_eq!(driver.ping_due(), due);
        assert!(driver.is_idle(due) && !driver.is_idle(due - Duration::from_nanos(1)));
    }

    #[test]
    fn a_session_whose_claims_get_no_sign_of_life_is_not_pinged() {
        let driver = driver();
        driver.state.facts().claims = 1;
        driver.state.facts().kept_until = driver.written + TIMEOUT - Duration::from_nanos(1);
        assert!(driver.ping_due() > driver.written + 100 * TIMEOUT);
        driver.state.facts().kept_until = driver.written + TIMEOUT;
        assert_eq!(driver.ping_due(), driver.written + seconds(3), "the claims shall live so long");
        driver.state.facts().kept_until = driver.written;
        driver.state.facts().claims = 0;
        assert_eq!(driver.ping_due(), driver.written + seconds(3), "nobody's claim outlives anything by it");
    }

    #[test]
    fn an_answer_is_due_as_long_after_its_request_as_the_address_says() {
        let mut driver = driver();
        assert_eq!(driver.answer_due(), None);
        driver.ping = Some(driver.written + seconds(1));
        assert_eq!(driver.answer_due(), Some(driver.written + seconds(3)));
        let (answer, _) = tokio::sync::oneshot::channel();
        let asked = Asked { request: Request::ping(), asked_at: driver.written, answer };
        driver.under_way.push_back(UnderWay { number: 1, asked, written_at: driver.written });
        assert_eq!(driver.answer_due(), Some(driver.written + seconds(2)), "the older of both");
    }

    #[test]
    fn what_is_due_is_looked_at_when_it_is_and_now_and_then_without() {
        let mut driver = driver();
        let quarter = TIMEOUT / 4;
        let look = |driver: &Driver| (Instant::now() + quarter, driver.next_look(), Instant::now() + quarter);
        // A ping is due later than the next look.
        let (from, next, to) = look(&driver);
        assert!(from <= next && next <= to);
        driver.written -= seconds(2);
        assert_eq!(driver.next_look(), driver.written + seconds(3));
        driver.ping = Some(driver.written);
        assert_eq!(driver.next_look(), driver.written + seconds(2), "the answer is due, and no other ping");
    }
}
