//! One connection to one server, from the handshake on.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::config::{Config, Login, Scheme};
use super::failure::{Failure, Outcome};
use super::login::respond_to;
use super::wire::{AUTH_XID, ErrorCode, Malformed, Reader, Request, Writer, take_frame};

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What a client presents to take up its session on another connection.
#[derive(Clone, Debug)]
pub(super) struct SessionCredentials {
    /// 0 for a session that is to be created.
    pub(super) id: i64,
    pub(super) password: Vec<u8>,
    /// How long the session outlives the last sign of life: as requested, then as granted by the server.
    pub(super) timeout: Duration,
    /// The newest transaction that this client has seen. A server that is behind it refuses the session.
    pub(super) last_zxid: i64,
}

/// A connection that carries requests and answers.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
    limit: Duration,
}

impl Connection {
    /// Connects to one server, creates or takes up the session, and authenticates the user.
    pub(super) async fn open(
        config: &Config,
        host: &(String, u16),
        session: &mut SessionCredentials,
    ) -> Result<Self, Failure> {
        let opened = timeout(config.timeout, async {
            let mut connection = Self::connect(config, host).await?;
            connection.handshake(session).await?;
            if let Some(login) = &config.login {
                connection.log_in(login).await?;
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

    async fn handshake(&mut self, session: &mut SessionCredentials) -> Result<(), Failure> {
        let mut request = Writer::default();
        let milliseconds = i32::try_from(session.timeout.as_millis()).unwrap_or(i32::MAX);
        request.int(0).long(session.last_zxid).int(milliseconds).long(session.id).buffer(&session.password);
        // No read-only server.
        request.bool(false);
        let mut frame = Writer::default();
        frame.frame(&request.0);
        self.write(&frame.0).await?;
        let answer = self.frame().await?;
        let mut answer = Reader(&answer);
        let (_version, milliseconds, id) = (answer.int()?, answer.int()?, answer.long()?);
        let Some(milliseconds) = u64::try_from(milliseconds).ok().filter(|milliseconds| *milliseconds > 0)
        else {
            return Err(Failure::Expired);
        };
        session.id = id;
        session.password = answer.buffer()?.to_vec();
        session.timeout = Duration::from_millis(milliseconds);
        Ok(())
    }

    /// Authenticates the user.
    async fn log_in(&mut self, login: &Login) -> Result<(), Failure> {
        match login.scheme {
            Scheme::Digest => {
                let credentials = format!("{}:{}", login.user, login.password);
                self.call(AUTH_XID, &Request::auth("digest", credentials.as_bytes())).await?;
            }
            Scheme::Sasl => {
                let challenge = self.call(1, &Request::sasl(&[])).await?;
                let response = respond_to(&Reader(&challenge).text()?, login)?;
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
                return Err(Failure::Lost("it closed the connection".to_owned()));
            }
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
