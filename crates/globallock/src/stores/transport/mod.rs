//! The way to a server, the same for every store that has one: TCP or a Unix socket, TLS where the address
//! asks for it, and what to tell the user when something else is at the other end.

mod examined;
mod heard;
mod stream;
pub(crate) mod tls;

use std::error::Error as StdError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;

use self::examined::{Examined, first_answer_at, may_ask_for_tls};
pub(crate) use self::heard::{Heard, Speech};
pub(crate) use self::stream::Stream;
use self::tls::Tls;
use super::address::{Address, printable};
use crate::error::Result;

/// What is told of a server that has not answered in time.
pub(crate) const IN_TIME: &str = "it did not answer in time";
/// How long one address of a host may take to accept a connection before the next one is tried beside it.
const NEXT: Duration = Duration::from_millis(250);

/// How the servers of one address are reached.
#[derive(Clone)]
pub(crate) struct Transport {
    tls: Option<Tls>,
    scheme: Arc<str>,
    /// Whether the right servers speak HTTP. Then an answer in it, to what only others understand, tells
    /// nothing: etcd answers so too.
    is_http: bool,
    examined: Arc<Examined>,
}

/// Why no connection to a server could be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unreached {
    /// The next try may succeed.
    Away(String),
    /// The server closed the connection before anything was said, at this moment. The next try may succeed.
    Closed(&'static str),
    /// Somebody has to change something before a try can succeed.
    Refused(String),
}

impl Unreached {
    pub(crate) fn reason(&self) -> &str {
        match self {
            Unreached::Away(reason) | Unreached::Refused(reason) => reason,
            Unreached::Closed(reason) => reason,
        }
    }
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl StdError for Unreached {}

/// An error and all its causes, also those in an `io::Error`, whose source is not the error in it but the
/// source of that.
pub(crate) fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    let next = |error: &&'a (dyn StdError + 'static)| -> Option<&'a (dyn StdError + 'static)> {
        let error: &'a (dyn StdError + 'static) = *error;
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    };
    std::iter::successors(Some(error), next)
}

/// No connection could be made, for a reason of the operating system's.
fn away(error: &io::Error) -> Unreached {
    Unreached::Away(format!("no connection: {}", printable(&error.to_string())))
}

impl Transport {
    /// Reads the options for TLS, if the address is one with TLS, and offers these protocols to the server.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) if a file that it names is not what it
    /// should be.
    pub(crate) fn new(address: &mut Address, protocols: &[&[u8]]) -> Result<Self> {
        let tls = address.has_tls().then(|| Tls::new(address, protocols)).transpose()?;
        let is_http = protocols.contains(&&b"h2"[..]);
        Ok(Transport { tls, scheme: address.scheme.as_str().into(), is_http, examined: Arc::default() })
    }

