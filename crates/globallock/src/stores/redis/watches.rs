//! The keys that the server watches for us: it says when a stranger takes or frees one.
//!
//! This is the tracking that Redis has for caches on the side of clients. A server that refuses it is polled.

use std::collections::HashMap;
use std::time::Duration;

use redis::{Pipeline, Value};

use super::{Redis, keys};
use crate::backend::{Claim, ClaimId};
use crate::stores::pushed::Polls;
use crate::sync::Mutex;

/// Who wants to know of a change of a key: the first waiter of ours.
#[derive(Default)]
pub(super) struct Watches {
    watched: Mutex<HashMap<String, ClaimId>>,
}

impl Watches {
    /// Notes that a claim wants to know of the next change of `key`. Called before the server is asked,
    /// because the change may come before its answer.
    fn begin(&self, key: &str, id: ClaimId) {
        self.watched.lock().insert(key.to_owned(), id);
    }

    /// Whether the key has not changed since.
    fn is_watched(&self, key: &str, id: ClaimId) -> bool {
        self.watched.lock().get(key) == Some(&id)
    }

    /// Notes that a key has changed. Returns who wants to know it.
    pub(super) fn changed(&self, key: &str) -> Option<ClaimId> {
        self.watched.lock().remove(key)
    }

    /// Notes that a claim does not wait any more.
    pub(super) fn end(&self, key: &str, id: ClaimId) {
        let mut watched = self.watched.lock();
        if watched.get(key) == Some(&id) {
            watched.remove(key);
        }
    }

    /// Forgets all, because another connection watches nothing.
    pub(super) fn forget(&self) {
        self.watched.lock().clear();
    }
}

impl Redis {
    /// Ends the watch of a claim that is released or given up, if it has one.
    pub(super) fn unwatch(&self, claim: &Claim) {
        if self.connection.config().gap.is_some() {
            self.inbox.watches.end(&keys::lock(self.prefix(), &claim.name), claim.id);
        }
    }

    /// Makes the first waiter poll as soon as a stranger takes or frees the lock, in place of polls at a pace
    /// of its own. `is_held` says what the server has answered to the waiter: that a stranger holds the lock,
    /// or that there is a gap.
    ///
    /// # Cancel safety
    /// The waiter polls at its own pace.
    pub(super) async fn watch(&self, claim: &Claim, is_held: bool, poll_in: u64) {
        if !self.connection.watches() {
            return;
        }
        let key = keys::lock(self.prefix(), &claim.name);
        let (watches, waiters) = (&self.inbox.watches, &self.inbox.waiters);
        watches.begin(&key, claim.id);
        let mut commands = Pipeline::with_capacity(2);
        commands.cmd("CLIENT").arg("CACHING").arg("YES");
        commands.cmd("GET").arg(&key);
        let answers = self.connection.requests(&commands, 2).await;
        let [Ok(_), Ok(value)] = &answers[..] else { return };
        waiters.watch(claim.id, (poll_in > 0).then(|| Duration::from_millis(poll_in)));
        if (*value != Value::Nil) != is_held || !watches.is_watched(&key, claim.id) {
            waiters.poll(Polls { id: claim.id, poll_in: Duration::ZERO });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_to_whoever_asked_last() {
        let (watches, one, other) = (Watches::default(), ClaimId::new(5, 1), ClaimId::new(5, 2));
        assert_eq!(watches.changed("a"), None);
        watches.begin("a", one);
        assert!(watches.is_watched("a", one) && !watches.is_watched("b", one));
        watches.begin("a", other);
        assert!(!watches.is_watched("a", one));
        assert_eq!(watches.changed("b"), None);
        assert_eq!(watches.changed("a"), Some(other));
        assert!(!watches.is_watched("a", other));
        assert_eq!(watches.changed("a"), None);
        watches.begin("a", one);
        watches.end("a", other);
        watches.end("b", one);
        assert!(watches.is_watched("a", one));
        watches.end("a", one);
        assert_eq!(watches.changed("a"), None);
        watches.begin("a", one);
        watches.forget();
        assert_eq!(watches.changed("a"), None);
    }
}
