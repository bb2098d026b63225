//! What tests of one store's own begin with: managers, queues, waiters, and many owners through faults.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use globallock::{Guard, LockManager, ManagerOptions, Options, Result};
use tokio::task::{JoinHandle, JoinSet};

use crate::context::eventually;
use crate::server::Cluster;

/// The lease of all locks here: long enough for a busy machine, short enough to wait for.
pub const LEASE: Duration = Duration::from_secs(2);

/// How long servers may take to agree on a leader: ZooKeeper's wait up to a minute before they ask each other again.
const ELECTION: Duration = Duration::from_secs(120);

/// Connects with the usual lease.
///
/// # Errors
/// As [`LockManager::connect`].
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn connect(url: &str) -> Result<LockManager> {
    connect_for(url, LEASE).await
}

/// Connects with a lease of one's own.
///
/// # Errors
/// As [`LockManager::connect`].
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn connect_for(url: &str, lease: Duration) -> Result<LockManager> {
    let locks = Options { lease, ..Options::default() };
    LockManager::connect_with(url, ManagerOptions { locks, ..ManagerOptions::default() }).await
}

/// The lease where nothing shall run out.
const CALM: Duration = Duration::from_secs(60);

/// An address with a limit for requests that a busy server keeps: how long one may take is asked elsewhere.
#[must_use]
pub fn patient(url: &str) -> String {
    let sign = if url.contains('?') { '&' } else { '?' };
    format!("{url}{sign}timeout=20s")
}

/// Connects with a lease, and limits of requests, that no pause of a busy machine uses up: for tests of what is so
/// whatever the time.
///
/// # Errors
/// As [`LockManager::connect`].
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn connect_calmly(url: &str) -> Result<LockManager> {
    connect_for(&patient(url), CALM).await
}

/// Connects so to a store that answers.
///
/// # Panics
/// When it does not.
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn calm_manager(url: &str) -> LockManager {
    connect_calmly(url).await.expect("the store answers")
}

/// Connects to a store that answers.
///
/// # Panics
/// When it does not.
///
/// # Cancel safety
/// A dropped call leaves nothing behind.
pub async fn manager(url: &str) -> LockManager {
    connect(url).await.expect("the store answers")
}

/// Waits until so many hold a name and so many wait for it.
///
/// # Panics
/// When that does not come about.
///
/// # Cancel safety
/// Nothing is changed.
pub async fn queue_is(manager: &LockManager, name: &str, held: usize, waiting: usize) {
    eventually(&format!("{held} hold and {waiting} wait"), async || {
        let queue = manager.inspect(name).await.expect("the store answers");
        let holding = queue.iter().filter(|entry| entry.held).count();
        (holding, queue.len() - holding) == (held, waiting)
    })
    .await;
}

/// Starts a task that waits for a mutex.
///
/// # Panics
/// When the name is bad.
#[must_use]
pub fn waits(manager: &LockManager, name: &str) -> JoinHandle<Result<Guard>> {
    let lock = manager.mutex(name).expect("a good name");
    tokio::spawn(async move { lock.acquire().await })
}

/// Kills whoever leads, again and again for a minute and until five are dead, under sixteen owners who take turns, and
/// checks what they believed. Returns how many turns there were, and how many deaths.
///
/// # Panics
/// When a promise is broken, or the servers do not come up.
///
/// # Cancel safety
/// The owners end with the call.
pub async fn deaths_of_leaders(cluster: &mut impl Cluster) -> (usize, usize) {
    let turns = Turns::start(&cluster.url(), "a", 16).await;
    let begin = Instant::now();
    turns.more(50).await;
    let mut deaths = 0;
    while begin.elapsed() < Duration::from_secs(60) || deaths < 5 {
        let leader = cluster.leader().expect("one leads");
        cluster.kill(leader);
        deaths += 1;
        turns.more(50).await;
        cluster.resume_after_kill(leader).expect("it comes up again");
        turns.more(50).await;
    }
    let last = Instant::now();
    turns.more(50).await;
    let count = turns.finish(last).await;
    queue_is(&calm_manager(&cluster.url()).await, "a", 0, 0).await;
    (count, deaths)
}

/// Releases a lock that no majority answers for, and takes it again when there is one: whatever has become of the
/// release, the claim must not stay for as long as its owner lives.
///
/// # Panics
/// When it stays, or the servers do not come up.
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
        eventually("more than a lease goes by", async || since.elapsed() > LEASE * 2).await;
        let asks = manager.clone();
        let again = tokio::spawn(async move { acquired(&asks, "a").await });
        cluster.resume_after_kill(0).expect("it comes up again");
        cluster.resume_after_kill(1).expect("it comes up again");
        let guard = again.await.expect("the claim that was released is gone");
        guard.release().await.expect("the store answers");
    }
}

/// Asks for a mutex again and again, also before and right after an election, until it is granted.
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

/// One time that an owner believed to hold the lock.
#[derive(Clone, Copy, Debug)]
struct Held {
    from: Instant,
    until: Instant,
    fencing_token: u64,
}

/// Many owners of one mutex, each with a connection of its own, who take turns until they are told to stop.
#[derive(Debug)]
pub struct Turns {
    owners: JoinSet<Vec<Held>>,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl Turns {
    /// Starts so many owners of the lock `name`.
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
            let lock = manager.mutex(name).expect("a good name");
            let (stop, count) = (Arc::clone(&turns.stop), Arc::clone(&turns.count));
            turns.owners.spawn(async move {
                let mut times = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    // An outage that outlasts the patience is told, and tried again here.
                    let Ok(guard) = lock.acquire().await else { continue };
                    let from = Instant::now();
                    let deadline = from + guard.remaining().unwrap_or_default();
                    tokio::time::sleep(Duration::from_millis(number as u64 % 3)).await;
                    let until = Instant::now().min(deadline);
                    times.push(Held { from, until, fencing_token: guard.fencing_token() });
                    count.fetch_add(1, Ordering::SeqCst);
                    // It goes on in the background where the store does not answer.
                    drop(guard.release().await);
                }
                drop(manager);
                times
            });
        }
        turns
    }

    /// Waits until there have been so many turns more.
    ///
    /// # Panics
    /// When they do not come.
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
        tokio::time::timeout(ELECTION, more).await.expect("they go on to take turns");
    }

    /// Stops the owners, and checks what they believed: no two held at a time, tokens rose, and all had turns, also
    /// after `since`. Returns how many turns there were.
    ///
    /// # Panics
    /// When that was not so.
    ///
    /// # Cancel safety
    /// The owners end with the call.
    pub async fn finish(self, since: Instant) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        let times: Vec<Vec<Held>> = self.owners.join_all().await;
        for (owner, times) in times.iter().enumerate() {
            let last = times.last().unwrap_or_else(|| panic!("owner {owner} never had a turn"));
            assert!(last.until > since, "owner {owner} was left behind");
        }
        let mut all: Vec<Held> = times.into_iter().flatten().collect();
        all.sort_by_key(|held| held.from);
        for pair in all.windows(2) {
            assert!(pair[0].until <= pair[1].from, "two held at a time: {pair:?}");
            assert!(pair[0].fencing_token < pair[1].fencing_token, "the tokens did not rise: {pair:?}");
        }
        all.len()
    }
}
