//! An owner process: it takes a few locks again and again, in every possible way, and logs what happens.

mod choices;
mod hold;
mod operator;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use globallock::{Error, Guard, Lock, LockKind, LockManager, ManagerOptions, Options};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::history::{Failure, Kind, Mode, OwnerEvent, Time, now};
use crate::log::Log;

pub use self::choices::Choice;

/// How often an owner compares its wall clock with the monotonic one.
const CLOCK_POLL: Duration = Duration::from_millis(50);

/// From how much on a difference between two clocks counts as a suspension, in microseconds. The process may
/// not run for a while between reading the one and the other.
const SUSPENSION: Time = 500_000;

/// How long a new owner may be refused: longer than the store refuses owners by any fault.
const REFUSED: Duration = Duration::from_secs(60);

/// How often an owner checks that it runs.
const PULSE: Duration = Duration::from_millis(10);
/// The shortest pause that is logged.
const MIN_PAUSE: Duration = Duration::from_millis(5);

/// The orders of an owner process: one JSON text, its only argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The store's address.
    pub url: String,
    /// Where the registers are.
    pub registers: SocketAddr,
    /// Where it logs.
    pub log: PathBuf,
    /// Its number. An owner that replaces a killed one has the next free number.
    pub owner: u32,
    /// The run's seed. All its decisions are drawn from the seed and its number.
    pub seed: u64,
    /// The lease of its claims, in microseconds.
    pub lease: Time,
    /// The longest that it waits to be granted, in microseconds.
    pub limit: Time,
    /// How many times in a thousand it holds for longer than a lease.
    pub long: u16,
    /// How many times in a thousand it asks for the value of the lock's name, and writes it.
    pub values: u16,
    /// How often, in microseconds, it looks at a queue as an operator does and may evict a claim; never if 0.
    /// Owners in Rust only.
    pub evictions: Time,
    /// The locks that it takes.
    pub locks: Vec<LockSpec>,
}

/// One lock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LockSpec {
    /// Its name, without spaces.
    pub name: String,
    /// Its kind; `read` means both sides of a read-write lock.
    pub kind: Kind,
    /// How many permits a semaphore has.
    pub capacity: u32,
}

/// What the tasks of one owner share.
struct Owner {
    plan: Plan,
    log: Arc<Log>,
    claims: AtomicU64,
    stop: watch::Receiver<bool>,
}

/// Takes locks until this process's standard input ends.
///
/// # Errors
/// When the log cannot be made.
///
/// # Cancel safety
/// Not meant to be dropped.
pub async fn run(plan: Plan) -> std::io::Result<()> {
    let (stopping, stop) = watch::channel(false);
    let owner = Owner::begin(plan, stop)?;
    tokio::spawn(async move {
        let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
        stopping.send_replace(true);
    });
    tokio::spawn(Arc::clone(&owner).watch_clock());
    tokio::spawn(Arc::clone(&owner).watch_suspensions());
    let manager = owner.connect().await;
    owner.work(manager).await;
    Ok(())
}

/// Takes locks of a manager until `stop` becomes true.
///
/// # Errors
/// When the log cannot be made.
///
/// # Cancel safety
/// Not meant to be dropped.
pub async fn run_over(manager: LockManager, plan: Plan, stop: watch::Receiver<bool>) -> std::io::Result<()> {
    Owner::begin(plan, stop)?.work(Some(manager)).await;
    Ok(())
}

impl Owner {
    fn begin(plan: Plan, stop: watch::Receiver<bool>) -> std::io::Result<Arc<Self>> {
        let log = Arc::new(Log::create(&plan.log)?);
        let (pid, language) = (std::process::id(), "rust".to_owned());
        log.write(&OwnerEvent::Start { at: now(), pid, owner: plan.owner, language, lease: plan.lease });
        Ok(Arc::new(Owner { plan, log, claims: AtomicU64::new(1), stop }))
    }

    async fn work(self: Arc<Self>, manager: Option<LockManager>) {
        let pulse = tokio::spawn(Arc::clone(&self).watch_pauses());
        if let Some(manager) = manager {
            let each = |(position, spec): (usize, &LockSpec)| {
                tokio::spawn(Arc::clone(&self).take_turns(manager.clone(), spec.clone(), position))
            };
            let mut tasks: Vec<_> = self.plan.locks.iter().enumerate().map(each).collect();
            tasks.push(tokio::spawn(Arc::clone(&self).operate(manager.clone())));
            for task in tasks {
                task.await.expect("no task of an owner panics");
            }
            manager.close().await;
        }
        pulse.abort();
        let _ = pulse.await;
        self.log.write(&OwnerEvent::End { at: now() });
    }

    /// Logs each time that the process did not run for a while.
    async fn watch_pauses(self: Arc<Self>) {
        loop {
            let due = now() + PULSE.as_micros() as Time;
            sleep(PULSE).await;
            let at = now();
            let length = at.saturating_sub(due);
            if length > MIN_PAUSE.as_micros() as Time {
                self.log.write(&OwnerEvent::Pause { at, length });
            }
        }
    }

