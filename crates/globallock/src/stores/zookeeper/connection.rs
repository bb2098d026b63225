//! One connection to one server, from the handshake on.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::config::{Config, Login, Scheme};
use super::failure::{Failure, Outcome};
use super::login::respond_to;
use super::wire::{AUTH_XID, ErrorCode, Malformed, OpCode, Reader, Request, Writer, take_frame};
use crate::stores::address::password::NoLogin;
use crate::stores::transport::{IN_TIME, Stream, Unreached, long_silence};
use crate::sync::Instant;

/// What is told of a server that has closed the connection.
const CLOSED: &str = "it closed the connection";
/// The longest answer to the command `srvr` that is read.
const LONGEST_STATE: u64 = 4096;

/// What a client presents to take up its session on another connection.
#[derive(Clone, Debug)]
pub(super) struct SessionCredentials {
    /// 0 for a session that is to be created.
    pub(super) id: i64,
    pub(super) password: Vec<u8>,
    /// How long the session outlives the last sign of life: as requested, then the shortest that was granted.
    /// Another leader counts with the timeout at the creation, whatever a member has granted since.
    pub(super) timeout: Duration,
    /// When the request was written that created the session.
    pub(super) created: Instant,
    /// When the request was written by which a member took it up last.
    pub(super) presented: Instant,
    /// The newest transaction that this client has seen. A server that is behind it refuses the session.
    pub(super) last_zxid: i64,
}

/// A connection that carries requests and answers.
pub(super) struct Connection {
    stream: Stream,
    received: Vec<u8>,
    limit: Duration,
}

impl Connection {
    /// Connects to one server, creates or takes up the session, and authenticates the user.
    pub(super) async fn open(
        config: &Config,
        host: &(String, u16),
        login: Option<&LoginNow<'_>>,
        session: &mut SessionCredentials,
    ) -> Result<Self, Failure> {
        // Whoever asks for a session is told what is wrong with the servers. A session that exists connects
        // again without asking them, because each connection costs a server that has too many of them.
        let is_new = session.id == 0;
        let opened = timeout(
            config.timeout,
            Box::pin(async {
                let mut connection = match config.transport.connect(&host.0, host.1).await {
                    Ok(stream) => Connection { stream, received: Vec::new(), limit: config.timeout },
                    Err(Unreached::Closed(_)) if is_new => {
                        return Err(Box::pin(Self::closed(config, host)).await);
                    }
                    Err(unreached) => return Err(Failure::unreached(unreached)),
                };
                let (heard, connected_in) = (connection.stream.heard(), connection.stream.connected_in());
                let greeting = Box::pin(connection.handshake(session));
                let server = (host.0.as_str(), host.1);
                let greeted = config.transport.greeted(server, (&heard, connected_in), greeting).await;
                match greeted.unwrap_or_else(|other| Err(Failure::unreached(other))) {
                    Ok(()) => config.transport.accept(&connection.stream.heard()),
                    Err(Failure::Lost(reason)) if is_new => {
                        return Err(Box::pin(connection.explain(config, host, reason)).await);
                    }
                    Err(failure) => return Err(failure),
                }
                if let Some(login) = login {
                    connection.log_in(login).await?;
                }
                Ok(connection)
            }),
        );
        match (opened.await, login) {
            (Ok(Err(Failure::Refused(ErrorCode::AUTH_FAILED))), Some(login)) => {
                Err(login.judged(config.timeout).await)
            }
            (Ok(opened), _) => opened,
            (Err(_), _) => Err(Failure::unreached(Box::pin(config.transport.silent(&host.0, host.1)).await)),
        }
    }

    /// Why the server, or what is there instead, ended a connection before the session was there.
    async fn explain(self, config: &Config, host: &(String, u16), reason: String) -> Failure {
        let heard = self.stream.heard();
        if let Some(unreached) = config.transport.explain(None, &heard) {
            return Failure::unreached(unreached);
        }
        if heard.bytes().is_empty() {
            drop(self);
            return Box::pin(Self::closed(config, host)).await;
        }
        if reason == CLOSED || is_cut_off(&heard.bytes()) {
            return Failure::Lost(reason);
        }
        let words = heard.words();
        let reason = format!("it does not answer as ZooKeeper does, but \"{words}\": check host and port");
        Failure::unreached(config.transport.refused(reason))
    }

