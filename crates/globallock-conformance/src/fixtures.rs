//! Fixtures for the tests of a single store: managers, queues, waiters, and many owners that live through
//! faults.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use globallock::{
    Event, Guard, LockManager, ManagerOptions, Observer, Options, Result, StoreNotice, StoreNoticeKind,
};
use tokio::task::{JoinHandle, JoinSet};

use crate::context::eventually;
use crate::server::Cluster;

/// The lease of all locks here: long enough for a busy machine, short enough to wait for.
pub const LEASE: Duration = Duration::from_secs(2);

/// How long servers may take to elect a leader. Some wait up to a minute before they repeat their votes.
const ELECTION: Duration = Duration::from_secs(120);

/// Connects with [`LEASE`].
///
/// # Errors
/// As [`LockManager::connect`].
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn connect(url: &str) -> Result<LockManager> {
    connect_for(url, LEASE).await
}

/// Connects with this lease.
///
/// # Errors
/// As [`LockManager::connect`].
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn connect_for(url: &str, lease: Duration) -> Result<LockManager> {
    let locks = Options::new().lease(lease);
    LockManager::connect_with(url, ManagerOptions::new().locks(locks)).await
}

/// What stores have noticed.
#[derive(Debug, Default)]
pub struct Notices(Mutex<Vec<StoreNotice>>);

impl Observer for Notices {
    fn event(&self, event: &Event<'_>) {
        if let Event::StoreNotice { notice, .. } = event {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push((*notice).clone());
        }
    }
}

impl Notices {
    /// The notices of a kind, without waiting.
    #[must_use]
    pub fn of(&self, kind: StoreNoticeKind) -> Vec<StoreNotice> {
        let notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notices.iter().filter(|notice| notice.kind == kind).cloned().collect()
    }

    /// Waits for the first notice of a kind.
    ///
    /// # Panics
    /// When there is none within the limit.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn first(&self, kind: StoreNoticeKind) -> StoreNotice {
        eventually(&format!("{kind:?} is told"), async || !self.of(kind).is_empty()).await;
        self.of(kind).swap_remove(0)
    }
}

/// Connects as [`connect_for`] does, to a store that answers. Also returns what its store notices.
///
/// # Panics
/// When it does not answer.
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn observed(url: &str, lease: Duration) -> (LockManager, Arc<Notices>) {
    let notices = Arc::new(Notices::default());
    let options = ManagerOptions::new().locks(Options::new().lease(lease)).observer(notices.clone());
    (LockManager::connect_with(url, options).await.expect("the store answers"), notices)
}

/// A lease that does not expire in a test, however busy the machine is.
const CALM: Duration = Duration::from_secs(60);

/// The address with a request timeout that even a busy server keeps. Other tests check how long a request may
/// take.
#[must_use]
pub fn patient(url: &str) -> String {
    let sign = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sign}timeout=20s")
}

/// Connects with a lease and a request timeout that are longer than any pause of a busy machine: for tests
/// whose result does not depend on time.
///
/// # Errors
/// As [`LockManager::connect`].
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn connect_calmly(url: &str) -> Result<LockManager> {
    connect_for(&patient(url), CALM).await
}

/// Connects as [`connect_calmly`] does, to a store that answers.
///
/// # Panics
/// When it does not answer.
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn calm_manager(url: &str) -> LockManager {
    connect_calmly(url).await.expect("the store answers")
}

/// Connects as [`connect`] does, to a store that answers.
///
/// # Panics
/// When it does not answer.
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn manager(url: &str) -> LockManager {
    connect(url).await.expect("the store answers")
}

/// Waits until the queue of `name` has this many holders and this many waiters.
///
/// # Panics
/// When it does not within the limit.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn queue_is(manager: &LockManager, name: &str, held: usize, waiting: usize) {
    eventually(&format!("there are {held} holders and {waiting} waiters"), async || {
        let queue = manager.inspect(name).await.expect("the store answers");
        let holding = queue.iter().filter(|entry| entry.held).count();
        (holding, queue.len() - holding) == (held, waiting)
    })
    .await;
}

/// Starts a task that acquires a mutex.
///
/// # Panics
/// When the name is bad.
#[must_use]
pub fn waits(manager: &LockManager, name: &str) -> JoinHandle<Result<Guard>> {
    let lock = manager.mutex(name);
    tokio::spawn(async move { lock.acquire().await })
}

/// Kills the leader again and again, for a minute and at least five times, while sixteen owners take turns,
/// and checks their turns. Returns the number of turns and the number of deaths.
///
/// # Panics
/// When a promise is broken, or the servers do not start.
///
/// # Cancel safety
/// The owners end with the call.
pub async fn deaths_of_leaders(cluster: &mut impl Cluster) -> (usize, usize) {
    let turns = Turns::start(&cluster.url(), "a", 16).await;
    let begin = Instant::now();
    turns.more(50).await;
    let mut deaths = 0;
    while begin.elapsed() < Duration::from_secs(60) || deaths < 5 {
        let leader = cluster.leader().expect("there is a leader");
        cluster.kill(leader);
        deaths += 1;
        turns.more(50).await;
        cluster.resume_after_kill(leader).expect("the server starts again");
        turns.more(50).await;
    }
    let last = Instant::now();
    turns.more(50).await;
    let count = turns.finish(last).await;
    queue_is(&calm_manager(&cluster.url()).await, "a", 0, 0).await;
    (count, deaths)
}

