//! The session that has the advisory locks of other libraries for the claims of one store.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::timeout;

use super::advisory::{Advisory, Key};
use super::config::Listen;
use super::connection::{Connection, timed_out};
use super::failure::{CLOSED, Failure, Kind};
use super::not_ours;
use super::server::{Event, Events, Opened};
use crate::backend::ClaimId;
use crate::stores::pushed::Hints;
use crate::sync::Mutex;

/// Why there is no such session.
const POOLED: &str = "a pooler is between, and the option interop needs a session of its own: name the \
                      server itself by ?listen=HOST:PORT, or say ?listen=yes if the pooler keeps sessions";

/// A session of the server itself. When it ends, the locks that it had are gone.
pub(super) struct Beacon {
    connection: Arc<Connection>,
    session: tokio::sync::Mutex<Option<Opened>>,
    holding: Arc<Mutex<Holding>>,
    /// Given when locks have been lost with the session.
    pub(super) hints: Arc<Hints>,
}

/// What the session has. It is whole without the session, which others may be using.
#[derive(Default)]
struct Holding {
    /// Which session it is, of all that there were.
    number: u64,
    /// The last one that is known to have ended.
    ended: u64,
    /// The claims for which somebody wants locks.
    wanted: HashSet<ClaimId>,
    /// The claims that have theirs.
    claims: HashMap<ClaimId, Advisory>,
}

impl Holding {
    fn is_alive(&self) -> bool {
        self.ended < self.number
    }

    /// Notes that the session has ended. Returns whether locks were lost with it.
    fn end(&mut self) -> bool {
        self.ended = self.number;
        let lost = !self.claims.is_empty();
        self.claims.clear();
        lost
    }
}

impl Beacon {
    pub(super) fn new(connection: &Arc<Connection>) -> Arc<Self> {
        Arc::new(Beacon {
            connection: Arc::clone(connection),
            session: tokio::sync::Mutex::default(),
            holding: Arc::default(),
            hints: Arc::default(),
        })
    }

    /// Whether a claim has its locks, as far as is known.
    pub(super) fn has(&self, id: ClaimId) -> bool {
        self.holding.lock().claims.contains_key(&id)
    }

    /// Sees to it that there is a session.
    ///
    /// # Cancel safety
    /// It is made nevertheless.
    pub(super) async fn ready(self: &Arc<Self>) -> Result<(), Failure> {
        if self.holding.lock().is_alive() {
            return Ok(());
        }
        let this = Arc::clone(self);
        done(tokio::spawn(async move { this.open(&mut *this.session.lock().await).await.map(drop) })).await
    }

    /// Tries to take the locks of a claim. Returns whether it has them now.
    ///
    /// # Cancel safety
    /// They are taken or not, until [`Beacon::give_back`].
    pub(super) async fn take(self: &Arc<Self>, id: ClaimId, locks: Advisory) -> Result<bool, Failure> {
        {
            let mut holding = self.holding.lock();
            if holding.claims.contains_key(&id) {
                return Ok(true);
            }
            holding.wanted.insert(id);
        }
        let this = Arc::clone(self);
        done(tokio::spawn(async move { this.take_now(id, locks).await })).await
    }

    async fn take_now(&self, id: ClaimId, locks: Advisory) -> Result<bool, Failure> {
        let mut session = self.session.lock().await;
        if self.has(id) {
            return Ok(true);
        }
        let taken = self.ask(self.open(&mut session).await?, &taking(&locks.keys, locks.is_shared)).await;
        let is_wanted = {
            let mut holding = self.holding.lock();
            let is_wanted = holding.wanted.contains(&id);
            if matches!(taken, Ok(true)) && is_wanted && holding.is_alive() {
                holding.claims.insert(id, locks);
                return Ok(true);
            }
            is_wanted
        };
        match taken {
            // It was given up meanwhile, or the session has ended.
            Ok(true) => {
                self.unlock(&mut session, &locks).await;
                if is_wanted { Err(Failure::new(Kind::Disconnected, CLOSED)) } else { Ok(false) }
            }
            Err(failure) => {
                self.judge(&mut session, &failure);
                Err(failure)
            }
            taken @ Ok(false) => taken,
        }
    }

    /// Gives back what a claim has, or is about to have.
    ///
    /// # Cancel safety
    /// It is given back nevertheless.
    pub(super) async fn give_back(self: &Arc<Self>, id: ClaimId) {
        let (locks, number) = {
            let mut holding = self.holding.lock();
            holding.wanted.remove(&id);
            // From here on, the claim may take them again, which the session counts.
            (holding.claims.remove(&id), holding.number)
        };
        let Some(locks) = locks else { return };
        let this = Arc::clone(self);
        let given = tokio::spawn(async move {
            let mut session = this.session.lock().await;
            if this.holding.lock().number == number {
                this.unlock(&mut session, &locks).await;
            }
        });
        drop(given.await);
    }

    async fn unlock(&self, session: &mut Option<Opened>, locks: &Advisory) {
        let Some(opened) = session.as_ref() else { return };
        if let Err(failure) = self.ask(opened, &giving(&locks.keys, locks.is_shared)).await {
            self.judge(session, &failure);
        }
    }

