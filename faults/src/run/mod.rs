//! One run: a store, its owners, and a schedule of faults that is made from a seed.

mod deck;
mod fault;
mod fleet;
mod means;
mod network;
mod store;

use std::io::{Error, Result};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use globallock::{LockKind, LockManager};
use globallock_conformance::stores::Trait;
use tokio::task::{JoinHandle, block_in_place};
use tokio::time::sleep;

use self::deck::Deck;
use self::fault::{Fault, Pace};
use self::fleet::Fleet;
use self::network::Network;
use self::store::Store;
use crate::history::{FaultEvent, Kind, ObservedClaim, ObserverEvent, Terms, Time, now};
use crate::log::Log;
use crate::owner::{LockSpec, Plan};

pub use self::deck::{all, owed_in_pass};
pub use self::means::Means;
pub use self::network::enter;
pub use self::store::{has_servers, install, needs_tracing, stores};

/// How often the observer inspects each name.
const POLL: Duration = Duration::from_millis(20);
/// The shortest and the longest time of the crowd, which comes before the first fault.
const CROWD: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(20));
/// The lease of the crowd's claims, in microseconds. So short that grants often meet renewals of waiters.
const CROWD_LEASE: Time = 120_000;
/// How often the operators look at a queue, in microseconds.
const EVICTIONS: Time = 300_000;
/// The number of claims in the crowd.
const WAITERS: usize = 32;

/// How long one fault may take, together with the restart of servers after it. More than three starts, each
/// with the wait for owners after it, so that a server that does not start says so itself.
const FAULT_LIMIT: Duration = Duration::from_secs(400);

/// The options of a run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// One of [`stores`].
    pub store: String,
    /// How long there are faults.
    pub length: Duration,
    /// What the schedule of faults is made from.
    pub seed: u64,
    /// How many owner processes run at the same time.
    pub owners: u32,
    /// The lease of all claims.
    pub lease: Duration,
    /// Where the logs go: a directory that does not exist.
    pub directory: PathBuf,
    /// An interpreter with the Python package, for every third owner.
    pub python: Option<PathBuf>,
    /// Whether servers may be traced.
    pub tracing: bool,
    /// The kinds of faults that must take effect. The run goes on beyond its length until they have, or have
    /// been tried often enough.
    pub owed: Vec<String>,
    /// The only kinds of faults; none: all that are possible.
    pub only: Vec<String>,
}

/// Shorter runs have less calm between faults while they still owe some.
const QUICK: Duration = Duration::from_secs(60);

/// How long it takes at most, beside two leases, until a lock is free that nobody uses any more.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// The locks that all owners take.
#[must_use]
pub fn locks() -> Vec<LockSpec> {
    let spec = |name: &str, kind, capacity| LockSpec { name: name.to_owned(), kind, capacity };
    vec![
        spec("a", Kind::Mutex, 1),
        spec("ab", Kind::Mutex, 1),
        spec("shared", Kind::Read, 0),
        spec("permits", Kind::Permits, 3),
    ]
}

/// Runs owners of a store under faults for a while, and leaves the logs.
///
/// # Errors
/// When a server does not start, or an owner ends by itself or does not end.
///
/// # Cancel safety
/// A dropped call ends all processes.
pub async fn run(options: &RunOptions) -> Result<()> {
    let directory = &options.directory;
    std::fs::create_dir_all(directory)?;
    let log = Log::create(&directory.join("faults.jsonl"))?;
    let mut network = None;
    let kind = store::kind(&options.store)?;
    if kind.servers > 0 {
        network = Network::begin()?;
    }
    let mut store = Store::start(kind, network.is_some()).await?;
    let lease = u64::try_from(options.lease.as_micros()).map_err(Error::other)?;
    let terms = Terms { reads_lag: kind.is(Trait::ReadsLag), ..Terms::default() };
    let (name, seed, owed) = (kind.name.to_owned(), options.seed, options.owed.clone());
    log.write(&FaultEvent::Start { at: now(), store: name, seed, lease, terms, owed });
    let plan = Plan {
        url: store.url(),
        registers: ([127, 0, 0, 1], 0).into(),
        log: PathBuf::new(),
        owner: 0,
        seed: options.seed,
        lease,
        limit: 20_000_000,
        long: 1,
        values: 300,
        evictions: EVICTIONS,
        locks: locks(),
    };
    let means = Means { links: network.is_some(), tracing: options.tracing };
    let mut possible = deck::possible(&options.store, means);
    possible.retain(|kind| options.only.is_empty() || options.only.contains(&kind.name()));
    let mut fleet = Fleet::start(plan, directory, options.python.clone(), network).await?;
    for _ in 0..options.owners {
        fleet.add().await?;
    }
    let manager = LockManager::connect(&store.for_observer()).await.map_err(Error::other)?;
    let observer = observe(manager, directory)?;
    let begin = Instant::now();
    fleet.crowd((options.length / 10).clamp(CROWD.0, CROWD.1)).await?;
    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut deck = Deck::new(&options.owed, possible, &mut random);
    while deck.owes() || begin.elapsed() < options.length {
        let pace = if deck.owes() && options.length < QUICK { Pace::Quick } else { Pace::Easy };
        let kind = deck.next(&mut random);
        let fault = Fault::draw(&mut random, kind, options.lease, pace);
        sleep(fault.calm).await;
        fleet.check()?;
        log.write(&FaultEvent::Begin { at: now(), kind: fault.kind.name() });
        let happens = tokio::time::timeout(FAULT_LIMIT, fault.happen(&mut store, &mut fleet)).await;
        let too_long =
            |_| Error::other(format!("{} had not ended after {FAULT_LIMIT:.0?}", fault.kind.name()));
        let event = happens.map_err(too_long)??;
        deck.record(matches!(event, FaultEvent::Fault { took_effect: true, .. }));
        log.write(&event);
        sleep(fault.calm_after).await;
    }
    sleep(options.lease).await;
    fleet.check()?;
    fleet.finish().await?;
    observer.abort();
    log.write(&FaultEvent::Left { at: now(), left: left(&store, options.lease).await? });
    log.write(&FaultEvent::End { at: now() });
    Ok(())
}