/// Releases a lock while the cluster has no majority, and takes the lock again once there is one. The outcome
/// of the release is unknown; in either case the claim must not stay until its owner ends.
///
/// # Panics
/// When it stays, or the servers do not start.
///
/// # Cancel safety
/// Not meant to be dropped.
pub async fn release_without_majority(cluster: &mut impl Cluster) {
    let url = format!("{}?timeout=500ms", cluster.url());
    for _ in 0..3 {
        let manager = manager(&url).await;
        let guard = acquired(&manager, "a").await;
        cluster.kill(0);
        cluster.kill(1);
        guard.release().await.expect_err("there is no majority");
        let since = Instant::now();
        eventually("two leases have passed", async || since.elapsed() > LEASE * 2).await;
        let same_manager = manager.clone();
        let again = tokio::spawn(async move { acquired(&same_manager, "a").await });
        cluster.resume_after_kill(0).expect("the server starts again");
        cluster.resume_after_kill(1).expect("the server starts again");
        let guard = again.await.expect("the claim that was released is gone");
        guard.release().await.expect("the store answers");
    }
}

/// Asks for a mutex until it is granted, and repeats the call when it fails, as it does before an election
/// has ended.
async fn acquired(manager: &LockManager, name: &str) -> Guard {
    let granted = async {
        loop {
            if let Ok(guard) = waits(manager, name).await.expect("the task ends") {
                return guard;
            }
        }
    };
    tokio::time::timeout(crate::context::LIMIT, granted).await.expect("it is granted once a majority answers")
}

/// A span of time in which an owner believed that it held the lock.
#[derive(Clone, Copy, Debug)]
struct Held {
    from: Instant,
    until: Instant,
    fencing_token: u64,
}

/// Many owners of one mutex, each with its own connection, that take turns until [`Turns::finish`].
#[derive(Debug)]
pub struct Turns {
    owners: JoinSet<Vec<Held>>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl Turns {
    /// Starts this many owners of the lock `name`.
    ///
    /// # Panics
    /// When the store does not answer at the beginning.
    ///
    /// # Cancel safety
    /// The owners end with the call.
    pub async fn start(url: &str, name: &str, owners: usize) -> Self {
        let mut turns = Turns { owners: JoinSet::new(), stop: Arc::default(), count: Arc::default() };
        for number in 0..owners {
            let manager = manager(url).await;
            let lock = manager.mutex(name);
            let (stop, count) = (Arc::clone(&turns.stop), Arc::clone(&turns.count));
            turns.owners.spawn(async move {
                let mut times = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    // An outage that is longer than the store timeout is an error. The owner tries again.
                    let Ok(guard) = lock.acquire().await else { continue };
                    let from = Instant::now();
                    let deadline = from + guard.remaining().unwrap_or_default();
                    tokio::time::sleep(Duration::from_millis(number as u64 % 3)).await;
                    let until = Instant::now().min(deadline);
                    times.push(Held { from, until, fencing_token: guard.fencing_token() });
                    count.fetch_add(1, Ordering::SeqCst);
                    // When the store does not answer, the manager repeats the release in the background.
                    drop(guard.release().await);
                }
                drop(manager);
                times
            });
        }
        turns
    }

    /// Waits for this many more turns.
    ///
    /// # Panics
    /// When there are fewer within the time of an election.
    ///
    /// # Cancel safety
    /// Nothing is changed.
    pub async fn more(&self, turns: usize) {
        let before = self.count.load(Ordering::SeqCst);
        let more = async {
            while self.count.load(Ordering::SeqCst) < before + turns {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(ELECTION, more).await.expect("the owners keep taking turns");
    }

    /// Stops the owners and checks their turns: no two owners held at the same time, fencing tokens rose, and
    /// every owner had a turn after `since`. Returns the number of turns.
    ///
    /// # Panics
    /// When one of these is not true.
    ///
    /// # Cancel safety
    /// The owners end with the call.
    pub async fn finish(self, since: Instant) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let times: Vec<Vec<Held>> = self.owners.join_all().await;
        for (owner, times) in times.iter().enumerate() {
            let last = times.last().unwrap_or_else(|| panic!("owner {owner} never had a turn"));
            assert!(last.until > since, "owner {owner} had no turn any more");
        }
        let mut all: Vec<Held> = times.into_iter().flatten().collect();
        all.sort_by_key(|held| held.from);
        for pair in all.windows(2) {
            assert!(pair[0].until <= pair[1].from, "two owners held at the same time: {pair:?}");
            assert!(pair[0].fencing_token < pair[1].fencing_token, "the tokens did not rise: {pair:?}");
        }
        all.len()
    }
}
