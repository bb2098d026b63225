//! Uncontended pairs of acquire and release, on any store.

use std::time::{Duration, Instant};

use globallock::LockManager;

/// The pairs per second of one task.
pub(crate) async fn sequential(url: &str, name: &str, run: Duration) -> f64 {
    let manager = LockManager::connect(url).await.expect("the store is there");
    let lock = manager.mutex(name);
    let (began, mut done) = (Instant::now(), 0_u32);
    while began.elapsed() < run {
        let guard = lock.acquire().await.expect("the lock is free");
        guard.release().await.expect("the lock is held");
        done += 1;
    }
    f64::from(done) / began.elapsed().as_secs_f64()
}

/// The pairs per second of this many tasks on one connection, each with its own name.
pub(crate) async fn per_second(url: &str, tasks: usize, run: Duration) -> f64 {
    let manager = LockManager::connect(url).await.expect("the server is there");
    let began = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let lock = manager.mutex(format!("bench-task-{task}"));
            tokio::spawn(async move {
                let mut done = 0_usize;
                while began.elapsed() < run {
                    let guard = lock.acquire().await.expect("the lock is free");
                    guard.release().await.expect("the lock is held");
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in running {
        done += task.await.expect("no task fails");
    }
    done as f64 / began.elapsed().as_secs_f64()
}
