//! Runs the code that threads share in many schedules, that is, orders of its steps: `make schedules`.
//!
//! A step is the code between two calls of the counterparts in [`sync`](crate::sync): between two locks,
//! wake-ups, waits or spawns. Each call of tokio's `Notify` and `watch` is one step, because tokio tests
//! their insides itself. `select!` polls its branches in random order, so that a repeated schedule may take
//! another way.

mod holding;
mod inboxes;
mod locks;
mod losing;
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

/// The number of schedules that each half of a random search tries.
const SCHEDULES: usize = 2_000;

/// The lease in the tests where time passes.
const LEASE: Duration = Duration::from_secs(3);

fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.stack_size = 0x4_0000;
    // No test here takes a hundredth of these steps, so a schedule that takes them all never ends.
    config.max_steps = shuttle::MaxSteps::FailAfter(20_000);
    Runner::new(scheduler, config).run(test)
}

/// Tries random schedules. One half switches threads anywhere; the other half (PCT) switches rarely, at
/// random steps.
fn search(test: impl Fn() + Clone + Send + Sync + 'static) {
    assert_eq!(run(RandomScheduler::new(SCHEDULES), test.clone()), SCHEDULES);
    assert_eq!(run(PctScheduler::new(4, SCHEDULES), test), SCHEDULES);
}

/// Tries every schedule, and returns their number.
fn search_all(test: impl Fn() + Send + Sync + 'static) -> usize {
    let schedules = run(DfsScheduler::new(None, false), test);
    println!("all {schedules} schedules");
    schedules
}

/// Runs a future on its own thread.
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
    owner.mutex("name")
}

/// Lets time pass while a test runs, in random steps: some are small, some are longer than a lease.
fn with_time<T>(test: impl FnOnce() -> T) -> T {
    let done = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&done);
    let time = on_thread(async move {
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..thread_rng().gen_range(0..60) {
                yield_now().await;
            }
            pass(if thread_rng().gen_ratio(1, 4) { LEASE * 2 } else { LEASE / 4 });
        }
    });
    let result = test();
    done.store(true, Ordering::Relaxed);
    time.join().unwrap();
    result
}
