//! The connections of a store: the first, which is made again whenever it breaks and on which the server
//! tells of grants, and a few more for requests while the first is busy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::config::{Config, Listen};
use super::failure::{CLOSED, Failure, Kind};
use super::pool::Pool;
use super::server::{Event, Events, Opened};
use crate::backend::StoreNoticeKind;
use crate::stores::notices::StoreNotices;
use crate::stores::transport::IN_TIME;
use crate::sync::{Backoff, Instant};

/// The shortest and the longest pause between two tries to connect.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));
/// A connection that breaks within this time is not replaced at once, because the next one may break as soon.
/// The second value is the longest pause before it is replaced.
const STEADY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(100));
/// How much longer than a try to connect a request waits for it, so that it learns why the try has failed:
/// longer than it takes to find out what is at a port.
const LATER: Duration = Duration::from_millis(300);
/// The number of the first connection.
const FIRST: u64 = 1;

/// What a connection reports to its store.
pub(super) trait Listener: Send + Sync + 'static {
    /// A message has arrived on the store's channel.
    fn message(&self, text: &str);
    /// The connection that listens was made again: messages may have been lost.
    fn resubscribed(&self);
}

/// The supervised connections of a store.
pub(super) struct Connection {
    config: Config,
    channel: String,
    state: watch::Sender<State>,
    pub(super) pool: Pool,
    listener: Arc<dyn Listener>,
    /// Whether a message from ourselves has arrived.
    has_heard: AtomicBool,
    /// Whether transactions must say that they are read committed, because a pooler has once led to a session
    /// in which they are not.
    pub(super) is_explicit: AtomicBool,
    pub(super) notices: StoreNotices,
}

/// Whether the first connection is usable now, and what was tried since it broke.
#[derive(Clone)]
struct State {
    live: Option<Live>,
    /// Whether a task makes a connection.
    is_connecting: bool,
    /// How many tries to connect have failed since it broke.
    failed: u64,
    /// Why the last try failed, or why the connection broke.
    failure: Option<Failure>,
    /// How long the first try waited.
    pause: Duration,
}

#[derive(Clone)]
pub(super) struct Live {
    number: u64,
    since: Instant,
    /// Whether messages arrive.
    listens: bool,
    pub(super) opened: Arc<Opened>,
    /// The connection that listens, if that is another one.
    ear: Option<Arc<Opened>>,
}

