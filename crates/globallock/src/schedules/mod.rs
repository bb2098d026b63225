//! The code that threads share, in very many orders of its steps: `make schedules`.
//!
//! A step is what lies between two looks at the counterparts in [`sync`](crate::sync): between two locks, wake-ups, waits
//! or spawns. What tokio's `Notify` and `watch` do inside is one step, which tokio's own tests answer for. `select!`
//! looks at its branches in an order of its own, so that a schedule which is repeated may go another way.

mod keeping;
mod locks;
mod losing;
mod sharing;
mod store;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use shuttle::future::yield_now;
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

use crate::locks::Lock;
use crate::manager::LockManager;
use crate::options::{ManagerOptions, Options};
use crate::sync::pass;
use store::Store;

/// How many schedules each half of a random search tries.
const SCHEDULES: usize = 2_000;

/// The lease where time passes.
const LEASE: Duration = Duration::from_secs(3);

fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.stack_size = 0x4_0000;
    // Nothing here takes a hundredth of that: what goes on for so long goes on for ever.
    config.max_steps = shuttle::MaxSteps::FailAfter(20_000);
    Runner::new(scheduler, config).run(test)
}

/// Tries schedules at random: half of them switch anywhere, half seldom but where it is least expected.
fn search(test: impl Fn() + Clone + Send + Sync + 'static) {
    assert_eq!(run(RandomScheduler::new(SCHEDULES), test.clone()), SCHEDULES);
    assert_eq!(run(PctScheduler::new(4, SCHEDULES), test), SCHEDULES);
}

/// Tries every schedule, and says how many there are.
fn search_all(test: impl Fn() + Send + Sync + 'static) -> usize {
    let schedules = run(DfsScheduler::new(None, false), test);
    println!("{schedules} schedules, which are all");
    schedules
}

/// Runs a future on a thread of its own.
fn on_thread<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> shuttle::thread::JoinHandle<T> {
    shuttle::thread::spawn(|| shuttle::future::block_on(future))
}

/// A manager of one owner.
fn owner(store: &Arc<Store>, options: Options) -> LockManager {
    LockManager::with_backend(store.clone(), ManagerOptions { locks: options, ..ManagerOptions::default() })
        .unwrap()
}

fn mutex(owner: &LockManager) -> Lock {
    owner.mutex("name").unwrap()
}

/// Lets time pass by itself while a test runs: now a little, now more than a lease in a moment.
fn with_time<T>(test: impl FnOnce() -> T) -> T {
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&over);
    let time = on_thread(async move {
        while !seen.load(Ordering::Relaxed) {
            for _ in 0..thread_rng().gen_range(0..60) {
                yield_now().await;
            }
            pass(if thread_rng().gen_ratio(1, 4) { LEASE * 2 } else { LEASE / 4 });
        }
    });
    let result = test();
    over.store(true, Ordering::Relaxed);
    time.join().unwrap();
    result
}
