//! The way to a server, the same for every store that has one: TCP or a Unix socket, TLS where the address
//! asks for it, and what to tell the user when something else is at the other end.

mod examined;
mod heard;
mod stream;
pub(crate) mod tls;
mod unreached;

use std::error::Error as StdError;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::sleep;

#[cfg(feature = "postgres")]
pub(crate) use self::examined::MAY_TLS_BEGIN;
pub(crate) use self::examined::long_silence;
use self::examined::{Answered, Examined, answer_at, turn};
pub(crate) use self::heard::{Heard, Speech};
pub(crate) use self::stream::Stream;
use self::tls::Tls;
pub(crate) use self::unreached::{ToldBy, Unreached};
use super::address::Address;
use crate::error::Result;
use crate::sync::Instant;

/// What is told of a server that has not answered in time.
pub(crate) const IN_TIME: &str = "it did not answer in time";
/// How long one address of a host may take to accept a connection before the next one is tried beside it.
const NEXT: Duration = Duration::from_millis(250);

/// How the servers of one address are reached.
#[derive(Clone)]
pub(crate) struct Transport {
    tls: Option<Tls>,
    scheme: Arc<str>,
    expected: &'static Expected,
    examined: Arc<Examined>,
}

/// What should be at the other end.
pub(crate) struct Expected {
    /// Its kind, as users call it.
    pub(crate) name: &'static str,
    /// What it speaks.
    pub(crate) speech: Speech,
    /// Whether a server may serve with TLS and without at one port.
    pub(crate) shares_port: bool,
    /// The protocols that TLS is to offer.
    pub(crate) protocols: &'static [&'static [u8]],
    /// What to check where the server says nothing, so that it may be something else.
    pub(crate) check: &'static str,
}

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

impl Transport {
    /// Reads the options for TLS, if the address is one with TLS.
    ///
    /// # Errors
    /// [`Error::InvalidAddress`](crate::Error::InvalidAddress) if a file that it names is not what it
    /// should be.
    pub(crate) fn new(address: &mut Address, expected: &'static Expected) -> Result<Self> {
        let tls = address.has_tls().then(|| Tls::new(address, expected.protocols)).transpose()?;
        Ok(Transport { tls, scheme: address.scheme.as_str().into(), expected, examined: Arc::default() })
    }

    /// The way to servers with which TLS begins later, if it does: their store sees to it.
    #[cfg(feature = "postgres")]
    pub(crate) fn plain(scheme: &str, expected: &'static Expected) -> Self {
        Transport { tls: None, scheme: scheme.into(), expected, examined: Arc::default() }
    }