    /// Logs when the wall clock is set.
    async fn watch_clock(self: Arc<Self>) {
        let wall = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |wall| wall.as_micros());
        let ahead = || i128::try_from(wall()).unwrap_or(0) - i128::from(now());
        let mut before = ahead();
        loop {
            sleep(CLOCK_POLL).await;
            let ahead = ahead();
            let step = (ahead - before) / 1_000_000;
            if step != 0 {
                let step = i64::try_from(step).unwrap_or(i64::MAX);
                self.log.write(&OwnerEvent::Clock { at: now(), step });
            }
            before = ahead;
        }
    }

    /// Logs when one of the clocks has not counted for a while, as on a host that was suspended.
    async fn watch_suspensions(self: Arc<Self>) {
        let begin = std::time::Instant::now();
        let ahead = || now().saturating_sub(Time::try_from(begin.elapsed().as_micros()).unwrap_or(0));
        let mut before = ahead();
        loop {
            sleep(CLOCK_POLL).await;
            let length = ahead().saturating_sub(before);
            if length > SUSPENSION {
                self.log.write(&OwnerEvent::Suspended { at: now(), length });
                before += length;
            }
        }
    }

    fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Connects, however long the store does not answer; `None` if the owner is stopped before.
    ///
    /// A store may also refuse it for a while, as with an expired certificate or a password that has just
    /// been changed.
    async fn connect(&self) -> Option<LockManager> {
        let locks = Options::new().lease(Duration::from_micros(self.plan.lease));
        let options = ManagerOptions::new().locks(locks).label(format!("owner-{}", self.plan.owner));
        let until = std::time::Instant::now() + REFUSED;
        while !self.is_stopping() {
            match LockManager::connect_with(&self.plan.url, options.clone()).await {
                Ok(manager) => return Some(manager),
                Err(error) if error.is_retryable() => sleep(Duration::from_millis(50)).await,
                Err(Error::PermissionDenied { .. } | Error::FailedPrecondition { .. })
                    if std::time::Instant::now() < until =>
                {
                    sleep(Duration::from_millis(50)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
        None
    }

    async fn take_turns(self: Arc<Self>, manager: LockManager, spec: LockSpec, position: usize) {
        let mut registers = hold::RegisterConnection::new(self.plan.registers);
        for step in 0.. {
            if self.is_stopping() {
                return;
            }
            let choice = Choice::draw(&self.plan, &spec, position, step);
            let (lock, kind) = lock(&manager, &spec, choice);
            if let Some((claim, guard)) = self.acquire(lock.clone(), kind, &spec.name, choice.mode).await {
                self.hold(claim, guard, &lock, choice, &mut registers).await;
            }
            sleep(Duration::from_micros(choice.rest)).await;
        }
    }

    async fn acquire(&self, lock: Lock, kind: Kind, name: &str, mode: Mode) -> Option<(u64, Guard)> {
        let claim = self.claims.fetch_add(1, Ordering::Relaxed);
        let (permits, name) = (lock.kind().permits().expect("good numbers"), name.to_owned());
        let (count, capacity) = (permits.count, permits.capacity);
        self.log.write(&OwnerEvent::Invoke { at: now(), claim, name, kind, count, capacity, mode });
        let lock = lock.wait(Duration::from_micros(self.plan.limit));
        let mut stop = self.stop.clone();
        let acquired = async {
            match mode {
                Mode::Try => lock.try_acquire().await.map_err(failure)?.ok_or(Failure::Refused),
                Mode::Wait(_) => tokio::select! {
                    acquired = lock.acquire() => acquired.map_err(failure),
                    _ = stop.wait_for(|stop| *stop) => Err(Failure::Cancelled),
                },
                Mode::Cancel(after) => {
                    let acquired = timeout(Duration::from_micros(after), lock.acquire()).await;
                    acquired.map_err(|_| Failure::Cancelled)?.map_err(failure)
                }
            }
        };
        match acquired.await {
            Ok(guard) => {
                let (at, until) = hold::until(&guard);
                self.log.write(&OwnerEvent::Granted {
                    at,
                    claim,
                    fencing_token: guard.fencing_token(),
                    until,
                });
                Some((claim, guard))
            }
            Err(failure) => {
                let is_error = matches!(failure, Failure::Error(_));
                self.log.write(&OwnerEvent::Failed { at: now(), claim, failure });
                if is_error {
                    sleep(Duration::from_millis(20)).await;
                }
                None
            }
        }
    }
}

fn failure(error: Error) -> Failure {
    match error {
        Error::TimedOut { .. } => Failure::TimedOut,
        Error::Evicted { eviction, .. } => Failure::Evicted(eviction.reason.clone()),
        error => Failure::Error(error.to_string()),
    }
}

/// The chosen side or permits of a lock.
fn lock(manager: &LockManager, spec: &LockSpec, choice: Choice) -> (Lock, Kind) {
    let (lock_kind, kind) = match spec.kind {
        Kind::Mutex => (LockKind::Mutex, Kind::Mutex),
        Kind::Read | Kind::Write if choice.writes => (LockKind::Write, Kind::Write),
        Kind::Read | Kind::Write => (LockKind::Read, Kind::Read),
        Kind::Permits => {
            (LockKind::Permits { count: choice.permits, capacity: spec.capacity }, Kind::Permits)
        }
    };
    let lock = manager.lock(&spec.name, lock_kind);
    (if choice.uses_value { lock.with_value() } else { lock }, kind)
}
