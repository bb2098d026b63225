//! The connections of a store: the first, which is made again whenever it breaks and on which the server
//! tells of grants, and a few more for requests while the first is busy.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use super::config::{Config, Listen};
use super::failure::{CLOSED, Failure, Kind};
use super::pool::Pool;
use super::server::{Event, Events, Opened};
use crate::stores::supervised::{Supervised, Supervisor};
use crate::stores::transport::IN_TIME;

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
    pub(super) supervisor: Supervisor<Live, Failure>,
    pub(super) pool: Pool,
    listener: Arc<dyn Listener>,
    /// Whether a message from ourselves has arrived.
    has_heard: AtomicBool,
    /// Whether transactions must say that they are read committed, because a pooler has once led to a session
    /// in which they are not.
    pub(super) is_explicit: AtomicBool,
}

#[derive(Clone)]
pub(super) struct Live {
    number: u64,
    /// Whether messages arrive.
    listens: bool,
    pub(super) opened: Arc<Opened>,
    /// The connection that listens, if that is another one.
    ear: Option<Arc<Opened>>,
}

impl Connection {
    /// Connections that are made by the first request. The first listens on `channel`.
    pub(super) fn new(config: Config, channel: String, listener: Arc<dyn Listener>) -> Arc<Self> {
        Arc::new(Connection {
            pool: Pool::new(config.connections - 1),
            config,
            channel,
            supervisor: Supervisor::new(),
            listener,
            has_heard: AtomicBool::new(false),
            is_explicit: AtomicBool::new(false),
        })
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Whether the server tells of grants. It does not through a pooler.
    pub(super) fn listens(&self) -> bool {
        self.supervisor.is_some_and(|live| live.listens)
    }

    /// Whether a pooler is between, as far as is known.
    pub(super) fn is_pooled(&self) -> bool {
        self.supervisor.is_some_and(|live| live.opened.facts.is_pooled)
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
                Event::Message(_, text) if this.supervisor.is_current(number) => this.listener.message(&text),
                Event::Message(..) => {}
                Event::Closed(failure) => {
                    this.give_up(number, failure.of_end());
                }
            }
        })
    }
}

impl Supervised for Connection {
    type Live = Live;
    type Failure = Failure;

    fn supervisor(&self) -> &Supervisor<Live, Failure> {
        &self.supervisor
    }

    async fn open(self: &Arc<Self>, number: u64) -> Result<Live, Failure> {
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
        Ok(Live { number, listens, opened, ear })
    }

    fn ended(live: &Live) -> Option<Failure> {
        let has_ended = live.opened.is_closed() || live.ear.as_ref().is_some_and(|ear| ear.is_closed());
        has_ended.then(|| Failure::new(Kind::Disconnected, CLOSED))
    }

    fn given_up(&self, live: &Live) {
        live.opened.abort();
        // The others may lead to a server that is the primary no more.
        self.pool.clear();
    }

    fn reopened(&self) {
        self.listener.resubscribed();
    }

    fn longest_try(&self) -> Duration {
        self.config.longest_try()
    }

    fn timed_out() -> Failure {
        timed_out()
    }

    fn may_heal(failure: &Failure) -> bool {
        failure.may_heal()
    }

    fn reason(&self, failure: &Failure) -> String {
        self.config.reason(failure)
    }
}

pub(super) fn timed_out() -> Failure {
    Failure::new(Kind::Disconnected, IN_TIME)
}
