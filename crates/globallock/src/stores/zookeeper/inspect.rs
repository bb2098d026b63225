//! What onlookers see of the claims of a lock.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Shared;
use super::connection::Failure;
use super::evict::foreign_key;
use super::naming::ListedClaim;
use super::session::Session;
use super::wire::{ErrorCode, Reader, Request, Stat};
use crate::backend::{ClaimId, Entry, EntryKey};
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::admit;

/// How many requests are sent before their answers are waited for.
pub(super) const WINDOW: usize = 500;

/// The id, the session's timeout and the owner of one of our claims, by its node; `None` for a claim of
/// another program. That may have an id of the same form, but no timeout in front of the owner.
pub(super) fn own_claim<'a>(listed: &ListedClaim, data: &'a str) -> Option<(ClaimId, Duration, &'a str)> {
    let (timeout, owner) = data.split_once(' ')?;
    Some((listed.id?, Duration::from_millis(timeout.parse().ok()?), owner))
}

impl Shared {
    pub(super) async fn inspect(&self, session: &Session, name: &Name) -> Result<Vec<Entry>, Failure> {
        let lock = self.config.layout.lock(name);
        let synced = session.send(Request::sync(&lock));
        let listed = session.send(Request::children(&lock));
        session.answer(synced).await?;
        let children = match session.answer(listed).await {
            Ok(children) => Reader(&children).children()?,
            Err(Failure::Refused(ErrorCode::NO_NODE)) => return Ok(Vec::new()),
            Err(failure) => return Err(failure),
        };
        let queue = self.config.layout.queue(&children);
        Ok(self.entries(session, &[(lock, queue)]).await?.pop().unwrap_or_default())
    }

    /// Reads the claims of locks, which are given with their paths, and returns the entries of each lock.
    pub(super) async fn entries(
        &self,
        session: &Session,
        locks: &[(String, Vec<ListedClaim>)],
    ) -> Result<Vec<Vec<Entry>>, Failure> {
        let each = locks.iter().enumerate();
        let claims: Vec<_> = each
            .flat_map(|(nth, (lock, queue))| queue.iter().map(move |listed| (nth, lock, listed)))
            .collect();
        let mut found: Vec<Vec<_>> = locks.iter().map(|_| Vec::new()).collect();
        for window in claims.chunks(WINDOW) {
            let ask = |(_, lock, listed): &(usize, &String, &ListedClaim)| {
                session.send(Request::data(&format!("{lock}/{}", listed.node), false))
            };
            let pending: Vec<_> = window.iter().map(ask).collect();
            for ((nth, _, listed), pending) in window.iter().zip(pending) {
                match session.answer(pending).await {
                    Ok(answer) => found[*nth].push((*listed, Reader(&answer).data()?)),
                    Err(Failure::Refused(ErrorCode::NO_NODE)) => {}
                    Err(failure) => return Err(failure),
                }
            }
        }
        Ok(found.into_iter().map(|queue| entries(&queue)).collect())
    }
}

/// The entries of a queue, whose claims are in their order, with the data and the metadata of their nodes.
fn entries(queue: &[(&ListedClaim, (Vec<u8>, Stat))]) -> Vec<Entry> {
    let holding = admit(queue.iter().map(|(listed, _)| listed.permits));
    let entry = |(index, (listed, (data, stat))): (usize, &(&ListedClaim, (Vec<u8>, Stat)))| {
        let text = String::from_utf8_lossy(data);
        let ours = own_claim(listed, &text);
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
                Owner::from_text(ours.map_or(&text, |(_, _, owner)| owner)),
            )
        }
    };
    queue.iter().enumerate().map(entry).collect()
}