    /// Connects to a server.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<Stream, Unreached> {
        let found = lookup_host((host, port)).await;
        let found = found.map_err(|error| away(&io::Error::other(format!("cannot find {host:?}: {error}"))));
        let found: Vec<SocketAddr> = found?.collect();
        if found.is_empty() {
            return Err(Unreached::Away(format!("no connection: {host:?} has no address")));
        }
        let tcp = first_connected(&found).await.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Unreached::Closed("it closed the connection as soon as it was made")
            }
            _ => away(&error),
        })?;
        tcp.set_nodelay(true).map_err(|error| away(&error))?;
        match &self.tls {
            None => Ok(Stream::new(tcp)),
            Some(tls) => match tls.connect(host, tcp).await {
                Ok(stream) => Ok(Stream::new(stream)),
                Err(error) => Err(self.tls_failed(tls, &error, host, port).await),
            },
        }
    }

    /// Why TLS did not begin.
    async fn tls_failed(&self, tls: &Tls, error: &io::Error, host: &str, port: u16) -> Unreached {
        if let Some(failure) = tls::failure_in(error) {
            return self.tls_refused(tls, &failure);
        }
        match error.kind() {
            // What a server does that expects another protocol, and one that has no room for more clients.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                let other = self.other_at(host, port).await;
                other.unwrap_or(Unreached::Closed("it closed the connection when TLS began"))
            }
            _ => away(error),
        }
    }

    fn tls_refused(&self, tls: &Tls, failure: &tls::Failure) -> Unreached {
        let reason = tls.explain(failure, &self.scheme);
        if tls::may_heal(failure) { Unreached::Away(reason) } else { self.refused(reason) }
    }

    /// What it means that a server cannot be used as it is: somebody has to change something, unless the
    /// address has been right before. Then a balancer may have no server for the moment, or a certificate may
    /// be about to be replaced, and locks that are held are not to be given up for that.
    pub(crate) fn refused(&self, reason: String) -> Unreached {
        if self.examined.is_right() { Unreached::Away(reason) } else { Unreached::Refused(reason) }
    }

    /// Notes that a server has answered as it should, which has been heard until now.
    pub(crate) fn accept(&self, heard: &Heard) {
        heard.stop();
        self.examined.set_right();
    }

    /// Why a server may have said nothing in time, though it accepts connections.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(crate) async fn silent(&self, host: &str, port: u16) -> Unreached {
        let other = self.other_at(host, port).await;
        other.unwrap_or_else(|| Unreached::Away(IN_TIME.to_owned()))
    }

    /// Why a server, which should be one of this `kind`, may have closed the connection before it said
    /// anything.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    #[cfg(any(feature = "etcd", feature = "redis", test))]
    pub(crate) async fn closed_without_a_word(&self, host: &str, port: u16, kind: &str) -> Unreached {
        let other = self.other_at(host, port).await;
        other.unwrap_or_else(|| {
            Unreached::Away(format!(
                "it closed the connection without an answer: it may be starting or ending, or be no \
                 {kind}: check host and port"
            ))
        })
    }

    /// What is at a port at which no server of the right kind has answered yet, if it can be known.
    async fn other_at(&self, host: &str, port: u16) -> Option<Unreached> {
        if self.examined.is_right() {
            return None;
        }
        self.examined.or_else((host, port), "speech", self.other_found(host, port)).await
    }

    async fn other_found(&self, host: &str, port: u16) -> Option<Unreached> {
        let answer = first_answer_at(host, port).await?;
        let speech = heard::speech(&answer);
        let is_in_http = matches!(speech, Some(Speech::Http | Speech::HttpUnavailable));
        match &self.tls {
            None if self.is_http && is_in_http => None,
            None => self.told_by(speech?),
            Some(_) if speech == Some(Speech::Tls) || may_ask_for_tls(&answer) => None,
            Some(_) => Some(self.refused(tls::wants_none(&self.scheme))),
        }
    }

    /// What `found` finds to be wrong with a server that is closing its connections, or what was found a
    /// moment ago; or else what is at its port if it is no such server.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    #[cfg(feature = "zookeeper")]
    pub(crate) async fn found_by(
        &self,
        host: &str,
        port: u16,
        found: impl Future<Output = Option<Unreached>>,
    ) -> Option<Unreached> {
        let found = async {
            match found.await {
                None if !self.examined.is_right() => self.other_found(host, port).await,
                found => found,
            }
        };
        self.examined.or_else((host, port), "state", found).await
    }

    /// The same way to other servers, of which nothing is known yet.
    #[cfg(feature = "redis")]
    pub(crate) fn apart(&self) -> Self {
        Transport { examined: Arc::default(), ..self.clone() }
    }

    fn wants_tls(&self) -> Unreached {
        self.refused(format!("it speaks TLS at this port: write {}://", tls::secure(&self.scheme)))
    }

    /// Connects to a Unix socket.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    #[cfg(feature = "redis")]
    pub(crate) async fn connect_unix(path: &std::path::Path) -> Result<Stream, Unreached> {
        tokio::net::UnixStream::connect(path).await.map(Stream::new).map_err(|error| away(&error))
    }

    /// What it means that a connection failed with this error, after these bytes had been received: `None` if
    /// neither says more than the error itself.
    pub(crate) fn explain(
        &self,
        error: Option<&(dyn StdError + 'static)>,
        heard: &Heard,
    ) -> Option<Unreached> {
        let failed = error.and_then(tls::failure_in).or_else(|| heard.tls_failure());
        if let (Some(failed), Some(tls)) = (failed, &self.tls) {
            return Some(self.tls_refused(tls, &failed));
        }
        self.told_by(heard.speech()?)
    }

    fn told_by(&self, speech: Speech) -> Option<Unreached> {
        let text = match speech {
            Speech::Tls if self.tls.is_none() => return Some(self.wants_tls()),
            Speech::Tls => return None,
            Speech::HttpUnavailable => {
                let reason = "it answers in HTTP that no server is available now: if that is not passing, \
                              check host and port";
                return Some(Unreached::Away(reason.to_owned()));
            }
            Speech::Http => "it is an HTTP server: check host and port",
            Speech::Ssh => "it is an SSH server: check host and port",
        };
        Some(self.refused(text.to_owned()))
    }
}

