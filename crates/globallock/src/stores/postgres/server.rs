//! One connection to the server that takes writes: to the first of the servers of an address that does.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::net::lookup_host;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{AsyncMessage, Client, NoTls, SimpleQueryMessage};

use super::calls::planner;
use super::config::{Config, Place};
use super::failure::{CLOSED, Failure, Kind, STANDBY};
use super::login::Tried;
use super::requests::Prepared;
use super::tls::{NO_TLS, Security, Unsafe, Way};
use crate::stores::transport::{Heard, IN_TIME, Stream, Transport, Unreached};
use crate::sync::{Instant, Mutex, now};

/// How long one server may take before the next one is tried beside it.
const NEXT: Duration = Duration::from_millis(250);
/// How long the server may take to answer the last requests of a connection that nobody wants any more.
const LAST: Duration = Duration::from_secs(1);
/// The oldest version that is known to work.
const OLDEST: u32 = 13;
/// What every connection asks first. Poolers answer some of it for another server if it is asked otherwise.
const FACTS: &str = "SELECT pg_is_in_recovery(), current_setting('server_version_num'), pg_backend_pid(), \
                     current_setting('default_transaction_isolation'), \
                     current_setting('default_transaction_read_only')";

/// The same, where a session that is the connection's own gets its planner set. A pooler's is told as another
/// process than the one that answers.
fn facts(told: Option<i32>) -> String {
    let Some(told) = told else { return FACTS.to_owned() };
    format!("{FACTS}, CASE WHEN pg_backend_pid() = {told} THEN concat({}) END", planner(false))
}

/// What is told of one that accepts the login, and does not answer then.
const NO_SERVER: &str = "it accepted the login, but did not answer a query in time: it may be overloaded, or \
                         a pooler that has no connection to its server";

/// A connection after its login. It ends soon after this is dropped.
pub(super) struct Opened {
    pub(super) client: Client,
    pub(super) prepared: Prepared,
    pub(super) place: Place,
    /// The address of its host, if that has several.
    pub(super) address: Option<SocketAddr>,
    way: Way,
    pub(super) facts: Facts,
    driver: AbortHandle,
    /// The runtime in which it lives.
    pub(super) runtime: Handle,
    /// How many requests are not answered yet.
    pub(super) busy: AtomicUsize,
    /// Who may send a request. A pooler gets one at a time, because it may give the second half of the next
    /// one to another server once the first one is answered.
    pub(super) turns: Arc<Semaphore>,
    /// Held while a request is sent.
    pub(super) sending: Mutex<()>,
    /// When the last request was answered.
    pub(super) used: Mutex<Instant>,
    /// Tells the driver that this was dropped.
    _gone: oneshot::Sender<()>,
}

/// What is known of the session.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Whether a pooler is between.
    pub(super) is_pooled: bool,
    /// Whether a transaction must say that it is read committed and writes, because others are not.
    pub(super) is_explicit: bool,
}

/// What happens on a connection besides answers.
pub(super) enum Event {
    /// A notification: its channel and its text.
    Message(String, String),
    /// The connection has ended.
    Closed(Failure),
}

/// What is told of events.
pub(super) type Events = Arc<dyn Fn(Event) + Send + Sync>;

/// Why a greeting failed.
enum Ungreeted {
    Tls(Unsafe, Arc<Heard>),
    Client(tokio_postgres::Error, Arc<Heard>),
}

type Greeted = (Client, tokio_postgres::Connection<Stream, tokio_postgres::tls::NoTlsStream>, Arc<Heard>);

impl Opened {
    /// Ends the connection at once, also while answers are awaited.
    pub(super) fn abort(&self) {
        self.driver.abort();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed() || self.driver.is_finished()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.busy.load(Ordering::Relaxed) == 0
    }
}

impl Config {
    /// How long it may take until a connection is there or a try has failed, without what is asked then. A
    /// password that is outside of the address is read before, and again after it was refused.
    pub(super) fn longest_try(&self) -> Duration {
        // Most hosts have one address or two.
        let later = NEXT * u32::try_from(2 * self.places.len() - 1).unwrap_or(u32::MAX);
        later + self.limit + 2 * self.login.takes(self.limit)
    }

