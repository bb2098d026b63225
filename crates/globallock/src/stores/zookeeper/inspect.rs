//! What onlookers see of the claims of a lock.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::client::Found;
use super::failure::Failure;
use super::naming::{Layout, ListedClaim, is_allowed};
use super::session::Session;
use crate::backend::{ClaimId, Entry, EntryKey};
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::admit;

/// What is escaped in the key of a foreign claim.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

/// The key of a claim that is not ours: the transaction that created its node, and the node's name. One
/// transaction may create several nodes.
fn foreign_key(czxid: i64, node: &str) -> EntryKey {
    EntryKey::new(format!("zk:{czxid}:{}", utf8_percent_encode(node, ESCAPED)))
}

/// Parses what [`foreign_key`] has written.
pub(super) fn parse_foreign_key(key: &EntryKey) -> Option<(i64, String)> {
    let (czxid, node) = key.as_str().strip_prefix("zk:")?.split_once(':')?;
    let node = percent_decode_str(node).decode_utf8().ok()?.into_owned();
    let is_node = !node.contains('/') && node.chars().all(is_allowed);
    is_node.then_some((czxid.parse().ok()?, node))
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_key_of_a_foreign_claim_is_its_transaction_and_its_node() {
        let key = foreign_key(4_294_967_301, "a b%é__lock__0000000012");
        assert_eq!(key.as_str(), "zk:4294967301:a%20b%25%C3%A9__lock__0000000012");
        for text in ["", "zk:", "zk:7", "zk:x:a", "zk:7:a/b", "zk:7:a%2Fb", "zk:7:%00", "zk:7:%FF", "7:a"] {
            assert_eq!(parse_foreign_key(&EntryKey::new(text)), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_key_of_a_foreign_claim_is_parsed_back(czxid in any::<i64>(), node in "[ -.0-~é-☃]{1,40}") {
            let key = foreign_key(czxid, &node);
            prop_assert!(key.as_str().bytes().all(|byte| byte.is_ascii_graphic()), "{}", key);
            prop_assert_eq!(parse_foreign_key(&key), Some((czxid, node)));
        }
    }
}
