//! The slow look: what a manager does for its claims where the server cannot push, as behind a pooler.
//!
//! One request asks for all of them, and changes nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio_postgres::types::{ToSql, Type};

use super::Inbox;
use super::calls::Calls;
use super::connection::{Connection, Listener};
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
        let is_idle = |(waiting, holding): &(Vec<_>, Vec<_>)| waiting.is_empty() && holding.is_empty();
        let mut claims = inbox.waiters.untold();
        if is_idle(&claims) {
            // Whoever begins to wait now begins to look; and one that began just before is seen here.
            ends.0.store(false, Ordering::SeqCst);
            claims = inbox.waiters.untold();
            if is_idle(&claims) || ends.0.swap(true, Ordering::SeqCst) {
                return;
            }
        }
        let Some(connection) = connection.upgrade() else { return };
        if connection.listens() {
            return;
        }
        let begun = now();
        look_once(&connection, calls, inbox, &claims).await;
        // Those that hold can only be evicted, which is rare.
        let least = if claims.0.is_empty() { LONGEST } else { PAUSE };
        pause = (begun.elapsed() * REST).clamp(least, LONGEST);
    }
}

async fn look_once(
    connection: &Arc<Connection>,
    calls: &Calls,
    inbox: &Inbox,
    (waiting, holding): &(Vec<ClaimId>, Vec<ClaimId>),
) {
    let texts = |claims: &[ClaimId]| claims.iter().map(ToString::to_string).collect::<Vec<_>>();
    let (waiting, holding) = (texts(waiting), texts(holding));
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&waiting, Type::TEXT_ARRAY), (&holding, Type::TEXT_ARRAY)];
    // A failure is told to whoever renews.
    let Ok(rows) = connection.query(&calls.changed, &parameters).await else { return };
    for row in &rows {
        let text = |column| row.try_get::<_, Option<&str>>(column).ok().flatten();
        match text(1).map(|told| (Pushed::parse(told), told)) {
            // A claim that was given up meanwhile is released by who gave it up.
            Some((Some(pushed), _)) => drop(inbox.waiters.deliver(pushed)),
            Some((None, evicted)) => inbox.message(evicted),
            None => {
                if let Some(id) = text(0).and_then(ClaimId::parse) {
                    inbox.waiters.poll(Polls { id, poll_in: Duration::ZERO });
                }
            }
        }
    }
}
