//! The connections for requests while the first one is busy.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, timeout};

use super::connection::{Connection, Live, timed_out};
use super::server::{Events, Opened};
use crate::sync::{Instant, Mutex, now};

/// How many requests are sent on each connection before another one is opened. Few share one well, because
/// none takes long, and a connection costs the server a process.
const SHARED: usize = 4;
/// How long a connection may be idle until it is closed.
const IDLE: Duration = Duration::from_secs(30);
/// How long no other is opened after one could not be.
const REFUSED: Duration = Duration::from_secs(5);

/// Connections that are opened when they are needed, and closed when they are idle.
pub(super) struct Pool {
    /// The most of them.
    most: usize,
    members: Mutex<Members>,
}

#[derive(Default)]
struct Members {
    opened: Vec<Arc<Opened>>,
    /// How many are being opened.
    opening: usize,
    /// Whether a task closes those that are idle.
    is_watched: bool,
    /// How often all were given up.
    generation: u64,
    /// Until when no other is opened, because one could not be.
    refused_until: Option<Instant>,
}

impl Pool {
    pub(super) fn new(most: usize) -> Self {
        Pool { most, members: Mutex::default() }
    }

    /// Gives up one of them.
    pub(super) fn remove(&self, gone: &Arc<Opened>) {
        self.members.lock().opened.retain(|opened| !Arc::ptr_eq(opened, gone));
    }

    /// Gives up all of them. Those that do requests end after these.
    pub(super) fn clear(&self) {
        let mut members = self.members.lock();
        members.generation += 1;
        members.opened.clear();
    }

    /// Closes those that have been idle for long. Returns whether nobody has to come again.
    fn close_idle(&self) -> bool {
        let now = now();
        let mut members = self.members.lock();
        members.opened.retain(|opened| !(opened.is_idle() && *opened.used.lock() + IDLE <= now));
        let is_empty = members.opened.is_empty();
        members.is_watched &= !is_empty;
        is_empty
    }
}

/// A connection that does a request.
pub(super) struct Busy {
    connection: Weak<Connection>,
    live: Live,
    opened: Arc<Opened>,
    is_answered: bool,
    turn: Option<OwnedSemaphorePermit>,
}

impl Busy {
    pub(super) fn opened(&self) -> &Arc<Opened> {
        &self.opened
    }

    /// Notes that the request was answered, or is given up with its connection.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.is_answered {
            return free(&self.opened);
        }
        // The caller has gone, but the server still works for it. The next answer comes after that.
        let (opened, turn) = (Arc::clone(&self.opened), self.turn.take());
        let (connection, live) = (Weak::clone(&self.connection), self.live.clone());
        self.opened.runtime.spawn(async move {
            let limit = connection.upgrade().map(|connection| connection.config().timeout);
            let limit = limit.unwrap_or_default();
            if timeout(limit, opened.client.check_connection()).await.is_err()
                && let Some(connection) = connection.upgrade()
            {
                connection.lose(&live, &opened, timed_out());
                connection.config().cancel(&opened).await;
            }
            free(&opened);
            drop(turn);
        });
    }
}

fn free(opened: &Opened) {
    *opened.used.lock() = now();
    opened.busy.fetch_sub(1, Ordering::Relaxed);
}

impl Connection {
    /// Takes the connection with the fewest requests. If even that has many, another one is opened for those
    /// that come later.
    ///
    /// # Cancel safety
    /// Nothing is taken.
    pub(super) async fn take(self: &Arc<Self>, live: &Live) -> Busy {
        let opened = self.choose(live);
        let turns = Arc::clone(&opened.turns);
        // Until it is sent, nothing has to be waited for.
        let mut taken = Busy {
            connection: Arc::downgrade(self),
            live: live.clone(),
            opened,
            is_answered: true,
            turn: None,
        };
        taken.turn = turns.acquire_owned().await.ok();
        taken.is_answered = false;
        taken
    }

    /// Chooses the connection, and counts the request.
    fn choose(self: &Arc<Self>, live: &Live) -> Arc<Opened> {
        let mut members = self.pool.members.lock();
        members.opened.retain(|opened| !opened.is_closed());
        let busy = |opened: &Arc<Opened>| opened.busy.load(Ordering::Relaxed);
        let all = std::iter::once(&live.opened).chain(&members.opened);
        let opened = Arc::clone(all.min_by_key(|opened| busy(opened)).unwrap_or(&live.opened));
        let may_open = members.opening == 0
            && members.opened.len() < self.pool.most
            && members.refused_until.is_none_or(|until| until <= now());
        let shared = if opened.facts.is_pooled { 1 } else { SHARED };
        if busy(&opened) >= shared && may_open {
            members.opening += 1;
            tokio::spawn(open(Arc::downgrade(self), Arc::clone(&live.opened), members.generation));
        }
        opened.busy.fetch_add(1, Ordering::Relaxed);
        opened
    }
}

/// Notes that a connection is not being opened any more, also if the task is dropped.
struct Opening(Weak<Connection>);

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(connection) = self.0.upgrade() {
            connection.pool.members.lock().opening -= 1;
        }
    }
}

/// Opens one more connection to the server to which the first one leads.
async fn open(connection: Weak<Connection>, first: Arc<Opened>, generation: u64) {
    let _opening = Opening(Weak::clone(&connection));
    let Some(connection) = connection.upgrade() else { return };
    // That it has ended is seen when the next request looks for one.
    let events: Events = Arc::new(|_| {});
    let opened = connection.config().open(&first.place, first.address, &events).await;
    let mut members = connection.pool.members.lock();
    match opened {
        Ok(opened) if members.generation == generation => {
            members.opened.push(Arc::new(opened));
            if !std::mem::replace(&mut members.is_watched, true) {
                tokio::spawn(close_idle(Arc::downgrade(&connection)));
            }
        }
        Ok(_) => {}
        Err(_) => members.refused_until = Some(now() + REFUSED),
    }
}

/// Closes connections that are idle, for as long as there are any.
async fn close_idle(connection: Weak<Connection>) {
    let mut unwatched = Unwatched(Some(connection));
    while let Some(connection) = &unwatched.0 {
        let connection = Weak::clone(connection);
        sleep(IDLE / 2).await;
        if connection.upgrade().is_none_or(|connection| connection.pool.close_idle()) {
            unwatched.0 = None;
        }
    }
}

/// Lets the next connection be watched if the task that does it is dropped, as with its runtime.
struct Unwatched(Option<Weak<Connection>>);

impl Drop for Unwatched {
    fn drop(&mut self) {
        if let Some(connection) = self.0.take().and_then(|connection| connection.upgrade()) {
            connection.pool.members.lock().is_watched = false;
        }
    }
}