    /// Connects to the server that takes writes now, and logs in.
    ///
    /// The servers are tried in order. One that is slow does not keep the next one from being tried.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(super) async fn connect(&self, events: &Events) -> Result<Opened, Failure> {
        let (mut tries, mut failures) = (FuturesUnordered::new(), Vec::new());
        let (mut places, mut rest) = (self.places.iter(), VecDeque::new());
        let mut count = 0..;
        loop {
            if rest.is_empty()
                && let Some(place) = places.next()
            {
                match addresses(place, self.limit).await {
                    Ok(addresses) => rest.extend(addresses.into_iter().map(|address| (place, address))),
                    Err(failure) => {
                        failures.extend(count.next().map(|index| (index, self.at(place, failure))));
                    }
                }
            }
            let (next, index) = (rest.pop_front(), count.next());
            if let (Some((place, address)), Some(index)) = (next, index) {
                tries.push(async move { (index, place, self.open(place, address, events).await) });
            }
            let has_more = !rest.is_empty() || places.len() > 0;
            tokio::select! {
                tried = tries.next() => match tried {
                    Some((_, _, Ok(opened))) => return Ok(opened),
                    Some((index, place, Err(failure))) => failures.push((index, self.at(place, failure))),
                    None if has_more => {}
                    None => break,
                },
                () = sleep(NEXT), if has_more => {}
            }
        }
        failures.sort_by_key(|(index, _)| *index);
        let failures: Vec<Failure> = failures.into_iter().map(|(_, failure)| failure).collect();
        Err(Failure::of_all(&failures))
    }

    /// A failure, with the server at which it was met if there are several.
    fn at(&self, place: &Place, failure: Failure) -> Failure {
        if self.places.len() > 1 { failure.of_host(&place.shown()) } else { failure }
    }

    /// Connects to one server and logs in, with the password as it is now. If its host has several addresses,
    /// `address` is the one that is meant.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(super) async fn open(
        &self,
        place: &Place,
        address: Option<SocketAddr>,
        events: &Events,
    ) -> Result<Opened, Failure> {
        let tried = self.login.read(place, &self.database, self.limit).await?;
        let opened = timeout(self.limit, async {
            let ways = match place {
                // Nobody listens between the ends of a socket, as libpq has it too.
                Place::Unix(..) => &[Way::Plain],
                Place::Tcp(..) => self.security.mode.ways(),
            };
            let mut first = None;
            for way in ways {
                match self.open_by(*way, (place, address), &tried, events).await {
                    Ok(opened) => return Ok(opened),
                    Err((failure, true)) => _ = first.get_or_insert(failure),
                    Err((failure, false)) => return Err(first.unwrap_or(failure)),
                }
            }
            Err(first.unwrap_or_else(|| Failure::new(Kind::Disconnected, IN_TIME)))
        });
        match (opened.await, place) {
            (Ok(Ok(opened)), _) => {
                self.login.accepted();
                Ok(opened)
            }
            (Ok(Err(failure)), _) => Err(self.login.judged(failure, &tried, self.limit).await),
            (Err(_), _) if tried.was_accepted.load(Ordering::Relaxed) => {
                Err(Failure::new(Kind::Disconnected, NO_SERVER))
            }
            (Err(_), Place::Tcp(host, port)) => Err(self.transport.silent(host, *port).await.into()),
            (Err(_), Place::Unix(..)) => Err(Failure::new(Kind::Disconnected, IN_TIME)),
        }
    }

    /// The same in one way. Tells of a failure whether another way may be better.
    async fn open_by(
        &self,
        way: Way,
        (place, address): (&Place, Option<SocketAddr>),
        tried: &Tried,
        events: &Events,
    ) -> Result<Opened, (Failure, bool)> {
        let stream = self.dial(place, address).await.map_err(|failure| (failure, false))?;
        let (heard, connected_in) = (stream.heard(), stream.connected_in());
        let greeting = Box::pin(self.greet(way, place, stream, tried));
        let greeted = match place {
            Place::Tcp(host, port) => {
                let server = (host.as_str(), *port);
                let greeted = self.transport.greeted(server, (&heard, connected_in), greeting).await;
                greeted.map_err(|unreached| (unreached.into(), false))?
            }
            Place::Unix(..) => greeting.await,
        };
        match greeted {
            Ok(greeted) => {
                tried.was_accepted.store(true, Ordering::Relaxed);
                let opened = self.begin(way, (place, address), greeted, events).await;
                opened.map_err(|failure| (failure, false))
            }
            Err(Ungreeted::Tls(Unsafe::Io(error), heard)) => {
                let other_way = !Security::is_of_certificate(&error);
                Err((self.refused_by_tls(place, &error, &heard).await, other_way))
            }
            Err(Ungreeted::Tls(Unsafe::NoTls, _)) => {
                let unreached = self.transport.refused(NO_TLS.to_owned());
                Err((unreached.into(), true))
            }
            Err(Ungreeted::Tls(Unsafe::Other, heard)) => Err((self.other_server(place, &heard).await, true)),
            Err(Ungreeted::Client(error, heard)) => {
                let failure = self.refusal(place, error, &heard).await;
                let other_way = failure.is_of_rules();
                Err((failure, other_way))
            }
        }
    }

    /// Connects to a server, and says nothing yet.
    async fn dial(&self, place: &Place, address: Option<SocketAddr>) -> Result<Stream, Failure> {
        Ok(match (place, address) {
            (Place::Tcp(..), Some(address)) => {
                self.transport.connect(&address.ip().to_string(), address.port()).await?
            }
            (Place::Tcp(host, port), None) => self.transport.connect(host, *port).await?,
            (Place::Unix(..), _) => Transport::connect_unix(&place.socket()).await?,
        })
    }

    /// Begins TLS where it is wanted, and logs in.
    async fn greet(
        &self,
        way: Way,
        place: &Place,
        stream: Stream,
        tried: &Tried,
    ) -> Result<Greeted, Ungreeted> {
        let host = if let Place::Tcp(host, _) = place { host } else { "" };
        let heard = stream.heard();
        let begun = self.security.begin(way, host, stream).await;
        let stream = begun.map_err(|failed| Ungreeted::Tls(failed, heard))?;
        let heard = stream.heard();
        let mut settings = tokio_postgres::Config::new();
        settings
            .ssl_mode(tokio_postgres::config::SslMode::Disable)
            .user(&self.login.user)
            .dbname(&self.database)
            .application_name(&self.application);
        if let Some(password) = &tried.password {
            settings.password(password);
        }
        match settings.connect_raw(stream, NoTls).await {
            Ok((client, connection)) => Ok((client, connection, heard)),
            Err(error) => Err(Ungreeted::Client(error, heard)),
        }
    }

    /// Lets a connection run, and learns what is at its other end.
    async fn begin(
        &self,
        way: Way,
        (place, address): (&Place, Option<SocketAddr>),
        (client, mut connection, heard): Greeted,
        events: &Events,
    ) -> Result<Opened, Failure> {
        let told = process_in(&heard.bytes());
        self.transport.accept(&heard);
        let (gone, dropped) = oneshot::channel::<()>();
        let events = Arc::clone(events);
        let driver = tokio::spawn(async move {
            let drive = poll_fn(|context| {
                loop {
                    match ready!(connection.poll_message(context)) {
                        Some(Ok(AsyncMessage::Notification(told))) => {
                            events(Event::Message(told.channel().to_owned(), told.payload().to_owned()));
                        }
                        Some(Ok(_)) => {}
                        Some(Err(error)) => return Poll::Ready(Some(error)),
                        None => return Poll::Ready(None),
                    }
                }
            });
            let ended = tokio::select! {
                ended = drive => ended,
                () = async { let _ = dropped.await; sleep(LAST).await } => return,
            };
            // Whoever is told of its end finds it closed.
            drop(connection);
            let closed = || Failure::new(Kind::Disconnected, CLOSED);
            events(Event::Closed(ended.map_or_else(closed, Failure::from)));
        });
        let mut opened = Opened {
            client,
            prepared: Prepared::default(),
            place: place.clone(),
            address,
            way,
            facts: Facts::default(),
            driver: driver.abort_handle(),
            runtime: Handle::current(),
            busy: AtomicUsize::new(0),
            turns: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            sending: Mutex::default(),
            used: Mutex::new(now()),
            _gone: gone,
        };
        let answer = opened.client.simple_query(&facts(told)).await?;
        let row = answer.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let column = |index: usize| row.and_then(|row| row.try_get(index).ok().flatten()).unwrap_or_default();
        let version = column(1).parse::<u32>().unwrap_or_default() / 10_000;
        if version < OLDEST {
            let reason = format!("it is of version {version}, and locks need PostgreSQL {OLDEST} or newer");
            return Err(Failure::new(Kind::FailedPrecondition, reason));
        }
        if column(0) == "t" {
            return Err(Failure::new(Kind::Disconnected, STANDBY));
        }
        opened.facts.is_pooled = told.is_none_or(|told| column(2).parse() != Ok(told));
        if opened.facts.is_pooled {
            opened.turns = Arc::new(Semaphore::new(1));
        }
        opened.facts.is_explicit = column(3) != "read committed" || column(4) == "on";
        Ok(opened)
    }

    /// Why TLS did not begin.
    async fn refused_by_tls(&self, place: &Place, error: &std::io::Error, heard: &Heard) -> Failure {
        match self.security.explain(error) {
            Some((reason, true)) => Failure::new(Kind::Disconnected, reason),
            Some((reason, false)) => self.transport.refused(reason).into(),
            None => self.other_server(place, heard).await,
        }
    }

    /// What is at the other end if it did not answer as PostgreSQL does.
    async fn other_server(&self, place: &Place, heard: &Heard) -> Failure {
        if let Some(unreached) = self.transport.explain(None, heard) {
            return unreached.into();
        }
        match place {
            Place::Tcp(host, port) if heard.bytes().is_empty() => {
                self.transport.closed_without_a_word(host, *port).await.into()
            }
            _ if heard.bytes().first().is_none_or(|byte| SAYS.contains(byte)) => {
                Failure::new(Kind::Disconnected, "the connection broke while it began")
            }
            _ => {
                let words = heard.words();
                let reason =
                    format!("it does not answer as PostgreSQL does, but \"{words}\": check host and port");
                self.transport.refused(reason).into()
            }
        }
    }

    /// Why a server, or something that is none, did not accept the connection.
    async fn refusal(&self, place: &Place, error: tokio_postgres::Error, heard: &Heard) -> Failure {
        let failure = Failure::from(error);
        if failure.kind != Kind::Disconnected || failure.is_of_server() {
            return failure;
        }
        self.other_server(place, heard).await
    }

    /// Asks the server to end what it does on this connection, which nobody waits for any more.
    ///
    /// # Cancel safety
    /// A dropped call leaves no connection behind.
    pub(super) async fn cancel(&self, opened: &Opened) {
        let _ = timeout(self.limit, async {
            let host = if let Place::Tcp(host, _) = &opened.place { host } else { "" };
            let stream = self.dial(&opened.place, opened.address).await.ok()?;
            let stream = self.security.begin(opened.way, host, stream).await.ok()?;
            opened.client.cancel_token().cancel_query_raw(stream, NoTls).await.ok()
        })
        .await;
    }
}