    /// Why a server has closed a connection without an answer.
    async fn closed(config: &Config, host: &(String, u16)) -> Failure {
        let found = async {
            let state = Self::state(config, host).await.unwrap_or_default();
            if state.contains("not currently serving requests") {
                let reason = "it does not serve now: it is starting, or its ensemble has no majority: check \
                              that most of the servers run, and that they reach each other";
                return Some(Unreached::Away(reason.to_owned()));
            }
            state.contains("Mode: ").then(|| Unreached::Away(format!("{CLOSED}, though it serves")))
        };
        match config.transport.found_by(&host.0, host.1, found).await {
            Some(found) => Failure::unreached(found),
            None => Failure::unreached(Unreached::Silent(format!(
                "{CLOSED} without an answer: it may have as many connections of this host as it accepts \
                 (raise maxClientCnxns), or be no ZooKeeper: {}",
                config.transport.check()
            ))),
        }
    }

    /// What a server answers to the command `srvr`, which every server answers unless it is told not to. The
    /// ports for other servers accept it and wait for more.
    pub(super) async fn state(config: &Config, host: &(String, u16)) -> Result<String, Failure> {
        let stream = config.transport.connect(&host.0, host.1).await.map_err(Failure::unreached)?;
        let connected_in = stream.connected_in();
        let mut connection = Connection { stream, received: Vec::new(), limit: config.timeout };
        let answered = async {
            connection.write(b"srvr").await?;
            let mut state = Vec::new();
            connection.stream.take(LONGEST_STATE).read_to_end(&mut state).await?;
            Ok(String::from_utf8_lossy(&state).into_owned())
        };
        tokio::select! {
            state = answered => state,
            () = long_silence(connected_in) => Err(Failure::Lost(IN_TIME.to_owned())),
        }
    }

    async fn handshake(&mut self, session: &mut SessionCredentials) -> Result<(), Failure> {
        let mut request = Writer::default();
        let milliseconds = i32::try_from(session.timeout.as_millis()).unwrap_or(i32::MAX);
        request.int(0).long(session.last_zxid).int(milliseconds).long(session.id).buffer(&session.password);
        // No read-only server.
        request.bool(false);
        let mut frame = Writer::default();
        frame.frame(&request.0);
        let presented = Instant::now();
        self.write(&frame.0).await?;
        let answer = self.frame().await?;
        let mut answer = Reader(&answer);
        let (_version, milliseconds, id) = (answer.int()?, answer.int()?, answer.long()?);
        let Some(milliseconds) = u64::try_from(milliseconds).ok().filter(|milliseconds| *milliseconds > 0)
        else {
            return Err(Failure::Expired);
        };
        let granted = Duration::from_millis(milliseconds);
        if session.id == 0 {
            (session.timeout, session.created) = (granted, presented);
        }
        session.id = id;
        session.password = answer.buffer()?.to_vec();
        session.timeout = session.timeout.min(granted);
        session.presented = presented;
        Ok(())
    }

    /// Authenticates the user.
    async fn log_in(&mut self, LoginNow { login, password }: &LoginNow<'_>) -> Result<(), Failure> {
        self.present(login.scheme, &login.user, password).await?;
        login.password.accepted();
        Ok(())
    }

    async fn present(&mut self, scheme: Scheme, user: &str, password: &str) -> Result<(), Failure> {
        match scheme {
            Scheme::Digest => {
                let credentials = format!("{user}:{password}");
                self.call(AUTH_XID, &Request::auth("digest", credentials.as_bytes())).await?;
            }
            Scheme::Sasl => {
                let challenge = self.call(1, &Request::sasl(&[])).await?;
                let response = respond_to(&Reader(&challenge).text()?, user, password)?;
                self.call(2, &Request::sasl(response.as_bytes())).await?;
            }
        }
        Ok(())
    }

    /// Sends a request and waits for its answer. Only for the start, while no other request is in flight.
    async fn call(&mut self, xid: i32, request: &Request) -> Outcome {
        self.send(xid, request).await?;
        loop {
            let answer = Answer::read(self.frame().await?)?;
            if answer.xid == xid {
                return answer.result();
            }
        }
    }

