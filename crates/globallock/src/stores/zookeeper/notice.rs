//! Notices to the owners of evicted claims: how an owner finds them, and how it is made to look.
//!
//! A notice is an ephemeral node of the onlooker that evicted the claim, below `%evicted` and the claim's
//! manager. It is created with the deletion of the claim's node, in one transaction. So whoever finds a node
//! gone finds the notice too, as long as it is kept.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Shared;
use super::client::{Pending, Readable};
use super::failure::Failure;
use super::positions::Node;
use super::session::Session;
use crate::backend::{Claim, ClaimId, ClaimStatus, Eviction};
use crate::owner::Owner;
use crate::stores::watched::inbox::Inbox;
use crate::sync::{Mutex, now, sleep_until_some};

/// The pause before watches are set again that could not be set.
const AGAIN: Duration = Duration::from_secs(3);

/// The watches for notices to the managers of this store's claims: as a rule one.
#[derive(Default)]
pub(super) struct NoticeWatches {
    inbox: Arc<Inbox>,
    /// By the session's id and the manager.
    by_manager: Mutex<HashMap<(i64, String), Watch>>,
}

#[derive(Clone)]
struct Watch {
    session: Weak<Session>,
    /// Whether the server has been asked to notify of the next change.
    is_set: bool,
}

impl NoticeWatches {
    /// Watches for notices to the manager of a claim, from the next wait for evictions on. Sends nothing.
    pub(super) fn watch(&self, session: &Arc<Session>, id: ClaimId) {
        let key = (session.id(), id.manager());
        let mut watches = self.by_manager.lock();
        watches.entry(key).or_insert_with(|| {
            self.inbox.notify(|changes| changes.read_again = true);
            Watch { session: Arc::downgrade(session), is_set: false }
        });
    }

    /// A watch that is not set, with its session and manager. Forgets those of sessions that have ended.
    fn next_to_set(&self, but: &[(i64, String)]) -> Option<(Arc<Session>, (i64, String))> {
        let mut watches = self.by_manager.lock();
        watches.retain(|_, watch| watch.session.upgrade().is_some_and(|session| !session.is_expired()));
        let mut unset = watches.iter().filter(|(key, watch)| !watch.is_set && !but.contains(key));
        unset.find_map(|(key, watch)| Some((watch.session.upgrade()?, key.clone())))
    }

    fn is_set(&self, key: &(i64, String)) {
        if let Some(watch) = self.by_manager.lock().get_mut(key) {
            watch.is_set = true;
        }
    }

    /// Waits for a notification, or a lost connection, after which all watches have to be set again.
    async fn changed(&self) {
        self.inbox.wait().await;
        self.by_manager.lock().values_mut().for_each(|watch| watch.is_set = false);
    }
}

/// Has another waiter set the watches that are not set when this is dropped: the one notification may have
/// been taken by the one that was dropped.
struct UnsetWatches<'a>(Option<&'a NoticeWatches>);

impl UnsetWatches<'_> {
    fn are_looked_after(mut self) {
        self.0 = None;
    }
}

impl Drop for UnsetWatches<'_> {
    fn drop(&mut self) {
        if let Some(watches) = self.0
            && watches.by_manager.lock().values().any(|watch| !watch.is_set)
        {
            watches.inbox.notify(|changes| changes.read_again = true);
        }
    }
}

impl Shared {
    /// Waits until there is a notice to the owner of a claim of this store.
    ///
    /// # Cancel safety
    /// Nothing is lost: a watch counts as set only once its claims were looked for.
    pub(super) async fn claims_are_evicted(&self) {
        let unset = UnsetWatches(Some(&self.notices));
        // The watches that cannot be set now, and those of them that the servers refuse.
        let (mut failed, mut refused) = (Vec::new(), Vec::new());
        loop {
            while let Some((session, key)) = self.notices.next_to_set(&failed) {
                match self.set_watch(&session, &key).await {
                    Ok(true) => {
                        unset.are_looked_after();
                        return self.sessions.claims_are_lost();
                    }
                    Ok(false) => {}
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
                () = self.notices.changed() => refused.clear(),
                () = sleep_until_some(again) => {}
            }
            failed.clone_from(&refused);
        }
    }

    /// Watches for notices to a manager, and returns whether there is one to the owner of a claim that this
    /// store believes to be in its queue.
    async fn set_watch(&self, session: &Session, key: &(i64, String)) -> Result<bool, Failure> {
        let path = self.config.layout.notices_to(&key.1);
        let inbox = &self.notices.inbox;
        // Without a first notice there is no such node, and its children cannot be watched. If it is created
        // after this, that is notified.
        let notices = match session.watch_existence(&path, inbox).answer().await? {
            true => session.watch_children(&path, inbox).answer().await?,
            false => Vec::new(),
        };
        self.notices.is_set(key);
        let positions = self.positions();
        let is_ours = |id| positions.get(id).is_some_and(|position| !position.releasing);
        Ok(notices.iter().filter_map(|notice| ClaimId::parse(notice)).any(is_ours))
    }

    /// Looks whether a claim was evicted, as the leader knows it.
    pub(super) async fn notice(
        &self,
        session: &Session,
        id: ClaimId,
    ) -> Result<Option<Arc<Eviction>>, Failure> {
        Ok(eviction(session.sync("/").then(self.ask_for_notice(session, id)).await?))
    }

    /// Sends the request for the notice of a claim's eviction.
    pub(super) fn ask_for_notice<'a>(&self, session: &'a Session, id: ClaimId) -> Pending<'a, Readable> {
        session.data_if_allowed(&self.config.layout.notice(id).0)
    }

    /// Forgets a claim whose node was found gone, unless it was requested again since, and returns its
    /// status.
    ///
    /// A claim with a notice is remembered as evicted. A node that a creation without an answer may still
    /// make is deleted, because the claim never joins again.
    pub(super) fn forget(
        self: &Arc<Self>,
        claim: &Claim,
        session: &Arc<Session>,
        node: Option<&Node>,
        eviction: Option<Arc<Eviction>>,
    ) -> ClaimStatus {
        let is_evicted = eviction.is_some();
        let (forgotten, status) = {
            let mut positions = self.positions();
            if let Some(eviction) = eviction {
                positions.found_evicted(claim, eviction);
            }
            (positions.found_gone(claim.id, session, node), positions.status(claim))
        };
        let reconnected = |reconnects| reconnects != session.reconnects() && !session.is_expired();
        if is_evicted && forgotten.is_some_and(|position| reconnected(position.reconnects)) {
            self.delete_late_nodes(claim, session);
        }
        status
    }

    /// Takes an evicted claim out of the queue again that a creation has put there since, and returns its
    /// status.
    pub(super) async fn withdraw(self: &Arc<Self>, claim: &Claim, eviction: Arc<Eviction>) -> ClaimStatus {
        self.positions().found_evicted(claim, eviction);
        // If it fails, it is repeated in the background.
        let _ = self.release(claim).await;
        self.positions().absent(claim.id)
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
