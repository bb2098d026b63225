//! What is known of all locks of a store, from looks that follow each other.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use globallock::backend::{CrashRelease, Instant};
use globallock::{Entry, EntryKey, Error, LockManager, Summary};

use super::rows::{ClaimRow, LockRow};
use super::select::Filter;

/// All locks, as they were at the last look.
///
/// Each look is one list of the store, however many locks there are: a page of a thousand names takes few
/// requests.
#[derive(Debug, Default)]
pub(crate) struct Board {
    locks: BTreeMap<String, Seen>,
    /// Why the last look told nothing, or not all.
    failure: Option<Error>,
    /// When the store last told all.
    complete: Option<Instant>,
    /// Nobody can see here whether a holder gives signs of life.
    without_signs: bool,
}

#[derive(Debug)]
struct Seen {
    summary: Summary,
    at: Instant,
    signs: Option<Signs>,
}

/// What is known of the signs of life of a claim.
#[derive(Clone, Debug)]
pub(crate) struct Signs {
    of: EntryKey,
    /// When its lease was seen to be lengthened, or it was first seen.
    since: Instant,
    /// How long its lease had to live then.
    left: Duration,
    /// How long it had to live when it was seen last.
    left_last: Duration,
    is_lengthened: bool,
}

/// How many queues are asked for at a time.
const AT_A_TIME: usize = 16;
/// By how much less than it is a lease may seem to last: stores count in whole seconds, too.
const COARSE: Duration = Duration::from_millis(1100);

/// Whether it can be seen in this store that an owner gives no signs of life: its leases have less and less
/// time left then.
///
/// Where processes hold locks, what has a time left is a max hold time. ZooKeeper tells the whole timeout of
/// a session whenever it is asked, because it does not tell when it last heard of it.
pub(crate) fn has_signs(manager: &LockManager) -> bool {
    let capabilities = manager.backend().capabilities();
    capabilities.crash_release == CrashRelease::Lease && capabilities.kind != "zookeeper"
}

impl Signs {
    /// What a look at a claim adds to what was known; none where no lease ends it.
    pub(crate) fn next(before: Option<&Self>, claim: &Entry, now: Instant) -> Option<Self> {
        let left_last = claim.expires_in?;
        let first =
            Signs { of: claim.key.clone(), since: now, left: left_last, left_last, is_lengthened: false };
        let Some(before) = before.filter(|before| before.of == claim.key) else { return Some(first) };
        let passed = now.saturating_duration_since(before.since);
        // It ends later than it would have.
        let is_lengthened = left_last + passed > before.left + COARSE;
        Some(if is_lengthened {
            Signs { is_lengthened, ..first }
        } else {
            Signs { left_last, ..before.clone() }
        })
    }

    /// Owners renew each third of their lease, so that two thirds of it are left at least. One that was seen
    /// with more than twice as much as is left now has missed a renewal.
    pub(crate) fn are_missing(&self) -> bool {
        self.left_last * 2 + Duration::from_secs(1) < self.left
    }

    /// How long it takes until more looks have told whether they are missing; none if that is known.
    pub(crate) fn known_in(&self, now: Instant) -> Option<Duration> {
        let known_at = self.since + self.left / 2 + COARSE;
        (!self.is_lengthened && !self.are_missing()).then(|| known_at.saturating_duration_since(now))
    }
}

impl Board {
    /// Looks at all names that begin with `prefix`.
    ///
    /// # Cancel safety
    /// The board is as it was before.
    pub(crate) async fn look(&mut self, manager: &LockManager, prefix: &str) {
        self.without_signs = !has_signs(manager);
        let (mut found, mut failure) = (Vec::new(), None);
        let mut list = manager.list(prefix);
        while let Some(listed) = list.next().await {
            match listed {
                Ok(summary) => found.push(summary),
                Err(error) => failure = Some(error),
            }
        }
        self.take(found, failure, Instant::now());
    }