/// Connects to one of the addresses of a host. The first is preferred; but an address that nothing answers at
/// costs little time, because the next one is tried beside it (as in RFC 8305).
async fn first_connected(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let (mut tries, mut failure) = (FuturesUnordered::new(), None);
    let mut addresses = addresses.iter();
    loop {
        if let Some(next) = addresses.next() {
            tries.push(TcpStream::connect(*next));
        }
        tokio::select! {
            tried = tries.next() => match tried {
                Some(Ok(stream)) => return Ok(stream),
                Some(Err(error)) => drop(failure.get_or_insert(error)),
                None => return Err(failure.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into())),
            },
            () = sleep(NEXT), if addresses.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[test]
    fn a_text_of_others_cannot_steer_a_terminal() {
        assert_eq!(printable("run 'x' \"y\" \u{1b}[2J\r\n"), "run 'x' \"y\" \\u{1b}[2J");
    }

    fn transport(url: &str) -> Transport {
        Transport::new(&mut Address::parse(url).unwrap(), &[]).unwrap()
    }

    /// A port at which each connection is counted, and answered by this or closed.
    async fn counting(answer: &'static [u8]) -> (u16, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, count) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
        tokio::spawn({
            let count = Arc::clone(&count);
            async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    count.fetch_add(1, Ordering::SeqCst);
                    stream.write_all(answer).await.unwrap();
                }
            }
        });
        (port, count)
    }

    #[tokio::test]
    async fn a_server_that_closes_its_connections_is_examined_once_for_many_tries() {
        let (port, count) = counting(b"").await;
        let transport = transport(&format!("redis://127.0.0.1:{port}"));
        let first = transport.closed_without_a_word("127.0.0.1", port, "Redis").await;
        let asked = count.load(Ordering::SeqCst);
        assert_eq!(asked, 3);
        for _ in 0..20 {
            assert_eq!(transport.closed_without_a_word("127.0.0.1", port, "Redis").await, first);
        }
        assert_eq!(count.load(Ordering::SeqCst), asked);
    }

    #[tokio::test]
    async fn what_is_at_a_port_is_a_refusal_until_the_right_server_has_answered() {
        let (port, _) = counting(b"HTTP/1.1 400 Bad Request\r\n").await;
        let transport = transport(&format!("redis://127.0.0.1:{port}"));
        let refused = transport.closed_without_a_word("127.0.0.1", port, "Redis").await;
        let reason = "it is an HTTP server: check host and port".to_owned();
        assert_eq!(refused, Unreached::Refused(reason.clone()));
        let heard = Heard::default();
        heard.hear(b"HTTP/1.1 400 ");
        assert_eq!(transport.explain(None, &heard), Some(Unreached::Refused(reason.clone())));
        transport.accept(&Heard::default());
        assert_eq!(transport.explain(None, &heard), Some(Unreached::Away(reason)));
        assert!(matches!(
            transport.closed_without_a_word("127.0.0.1", port, "Redis").await,
            Unreached::Away(_)
        ));
    }

    #[tokio::test]
    async fn a_server_that_speaks_http_as_it_should_is_no_other() {
        let (port, _) = counting(b"HTTP/1.1 400 Bad Request\r\n").await;
        let mut address = Address::parse(&format!("etcd://127.0.0.1:{port}")).unwrap();
        let transport = Transport::new(&mut address, &[b"h2"]).unwrap();
        let told = transport.closed_without_a_word("127.0.0.1", port, "etcd").await;
        assert!(matches!(told, Unreached::Away(_)), "{told:?}");
        assert_eq!(transport.silent("127.0.0.1", port).await, Unreached::Away(IN_TIME.to_owned()));
    }

    #[test]
    fn a_web_server_that_refuses_http_without_tls_may_speak_tls() {
        assert!(may_ask_for_tls(b"HTTP/1.0 400 Bad"));
        for other in [&b"HTTP/1.0 404 Not"[..], b"HTTP/1.1 200 OK\r", b"-ERR unknown com", b"HTTP/1."] {
            assert!(!may_ask_for_tls(other), "{other:?}");
        }
    }

    #[test]
    fn a_balancer_without_a_server_is_no_refusal() {
        let heard = Heard::default();
        heard.hear(b"HTTP/1.0 503 Service Unavailable\r\n");
        let told = transport("etcd://127.0.0.1").explain(None, &heard);
        assert!(matches!(&told, Some(Unreached::Away(reason)) if reason.contains("no server is available")));
    }

    #[tokio::test]
    async fn an_address_that_nothing_answers_at_delays_by_little() {
        let (port, _) = counting(b"").await;
        let right = SocketAddr::from(([127, 0, 0, 1], port));
        // A queue of connections that is full leaves others without an answer.
        let full = tokio::net::TcpSocket::new_v4().unwrap();
        full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let dead = full.listen(1).unwrap();
        let address = dead.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(stream) = tokio::time::timeout(NEXT, TcpStream::connect(address)).await {
            queued.push(stream.unwrap());
        }
        let addresses = [address, right];
        let connected = tokio::time::timeout(NEXT * 40, first_connected(&addresses));
        let connected = connected.await.expect("it is tried beside the dead one").unwrap();
        assert_eq!(connected.peer_addr().unwrap(), right);
        let refused = first_connected(&[SocketAddr::from(([127, 0, 0, 1], 1))]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
