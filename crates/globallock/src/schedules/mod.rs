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

use shuttle::scheduler::{DfsScheduler, PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

use crate::locks::Lock;
use crate::manager::LockManager;
use crate::options::{ManagerOptions, Options};
use crate::sync::Handle;
use store::Store;

/// How many schedules each half of a random search tries.
const SCHEDULES: usize = 2_000;

fn run(scheduler: impl Scheduler + 'static, test: impl Fn() + Send + Sync + 'static) -> usize {
    let mut config = Config::new();
    config.stack_size = 0x4_0000;
    // Nothing here takes a hundredth of that: what goes on for so long goes on for ever.
    config.max_steps = shuttle::MaxSteps::FailAfter(100_000);
    Runner::new(scheduler, config).run(test)
}

/// Tries schedules at random: half of them switch anywhere, half seldom but where it is least expected.
fn search(test: impl Fn() + Clone + Send + Sync + 'static) {
    assert_eq!(run(RandomScheduler::new(SCHEDULES), test.clone()), SCHEDULES);
    assert_eq!(run(PctScheduler::new(4, SCHEDULES), test), SCHEDULES);
}

/// Tries every schedule, and says how many there are.
fn search_all(test: impl Fn() + Send + Sync + 'static) -> usize {
    run(DfsScheduler::new(None, false), test)
}

/// Runs a future on a thread of its own.
fn on_thread<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> shuttle::thread::JoinHandle<T> {
    shuttle::thread::spawn(|| shuttle::future::block_on(future))
}

/// A manager of one owner.
fn owner(store: &std::sync::Arc<Store>, options: Options) -> LockManager {
    LockManager::over(store.clone(), ManagerOptions { locks: options, ..ManagerOptions::default() }).unwrap()
}

fn mutex(owner: &LockManager) -> Lock {
    owner.mutex("name").unwrap()
}

/// Lets time pass whenever the search likes, so many times to the next moment that somebody waits for.
fn let_time_pass(times: usize) {
    Handle::current().spawn(async move {
        for _ in 0..times {
            shuttle::future::yield_now().await;
            crate::sync::pass_to_next();
        }
    });
}
