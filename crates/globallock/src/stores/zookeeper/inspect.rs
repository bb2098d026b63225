//! What onlookers see of the claims of a lock.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::client::Found;
use super::evict::foreign_key;
use super::failure::Failure;
use super::naming::{Layout, ListedClaim};
use super::session::Session;
use crate::backend::{ClaimId, Entry, EntryKey};
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::admit;

/// The id, the session's timeout and the owner of one of our claims, by its node; `None` for a claim of
/// another program. That may have an id of the same form, but no timeout in front of the owner.
pub(super) fn own_claim<'a>(listed: &ListedClaim, data: &'a str) -> Option<(ClaimId, Duration, &'a str)> {
    let (timeout, owner) = data.split_once(' ')?;
    Some((listed.id?, Duration::from_millis(timeout.parse().ok()?), owner))
}

/// Reads what onlookers see, over one session.
pub(super) struct Onlooker<'a> {
    pub(super) layout: &'a Layout,
    pub(super) session: Arc<Session>,
}

impl Onlooker<'_> {
    pub(super) async fn inspect(&self, name: &Name) -> Result<Vec<Entry>, Failure> {
        let lock = self.layout.lock(name);
        let queue = self.layout.queue(&self.session.children_synced(&lock).await?);
        Ok(self.entries(&[(lock, queue)]).await?.pop().unwrap_or_default())
    }

    /// Reads the claims of locks, which are given with their paths, and returns the entries of each lock.
    pub(super) async fn entries(
        &self,
        locks: &[(String, Vec<ListedClaim>)],
    ) -> Result<Vec<Vec<Entry>>, Failure> {
        let paths = locks.iter().flat_map(|(lock, queue)| queue.iter().map(move |claim| claim.path(lock)));
        let paths: Vec<_> = paths.collect();
        let mut found = self.session.each(&paths, Session::data).await?.into_iter();
        let mut entries_of = |queue: &[ListedClaim]| {
            let there = queue.iter().zip(&mut found).filter_map(|(claim, found)| Some((claim, found?)));
            entries(&there.collect::<Vec<_>>())
        };
        Ok(locks.iter().map(|(_, queue)| entries_of(queue)).collect())
    }
}

/// The entries of a queue, whose claims are in their order, with their nodes.
fn entries(queue: &[(&ListedClaim, Found)]) -> Vec<Entry> {
    let holding = admit(queue.iter().map(|(listed, _)| listed.permits));
    let entry = |(index, (listed, Found { text, stat })): (usize, &(&ListedClaim, Found))| {
        let ours = own_claim(listed, text);
        let since = u64::try_from(stat.ctime).ok().map(Duration::from_millis);
        let since = since.and_then(|since| UNIX_EPOCH.checked_add(since));
        Entry {
            fencing_token: stat.czxid.unsigned_abs(),
            age: since.map(|since| SystemTime::now().duration_since(since).unwrap_or_default()),
            // The whole timeout, because the servers do not say when they last heard from the session.
            expires_in: ours.map(|(_, timeout, _)| timeout),
            ..Entry::new(
                ours.map_or_else(|| foreign_key(stat.czxid, &listed.node), |(id, ..)| EntryKey::from(id)),
                index < holding,
                listed.permits,
                Owner::from_text(ours.map_or(text, |(_, _, owner)| owner)),
            )
        }
    };
    queue.iter().enumerate().map(entry).collect()
}