/// Writes to the logs of a run that it failed, and why.
///
/// # Errors
/// When they cannot be written.
pub fn interrupted(directory: &Path, why: &str) -> Result<()> {
    let event = FaultEvent::Interrupted { at: now(), why: why.to_owned() };
    Log::open(&directory.join("faults.jsonl"))?.write(&event);
    Ok(())
}

/// What is in the store when all leases have expired.
async fn left(store: &Store, lease: Duration) -> Result<Vec<String>> {
    let names: Vec<String> = locks().into_iter().map(|spec| spec.name).collect();
    let manager = LockManager::connect(&store.direct()).await.map_err(Error::other)?;
    let failed = end_values(&manager, lease).await;
    // The claims of killed owners end with their leases. A server that started again may have restarted a
    // lease, so that takes up to two leases.
    let until = Instant::now() + lease * 2 + Duration::from_secs(3);
    loop {
        // A list deletes what has ended in some stores. A look by the store's own tool may take seconds.
        let listed: Vec<_> = manager.list("").collect().await;
        let mut left = block_in_place(|| store.left(&names));
        left.extend(listed.into_iter().map(|listed| match listed {
            Ok(listed) => listed.name.to_string(),
            Err(error) => error.to_string(),
        }));
        left.extend(failed.iter().cloned());
        if left.is_empty() || Instant::now() > until {
            return Ok(left);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Ends the values that owners have left, which would stay for longer than the run. Returns what failed.
async fn end_values(manager: &LockManager, lease: Duration) -> Vec<String> {
    let mut failed = Vec::new();
    for spec in locks() {
        let kind = match spec.kind {
            Kind::Mutex => LockKind::Mutex,
            Kind::Read | Kind::Write => LockKind::Write,
            Kind::Permits => LockKind::Permits { count: spec.capacity, capacity: spec.capacity },
        };
        let ended = async {
            // A claim of a killed owner may hold for some time yet.
            let guard = manager.lock(&spec.name, kind).wait(lease * 2 + LAST_WAIT).acquire().await?;
            guard.set_value("", Duration::from_millis(1)).await?;
            guard.release().await
        };
        if let Err(error) = ended.await {
            failed.push(format!("the value of {}: {error}", spec.name));
        }
    }
    failed
}

/// Inspects the queues again and again, and logs them, until the task is aborted.
///
/// # Errors
/// When the log cannot be made.
pub fn observe(manager: LockManager, directory: &Path) -> Result<JoinHandle<()>> {
    let log = Log::create(&directory.join("observer.jsonl"))?;
    Ok(tokio::spawn(async move {
        loop {
            for spec in locks() {
                let at = now();
                if let Ok(entries) = manager.inspect(&spec.name).await {
                    let seen = |entry: globallock::Entry| ObservedClaim {
                        id: entry.id.map(|id| id.to_string()),
                        label: entry.owner.label,
                        held: entry.held,
                        fencing_token: entry.fencing_token,
                    };
                    let queue = entries.into_iter().map(seen).collect();
                    log.write(&ObserverEvent { at, answered: now(), name: spec.name, queue });
                }
            }
            sleep(POLL).await;
        }
    }))
}
