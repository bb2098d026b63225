//! What onlookers see of a store, and what they may do: list, watch, and take out claims of others.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};

use super::{Backend, ClaimId};
use crate::error::Result;
use crate::kind::LockKind;
use crate::name::Name;
use crate::owner::Owner;
use crate::queue::Permits;
use crate::sync::{now, sleep_until_some};

/// Which claim an onlooker saw: of all claims that there are and will be, it means this one alone.
///
/// The text is the store's. It has no spaces and no control characters, so that it can be given to a command
/// line.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey(Arc<str>);

impl EntryKey {
    /// Takes the text that [`EntryKey::as_str`] gave, here or elsewhere.
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        EntryKey(text.into())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The claim's id, where the key is one.
    #[must_use]
    pub fn claim_id(&self) -> Option<ClaimId> {
        ClaimId::parse(&self.0)
    }
}

/// The key of a claim that its id alone tells from all others.
impl From<ClaimId> for EntryKey {
    fn from(id: ClaimId) -> Self {
        EntryKey(id.to_string().into())
    }
}

impl fmt::Display for EntryKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

/// One claim as an onlooker sees it.
///
/// ```
/// use globallock::LockManager;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let manager = LockManager::connect("memory:entries").await?;
/// let guard = manager.mutex("nightly-report").acquire().await?;
/// for entry in manager.inspect("nightly-report").await? {
///     let what = if entry.held { "holds it" } else { "waits for it" };
///     println!("{} {what} since {:?}", entry.owner, entry.age);
/// }
/// # guard.release().await?;
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Which claim this is, for [`LockManager::evict`](crate::LockManager::evict).
    pub key: EntryKey,
    /// The claim's id; `None` for a claim that is not ours.
    pub id: Option<ClaimId>,
    /// Whether it holds, rather than waits.
    pub held: bool,
    /// How much of the lock it takes, and of how much.
    pub permits: Permits,
    /// Its fencing token, where the store knows it before the grant or the claim holds; 0 for a foreign
    /// holder.
    pub fencing_token: u64,
    /// Who made it. What another program wrote is untrusted text.
    pub owner: Owner,
    /// How long ago it was granted, or joined if it waits, where the store knows. What is not read off the
    /// store's own clock is off by what the clocks of the hosts differ: the docs of each store say whose.
    pub age: Option<Duration>,
    /// How long the store keeps it without another sign of life.
    pub expires_in: Option<Duration>,
}

impl Entry {
    /// Makes an entry with nothing known but which, who and what; the public fields take the rest.
    #[must_use]
    pub fn new(key: EntryKey, held: bool, permits: Permits, owner: Owner) -> Self {
        Entry { id: key.claim_id(), key, held, permits, fencing_token: 0, owner, age: None, expires_in: None }
    }
}

/// One name that has claims, and how many.
///
/// ```
/// use futures_util::TryStreamExt;
/// use globallock::{LockKind, LockManager, Summary};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let manager = LockManager::connect("memory:summary").await?;
/// let guard = manager.semaphore("downloads", 5).permits(2).acquire().await?;
/// let listed: Vec<Summary> = manager.list("down").try_collect().await?;
/// assert_eq!(listed[0].kind, LockKind::Permits { count: 2, capacity: 5 });
/// assert_eq!((listed[0].holders, listed[0].waiters), (1, 0));
/// # drop(guard);
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The name.
    pub name: Name,
    /// What kind of lock its first claim makes of it: `mutex`, `read`, `write`, or the permits that are held
    /// together of a semaphore.
    pub kind: LockKind,
    /// How many claims hold.
    pub holders: usize,
    /// How many claims wait.
    pub waiters: usize,
    /// The highest fencing token that is held; 0 where nobody holds, or nobody of ours.
    pub fencing_token: u64,
    /// The greatest age of its claims, as [`Entry::age`] counts them, where the store knows.
    pub oldest: Option<Duration>,
    /// How long the oldest waiter has waited, where somebody waits and the store knows.
    pub oldest_wait: Option<Duration>,
    /// The holder of the longest standing, as [`Backend::inspect`] shows it. Where that would cost a request
    /// for each claim, the store leaves [`Entry::expires_in`] out.
    pub holder: Option<Entry>,
}

