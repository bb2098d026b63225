//! What the driver of a session and its users share.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::failure::{Failure, Outcome};
use super::wire::{ErrorCode, OpCode, Request};
use crate::stores::watched::inbox::Inbox;
use crate::sync::{Instant, Mutex, MutexGuard};

/// A request on its way to the driver.
#[derive(Debug)]
pub(super) struct QueuedRequest {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Outcome>,
}

/// The state of a session.
#[derive(Debug)]
pub(super) struct State {
    pub(super) id: i64,
    pub(super) expired: Arc<Notify>,
    /// Whether the session outlives its last user, until it expires.
    pub(super) is_left_to_expire: bool,
    facts: Mutex<Facts>,
}

#[derive(Debug)]
pub(super) struct Facts {
    /// How long the servers keep the session without a sign of life.
    pub(super) timeout: Duration,
    /// The leader counts the timeout from this moment, or from a later one.
    pub(super) counted_from: Instant,
    /// How many claims have their nodes in the session, or are requested there.
    pub(super) claims: usize,
    /// When a claim was last requested in the session, or left it.
    pub(super) last_used: Instant,
    /// Until when the owners of the claims have asked for the session to be kept alive.
    pub(super) keep_alive_until: Instant,
    /// How many connections have been lost.
    pub(super) reconnects: u64,
    /// Whether the servers have ended the session.
    pub(super) is_expired: bool,
    pub(super) watches: HashMap<String, Vec<Weak<Inbox>>>,
}

impl State {
    /// The state of a session that was created by a request of this moment.
    pub(super) fn new(id: i64, timeout: Duration, created: Instant) -> Self {
        let facts = Facts {
            timeout,
            counted_from: created,
            claims: 0,
            last_used: created,
            keep_alive_until: created,
            reconnects: 0,
            is_expired: false,
            watches: HashMap::new(),
        };
        State { id, expired: Arc::default(), is_left_to_expire: false, facts: Mutex::new(facts) }
    }

    pub(super) fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock()
    }

    /// Changes the facts, and makes all waiters read again.
    pub(super) fn wake_all_waiters(&self, change: impl FnOnce(&mut Facts)) {
        let mut facts = self.facts();
        change(&mut facts);
        for inbox in facts.watches.drain().flat_map(|(_, inbox)| inbox).filter_map(|inbox| inbox.upgrade()) {
            inbox.notify(|changes| changes.read_again = true);
        }
    }
}

/// Whether this answer to a request of this kind proves that a majority followed the leader that knows the
/// session.
pub(super) fn is_confirmed_by(code: OpCode, answer: &Outcome) -> bool {
    let answered = matches!(answer, Ok(_) | Err(Failure::Refused(ErrorCode::NO_NODE)));
    code.is_transaction() && answered
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members answer reads and pings by themselves, even after they have lost their leader. And a leader
    /// answers a `sync` by itself, even after it has lost its members.
    #[test]
    fn only_an_answer_of_a_majority_confirms_the_session() {
        let good = || Ok(Vec::new());
        for code in [OpCode::Create2, OpCode::Delete, OpCode::Multi] {
            assert!(is_confirmed_by(code, &good()), "{code:?}");
            assert!(is_confirmed_by(code, &Err(Failure::Refused(ErrorCode::NO_NODE))), "{code:?}");
            // The member may refuse without the leader.
            for error in [ErrorCode::THROTTLED, ErrorCode::SESSION_MOVED, ErrorCode::NO_AUTH] {
                assert!(!is_confirmed_by(code, &Err(Failure::Refused(error))), "{code:?} {error:?}");
            }
            assert!(!is_confirmed_by(code, &Err(Failure::Lost(String::new()))));
            assert!(!is_confirmed_by(code, &Err(Failure::Expired)));
        }
        for code in [
            OpCode::Exists,
            OpCode::GetData,
            OpCode::GetChildren,
            OpCode::Sync,
            OpCode::Ping,
            OpCode::Auth,
            OpCode::Sasl,
            OpCode::CreateContainer,
            OpCode::CloseSession,
        ] {
            assert!(!is_confirmed_by(code, &good()), "{code:?}");
        }
    }
}
