//! Inspection: the holders and waiters of one name.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, StreamExt};

use super::connection::Connection;
use super::evict::entry_key;
use super::keys::{self, QueueEntry};
use super::messages::{KeyValue, LeaseTimeToLiveRequest};
use super::reading::all_below;
use super::value;
use crate::backend::Entry;
use crate::error::Result;
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::admit;

/// For how many leases the time that remains is read at the same time.
const MAX_CONCURRENT: usize = 32;

/// How long each lease lives if it is not renewed, where that is known.
pub(super) type Remaining = HashMap<i64, Duration>;

pub(super) async fn inspect(connection: &Connection, name: &Name) -> Result<Vec<Entry>> {
    let found = all_below(connection, &keys::queue(&connection.config().prefix, name), false).await?;
    let leases: BTreeSet<i64> = found.iter().map(|kv| kv.lease).collect();
    let remaining =
        stream::iter(leases).map(async |lease| Some((lease, remaining(connection, lease).await?)));
    let remaining: Vec<_> = remaining.buffer_unordered(MAX_CONCURRENT).collect().await;
    Ok(entries(connection, &found, &remaining.into_iter().flatten().collect()))
}

/// The claims among the keys of one name, in the order of the queue.
pub(super) fn entries(connection: &Connection, found: &[KeyValue], remaining: &Remaining) -> Vec<Entry> {
    let claims = found.iter().map(|kv| (QueueEntry::new(kv), kv));
    let mut queue: Vec<_> = claims.filter(|(entry, _)| connection.config().is_claim(entry)).collect();
    queue.sort_by_key(|(entry, _)| entry.revision);
    let holders = admit(queue.iter().map(|(entry, _)| entry.permits));
    let entries = queue.iter().enumerate().map(|(index, (entry, kv))| {
        let text = String::from_utf8_lossy(&kv.value);
        let ours = value::parse(&text).filter(|_| entry.ours);
        let since = ours.and_then(|ours| UNIX_EPOCH.checked_add(ours.joined));
        let owner = Owner::from_text(ours.map_or(&text, |ours| ours.owner));
        Entry {
            fencing_token: entry.revision.unsigned_abs(),
            age: since.map(|since| SystemTime::now().duration_since(since).unwrap_or_default()),
            expires_in: remaining.get(&entry.lease).copied(),
            ..Entry::new(entry_key(kv), index < holders, entry.permits, owner)
        }
    });
    entries.collect()
}

/// How long a lease lives if it is not renewed.
async fn remaining(connection: &Connection, lease: i64) -> Option<Duration> {
    let answer = connection.unary(LeaseTimeToLiveRequest { id: lease }).await.ok()?;
    u64::try_from(answer.ttl).ok().map(Duration::from_secs)
}