impl Summary {
    /// Sums up the queue of a name, as [`Backend::inspect`] answers it; `None` if it is empty.
    #[must_use]
    pub fn of(name: &Name, queue: &[Entry]) -> Option<Self> {
        let first = queue.first()?;
        let held = || queue.iter().filter(|entry| entry.held);
        let kind = Self::kind_of(first.permits, held().map(|entry| u64::from(entry.permits.count)).sum());
        Some(Summary {
            name: name.clone(),
            kind,
            holders: held().count(),
            waiters: queue.len() - held().count(),
            fencing_token: held().map(|entry| entry.fencing_token).max().unwrap_or_default(),
            oldest: queue.iter().filter_map(|entry| entry.age).max(),
            oldest_wait: queue.iter().filter(|entry| !entry.held).filter_map(|entry| entry.age).max(),
            holder: held().next().cloned(),
        })
    }

    /// The kind of lock that the first claim makes of a name of which so many permits are held.
    pub(crate) fn kind_of(first: Permits, held: u64) -> LockKind {
        match LockKind::of(first) {
            LockKind::Permits { capacity, .. } => {
                LockKind::Permits { count: u32::try_from(held).unwrap_or(u32::MAX), capacity }
            }
            kind => kind,
        }
    }

    /// Whether both say the same but for the time that has passed.
    fn is_like(&self, other: &Self) -> bool {
        let ageless = |summary: &Self| {
            let holder = summary.holder.clone();
            let holder = holder.map(|holder| Entry { age: None, expires_in: None, ..holder });
            Summary { oldest: None, oldest_wait: None, holder, ..summary.clone() }
        };
        ageless(self) == ageless(other)
    }
}

/// How the names of a store change.
///
/// ```
/// use std::time::Duration;
/// use futures_util::StreamExt;
/// use globallock::{Change, LockManager};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let manager = LockManager::connect("memory:changes").await?;
/// let guard = manager.mutex("a").acquire().await?;
/// let mut changes = manager.watch("", Duration::from_millis(10));
/// assert!(matches!(changes.next().await, Some(Ok(Change::Changed(summary))) if summary.holders == 1));
/// guard.release().await?;
/// assert!(matches!(changes.next().await, Some(Ok(Change::Removed(name))) if name.as_str() == "a"));
/// # Ok::<(), globallock::Error>(()) }).unwrap();
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "they are read one by one, and few are removals")]
#[non_exhaustive]
pub enum Change {
    /// A name has claims, and is new or not as it was.
    Changed(Summary),
    /// A name has no claim any more.
    Removed(Name),
}

