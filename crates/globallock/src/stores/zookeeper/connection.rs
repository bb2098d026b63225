//! One connection to one server, from the first greeting on.

use std::fmt;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::config::Config;
use super::login::log_in;
use super::wire::{Malformed, Reader, Refusal, Request, Writer, take_frame};

/// Why a request has no good answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The connection was lost or could not be made: the request may have been carried out.
    Lost(String),
    /// The server refused it.
    Refused(Refusal),
    /// The session is over, with all that hung on it.
    Expired,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Lost(reason) => f.write_str(reason),
            Failure::Refused(Refusal(number)) => write!(f, "the server refused it with error {number}"),
            Failure::Expired => f.write_str("the session is over"),
        }
    }
}

impl From<Malformed> for Failure {
    fn from(malformed: Malformed) -> Self {
        Failure::Lost(malformed.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Lost(error.to_string())
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What makes a session known to the servers.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    /// 0 for a session that is to be made.
    pub(super) id: i64,
    pub(super) password: Vec<u8>,
    /// How long it outlives the last sign of life; the server's word once there is one.
    pub(super) timeout: Duration,
    /// The newest transaction that was seen: a server that is behind it must not serve.
    pub(super) seen: i64,
}

/// A connection over which requests go out and answers come in.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
    limit: Duration,
}

impl Connection {
    /// Connects to one server, takes up or makes the session, and tells who the user is.
    pub(super) async fn open(
        config: &Config,
        host: &(String, u16),
        session: &mut Identity,
    ) -> Result<Self, Failure> {
        let opened = timeout(config.timeout, async {
            let mut connection = Self::connect(config, host).await?;
            connection.greet(session).await?;
            if let Some(login) = &config.login {
                log_in(&mut connection, login).await?;
            }
            Ok(connection)
        });
        opened.await.unwrap_or_else(|_| Err(Failure::Lost("it did not answer in time".to_owned())))
    }

    async fn connect(config: &Config, (host, port): &(String, u16)) -> Result<Self, Failure> {
        let tcp = TcpStream::connect((host.as_str(), *port)).await?;
        tcp.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &config.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let name = ServerName::try_from(host.clone()).map_err(std::io::Error::other)?;
                Box::new(TlsConnector::from(tls.clone()).connect(name, tcp).await?)
            }
        };
        Ok(Connection { stream, received: Vec::new(), limit: config.timeout })
    }

    async fn greet(&mut self, session: &mut Identity) -> Result<(), Failure> {
        let mut greeting = Writer::default();
        let milliseconds = i32::try_from(session.timeout.as_millis()).unwrap_or(i32::MAX);
        greeting.int(0).long(session.seen).int(milliseconds).long(session.id).buffer(&session.password);
        // Only of servers that can write.
        greeting.bool(false);
        let mut frame = Writer::default();
        frame.frame(&greeting.0);
        self.write(&frame.0).await?;
        let answer = self.frame().await?;
        let mut answer = Reader(&answer);
        let (_version, milliseconds, id) = (answer.int()?, answer.int()?, answer.long()?);
        let Some(milliseconds) = u64::try_from(milliseconds).ok().filter(|number| *number > 0) else {
            return Err(Failure::Expired);
        };
        session.id = id;
        session.password = answer.buffer()?.to_vec();
        session.timeout = Duration::from_millis(milliseconds);
        Ok(())
    }

    /// Sends a request and waits for its answer: for the beginning, when nothing else is under way.
    pub(super) async fn call(&mut self, number: i32, request: &Request) -> Result<Vec<u8>, Failure> {
        let mut frames = Writer::default();
        request.write(number, &mut frames);
        self.write(&frames.0).await?;
        loop {
            let answer = Answer::read(self.frame().await?)?;
            if answer.number == number {
                return answer.result();
            }
        }
    }

    /// Writes all of it, or fails when the network takes none for too long.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = timeout(self.limit, async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        });
        match written.await {
            Ok(written) => Ok(written?),
            Err(_) => Err(Failure::Lost("it takes no more requests".to_owned())),
        }
    }

    /// The next frame that arrives. May be dropped and called again: nothing is lost.
    pub(super) async fn frame(&mut self) -> Result<Vec<u8>, Failure> {
        loop {
            if let Some(frame) = take_frame(&mut self.received)? {
                return Ok(frame);
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(Failure::Lost("it closed the connection".to_owned()));
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// A frame that a server sent.
#[derive(Debug)]
pub(super) struct Answer {
    /// The request's own, or what the protocol gives to other messages.
    pub(super) number: i32,
    /// The newest transaction that the server had carried out.
    pub(super) seen: i64,
    error: i32,
    frame: Vec<u8>,
}

impl Answer {
    /// How much of the frame stands in front of what was asked for.
    const HEADER: usize = 16;

    pub(super) fn read(frame: Vec<u8>) -> Result<Self, Malformed> {
        let mut reader = Reader(&frame);
        let (number, seen, error) = (reader.int()?, reader.long()?, reader.int()?);
        Ok(Answer { number, seen, error, frame })
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.frame[Self::HEADER..]
    }

    /// What was asked for, or why it was refused.
    pub(super) fn result(mut self) -> Result<Vec<u8>, Failure> {
        match Refusal(self.error) {
            Refusal(0) => Ok(self.frame.split_off(Self::HEADER)),
            Refusal::SESSION_EXPIRED => Err(Failure::Expired),
            Refusal::SESSION_MOVED => Err(Failure::Lost("the session is with another server".to_owned())),
            refusal => Err(Failure::Refused(refusal)),
        }
    }
}