impl Connection {
    /// Connections that are made by the first request. The first listens on `channel`.
    pub(super) fn new(config: Config, channel: String, listener: Arc<dyn Listener>) -> Arc<Self> {
        let state =
            State { live: None, is_connecting: false, failed: 0, failure: None, pause: Duration::ZERO };
        Arc::new(Connection {
            pool: Pool::new(config.connections - 1),
            config,
            channel,
            state: watch::Sender::new(state),
            listener,
            has_heard: AtomicBool::new(false),
            is_explicit: AtomicBool::new(false),
            notices: StoreNotices::default(),
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn is_live(&self) -> bool {
        self.state.borrow().live.is_some()
    }

    /// Whether the server tells of grants. It does not through a pooler.
    pub(super) fn listens(&self) -> bool {
        self.state.borrow().live.as_ref().is_some_and(|live| live.listens)
    }

    /// Whether a pooler is between, as far as is known.
    pub(super) fn is_pooled(&self) -> bool {
        self.state.borrow().live.as_ref().is_some_and(|live| live.opened.facts.is_pooled)
    }

    /// Waits for the first connection, or for the next try to make it to fail.
    pub(super) async fn ready(self: &Arc<Self>) -> Result<(), Failure> {
        self.live().await.map(drop)
    }

    /// Declares a connection broken.
    pub(super) fn lose(self: &Arc<Self>, live: &Live, opened: &Arc<Opened>, failure: Failure) {
        opened.abort();
        if Arc::ptr_eq(&live.opened, opened) {
            self.give_up(live.number, failure);
        } else {
            self.pool.remove(opened);
        }
    }

    /// Returns the first connection. While it is broken, waits for the result of the next try to connect.
    pub(super) async fn live(self: &Arc<Self>) -> Result<Live, Failure> {
        if let Some(live) = &self.state.borrow().live {
            return Ok(live.clone());
        }
        let mut state = self.state.subscribe();
        let failed = state.borrow_and_update().failed;
        let is_first =
            |state: &mut State| state.live.is_none() && !std::mem::replace(&mut state.is_connecting, true);
        if self.state.send_if_modified(is_first) {
            tokio::spawn(reconnect(Arc::downgrade(self), FIRST, Duration::ZERO));
        }
        let settled = state.wait_for(|state| state.live.is_some() || state.failed > failed);
        match timeout(self.config.longest_try() + LATER, settled).await {
            Ok(Ok(state)) => match (&state.live, &state.failure) {
                (Some(live), _) => Ok(live.clone()),
                (None, Some(failure)) => Err(failure.clone()),
                (None, None) => Err(timed_out()),
            },
            Ok(Err(_)) | Err(_) => Err(timed_out()),
        }
    }

    /// Declares connection `number` broken and starts to connect again, unless that has been done already.
    fn give_up(self: &Arc<Self>, number: u64, failure: Failure) {
        let mut first = Duration::ZERO;
        let broke = self.state.send_if_modified(|state| {
            let Some(live) = state.live.take_if(|live| live.number == number) else { return false };
            live.opened.abort();
            if live.since.elapsed() < STEADY.0 {
                first = (state.pause * 2).clamp(PAUSE.0, STEADY.1);
            }
            self.notices.say(StoreNoticeKind::ConnectionLost, &self.config.reason(&failure));
            *state =
                State { live: None, is_connecting: true, failed: 0, failure: Some(failure), pause: first };
            true
        });
        if broke {
            // The others may lead to a server that is the primary no more.
            self.pool.clear();
            tokio::spawn(reconnect(Arc::downgrade(self), number + 1, first));
        }
    }

    /// Opens connection `number` and makes it the current one.
    async fn open(self: &Arc<Self>, number: u64) -> Result<(), Failure> {
        let events = self.events(number);
        let opened = Arc::new(self.config.connect(&events).await?);
        let (ear, listens) = match &self.config.listen {
            Listen::No => (None, false),
            Listen::Auto if opened.facts.is_pooled => (None, false),
            Listen::Auto => (None, self.listen_on(&opened).await?),
            Listen::Yes => {
                self.listen_on(&opened).await?;
                (None, true)
            }
            Listen::At(place) => {
                let of_ear =
                    |failure: Failure| failure.of_host(&format!("the option listen: {}", place.shown()));
                let ear = Arc::new(self.config.open(place, None, &events).await.map_err(of_ear)?);
                let listens = self.listen_on(&ear).await.map_err(of_ear)?;
                (Some(ear), listens)
            }
        };
        let live = Live { number, since: Instant::now(), listens, opened, ear };
        self.state.send_modify(|state| {
            let live = Some(live.clone());
            *state = State { live, is_connecting: false, failed: 0, failure: None, pause: state.pause };
        });
        // One of them may have ended before it was the current one, which nobody else notices.
        if live.opened.is_closed() || live.ear.is_some_and(|ear| ear.is_closed()) {
            self.give_up(number, Failure::new(Kind::Disconnected, CLOSED));
        }
        Ok(())
    }

    /// Listens on the store's channel. Returns whether a message to ourselves arrives, as it does before the
    /// answer.
    async fn listen_on(&self, opened: &Opened) -> Result<bool, Failure> {
        let channel = &self.channel;
        let script = format!(
            "LISTEN \"{}\"; SELECT pg_notify('{}', '')",
            channel.replace('"', "\"\""),
            channel.replace('\'', "''")
        );
        self.has_heard.store(false, Ordering::SeqCst);
        match timeout(self.config.timeout, opened.client.batch_execute(&script)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(timed_out()),
        }
        Ok(self.has_heard.load(Ordering::SeqCst))
    }

    /// What is done about the events of connection `number`.
    fn events(self: &Arc<Self>, number: u64) -> Events {
        let this = Arc::downgrade(self);
        Arc::new(move |event| {
            let Some(this) = this.upgrade() else { return };
            match event {
                Event::Message(channel, _) if channel != this.channel => {}
                Event::Message(_, text) if text.is_empty() => this.has_heard.store(true, Ordering::SeqCst),
                // A connection that was given up may listen until it has ended. Its messages are ignored: the
                // next one receives them too, and once it listens all waiters ask the server again.
                Event::Message(_, text) if this.is_current(number) => this.listener.message(&text),
                Event::Message(..) => {}
                Event::Closed(failure) => {
                    this.give_up(number, failure.of_end());
                }
            }
        })
    }

    fn is_current(&self, number: u64) -> bool {
        self.state.borrow().live.as_ref().is_some_and(|live| live.number == number)
    }
}

pub(super) fn timed_out() -> Failure {
    Failure::new(Kind::Disconnected, IN_TIME)
}

/// Tries to connect until it succeeds or the store is dropped. The first connection is also given up when
/// what refuses it does not heal: nothing is held yet, and the next request tries again.
async fn reconnect(connection: Weak<Connection>, number: u64, first: Duration) {
    let mut ended = Ended { connection: Weak::clone(&connection), regularly: false };
    reconnected(connection, number, first).await;
    ended.regularly = true;
}

/// Lets the next request connect if the task that connects is dropped, as with the runtime that it runs in.
struct Ended {
    connection: Weak<Connection>,
    regularly: bool,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.upgrade().filter(|_| !self.regularly) {
            connection.state.send_modify(|state| {
                state.is_connecting = false;
                state.failed += 1;
                state.failure = Some(timed_out());
            });
        }
    }
}

async fn reconnected(connection: Weak<Connection>, number: u64, first: Duration) {
    tokio::time::sleep(first).await;
    let mut backoff = Backoff::new((PAUSE.0.max(first * 2), PAUSE.1));
    loop {
        let Some(connection) = connection.upgrade() else { return };
        match connection.open(number).await {
            Ok(()) if number == FIRST => return,
            Ok(()) => return connection.listener.resubscribed(),
            Err(failure) => {
                // What cannot heal is told to whoever asks, and nobody needs this connection to be made yet.
                let goes_on = number != FIRST || failure.may_heal();
                if goes_on {
                    let reason = connection.config.reason(&failure);
                    connection.notices.say(StoreNoticeKind::NotConnected, &reason);
                }
                connection.state.send_modify(|state| {
                    state.failed += 1;
                    state.failure = Some(failure);
                    state.is_connecting = goes_on;
                });
                if !goes_on {
                    return;
                }
            }
        }
        drop(connection);
        tokio::time::sleep(backoff.pause()).await;
    }
}