    fn take(&mut self, found: Vec<Summary>, failure: Option<Error>, now: Instant) {
        let mut before = std::mem::take(&mut self.locks);
        for summary in found {
            let name = summary.name.as_str().to_owned();
            let known = before.remove(&name);
            let before = known.as_ref().and_then(|known| known.signs.as_ref());
            let holder = summary.holder.as_ref().filter(|_| !self.without_signs);
            let signs = holder.and_then(|holder| Signs::next(before, holder, now));
            self.locks.insert(name, Seen { summary, at: now, signs });
        }
        if failure.is_none() {
            self.complete = Some(now);
        } else {
            // A list with a gap says nothing of the names that are not in it.
            self.locks.extend(before);
        }
        self.failure = failure;
    }

    /// The locks that a filter shows. A list does not tell all holders of a lock, so the queue is asked for
    /// where another one may decide, and the holder that the filter asks for stands in the row. What cannot
    /// be asked for is a failure of the look.
    pub(crate) async fn shown_by(&mut self, manager: &LockManager, filter: &Filter) -> Vec<LockRow> {
        let (mut shown, others): (Vec<_>, Vec<_>) = self.rows().partition(|row| filter.shows(row));
        let others = others.into_iter().filter(|row| row.holders > 1 && filter.asks_who_holds());
        let asked = others.map(|row| async move {
            let entries = manager.inspect(&row.name).await?;
            let holders = entries.iter().filter(|entry| entry.held);
            let mut rows = holders.map(|entry| LockRow {
                holder: Some(ClaimRow::new(entry, Duration::ZERO)),
                // That was of another holder.
                stale: None,
                ..row.clone()
            });
            Ok(rows.find(|row| filter.shows(row)))
        });
        let asked: Vec<Result<_, Error>> = stream::iter(asked).buffer_unordered(AT_A_TIME).collect().await;
        for asked in asked {
            match asked {
                Ok(row) => shown.extend(row),
                Err(error) => self.failure = self.failure.take().or(Some(error)),
            }
        }
        shown.sort_by(|one, other| one.name.cmp(&other.name));
        shown
    }

    /// Whether nobody can see in this store whether a holder gives signs of life.
    pub(crate) fn is_without_signs(&self) -> bool {
        self.without_signs
    }

    /// Why the last look told nothing, or not all.
    pub(crate) fn failure(&self) -> Option<&Error> {
        self.failure.as_ref()
    }

    /// Takes out why the last look told nothing, or not all.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }

    /// How long ago the store last told all; none if it never has.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.complete.map(|at| at.elapsed())
    }

    /// How long it takes until more looks have told of each holder whether its signs of life are missing;
    /// none if that is known of all.
    pub(crate) fn signs_known_in(&self) -> Option<Duration> {
        let now = Instant::now();
        let signs = self.locks.values().filter_map(|seen| seen.signs.as_ref());
        signs.filter_map(|signs| signs.known_in(now)).max()
    }

    /// The lock of this name, as it is now if nothing has happened since the last look.
    pub(crate) fn row(&self, name: &str) -> Option<LockRow> {
        self.locks.get(name).map(|seen| seen.row(Instant::now()))
    }

    /// All locks, by name.
    pub(crate) fn rows(&self) -> impl Iterator<Item = LockRow> + '_ {
        let now = Instant::now();
        self.locks.values().map(move |seen| seen.row(now))
    }
}

impl Seen {
    fn row(&self, now: Instant) -> LockRow {
        let later = now.saturating_duration_since(self.at);
        let known = self.signs.as_ref().filter(|signs| signs.known_in(now).is_none());
        let stale = known.map(Signs::are_missing);
        LockRow { stale, ..LockRow::new(&self.summary, later) }
    }
}

#[cfg(test)]
mod tests {
    use globallock::backend::{Backend, Claim, ClaimId};
    use globallock::queue::Permits;
    use globallock::{ManagerOptions, Memory, Name, Owner};

    use super::*;

    fn held(name: &str, claim: u64, left: Option<u64>) -> Summary {
        let mut entry = Entry::new(ClaimId::new(1, claim).into(), true, Permits::MUTEX, Owner::default());
        entry.expires_in = left.map(Duration::from_secs);
        Summary::of(&Name::new(name).unwrap(), &[entry]).unwrap()
    }

    fn names(board: &Board) -> Vec<String> {
        board.rows().map(|row| row.name).collect()
    }

