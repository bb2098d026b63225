//! A leader among replicas of a service: one of them does the work, and another takes over when it is gone.
//!
//! Start it twice with the same address: `cargo run -p globallock-examples --bin leader -- file:/tmp/locks`.
//! It leads three times and ends.

use std::time::Duration;

use globallock::{Error, LockManager, ManagerOptions};

#[tokio::main]
async fn main() -> globallock::Result<()> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "memory:example".to_owned());
    let label = format!("replica-{}", std::process::id());
    let manager = LockManager::connect_with(&url, ManagerOptions::new().label(label)).await?;
    let leadership = manager.mutex("billing-leader");
    for term in 1..=3 {
        // It waits here for as long as another replica leads, in the order in which they asked.
        match leadership.run(async |guard| lead(term, guard.fencing_token()).await).await {
            Ok(steps) => println!("term {term} ended after {steps} steps"),
            // The work has been dropped at its last await: another replica may lead already.
            Err(Error::Lost { loss, .. }) => eprintln!("term {term} was lost: {loss}"),
            // The store is away. Nobody leads until it is back.
            Err(error) if error.is_retryable() => tokio::time::sleep(Duration::from_secs(1)).await,
            Err(error) => return Err(error),
        }
    }
    manager.close().await;
    Ok(())
}

/// Leads for a while. Every await is a point at which a lost leadership ends this.
async fn lead(term: u32, fencing_token: u64) -> u32 {
    println!("term {term} with fencing token {fencing_token}");
    for _step in 0..3 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    3
}