/// The addresses of a server's host, if there are several. They may be those of a primary and its standbys.
async fn addresses(place: &Place, limit: Duration) -> Result<Vec<Option<SocketAddr>>, Failure> {
    let Place::Tcp(host, port) = place else { return Ok(vec![None]) };
    match timeout(limit, lookup_host((host.as_str(), *port))).await {
        Ok(Ok(found)) => {
            let found: Vec<_> = found.map(Some).collect();
            Ok(if found.len() > 1 { found } else { vec![None] })
        }
        // The connection fails for the same reason, and tells it.
        Ok(Err(_)) => Ok(vec![None]),
        Err(_) => {
            let reason = format!("no connection: cannot find {host:?} in time");
            Err(Unreached::NotThere(reason).into())
        }
    }
}

/// What a message of PostgreSQL begins with.
const SAYS: &[u8] = b"ACDEGHIKNRSTVWZcdnstv123";

/// The number of the process that serves a connection, as it was told in its greeting.
fn process_in(mut greeting: &[u8]) -> Option<i32> {
    loop {
        let (kind, rest) = greeting.split_first()?;
        let length = usize::try_from(u32::from_be_bytes(rest.get(..4)?.try_into().ok()?)).ok()?;
        if *kind == b'K' {
            return Some(i32::from_be_bytes(rest.get(4..8)?.try_into().ok()?));
        }
        greeting = rest.get(length..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_that_serves_is_told_in_the_greeting() {
        let message = |kind: u8, body: &[u8]| {
            let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
            [&[kind], &length[..], body].concat()
        };
        let key = message(b'K', &[0, 0, 1, 2, 9, 9, 9, 9]);
        let greeting =
            [message(b'R', &[0; 4]), message(b'S', b"a\0K\0"), key.clone(), message(b'Z', b"I")].concat();
        assert_eq!(process_in(&greeting), Some(258));
        for length in 0..key.len() - 4 {
            assert_eq!(process_in(&key[..length]), None, "{length}");
        }
        assert_eq!(process_in(&message(b'R', &[0; 4])), None);
        assert_eq!(process_in(&[b'S', 0xff, 0xff, 0xff, 0xff, 0]), None);
    }
}
