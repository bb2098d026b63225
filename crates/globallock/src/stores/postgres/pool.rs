//! The connections for requests while the first one is busy.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::connection::{Connection, Live, timed_out};
use super::server::{Event, Events, Opened};
use crate::sync::{Instant, Mutex, Notify, now};

/// How long a connection may be idle until it is closed.
const IDLE: Duration = Duration::from_secs(30);
/// How long no other is opened after one could not be.
const REFUSED: Duration = Duration::from_secs(5);

/// Connections that are opened when they are needed, and closed when they are idle.
pub(super) struct Pool {
    /// The most of them.
    most: usize,
    members: Mutex<Members>,
    /// Told when a request has been answered, or a connection is there.
    freed: Arc<Notify>,
}

#[derive(Default)]
struct Members {
    opened: Vec<Arc<Opened>>,
    /// How many are being opened.
    opening: usize,
    /// How often all were given up.
    generation: u64,
    /// Until when no other is opened, because one could not be.
    refused_until: Option<Instant>,
}

impl Pool {
    pub(super) fn new(most: usize) -> Self {
        Pool { most, members: Mutex::default(), freed: Arc::default() }
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

    /// Closes those that have been idle for long.
    fn close_idle(&self) {
        let now = now();
        self.members.lock().opened.retain(|opened| !(opened.is_idle() && *opened.used.lock() + IDLE <= now));
    }
}

/// A connection that does a request.
pub(super) struct Busy {
    connection: Weak<Connection>,
    live: Live,
    opened: Arc<Opened>,
    freed: Arc<Notify>,
    is_answered: bool,
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
            return free(&self.opened, &self.freed);
        }
        // The caller has gone, but the server still works for it. The next answer comes after that.
        let (opened, freed) = (Arc::clone(&self.opened), Arc::clone(&self.freed));
        let (connection, live) = (Weak::clone(&self.connection), self.live.clone());
        self.opened.runtime.spawn(async move {
            let limit = connection.upgrade().map(|connection| connection.config().timeout);
            let limit = limit.unwrap_or_default();
            if timeout(limit, opened.client.check_connection()).await.is_err()
                && let Some(connection) = connection.upgrade()
            {
                connection.lose(&live, &opened, timed_out());
            }
            free(&opened, &freed);
        });
    }
}

fn free(opened: &Opened, freed: &Notify) {
    *opened.used.lock() = now();
    opened.busy.fetch_sub(1, Ordering::Relaxed);
    freed.notify_one();
}

impl Connection {
    /// Takes an idle connection. If there is none, opens one and takes what is free first; if no more may be
    /// opened, takes the one with the fewest requests.
    ///
    /// # Cancel safety
    /// Nothing is lost: a connection that is being opened is there for the next request.
    pub(super) async fn take(self: &Arc<Self>, live: &Live) -> Busy {
        let (until, mut has_opened) = (now() + self.config().timeout, false);
        loop {
            let freed = self.pool.freed.notified();
            {
                let mut members = self.pool.members.lock();
                members.opened.retain(|opened| !opened.is_closed());
                let all = || std::iter::once(&live.opened).chain(&members.opened);
                let idle = all().find(|opened| opened.is_idle());
                let fewest = || all().min_by_key(|opened| opened.busy.load(Ordering::Relaxed));
                let may_open = members.opened.len() + members.opening < self.pool.most
                    && members.refused_until.is_none_or(|until| until <= now());
                // To queue now might be to wait for a request that is blocked there.
                let waits = members.opening > 0 && now() < until;
                let taken = match idle {
                    Some(idle) => Some(idle),
                    None if waits || may_open && !has_opened => None,
                    None => fewest(),
                };
                if let Some(opened) = taken {
                    opened.busy.fetch_add(1, Ordering::Relaxed);
                    return Busy {
                        connection: Arc::downgrade(self),
                        live: live.clone(),
                        opened: Arc::clone(opened),
                        freed: Arc::clone(&self.pool.freed),
                        is_answered: false,
                    };
                }
                if may_open && !has_opened {
                    has_opened = true;
                    members.opening += 1;
                    tokio::spawn(open(Arc::downgrade(self), Arc::clone(&live.opened), members.generation));
                }
            }
            let _ = timeout(self.config().timeout, freed).await;
        }
    }
}

/// Notes that a connection is not being opened any more, also if the task is dropped.
struct Opening(Weak<Connection>);

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some(connection) = self.0.upgrade() {
            connection.pool.members.lock().opening -= 1;
            connection.pool.freed.notify_waiters();
        }
    }
}

/// Opens one more connection to the server to which the first one leads, and closes it when it is idle.
async fn open(connection: Weak<Connection>, first: Arc<Opened>, generation: u64) {
    {
        let _opening = Opening(Weak::clone(&connection));
        let Some(connection) = connection.upgrade() else { return };
        let freed = Arc::clone(&connection.pool.freed);
        // That it has ended is seen when the next request looks for one.
        let events: Events = Arc::new(move |event| {
            if let Event::Closed(_) = event {
                freed.notify_waiters();
            }
        });
        let opened = connection.config().open(&first.place, &events).await;
        let mut members = connection.pool.members.lock();
        match opened {
            Ok(opened) if members.generation == generation => members.opened.push(Arc::new(opened)),
            Ok(_) => {}
            Err(_) => members.refused_until = Some(now() + REFUSED),
        }
    }
    drop(first);
    loop {
        sleep(IDLE / 2).await;
        let Some(connection) = connection.upgrade() else { return };
        connection.pool.close_idle();
        if connection.pool.members.lock().opened.is_empty() {
            return;
        }
    }
}