    /// Writes one request.
    pub(super) async fn send(&mut self, xid: i32, request: &Request) -> Result<(), Failure> {
        let mut frames = Writer::default();
        request.write(xid, &mut frames);
        self.write(&frames.0).await
    }

    /// Writes all bytes, or fails when that takes longer than a request may take.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = timeout(self.limit, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        match written.await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Failure::Lost("it accepts no more requests".to_owned())),
        }
    }

    /// Closes the session, and the servers delete its nodes at once.
    pub(super) async fn close_session(&mut self, xid: i32) {
        if self.send(xid, &Request::bare(OpCode::CloseSession)).await.is_ok() {
            // Read until the server closes the connection. If it were dropped with unread bytes, TCP would
            // reset it, and the request could be lost.
            let _ = timeout(self.limit, async { while self.frame().await.is_ok() {} }).await;
        }
    }

    /// Receives the next frame.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn frame(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(frame) = take_frame(&mut self.received)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(Failure::Lost(CLOSED.to_owned()));
            }
        }
    }
}

/// Whether these bytes are the beginning of a greeting, of which the rest was lost with the connection.
fn is_cut_off(bytes: &[u8]) -> bool {
    match bytes {
        [0, 0, high, low, rest @ ..] => rest.len() < usize::from(u16::from_be_bytes([*high, *low])),
        short => short.len() < 4 && short.iter().take(2).all(|byte| *byte == 0),
    }
}

/// A login with the password as it is now.
pub(super) struct LoginNow<'a> {
    login: &'a Login,
    password: String,
}

impl Login {
    /// Reads the password. A server would not wait for that, so it comes first.
    pub(super) async fn read(&self, limit: Duration) -> Result<LoginNow<'_>, Failure> {
        match self.password.read_for_login(limit).await {
            Ok(password) => Ok(LoginNow { login: self, password }),
            Err(NoLogin { why, may_heal: true }) => Err(Failure::Lost(why)),
            Err(NoLogin { why, may_heal: false }) => Err(Failure::Denied(why)),
        }
    }
}

impl SessionCredentials {
    /// Those of a session that is to be created, with this timeout if the servers allow it.
    pub(super) fn new(timeout: Duration) -> Self {
        let now = Instant::now();
        SessionCredentials {
            id: 0,
            password: vec![0; 16],
            timeout,
            created: now,
            presented: now,
            last_zxid: 0,
        }
    }
}

impl LoginNow<'_> {
    /// What it means that the servers have refused it: there may be another password now.
    async fn judged(&self, limit: Duration) -> Failure {
        match self.login.password.refused(&self.password, limit).await {
            NoLogin { why, may_heal: true } => Failure::Lost(why),
            NoLogin { .. } => Failure::Refused(ErrorCode::AUTH_FAILED),
        }
    }
}

/// A frame that a server sent.
#[derive(Debug)]
pub(super) struct Answer {
    /// The request's own xid, or one that the protocol reserves for other messages.
    pub(super) xid: i32,
    /// The newest transaction that the server had applied.
    pub(super) zxid: i64,
    error: i32,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn read(mut frame: Vec<u8>) -> Result<Self, Malformed> {
        let mut reader = Reader(&frame);
        let (xid, zxid, error) = (reader.int()?, reader.long()?, reader.int()?);
        frame.drain(..frame.len() - reader.0.len());
        Ok(Answer { xid, zxid, error, body: frame })
    }

    /// The body, or why the request was refused.
    pub(super) fn result(self) -> Outcome {
        match ErrorCode(self.error) {
            ErrorCode(0) => Ok(self.body),
            ErrorCode::SESSION_EXPIRED => Err(Failure::Expired),
            ErrorCode::SESSION_MOVED => {
                Err(Failure::Lost("the session has moved to another server".to_owned()))
            }
            code => Err(Failure::Refused(code)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_greeting_may_be_cut_off_anywhere() {
        let greeting = [&[0, 0, 0, 37][..], &[7; 37]].concat();
        for length in 1..greeting.len() {
            assert!(is_cut_off(&greeting[..length]), "{length}");
        }
        assert!(!is_cut_off(&greeting));
        for other in [&b"-"[..], b"-ERR", b"HTTP/1.1", &[0xff; 64]] {
            assert!(!is_cut_off(other), "{other:?}");
        }
    }
}
