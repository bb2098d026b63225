//! Notices to the owners of evicted claims: how an owner finds them, and how it is made to look.
//!
//! A notice is an ephemeral node of the onlooker that evicted the claim, below `%evicted` and the claim's
//! manager. It is created with the deletion of the claim's node, in one transaction. So whoever finds a node
//! gone finds the notice too, as long as it is kept.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::client::{Pending, Readable};
use super::config::Config;
use super::failure::Failure;
use super::session::Session;
use crate::backend::{ClaimId, Eviction};
use crate::owner::Owner;
use crate::stores::watched::inbox::Inbox;
use crate::sync::{Mutex, now, sleep_until_some};

/// The pause before watches are set again that could not be set.
const AGAIN: Duration = Duration::from_secs(3);

/// The notices to the managers of this store's claims: as a rule to one.
pub(super) struct Notices {
    config: Arc<Config>,
    inbox: Arc<Inbox>,
    /// The watches for notices, by the session's id and the manager.
    watches: Mutex<HashMap<(i64, String), Watch>>,
}

struct Watch {
    session: Weak<Session>,
    /// Whether the server has been asked to notify of the next change.
    is_set: bool,
}

/// Has another waiter set the watches that are not set when this is dropped: the one notification may have
/// been taken by the one that was dropped.
struct UnsetWatches<'a>(&'a Notices);

impl Drop for UnsetWatches<'_> {
    fn drop(&mut self) {
        if self.0.watches.lock().values().any(|watch| !watch.is_set) {
            self.0.inbox.notify(|changes| changes.read_again = true);
        }
    }
}

impl Notices {
    pub(super) fn new(config: Arc<Config>) -> Self {
        Notices { config, inbox: Arc::default(), watches: Mutex::default() }
    }

    /// Watches for notices to the manager of a claim, from the next wait for evictions on. Sends nothing.
    pub(super) fn watch(&self, session: &Arc<Session>, id: ClaimId) {
        let key = (session.id(), id.manager());
        self.watches.lock().entry(key).or_insert_with(|| {
            self.inbox.notify(|changes| changes.read_again = true);
            Watch { session: Arc::downgrade(session), is_set: false }
        });
    }

    /// A watch that is not set, with its session and manager. Forgets those of sessions that have ended.
    fn next_to_set(&self, but: &[(i64, String)]) -> Option<(Arc<Session>, (i64, String))> {
        let mut watches = self.watches.lock();
        watches.retain(|_, watch| watch.session.upgrade().is_some_and(|session| !session.is_expired()));
        let mut unset = watches.iter().filter(|(key, watch)| !watch.is_set && !but.contains(key));
        unset.find_map(|(key, watch)| Some((watch.session.upgrade()?, key.clone())))
    }

    /// Waits for a notification, or a lost connection, after which all watches have to be set again.
    async fn changed(&self) {
        self.inbox.wait().await;
        self.watches.lock().values_mut().for_each(|watch| watch.is_set = false);
    }

    /// Waits until there is a notice to the owner of a claim that this store believes to be in its queue.
    ///
    /// # Cancel safety
    /// Nothing is lost: a watch counts as set only once its claims were looked for.
    pub(super) async fn to_any(&self, is_queued: impl Fn(ClaimId) -> bool) {
        let unset = UnsetWatches(self);
        // The watches that cannot be set now, and those of them that the servers refuse.
        let (mut failed, mut refused) = (Vec::new(), Vec::new());
        loop {
            while let Some((session, key)) = self.next_to_set(&failed) {
                match self.set_watch(&session, &key).await {
                    Ok(notices) if notices.iter().filter_map(|id| ClaimId::parse(id)).any(&is_queued) => {
                        // Whoever waits next sets the others.
                        return std::mem::forget(unset);
                    }
                    Ok(_) => {}
                    Err(failure) => {
                        if matches!(failure, Failure::Refused(_)) {
                            refused.push(key.clone());
                        }
                        failed.push(key);
                    }
                }
            }
            // A connection that is being made again notifies nobody when it is there.
            let again = (failed.len() > refused.len()).then(|| now() + AGAIN);
            tokio::select! {
                () = self.changed() => refused.clear(),
                () = sleep_until_some(again) => {}
            }
            failed.clone_from(&refused);
        }
    }

    /// Watches for notices to a manager, and returns the names of those that there are.
    async fn set_watch(&self, session: &Session, key: &(i64, String)) -> Result<Vec<String>, Failure> {
        let path = self.config.layout.notices_to(&key.1);
        // Without a first notice there is no such node, and its children cannot be watched. If it is created
        // after this, that is notified.
        let notices = match session.watch_existence(&path, &self.inbox).answer().await? {
            true => session.watch_children(&path, &self.inbox).answer().await?,
            false => Vec::new(),
        };
        if let Some(watch) = self.watches.lock().get_mut(key) {
            watch.is_set = true;
        }
        Ok(notices)
    }

    /// Looks whether a claim was evicted, as the leader knows it.
    pub(super) async fn of(&self, session: &Session, id: ClaimId) -> Result<Option<Arc<Eviction>>, Failure> {
        Ok(eviction(session.sync("/").then(self.ask(session, id)).await?))
    }

    /// Sends the request for the notice of a claim's eviction.
    pub(super) fn ask<'a>(&self, session: &'a Session, id: ClaimId) -> Pending<'a, Readable> {
        session.data_if_allowed(&self.config.layout.notice(id).0)
    }
}

/// The eviction that a notice tells of.
pub(super) fn eviction(notice: Readable) -> Option<Arc<Eviction>> {
    Some(Arc::new(match notice {
        Readable::Missing => return None,
        Readable::Hidden => Eviction::new(Owner::default(), "the ACL hides who did it, and why"),
        Readable::Text(text) => Eviction::from_text(&text),
    }))
}