    /// Finds out whether the session is there still, where the server has just answered elsewhere.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(super) async fn check(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let checked = tokio::spawn(async move {
            let mut session = this.session.lock().await;
            let Some(opened) = session.as_ref() else { return };
            let answer = timeout(this.connection.config().timeout, opened.client.check_connection()).await;
            if !matches!(answer, Ok(Ok(()))) {
                this.end(&mut session);
            }
        });
        drop(checked.await);
    }

    /// The session, which is made if there is none.
    async fn open<'a>(&self, session: &'a mut Option<Opened>) -> Result<&'a Opened, Failure> {
        let is_open = session.as_ref().is_some_and(|opened| !opened.is_closed());
        if !(is_open && self.holding.lock().is_alive()) {
            self.end(session);
            let number = {
                let mut holding = self.holding.lock();
                holding.number += 1;
                holding.number
            };
            match self.connect(number).await {
                Ok(opened) => *session = Some(opened),
                Err(failure) => {
                    self.holding.lock().end();
                    return Err(failure);
                }
            }
        }
        session.as_ref().ok_or_else(|| Failure::new(Kind::Disconnected, CLOSED))
    }

    async fn connect(&self, number: u64) -> Result<Opened, Failure> {
        let (holding, hints) = (Arc::clone(&self.holding), Arc::clone(&self.hints));
        let events: Events = Arc::new(move |event| {
            let Event::Closed(_) = event else { return };
            let mut holding = holding.lock();
            if holding.number == number && holding.end() {
                hints.give();
            }
        });
        let config = self.connection.config();
        let (opened, is_named) = match &config.listen {
            Listen::At(place) => {
                let of_place =
                    |failure: Failure| failure.of_host(&format!("the option listen: {}", place.shown()));
                (config.open(place, None, &events).await.map_err(of_place)?, false)
            }
            listen => (config.connect(&events).await?, *listen == Listen::Yes),
        };
        if opened.facts.is_pooled && !is_named {
            return Err(Failure::new(Kind::FailedPrecondition, POOLED));
        }
        Ok(opened)
    }

    /// Ends a session that does not answer, because nobody knows what it has.
    fn judge(&self, session: &mut Option<Opened>, failure: &Failure) {
        if failure.kind == Kind::Disconnected {
            self.end(session);
        }
    }

    fn end(&self, session: &mut Option<Opened>) {
        if let Some(opened) = session.take() {
            opened.abort();
        }
        if self.holding.lock().end() {
            self.hints.give();
        }
    }

    /// Asks for one value that is true or false.
    async fn ask(&self, opened: &Opened, expression: &str) -> Result<bool, Failure> {
        let statement = format!("SELECT {expression}");
        let answer = timeout(self.connection.config().timeout, opened.client.query_typed(&statement, &[]));
        let rows = answer.await.map_err(|_| timed_out())?.map_err(Failure::from)?;
        rows.first().and_then(|row| row.try_get(0).ok()).ok_or_else(not_ours)
    }
}

/// Takes all of these locks or none, for no longer than it takes to find out.
fn taking(keys: &[Key], is_shared: bool) -> String {
    let Some((key, rest)) = keys.split_first() else { return "true".to_owned() };
    let (take, give, rest) =
        (call("pg_try_advisory_lock", *key, is_shared), giving(&[*key], is_shared), taking(rest, is_shared));
    format!("CASE WHEN NOT {take} THEN false WHEN {rest} THEN true ELSE NOT ({give}) END")
}

/// Gives these locks back, each of them.
fn giving(keys: &[Key], is_shared: bool) -> String {
    let given: Vec<_> = keys.iter().map(|key| call("pg_advisory_unlock", *key, is_shared)).collect();
    format!("true = ALL (ARRAY[{}])", given.join(", "))
}

fn call(verb: &str, key: Key, is_shared: bool) -> String {
    let shared = if is_shared { "_shared" } else { "" };
    match key {
        Key::One(number) => format!("{verb}{shared}('{number}'::bigint)"),
        Key::Two(high, low) => format!("{verb}{shared}('{high}'::int, '{low}'::int)"),
    }
}

/// What came of a task, which may end with its runtime.
async fn done<T>(task: tokio::task::JoinHandle<Result<T, Failure>>) -> Result<T, Failure> {
    task.await.unwrap_or_else(|_| Err(timed_out()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_locks_are_taken_or_none_in_one_statement() {
        let keys = [Key::One(i64::MIN), Key::Two(3, -1)];
        assert_eq!(
            taking(&keys, false),
            "CASE WHEN NOT pg_try_advisory_lock('-9223372036854775808'::bigint) THEN false \
             WHEN CASE WHEN NOT pg_try_advisory_lock('3'::int, '-1'::int) THEN false WHEN true THEN true \
             ELSE NOT (true = ALL (ARRAY[pg_advisory_unlock('3'::int, '-1'::int)])) END THEN true \
             ELSE NOT (true = ALL (ARRAY[pg_advisory_unlock('-9223372036854775808'::bigint)])) END"
        );
        assert_eq!(
            giving(&keys, true),
            "true = ALL (ARRAY[pg_advisory_unlock_shared('-9223372036854775808'::bigint), \
             pg_advisory_unlock_shared('3'::int, '-1'::int)])"
        );
    }
}
