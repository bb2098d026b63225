//! Inspection: the holders and waiters of one name, and the names that have claims.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::stream::{self, StreamExt};

use super::keys::{self, QueueEntry};
use super::messages::{LeaseRequest, LeaseResponse};
use super::{Shared, value};
use crate::backend::Entry;
use crate::error::Result;
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::admit;

/// For how many leases the time that remains is read at the same time.
const MAX_CONCURRENT: usize = 32;

impl Shared {
    pub(super) async fn inspect(&self, name: &Name) -> Result<Vec<Entry>> {
        let start = keys::queue(self.prefix(), name);
        let mut found = self.all_below(&start, false).await?;
        found.retain(|kv| self.is_claim(&QueueEntry::new(kv)));
        found.sort_by_key(|kv| kv.create_revision);
        let queue: Vec<QueueEntry> = found.iter().map(QueueEntry::new).collect();
        let holders = admit(queue.iter().map(|entry| entry.permits));
        let leases: BTreeSet<i64> = queue.iter().map(|entry| entry.lease).collect();
        let remaining = stream::iter(leases).map(async |lease| (lease, self.remaining(lease).await));
        let remaining: HashMap<i64, Option<Duration>> =
            remaining.buffer_unordered(MAX_CONCURRENT).collect().await;
        let mut entries = Vec::with_capacity(queue.len());
        for (index, (entry, kv)) in queue.iter().zip(&found).enumerate() {
            let text = String::from_utf8_lossy(&kv.value);
            let ours = value::parse(&text).filter(|_| entry.ours);
            let since = ours.and_then(|ours| UNIX_EPOCH.checked_add(ours.joined));
            let owner = Owner::from_text(ours.map_or(&text, |ours| ours.owner));
            entries.push(Entry {
                fencing_token: entry.revision.unsigned_abs(),
                age: since.map(|since| SystemTime::now().duration_since(since).unwrap_or_default()),
                expires_in: remaining.get(&entry.lease).copied().flatten(),
                ..Entry::new(ours.map(|ours| ours.id), index < holders, entry.permits, owner)
            });
        }
        Ok(entries)
    }

    /// How long a lease lives if it is not renewed.
    async fn remaining(&self, lease: i64) -> Option<Duration> {
        let request = LeaseRequest { id: lease };
        let answer: LeaseResponse =
            self.connection.unary("/etcdserverpb.Lease/LeaseTimeToLive", request).await.ok()?;
        u64::try_from(answer.ttl).ok().map(Duration::from_secs)
    }

    pub(super) async fn names(&self, prefix: &str) -> Result<BTreeSet<Name>> {
        let start = self.prefix();
        let found = self.all_below(start, true).await?;
        let claims = found.iter().filter(|kv| self.is_claim(&QueueEntry::new(kv)));
        let names = claims.filter_map(|kv| keys::name(start, &kv.key));
        Ok(names.filter(|name| name.as_str().starts_with(prefix)).collect())
    }
}
