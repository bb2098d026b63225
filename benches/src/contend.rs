//! The contended workload: owners take one lock in turn, hold it, release it, think, and come again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use globallock::{LockManager, Options};
use tokio::sync::Barrier;

use crate::statistics::Times;

/// A contended workload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) owners: usize,
    pub(crate) hold: Duration,
    pub(crate) think: Duration,
    pub(crate) run: Duration,
}

/// 8 owners that ask again at once.
pub(crate) const EAGER: Workload = Workload {
    owners: 8,
    hold: Duration::from_millis(1),
    think: Duration::ZERO,
    run: Duration::from_secs(4),
};
/// The result of a workload.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// From the call of a release to the grant of another owner.
    pub(crate) hand_offs: Times,
    /// The number of grants of each owner.
    pub(crate) grants: Vec<usize>,
    /// The fraction of the time in which the lock was held.
    pub(crate) utilisation: f64,
    pub(crate) grants_per_second: f64,
}

impl Outcome {
    pub(crate) fn total(&self) -> usize {
        self.grants.iter().sum()
    }

    /// The smallest number of grants of an owner, divided by the largest.
    pub(crate) fn fairness(&self) -> f64 {
        let (least, most) = (self.grants.iter().min(), self.grants.iter().max());
        least.zip(most).map_or(f64::NAN, |(least, most)| *least as f64 / *most as f64)
    }
}

/// The state that all owners share: which of them released last and when, and how many are inside.
struct Watch {
    started: Instant,
    inside: AtomicUsize,
    released_by: AtomicUsize,
    released_at: AtomicU64,
    held_nanoseconds: AtomicU64,
}

/// An owner of one lock: globallock's or a peer's, so that all run the same workload.
pub(crate) trait Contender: Send + 'static {
    /// The guard of a grant.
    type Held: Send;
    /// Takes the lock.
    fn acquire(&mut self) -> impl Future<Output = Self::Held> + Send;
    /// Releases it.
    fn release(&mut self, held: Self::Held) -> impl Future<Output = ()> + Send;
}

/// An owner that uses globallock.
pub(crate) struct Ours(pub(crate) globallock::Lock);

impl Contender for Ours {
    type Held = globallock::Guard;

    async fn acquire(&mut self) -> Self::Held {
        self.0.acquire().await.expect("the lock is granted")
    }

    async fn release(&mut self, held: Self::Held) {
        held.release().await.expect("the lock is released");
    }
}

/// Makes this many owners of one name, on this many connections.
pub(crate) async fn ours(url: &str, name: &str, owners: usize, connections: usize) -> Vec<Ours> {
    let mut managers = Vec::new();
    for _ in 0..connections {
        managers.push(LockManager::connect(url).await.expect("the server is there"));
    }
    (0..owners)
        .map(|owner| {
            let lock = managers[owner % connections].mutex(name);
            Ours(lock.with_options(Options::default()))
        })
        .collect()
}

/// Runs the workload with these contenders.
pub(crate) async fn run<C: Contender>(contenders: Vec<C>, workload: Workload) -> Outcome {
    let watch = Arc::new(Watch {
        started: Instant::now(),
        inside: AtomicUsize::new(0),
        released_by: AtomicUsize::new(usize::MAX),
        released_at: AtomicU64::new(0),
        held_nanoseconds: AtomicU64::new(0),
    });
    let ready = Arc::new(Barrier::new(contenders.len()));
    let began = Instant::now();
    let tasks: Vec<_> = contenders
        .into_iter()
        .enumerate()
        .map(|(owner, contender)| {
            tokio::spawn(own(owner, contender, workload, Arc::clone(&watch), Arc::clone(&ready)))
        })
        .collect();
    let mut outcome = Outcome::default();
    for task in tasks {
        let (grants, hand_offs) = task.await.expect("no owner fails");
        outcome.grants.push(grants);
        outcome.hand_offs.extend(hand_offs);
    }
    let elapsed = began.elapsed().as_secs_f64();
    outcome.utilisation = watch.held_nanoseconds.load(Ordering::Relaxed) as f64 / 1e9 / elapsed;
    outcome.grants_per_second = outcome.total() as f64 / elapsed;
    outcome
}

/// How many crowds come, one after another.
const CROWDS: usize = 20;

/// Lets all contenders come at once for one turn each, some times. Returns the grants per second, from when
/// they come until the last one has released.
pub(crate) async fn crowds<C: Contender>(contenders: Vec<C>, hold: Duration) -> f64 {
    let grants = contenders.len() * CROWDS;
    let gate = Arc::new(Barrier::new(contenders.len()));
    let took: Vec<_> = contenders
        .into_iter()
        .map(|mut contender| {
            let gate = Arc::clone(&gate);
            tokio::spawn(async move {
                let mut took = Duration::ZERO;
                for _ in 0..CROWDS {
                    gate.wait().await;
                    let began = Instant::now();
                    let held = contender.acquire().await;
                    pause(hold).await;
                    contender.release(held).await;
                    gate.wait().await;
                    took += began.elapsed();
                }
                took
            })
        })
        .collect();
    let mut longest = Duration::ZERO;
    for task in took {
        longest = longest.max(task.await.expect("no owner fails"));
    }
    grants as f64 / longest.as_secs_f64()
}

async fn own<C: Contender>(
    owner: usize,
    mut contender: C,
    workload: Workload,
    watch: Arc<Watch>,
    ready: Arc<Barrier>,
) -> (usize, Times) {
    let mut hand_offs = Times::default();
    let mut grants = 0;
    ready.wait().await;
    let until = Instant::now() + workload.run;
    while Instant::now() < until {
        let held = contender.acquire().await;
        let granted = Instant::now();
        assert_eq!(watch.inside.fetch_add(1, Ordering::SeqCst), 0, "two owners are inside at once");
        let released_at = Duration::from_nanos(watch.released_at.load(Ordering::SeqCst));
        let by = watch.released_by.load(Ordering::SeqCst);
        if by != owner && by != usize::MAX {
            hand_offs.push(granted.duration_since(watch.started).saturating_sub(released_at));
        }
        grants += 1;
        pause(workload.hold).await;
        watch.held_nanoseconds.fetch_add(granted.elapsed().as_nanos() as u64, Ordering::Relaxed);
        watch.released_by.store(owner, Ordering::SeqCst);
        watch.released_at.store(watch.started.elapsed().as_nanos() as u64, Ordering::SeqCst);
        watch.inside.fetch_sub(1, Ordering::SeqCst);
        contender.release(held).await;
        pause(workload.think).await;
    }
    (grants, hand_offs)
}

/// Sleeps on a blocking thread, because the runtime's timer counts whole milliseconds.
pub(crate) async fn pause(time: Duration) {
    if !time.is_zero() {
        tokio::task::spawn_blocking(move || std::thread::sleep(time)).await.expect("sleeping does not fail");
    }
}