    /// Connects to a server.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<Stream, Unreached> {
        let found = lookup_host((host, port)).await;
        let found = found.map_err(|error| {
            Unreached::not_there(&io::Error::other(format!("cannot find {host:?}: {error}")))
        });
        let found: Vec<SocketAddr> = found?.collect();
        if found.is_empty() {
            return Err(Unreached::NotThere(format!("no connection: {host:?} has no address")));
        }
        let since = Instant::now();
        let tcp = first_connected(&found).await.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                Unreached::Closed("it closed the connection as soon as it was made")
            }
            _ => Unreached::not_there(&error),
        })?;
        tcp.set_nodelay(true).map_err(|error| Unreached::not_there(&error))?;
        match &self.tls {
            None => Ok(Stream::new(tcp, since.elapsed())),
            Some(tls) => {
                let connected_in = since.elapsed();
                let silent = async {
                    long_silence(connected_in).await;
                    true
                };
                let greeting = Box::pin(tls.connect(host, tcp));
                match self.unless_other((host, port), silent, greeting).await? {
                    Ok(stream) => Ok(Stream::new(stream, connected_in)),
                    Err(error) => Err(self.tls_failed(tls, &error, host, port).await),
                }
            }
        }
    }

    /// Why TLS did not begin.
    async fn tls_failed(&self, tls: &Tls, error: &io::Error, host: &str, port: u16) -> Unreached {
        if let Some(failure) = tls::failure_in(error) {
            // It may be worth more to know what it is than that it speaks no TLS.
            let other = if tls::lacks_tls(&failure) { self.other_at(host, port).await } else { None };
            return other.unwrap_or_else(|| self.tls_refused(tls, &failure));
        }
        match error.kind() {
            // What a server does that expects another protocol, and one that has no room for more clients.
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                let other = self.other_at(host, port).await;
                other.unwrap_or(Unreached::Closed("it closed the connection when TLS began"))
            }
            _ => Unreached::not_there(error),
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

    /// Whether a server has ever answered as it should.
    #[cfg(feature = "etcd")]
    pub(crate) fn is_right(&self) -> bool {
        self.examined.is_right()
    }

    /// Notes that a server has answered as it should, which has been heard until now.
    pub(crate) fn accept(&self, heard: &Heard) {
        heard.stop();
        self.examined.set_right();
    }

    /// What comes of a first conversation with a server; or what is at its port instead, if it is silent for
    /// long and that can be known. It is asked while the conversation goes on, so that a right server that is
    /// slow loses nothing.
    ///
    /// `silent` ends when it has been silent for long, and says whether it still is.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind but that of the conversation.
    pub(crate) async fn unless_other<T>(
        &self,
        (host, port): (&str, u16),
        silent: impl Future<Output = bool>,
        conversation: impl Future<Output = T>,
    ) -> Result<T, Unreached> {
        if self.examined.is_right() {
            return Ok(conversation.await);
        }
        let other = async {
            if silent.await {
                let _turn = turn().await;
                if let Some(refused @ Unreached::Refused(_)) = self.other_at(host, port).await {
                    return refused;
                }
            }
            std::future::pending().await
        };
        let (conversation, other) = (pin!(conversation), pin!(other));
        tokio::select! {
            biased;
            said = conversation => Ok(said),
            refused = other => Err(refused),
        }
    }

    /// The same, where the conversation is all that a connection has brought until now.
    ///
    /// # Cancel safety
    /// As of [`Self::unless_other`].
    #[cfg(any(feature = "postgres", feature = "redis", feature = "zookeeper"))]
    pub(crate) async fn greeted<T>(
        &self,
        server: (&str, u16),
        (heard, connected_in): (&Heard, Duration),
        greeting: impl Future<Output = T>,
    ) -> Result<T, Unreached> {
        let silent = async {
            long_silence(connected_in).await;
            heard.is_silent()
        };
        self.unless_other(server, silent, greeting).await
    }

    /// Why a server may have said nothing in time, though it accepts connections.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(crate) async fn silent(&self, host: &str, port: u16) -> Unreached {
        if self.examined.is_right() {
            return Unreached::Silent(IN_TIME.to_owned());
        }
        let Expected { name, check, .. } = self.expected;
        let other = self.other_at(host, port).await;
        other.unwrap_or_else(|| {
            Unreached::Silent(format!("{IN_TIME}: it may be overloaded or cut off, or be no {name}: {check}"))
        })
    }

    /// Why a server may have closed the connection before it said anything.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    #[cfg(any(feature = "etcd", feature = "postgres", feature = "redis", test))]
    pub(crate) async fn closed_without_a_word(&self, host: &str, port: u16) -> Unreached {
        let other = self.other_at(host, port).await;
        let Expected { name, check, .. } = self.expected;
        other.unwrap_or_else(|| {
            Unreached::Silent(format!(
                "it closed the connection without an answer: it may be starting or ending, or be no {name}: \
                 {check}"
            ))
        })
    }

    /// What is at a port at which no server of the right kind has answered yet, if it can be known.
    async fn other_at(&self, host: &str, port: u16) -> Option<Unreached> {
        if self.examined.is_right() {
            return None;
        }
        self.examined.or_else((host, port), "speech", Box::pin(self.other_found(host, port))).await
    }

    async fn other_found(&self, host: &str, port: u16) -> Option<Unreached> {
        let may_speak_both = self.tls.is_some() && self.expected.shares_port;
        let Answered { speech, may_ask_for_tls, is_slow_with_tls } =
            answer_at(host, port, may_speak_both).await?;
        let is_http = |speech| matches!(speech, Speech::Http | Speech::HttpUnavailable | Speech::Etcd);
        // A proxy in front of etcd may not pass on what its version is.
        let is_own = |own: Speech, speech| own == speech || is_http(own) && is_http(speech);
        match (speech, &self.tls) {
            (Some(Speech::Tls), Some(_)) | (None, None) => None,
            (_, Some(_)) if may_ask_for_tls => None,
            (Some(speech), Some(_)) if is_own(self.expected.speech, speech) && is_slow_with_tls => None,
            (Some(speech), None) if is_own(self.expected.speech, speech) => None,
            (Some(speech), Some(_)) if is_own(self.expected.speech, speech) => {
                Some(self.refused(tls::wants_none(&self.scheme)))
            }
            (Some(speech), _) => self.told_by(speech),
            (None, Some(_)) => Some(self.refused(tls::wants_none(&self.scheme))),
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
                None if !self.examined.is_right() => Box::pin(self.other_found(host, port)).await,
                found => found,
            }
        };
        self.examined.or_else((host, port), "state", found).await
    }

    /// The same way to other servers, of which nothing is known yet.
    #[cfg(feature = "redis")]
    pub(crate) fn apart(&self, expected: &'static Expected) -> Self {
        Transport { examined: Arc::default(), expected, ..self.clone() }
    }

    /// Whether connections are encrypted.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// What to check where the server says nothing, so that it may be something else.
    #[cfg(feature = "zookeeper")]
    pub(crate) fn check(&self) -> &'static str {
        self.expected.check
    }

    fn wants_tls(&self) -> Unreached {
        self.refused(format!("it speaks TLS at this port: write {}://", tls::secure(&self.scheme)))
    }

    /// Connects to a Unix socket.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(crate) async fn connect_unix(path: &std::path::Path) -> Result<Stream, Unreached> {
        let since = Instant::now();
        let connected = tokio::net::UnixStream::connect(path).await;
        let connected = connected.map_err(|error| Unreached::not_there(&error))?;
        Ok(Stream::new(connected, since.elapsed()))
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
        let store = |is: &str| format!("it is {is}://, or check host and port");
        let text = match speech {
            own if own == self.expected.speech => return None,
            Speech::Tls if self.expected.speech == Speech::Postgres => {
                "it speaks TLS from the first byte on, as PostgreSQL does not: check host and port".to_owned()
            }
            Speech::Tls if self.tls.is_none() => return Some(self.wants_tls()),
            Speech::Tls => return None,
            Speech::HttpUnavailable => {
                let reason = "it answers in HTTP that no server is available now: if that is not passing, \
                              check host and port";
                return Some(Unreached::Away(reason.to_owned()));
            }
            Speech::Http => "it is an HTTP server: check host and port".to_owned(),
            Speech::Ssh => "it is an SSH server: check host and port".to_owned(),
            Speech::Redis => store("a Redis or Valkey server: write redis"),
            Speech::ZooKeeper => store("a ZooKeeper server: write zookeeper"),
            Speech::Etcd => store("an etcd server: write etcd"),
            Speech::Postgres => store("a PostgreSQL server: write postgres"),
        };
        Some(self.refused(text))
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
mod tests;
