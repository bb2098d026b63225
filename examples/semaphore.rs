//! No more than three jobs at a time, over all hosts, and a big one that counts for two.
//!
//! `cargo run -p globallock-examples --bin semaphore`

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use globallock::LockManager;

#[tokio::main]
async fn main() -> globallock::Result<()> {
    let manager = LockManager::connect("memory:example").await?;
    let (running, most) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let mut jobs = tokio::task::JoinSet::new();
    for job in 0..10 {
        let (licences, running, most) = (manager.semaphore("licences", 3), running.clone(), most.clone());
        jobs.spawn(async move {
            let count = if job == 0 { 2 } else { 1 };
            let guard = licences.acquire_many(count).await?;
            most.fetch_max(running.fetch_add(count, Ordering::SeqCst) + count, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(5)).await;
            running.fetch_sub(count, Ordering::SeqCst);
            guard.release().await
        });
    }
    for job in jobs.join_all().await {
        job?;
    }
    println!("at most {} licences were in use", most.load(Ordering::SeqCst));
    Ok(())
}
