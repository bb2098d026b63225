//! One run: a store, owners of it, and a schedule of faults that is made from a seed.

mod deck;
mod fault;
mod fleet;
mod network;
mod store;

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use globallock::LockManager;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::sleep;

use self::deck::Deck;
use self::fault::{Fault, Pace};
use self::fleet::Fleet;
use self::network::Network;
use self::store::Store;
use crate::history::{FaultEvent, Kind, ObserverEvent, Seen, Terms, Time, now};
use crate::log::Log;
use crate::owner::{Plan, Which};

pub use self::deck::{all, shares};
pub use self::network::{enter, has_links};
pub use self::store::STORES;

/// How often the onlooker looks at each name.
const LOOK: Duration = Duration::from_millis(20);
/// How long the crowd is there, before anything is broken.
const CROWD: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(20));
/// The lease of its claims, in microseconds: renewals of waiters and grants then meet all the time.
const CROWD_LEASE: Time = 120_000;
/// How many wait in it.
const WAITERS: usize = 32;

/// How long one fault may take, with the servers that start again after it.
const MOST: Duration = Duration::from_secs(300);

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Orders {
    /// One of [`STORES`].
    pub store: String,
    /// How long things are broken.
    pub length: Duration,
    /// What the schedule is made from.
    pub seed: u64,
    /// How many owner processes there are at a time.
    pub owners: u32,
    /// The lease of all claims.
    pub lease: Duration,
    /// Where the logs go: a directory that does not exist.
    pub directory: PathBuf,
    /// An interpreter with the Python package, for every third owner.
    pub python: Option<PathBuf>,
    /// The kinds of faults that have to bite; it goes on beyond its length until they have, or do not after some tries.
    pub owed: Vec<String>,
}

/// Runs that are shorter spare calm between faults.
const QUICK: Duration = Duration::from_secs(60);

/// The locks that all owners want.
#[must_use]
pub fn locks() -> Vec<Which> {
    let which = |name: &str, kind, capacity| Which { name: name.to_owned(), kind, capacity };
    vec![
        which("a", Kind::Mutex, 1),
        which("ab", Kind::Mutex, 1),
        which("shared", Kind::Read, 0),
        which("permits", Kind::Permits, 3),
    ]
}

/// Breaks things for a while, and leaves the logs of it.
///
/// # Errors
/// When a server does not come up, or an owner ends by itself or not at all.
///
/// # Cancel safety
/// A dropped call ends all processes.
pub async fn run(orders: &Orders) -> Result<()> {
    let directory = &orders.directory;
    std::fs::create_dir_all(directory)?;
    let log = Log::create(&directory.join("faults.jsonl"))?;
    let mut network = None;
    if orders.store != "file" {
        network = Network::begin()?;
    }
    let mut store = Store::start(&orders.store, network.is_some()).await?;
    let lease = u64::try_from(orders.lease.as_micros()).map_err(Error::other)?;
    let kind = store.kind.clone();
    let (seed, terms, owed) = (orders.seed, Terms::default(), orders.owed.clone());
    log.write(&FaultEvent::Start { at: now(), store: kind, seed, lease, terms, owed });
    let plan = Plan {
        url: store.url(),
        registers: ([127, 0, 0, 1], 0).into(),
        log: PathBuf::new(),
        owner: 0,
        seed: orders.seed,
        lease,
        limit: 20_000_000,
        long: 1,
        locks: locks(),
    };
    let possible = deck::possible(&orders.store, network.is_some());
    let mut fleet = Fleet::start(plan, directory, orders.python.clone(), network).await?;
    for _ in 0..orders.owners {
        fleet.add().await?;
    }
    let onlooker = LockManager::connect(&store.for_observer()).await.map_err(Error::other)?;
    let observer = observe(onlooker, directory)?;
    let begin = Instant::now();
    fleet.crowd((orders.length / 10).clamp(CROWD.0, CROWD.1)).await?;
    let mut random = fastrand::Rng::with_seed(orders.seed);
    let mut deck = Deck::new(&orders.owed, possible, &mut random);
    while deck.owes() || begin.elapsed() < orders.length {
        let pace = if deck.owes() && orders.length < QUICK { Pace::Quick } else { Pace::Easy };
        let what = deck.next(&mut random);
        let fault = Fault::draw(&mut random, what, orders.lease, pace);
        sleep(fault.calm).await;
        fleet.check()?;
        log.write(&FaultEvent::Begin { at: now(), kind: fault.what.name() });
        let happens = tokio::time::timeout(MOST, fault.happen(&mut store, &mut fleet)).await;
        let too_long = |_| Error::other(format!("{} had not ended after {MOST:.0?}", fault.what.name()));
        let event = happens.map_err(too_long)??;
        deck.note(matches!(event, FaultEvent::Fault { bit: true, .. }));
        log.write(&event);
        sleep(fault.calm_after).await;
    }
    sleep(orders.lease).await;
    fleet.check()?;
    fleet.finish().await?;
    observer.abort();
    log.write(&FaultEvent::Left { at: now(), left: left(&store, orders.lease).await? });
    log.write(&FaultEvent::End { at: now() });
    Ok(())
}

/// Has the logs of a run say that it failed, and why.
///
/// # Errors
/// When they cannot be written.
pub fn interrupted(directory: &Path, why: &str) -> Result<()> {
    let event = FaultEvent::Interrupted { at: now(), why: why.to_owned() };
    Log::open(&directory.join("faults.jsonl"))?.write(&event);
    Ok(())
}

/// What is in the store when all leases are over.
async fn left(store: &Store, lease: Duration) -> Result<Vec<String>> {
    let names: Vec<String> = locks().into_iter().map(|which| which.name).collect();
    let manager = LockManager::connect(&store.direct()).await.map_err(Error::other)?;
    // Those who were killed are freed at the end of their leases; the servers may have begun these anew.
    let until = Instant::now() + lease * 2 + Duration::from_secs(3);
    loop {
        let mut left = block_in_place(|| store.left(&names));
        let listed: Vec<_> = manager.names("").collect().await;
        left.extend(listed.into_iter().map(|name| match name {
            Ok(name) => name.to_string(),
            Err(error) => error.to_string(),
        }));
        if left.is_empty() || Instant::now() > until {
            return Ok(left);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Looks at the queues, again and again, until the task is aborted.
///
/// # Errors
/// When the log cannot be made.
pub fn observe(manager: LockManager, directory: &Path) -> Result<JoinHandle<()>> {
    let log = Log::create(&directory.join("observer.jsonl"))?;
    Ok(tokio::spawn(async move {
        loop {
            for which in locks() {
                let at = now();
                if let Ok(entries) = manager.inspect(&which.name).await {
                    let seen = |entry: globallock::Entry| Seen {
                        id: entry.id.map(|id| id.to_string()),
                        label: entry.owner.label,
                        held: entry.held,
                        fencing_token: entry.fencing_token,
                    };
                    let queue = entries.into_iter().map(seen).collect();
                    log.write(&ObserverEvent { at, answered: now(), name: which.name, queue });
                }
            }
            sleep(LOOK).await;
        }
    }))
}
