//! The slow look: what waiters do where the server cannot push, as behind a pooler.
//!
//! One request of a manager asks for all of its waiters, and changes nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_postgres::types::Type;

use super::Inbox;
use super::calls::Calls;
use super::connection::Connection;
use crate::backend::ClaimId;
use crate::stores::pushed::{Polls, Pushed};
use crate::sync::now;

/// The pause between two looks, at least.
const PAUSE: Duration = Duration::from_millis(25);
/// How many times as long as a look takes the pause after it is, so that crowds do not keep the server busy.
const REST: u32 = 10;
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(1);

/// Whether a task of this store looks for its waiters.
#[derive(Debug, Default)]
pub(super) struct Looks {
    is_looking: Arc<AtomicBool>,
}

impl Looks {
    /// Begins to look, unless that is done already. It ends when nobody waits, or the server pushes.
    pub(super) fn begin(&self, connection: &Arc<Connection>, calls: &Arc<Calls>, inbox: &Arc<Inbox>) {
        if self.is_looking.swap(true, Ordering::SeqCst) {
            return;
        }
        let is_looking = Arc::clone(&self.is_looking);
        let (connection, calls, inbox) = (Arc::downgrade(connection), Arc::clone(calls), Arc::clone(inbox));
        tokio::spawn(async move {
            let ends = Ends(is_looking);
            look(&connection, &calls, &inbox, &ends).await;
        });
    }
}

/// Lets the next waiter begin again, also where the task is dropped with its runtime.
struct Ends(Arc<AtomicBool>);

impl Drop for Ends {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

async fn look(connection: &Weak<Connection>, calls: &Calls, inbox: &Inbox, ends: &Ends) {
    let mut pause = PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        let mut waiting = inbox.waiters.waiting();
        if waiting.is_empty() {
            // Whoever begins to wait now begins to look; and one that began just before is seen here.
            ends.0.store(false, Ordering::SeqCst);
            waiting = inbox.waiters.waiting();
            if waiting.is_empty() || ends.0.swap(true, Ordering::SeqCst) {
                return;
            }
        }
        let Some(connection) = connection.upgrade() else { return };
        if connection.listens() {
            return;
        }
        let begun = now();
        look_once(&connection, calls, inbox, &waiting).await;
        pause = (begun.elapsed() * REST).clamp(PAUSE, LONGEST);
    }
}

async fn look_once(connection: &Arc<Connection>, calls: &Calls, inbox: &Inbox, waiting: &[ClaimId]) {
    let ids: Vec<String> = waiting.iter().map(ToString::to_string).collect();
    // A failure is told to whoever renews.
    let Ok(rows) = connection.query(&calls.changed, &[(&ids, Type::TEXT_ARRAY)]).await else { return };
    for row in &rows {
        let text = |column| row.try_get::<_, Option<&str>>(column).ok().flatten();
        if let Some(pushed) = text(1).and_then(Pushed::parse) {
            // A grant of a claim that was given up meanwhile is released by who gave it up.
            drop(inbox.waiters.deliver(pushed));
        } else if let Some(id) = text(0).and_then(ClaimId::parse) {
            inbox.waiters.poll(Polls { id, poll_in: Duration::ZERO });
        }
    }
}
