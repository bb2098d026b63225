//! What observers see: the claims of one lock, and the names that have claims.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Shared;
use super::connection::Failure;
use super::session::Session;
use super::wire::{ErrorCode, Reader, Request};
use crate::backend::Entry;
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::admit;

/// How many requests are sent before their answers are waited for.
const BATCH: usize = 256;

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
        let mut found = Vec::with_capacity(queue.len());
        for part in queue.chunks(BATCH) {
            let ask = |node: &String| session.send(Request::data(&format!("{lock}/{node}"), false));
            let pending: Vec<_> = part.iter().map(|listed| ask(&listed.node)).collect();
            for (listed, pending) in part.iter().zip(pending) {
                match session.answer(pending).await {
                    Ok(answer) => found.push((listed, Reader(&answer).data()?)),
                    Err(Failure::Refused(ErrorCode::NO_NODE)) => {}
                    Err(failure) => return Err(failure),
                }
            }
        }
        let holding = admit(found.iter().map(|(listed, _)| listed.permits));
        let entries = found.into_iter().enumerate().map(|(index, (listed, (data, stat)))| {
            let text = String::from_utf8_lossy(&data);
            // Other programs' claims may have ids of the same form, but no session timeout before the owner.
            let ours = text.split_once(' ').and_then(|(timeout, owner)| Some((timeout.parse().ok()?, owner)));
            let (timeout, owner) = ours.unzip();
            let since = u64::try_from(stat.ctime).ok().map(Duration::from_millis);
            let since = since.and_then(|since| UNIX_EPOCH.checked_add(since));
            let id = listed.id.filter(|_| timeout.is_some());
            Entry {
                fencing_token: stat.czxid.unsigned_abs(),
                age: since.map(|since| SystemTime::now().duration_since(since).unwrap_or_default()),
                // The whole timeout, because the servers do not say when they last heard from the session.
                expires_in: timeout.map(Duration::from_millis),
                ..Entry::new(id, index < holding, listed.permits, Owner::from_text(owner.unwrap_or(&text)))
            }
        });
        Ok(entries.collect())
    }

    /// Walks the tree, and returns the names of the locks that have claims.
    pub(super) async fn names(&self, session: &Session, prefix: &str) -> Result<Vec<Name>, Failure> {
        let layout = &self.config.layout;
        let root = if layout.root.is_empty() { "/" } else { &layout.root };
        session.ask(Request::sync(root)).await?;
        let mut names = Vec::new();
        let mut level = vec![root.to_owned()];
        while !level.is_empty() {
            let mut below = Vec::new();
            for part in level.chunks(BATCH) {
                let pending: Vec<_> = part.iter().map(|path| session.send(Request::children(path))).collect();
                for (path, pending) in part.iter().zip(pending) {
                    let children = match session.answer(pending).await {
                        Ok(children) => Reader(&children).children()?,
                        Err(Failure::Refused(ErrorCode::NO_NODE)) => continue,
                        Err(failure) => return Err(failure),
                    };
                    let is_root = path == root;
                    let (claims, inner): (Vec<String>, Vec<String>) =
                        children.into_iter().partition(|child| !is_root && layout.parse(child).is_some());
                    if !claims.is_empty() {
                        names.extend(layout.name(path).filter(|name| name.as_str().starts_with(prefix)));
                    }
                    let path = path.trim_end_matches('/');
                    below.extend(inner.into_iter().map(|child| format!("{path}/{child}")));
                }
            }
            level = below;
        }
        Ok(names)
    }
}