/// The shortest pause between two lists.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// Tells how the names that begin with `prefix` change, by listing them over and over with a pause of `every`
/// between. First come all names that there are.
///
/// An error hides no name that can be listed. After errors the same is tried again, unless nothing was listed
/// and the last error cannot heal.
pub(super) fn poll<'a, B: Backend + ?Sized>(
    backend: &'a B,
    prefix: &'a str,
    every: Duration,
) -> BoxStream<'a, Result<Change>> {
    let start = (BTreeMap::new(), Some(now()), false);
    let looks = stream::unfold(start, move |(mut known, next, ended)| async move {
        if ended {
            return None;
        }
        sleep_until_some(next).await;
        let mut seen = BTreeMap::new();
        let mut failures = Vec::new();
        let mut listed = backend.list(prefix);
        while let Some(summary) = listed.next().await {
            match summary {
                Ok(summary) => drop(seen.insert(summary.name.clone(), summary)),
                Err(error) => failures.push(error),
            }
        }
        let is_new = |summary: &&Summary| {
            known.get(&summary.name).is_none_or(|before: &Summary| !before.is_like(summary))
        };
        let mut changes: Vec<Result<Change>> =
            seen.values().filter(is_new).map(|summary| Ok(Change::Changed(summary.clone()))).collect();
        let ended = seen.is_empty() && failures.last().is_some_and(|error| !error.is_retryable());
        if failures.is_empty() {
            let removed = known.keys().filter(|name| !seen.contains_key(*name));
            changes.extend(removed.map(|name: &Name| Ok(Change::Removed(name.clone()))));
            known = seen;
        } else {
            // Such a list says nothing of the names that are not in it.
            known.extend(seen);
        }
        changes.extend(failures.into_iter().map(Err));
        // A pause that does not end is one.
        let next = now().checked_add(every.max(SHORTEST_PAUSE));
        Some((stream::iter(changes), (known, next, ended)))
    });
    looks.flatten().boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Claim;

    fn entry(number: u64, held: bool, permits: Permits, age: Option<u64>) -> Entry {
        let mut entry = Entry::new(ClaimId::new(1, number).into(), held, permits, Owner::default());
        entry.fencing_token = number;
        entry.age = age.map(Duration::from_secs);
        entry
    }

    #[test]
    fn a_queue_is_summed_up_by_its_first_claim_and_the_counts_of_all() {
        let name = Name::new("a").unwrap();
        let two = Permits::new(2, 7);
        for (queue, kind, holders, waiters, token, oldest) in [
            (vec![entry(5, true, Permits::MUTEX, Some(3))], "mutex", 1, 0, 5, Some(3)),
            (vec![entry(5, false, Permits::WRITE, None)], "write", 0, 1, 0, None),
            (
                vec![entry(5, true, Permits::READ, None), entry(6, true, Permits::READ, Some(1))],
                "read",
                2,
                0,
                6,
                Some(1),
            ),
            (
                vec![
                    entry(5, true, two, Some(1)),
                    entry(6, true, Permits::new(3, 7), Some(2)),
                    entry(7, false, two, Some(4)),
                ],
                "5/7",
                2,
                1,
                6,
                Some(4),
            ),
            (vec![entry(5, false, two, Some(1))], "0/7", 0, 1, 0, Some(1)),
        ] {
            let summary = Summary::of(&name, &queue).unwrap();
            assert_eq!(summary.kind.to_string(), kind);
            assert_eq!((summary.holders, summary.waiters, summary.fencing_token), (holders, waiters, token));
            assert_eq!(summary.oldest, oldest.map(Duration::from_secs));
            assert_eq!(summary.holder.as_ref(), queue.iter().find(|entry| entry.held));
            let waits = queue.iter().filter(|entry| !entry.held).filter_map(|entry| entry.age);
            assert_eq!(summary.oldest_wait, waits.max());
        }
        assert_eq!(Summary::of(&name, &[]), None);
    }

    #[test]
    fn only_a_key_of_ours_has_an_id() {
        let id = ClaimId::new(3, 4);
        assert_eq!(EntryKey::from(id).claim_id(), Some(id));
        assert_eq!(Entry::new(EntryKey::from(id), true, Permits::MUTEX, Owner::default()).id, Some(id));
        assert_eq!(Entry::new(EntryKey::new("x"), true, Permits::MUTEX, Owner::default()).id, None);
        assert_eq!((EntryKey::new("a\nb").as_str(), &*EntryKey::new("a\nb").to_string()), ("a\nb", "a\\nb"));
    }

    #[test]
    fn summaries_are_alike_whatever_time_has_passed() {
        let name = Name::new("a").unwrap();
        let of = |entries: &[Entry]| Summary::of(&name, entries).unwrap();
        let held = |age| entry(5, true, Permits::MUTEX, Some(age));
        assert!(of(&[held(1)]).is_like(&of(&[held(2)])));
        assert!(!of(&[held(1)]).is_like(&of(&[held(1), entry(6, false, Permits::MUTEX, None)])));
        let (mut lasts, mut other) = (held(1), held(1));
        lasts.expires_in = Some(Duration::from_secs(9));
        assert!(of(&[held(1)]).is_like(&of(&[lasts])));
        other.owner = Owner::default().with_label("another");
        assert!(!of(&[held(1)]).is_like(&of(&[other])));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_without_names_is_watched_until_it_has_some() {
        let store = crate::stores::memory::Memory::new();
        let mut changes = poll(&*store, "", Duration::from_secs(1));
        let claim = Claim::new(ClaimId::new(1, 1), Name::new("a").unwrap(), Permits::MUTEX);
        let joins = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            store.enqueue(&claim).await.unwrap();
        };
        let (change, ()) = tokio::join!(changes.next(), joins);
        assert!(matches!(change, Some(Ok(Change::Changed(_)))), "{change:?}");
    }
}