    #[test]
    fn a_look_tells_what_there_is_and_a_failed_one_forgets_nothing() {
        let mut board = Board::default();
        let now = Instant::now();
        board.take(vec![held("a", 1, None), held("b", 2, None)], None, now);
        assert_eq!(names(&board), ["a", "b"]);
        let claim = |board: &Board| board.row("b").unwrap().holder.unwrap().claim;
        let before = claim(&board);
        board.take(vec![held("b", 3, None)], Some(Error::Closed), now);
        assert_eq!(names(&board), ["a", "b"]);
        assert!(board.failure().is_some() && claim(&board) != before, "what it told counts");
        board.take(vec![held("b", 3, None)], None, now);
        assert_eq!(names(&board), ["b"]);
        assert!(board.failure().is_none() && board.age().is_some());
        assert_eq!(board.row("b").unwrap().holders, 1);
        assert!(board.row("a").is_none());
    }

    #[tokio::test]
    async fn a_lock_is_on_a_host_if_any_of_its_holders_is() {
        let store = Memory::new();
        for (number, name, host) in [(1, "one", "a"), (2, "both", "a"), (3, "both", "b"), (4, "other", "c")] {
            let permits = Permits::new(1, 3);
            let owner = Owner { host: host.to_owned(), ..Owner::default() };
            let claim = Claim::new(ClaimId::new(1, number), Name::new(name).unwrap(), permits);
            store.enqueue(&claim.with_owner(owner.to_text())).await.unwrap();
        }
        let manager = LockManager::with_backend(store, ManagerOptions::new()).unwrap();
        let mut board = Board::default();
        board.look(&manager, "").await;
        for (host, names) in [("a", &["both", "one"][..]), ("b", &["both"]), ("c", &["other"]), ("d", &[])] {
            let filter = Filter { host: Some(host.to_owned()), ..Filter::default() };
            let shown = board.shown_by(&manager, &filter).await;
            assert_eq!(shown.iter().map(|row| &*row.name).collect::<Vec<_>>(), names, "{host}");
            let of = |row: &LockRow| row.holder.as_ref().and_then(|holder| holder.host.clone());
            assert!(shown.iter().all(|row| of(row).as_deref() == Some(host)), "{shown:?}");
        }
    }

    #[test]
    fn a_holder_is_stale_when_its_lease_was_not_lengthened_for_half_of_what_was_left() {
        let begun = Instant::now();
        let at = |second| begun + Duration::from_secs(second);
        let mut board = Board::default();
        let mut stale = |second, claim, left| {
            board.take(vec![held("a", claim, left)], None, at(second));
            board.row("a").unwrap().stale
        };
        assert_eq!(stale(0, 1, Some(10)), None, "one look does not tell");
        assert_eq!(stale(3, 1, Some(7)), None);
        assert_eq!(stale(4, 1, Some(10)), Some(false), "it was renewed");
        assert_eq!(stale(9, 1, Some(5)), Some(false));
        assert_eq!(stale(10, 1, Some(4)), Some(true));
        assert_eq!(stale(11, 2, Some(10)), None, "another holder");
        assert_eq!(stale(12, 2, None), None, "no lease ends it");
    }

    #[test]
    fn a_short_lease_that_is_renewed_is_never_stale_and_after_some_looks_known_to_be_well() {
        let begun = Instant::now();
        for (lease, coarse) in [(1000, false), (2000, false), (2000, true), (10_000, true), (60_000, false)] {
            let mut signs = None;
            for look in 0..200 {
                let milliseconds = look * 300;
                let left = lease - milliseconds % (lease / 3);
                let left = if coarse { left / 1000 * 1000 } else { left };
                let mut claim = held("a", 1, None).holder.unwrap();
                claim.expires_in = Some(Duration::from_millis(left));
                let now = begun + Duration::from_millis(milliseconds);
                signs = Signs::next(signs.as_ref(), &claim, now);
                let signs = signs.as_ref().unwrap();
                assert!(!signs.are_missing(), "{lease} {milliseconds}");
                assert!(signs.known_in(now).is_none_or(|_| milliseconds <= lease.max(3000)), "{lease}");
            }
            assert_eq!(signs.unwrap().known_in(begun), None, "{lease}");
        }
    }
}
